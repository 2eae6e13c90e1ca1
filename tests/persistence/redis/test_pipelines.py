"""What a verb does in several trips, with replies that no server gives on demand."""

import asyncio

import pytest
import redis.asyncio
from redis import exceptions

from idempotency_mw.core.record import Acquired, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, commands
from idempotency_mw.persistence.redis.errors import is_transient
from idempotency_mw.persistence.redis.pipelines import send, send_async
from tests.persistence.driven import a_claim
from tests.virtual_time import on_virtual_time

KEY = "idempotency:key"
UNBLOCKED = exceptions.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed")


async def test_an_error_is_a_value_among_the_replies_also_of_a_single_command(any_server):
    async with redis.asyncio.Redis(port=any_server.port) as client:
        (reply,) = await send_async(client, KEY, [("NOSUCH", KEY)])
        assert isinstance(reply, exceptions.ResponseError)
    with any_server.client() as client:
        (reply,) = send(client, KEY, [("NOSUCH", KEY)])
        assert isinstance(reply, exceptions.ResponseError)


def test_a_master_that_steps_down_during_a_wait_is_tried_again():
    talk = commands.acquire_acknowledged(KEY, a_claim(), 1, lambda: 10)
    assert [command[0] for command in next(talk)] == ["EVALSHA", "WAIT"]
    with pytest.raises(exceptions.ResponseError) as raised:
        talk.send([1, UNBLOCKED])
    assert is_transient(raised.value)


def test_a_claim_that_can_not_be_released_either_is_acquired_again():
    talk = commands.acquire_acknowledged(KEY, a_claim(), 2, lambda: 10)
    next(talk)
    (release,) = talk.send([1, 1])
    assert release[0] == "EVAL"
    with pytest.raises(exceptions.ReadOnlyError) as raised:
        talk.send([exceptions.ReadOnlyError("READONLY You can't write against a read only replica.")])
    assert is_transient(raised.value)


def test_more_acknowledgements_than_are_wanted_are_enough():
    talk = commands.acquire_acknowledged(KEY, a_claim(), 1, lambda: 10)
    next(talk)
    with pytest.raises(StopIteration) as ended:
        talk.send([1, 2])
    assert ended.value.value == Acquired(1)


class NoReplicas:
    """A client whose server has no replica: each WAIT takes its time."""

    async def execute_command(self, *command, **options):
        return 1

    async def send_pipeline(self, trip):
        if trip[-1][0] == "WAIT":
            await asyncio.sleep(trip[-1][2] / 1000)
            return [1, 0]
        return [1]


@on_virtual_time
async def test_a_result_does_not_queue_behind_claims_that_wait_for_replicas():
    layer = AsyncRedisPersistenceLayer(NoReplicas(), timeout_seconds=1.0, min_replicas=1)
    herd = [asyncio.ensure_future(layer.acquire(a_claim())) for _ in range(500)]
    await asyncio.sleep(0)
    async with asyncio.timeout(0.4):
        assert await layer.complete(a_claim(), b"done") == Settled()
    refused = await asyncio.gather(*herd, return_exceptions=True)
    assert {type(each) for each in refused} == {IdempotencyPersistenceConnectionError}
    await layer.aclose()


class UnknownNode:
    """A cluster's client that is told of a node that it does not know."""

    asked = exceptions.AskError("7 127.0.0.1:7007")

    def get_node_from_key(self, key):
        return self

    def get_node(self, host, port):
        assert (host, port) == ("127.0.0.1", 7007)

    def get_redis_connection(self, node):
        return self

    def pipeline(self, transaction):
        return self

    def execute_command(self, *command, **options):
        pass

    def execute(self, raise_on_error):
        return [self.asked, 0]

    async def execute_pipeline(self, sent):
        for each, result in zip(sent, self.execute(raise_on_error=False), strict=True):
            each.result = result


async def test_a_node_that_is_not_known_yet_is_a_passing_error():
    trip = [("EVALSHA",), ("WAIT",)]
    with pytest.raises(exceptions.TryAgainError):
        send(UnknownNode(), KEY, trip)
    with pytest.raises(exceptions.TryAgainError):
        await send_async(UnknownNode(), KEY, trip)


class Forgetful(UnknownNode):
    """A cluster's client that does not know a slot before it has asked by itself."""

    def __init__(self):
        self.said = []

    def get_node_from_key(self, key):
        raise exceptions.SlotNotCoveredError(key)

    def execute_command(self, *command, **options):
        self.said.append(command)


def test_a_client_that_does_not_know_a_slot_is_made_to_ask():
    client = Forgetful()
    with pytest.raises(exceptions.SlotNotCoveredError) as raised:
        send(client, KEY, [("EVALSHA",), ("WAIT",)])
    assert client.said == [("EVALSHA",)]
    assert is_transient(raised.value)


def test_slots_that_move_again_and_again_are_a_passing_error():
    assert is_transient(exceptions.MovedError("7 127.0.0.1:7007"))
    assert is_transient(exceptions.AskError("7 127.0.0.1:7007"))
