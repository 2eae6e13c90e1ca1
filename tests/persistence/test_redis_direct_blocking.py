"""The direct path for blocking code: each reply goes to its caller, whatever happens to its connection."""

import asyncio
import os
import random
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from idempotency_mw.core.record import Acquired
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.blocking import (
    DirectBlockingRedis,
    _rested,
    can_be_direct_blocking,
)
from idempotency_mw.persistence.redis.direct.blocking_connection import BlockingConnection
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from tests.clusters import until
from tests.persistence.driven import a_claim
from tests.persistence.test_redis_direct import relay
from tests.proxy import Proxy
from tests.servers import RedisServer

LARGE = 10 << 20


@contextmanager
def direct(url, **options):
    """Yield a direct client, and close it."""
    client = blocking_client(RedisConnection(url=url), Deadline(), direct=True, **options)
    assert isinstance(client, DirectBlockingRedis)
    try:
        yield client
    finally:
        for close in closers(client):
            close()


def said(client, *command, within=10.0):
    """Return the reply to the command."""
    client._deadline.start(within)
    return client.execute_command(*command, **RAW)


def echo(client, text, within=10.0):
    """Ask for the text back; a reply that is another's is no reply."""
    assert said(client, "ECHO", text, within=within) == text.encode()


def together(client, *commands, within=10.0):
    client._deadline.start(within)
    return client.together(commands)


def idle(client):
    """Return the connections of this process that nobody uses."""
    return client._idle.get(os.getpid(), [])


def connected(server, name):
    """Return how many clients of this name the server has."""
    with server.client() as store:
        return sum(each["name"] == name for each in store.client_list())


def test_threads_share_a_client_and_each_gets_its_own_reply(server):
    def ask(number):
        for turn in range(20):
            echo(client, f"{number} {turn} " + "x" * random.Random(turn).choice([1, 100, 100_000]))

    with direct(server.url) as client, ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(32)))
        assert 1 <= len(idle(client)) <= 16


def test_a_command_is_one_message_on_the_connection_that_was_used_last(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        echo(client, "connected")
        begun = len(proxy.requests)
        for turn in range(3):
            echo(client, f"{turn}")
        assert len(proxy.requests) == begun + 3
        assert len(idle(client)) == 1


def test_there_are_as_many_connections_as_threads_that_ask_and_few_are_kept(any_server):
    with direct(any_server.url, client_name="many") as client, ThreadPoolExecutor(70) as threads:
        with any_server.client() as store:
            store.delete("list")
            asked = [threads.submit(said, client, "BLPOP", "list", 10) for _ in range(70)]
            until(lambda: connected(any_server, "many") == 70, within=5)
            store.rpush("list", *range(70))
        assert len({tuple(each.result()) for each in asked}) == 70
        assert len(idle(client)) == 50
        until(lambda: connected(any_server, "many") == 50, within=2)


def test_what_is_said_by_another_thread_meanwhile_is_nobodys_fault():
    class Emptied(list):
        def __bool__(self):
            return True

    assert _rested(Emptied(), 0.0) is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_an_error_reply_is_raised_and_its_connection_used_again(server, protocol):
    with direct(server.url, protocol=protocol) as client:
        before = said(client, "CLIENT", "ID")
        with pytest.raises(redis.exceptions.NoScriptError):
            said(client, "EVALSHA", "0" * 40, 0)
        with pytest.raises(redis.ResponseError, match="once"):
            said(client, "EVAL", "return redis.error_reply('only once')", 0)
        assert said(client, "CLIENT", "ID") == before


@pytest.mark.parametrize(
    "reply", [b"-READONLY You can't write against a read only replica.\r\n", b"-LOADING Redis is loading\r\n"]
)
def test_a_server_that_can_not_be_used_costs_all_connections_to_it(any_server, reply):
    with Proxy(any_server.port) as proxy, direct(proxy.url, client_name="unfit") as client:
        several_idle(client)
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(redis.RedisError) as raised:
            said(client, "EVALSHA", "0" * 40, 0)
        assert isinstance(raised.value, redis.ReadOnlyError | redis.BusyLoadingError)
        until(lambda: connected(any_server, "unfit") == 0, within=2)
        echo(client, "after")


def several_idle(client):
    """Make the client keep three connections that nobody uses."""
    made = [client._connected(time.monotonic() + 10.0) for _ in range(3)]
    for wire in made:
        assert exchange(wire) == [b"PONG"]
    client._begun().extend(made)


# What interrupts an exchange.


def test_a_reply_that_comes_too_late_is_nobodys(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        echo(client, "connected")
        proxy.when(b"late", "delay reply", seconds=0.2)
        with pytest.raises(TimeoutError):
            echo(client, "late", within=0.1)
        time.sleep(0.2)  # until it would be there
        assert idle(client) == []
        echo(client, "after")


def test_an_interrupt_closes_the_connection_on_which_it_waited_and_no_other(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url, client_name="interrupted") as client:
        several_idle(client)
        proxy.when(b"late", "delay reply", seconds=0.2)
        usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt) as interrupted:
                echo(client, "late")
        finally:
            signal.signal(signal.SIGALRM, usual)
        time.sleep(0.2)
        assert interrupted.tb  # holds what was in use: nothing is closed by the collector
        assert len(idle(client)) == 2
        until(lambda: connected(any_server, "interrupted") == 2, within=2)
        echo(client, "after")


def test_an_interrupt_while_it_connects_leaves_no_connection(any_server):
    made = []

    class Interrupted(redis.Connection):
        def connect(self):
            made.append(self)
            super().connect()
            raise KeyboardInterrupt

    with direct(any_server.url) as client:
        client._make_connection = lambda: Interrupted(port=any_server.port)
        with pytest.raises(KeyboardInterrupt):
            echo(client, "never")
        assert [each._sock for each in made] == [None]


UNDER_GEVENT = """
import sys, warnings
warnings.simplefilter("ignore", ResourceWarning)  # of redis-py's, killed while it connects
warnings.filterwarnings("ignore", message="Monkey-patching ssl")
if sys.argv[2] == "late":
    import idempotency_mw.persistence.redis
from gevent import monkey
monkey.patch_all()
import gevent, random
from tests.persistence.test_redis_direct_blocking import direct, echo, idle

random.seed(5)
done = 0

def ask(client, number):
    global done
    for turn in range(30):
        echo(client, f"{number} {turn} " + "x" * random.choice([1, 1, 100_000]))
        done += 1

with direct(sys.argv[1]) as client:
    for _ in range(5):
        asking = [gevent.spawn(ask, client, number) for number in range(50)]
        while not all(each.dead for each in asking):
            random.choice(asking).kill(block=False)
            gevent.sleep(random.choice([0, 0, 0.002]))
        for each in asking:
            assert each.exception is None, each.exception
    for number in range(50):
        echo(client, f"after {number}")
    assert done > 500, done
    assert idle(client)
"""


def run_python(script, *arguments):
    """Run it in a process of its own, which must end well and say nothing."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("patched", ["early", "late"])
def test_no_reply_goes_astray_when_greenlets_are_killed_at_any_moment(any_server, patched):
    pytest.importorskip("gevent")
    run_python(UNDER_GEVENT, any_server.url, patched)


@pytest.mark.fault(2)
@pytest.mark.parametrize("action", ["hang reply", "hang request", "drop reply", "cut reply", "cut request"])
def test_a_connection_that_hangs_or_breaks_costs_no_caller_its_answer(any_server, action):
    with (
        Proxy(any_server.port) as proxy,
        RedisPersistenceLayer.from_url(proxy.url, timeout_seconds=1.0, direct=True) as layer,
    ):
        assert layer.acquire(a_claim()) == Acquired(1)
        several_idle(layer._client())
        proxy.when(b"EVALSHA", action)
        assert layer.acquire(a_claim()) == Acquired(1)
        several_idle(layer._client())
        proxy.freeze()
        assert layer.acquire(a_claim()) == Acquired(1)


def test_an_error_that_lasts_is_not_asked_about_again(any_server):
    with Proxy(any_server.port) as proxy, RedisPersistenceLayer.from_url(proxy.url) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        proxy.when(b"EVALSHA", "answer request", reply=b"-NOPERM this user may not\r\n")
        with pytest.raises(IdempotencyPersistenceLayerError, match="may not"):
            layer.extend(a_claim())


# What the server says, byte by byte.


@contextmanager
def a_wire():
    """Yield a connection, and the other end of it."""
    ours, theirs = socket.socketpair()
    connection = redis.Connection()
    connection._sock = ours
    with closing(theirs), closing(ours):
        yield BlockingConnection(connection), theirs


def exchange(wire, count=1, within=5.0):
    now = time.monotonic()
    return wire.exchange([b"*1\r\n$4\r\nPING\r\n" * count], count, now, now + within)


@pytest.mark.parametrize(
    ("said", "replies"),
    [
        (b":7\r\n", [7]),
        (b":-7\r\n", [-7]),
        (b":+1\r\n", [1]),
        (b"$-1\r\n", [None]),
        (b"*-1\r\n", [None]),
        (b"+OK\r\n", [b"OK"]),
        (b"*1\r\n:0\r\n", [[0]]),
        (b"$3\r\nabc\r\n+OK\r\n*2\r\n:0\r\n$4\r\n\r\n\r\n\r\n", [b"abc", b"OK", [0, b"\r\n\r\n"]]),
    ],
)
def test_replies_are_whole_wherever_they_are_cut(said, replies):
    for cut in range(len(said)):
        with a_wire() as (wire, theirs):
            later = threading.Timer(0.005, theirs.sendall, [said[cut:]])
            theirs.sendall(said[:cut])
            later.start()
            assert exchange(wire, len(replies)) == replies
            assert wire.is_fit(time.monotonic())
            later.join()


def test_an_error_among_several_replies_is_a_value():
    with a_wire() as (wire, theirs):
        theirs.sendall(b"+OK\r\n-WRONGTYPE no\r\n:1\r\n")
        first, second, third = exchange(wire, 3)
        assert (first, third) == (b"OK", 1)
        assert isinstance(second, redis.ResponseError)


@pytest.mark.parametrize("more", [b"+OK\r\n", b"?", b"\r\n"])
def test_more_than_was_asked_for_is_not_a_reply_to_anybody(more):
    with a_wire() as (wire, theirs):
        theirs.sendall(b":1\r\n" + more)
        with pytest.raises(redis.ConnectionError, match="more than"):
            exchange(wire)


@pytest.mark.parametrize(
    "said",
    [
        b"?3\r\nbad\r\n",
        b":x\r\n",
        b">1\r\n:1\r\n",
        b"$x\r\n",
        b"$1\r\nab\r\n",
    ],
)
def test_what_is_no_reply_of_a_script_is_an_error_at_once(said):
    with a_wire() as (wire, theirs):
        theirs.sendall(said)
        with pytest.raises(redis.RedisError):
            exchange(wire)


def test_a_connection_that_ends_in_mid_reply_is_an_error_at_once():
    with a_wire() as (wire, theirs):
        theirs.sendall(b"$3\r\nab")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(redis.ConnectionError, match="closed"):
            exchange(wire)


def test_a_reply_that_trickles_in_ends_with_the_deadline():
    with a_wire() as (wire, theirs):
        theirs.sendall(b"$999\r\n")
        trickle = threading.Event()

        def drip():
            while not trickle.wait(0.03):
                theirs.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            exchange(wire, within=0.2)
        assert time.monotonic() - begun < 0.4
        trickle.set()
        dripping.join()


class Pouring:
    """A socket on which there is always something to read, for a second."""

    def __init__(self):
        self.ends = time.monotonic() + 1.0

    def settimeout(self, _seconds):
        pass

    def sendall(self, _message):
        pass

    def recv(self, _size):
        return b"$99999999\r\n" if time.monotonic() < self.ends else b""


def test_a_reply_that_comes_without_a_pause_and_without_an_end_ends_with_the_deadline():
    with a_wire() as (wire, _):
        wire._sock = Pouring()
        with pytest.raises(TimeoutError):
            exchange(wire, within=0.1)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("was_idle", [False, True])
def test_a_message_that_nobody_takes_ends_with_the_deadline(count, was_idle):
    with a_wire() as (wire, theirs):
        if was_idle:
            theirs.sendall(b":1\r\n")
            exchange(wire)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.exchange([b"x" * (1 << 20)] * count, count, begun, begun + 0.2)
        assert time.monotonic() - begun < 0.4


@pytest.mark.parametrize("was_idle", [False, True])
def test_a_command_in_pieces_is_sent_whole(was_idle):
    with a_wire() as (wire, theirs):
        if was_idle:
            theirs.sendall(b":1\r\n")
            exchange(wire)
            theirs.recv(1000)
        theirs.sendall(b":2\r\n")
        now = time.monotonic()
        assert wire.exchange([b"be", b"fo", b"re"], 1, now, now + 5) == [2]
        assert theirs.recv(1000) == b"before"


def test_a_silent_connection_leaves_half_of_the_time_to_ask_again_unless_it_is_new_or_may_have_to_wait():
    with a_wire() as (wire, theirs):

        def until_it_is_given_up(count):
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                exchange(wire, count, within=0.3)
            return time.monotonic() - begun

        assert until_it_is_given_up(1) > 0.29
        theirs.sendall(b":1\r\n")
        exchange(wire)
        assert 0.14 < until_it_is_given_up(1) < 0.29
        assert until_it_is_given_up(2) > 0.29


def test_what_the_server_says_to_nobody_is_not_a_reply_to_who_asks_next(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        several_idle(client)
        proxy.say(b"$5\r\nstale\r\n")
        until(lambda: all(not each.is_fit(time.monotonic()) for each in idle(client)), within=2)
        echo(client, "after")
        assert len(idle(client)) == 1


def test_connections_that_the_server_closed_meanwhile_cost_no_error_and_no_pause(any_server):
    with direct(any_server.url, client_name="killed") as client:
        several_idle(client)
        with any_server.client() as store:
            for each in store.client_list():
                if each["name"] == "killed":
                    store.client_kill_filter(_id=each["id"])
        until(lambda: all(not each.is_fit(time.monotonic()) for each in idle(client)), within=2)
        echo(client, "after")
        assert len(idle(client)) == 1


def test_connections_that_were_idle_so_long_that_a_firewall_may_have_forgotten_them_are_not_used(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        several_idle(client)
        left = tuple(idle(client))
        for wire in left:
            wire._asked -= 31  # seconds
        proxy.freeze()
        echo(client, "after", within=1)
        assert [wire._sock.fileno() for wire in left] == [-1, -1, -1]
        assert len(idle(client)) == 1


# Processes.


def test_a_child_uses_no_socket_of_its_parent_and_closes_its_copies(any_server):
    with direct(any_server.url, client_name="forked") as client:
        several_idle(client)
        own = said(client, "CLIENT", "ID")
        parents = [wire._sock.fileno() for wire in idle(client)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12 on
            child = os.fork()
        if child == 0:
            theirs = said(client, "CLIENT", "ID")
            still_open = [each for each in parents if is_open(each)]
            # The new socket takes one of the numbers, if they were closed first.
            os._exit(0 if theirs != own and len(still_open) <= 1 and list(client._idle) == [os.getpid()] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert said(client, "CLIENT", "ID") == own
        assert len(idle(client)) == 3


def test_what_another_process_left_is_closed_when_this_one_begins(any_server):
    with direct(any_server.url) as client:
        several_idle(client)
        left = client._idle[-1] = client._idle.pop(os.getpid())
        descriptors = [wire._sock.fileno() for wire in left]
        client._begun()
        assert client._idle == {os.getpid(): []}
        assert not any(map(is_open, descriptors))


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_children_of_a_process_whose_threads_ask_all_the_time_can_ask(any_server):
    over = threading.Event()

    def ask_on():
        while not over.is_set():
            echo(client, "parent")

    with direct(any_server.url) as client, ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask_on) for _ in range(4)]
        for _ in range(20):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                signal.alarm(10)
                echo(client, "child")
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        over.set()
        for each in asking:
            each.result()


def test_closing_closes_what_is_idle_and_what_is_given_back_later(any_server):
    with Proxy(any_server.port) as proxy, ThreadPoolExecutor(1) as threads:
        with direct(proxy.url, client_name="closed") as client:
            several_idle(client)
            proxy.when(b"slow", "delay reply", seconds=0.2)
            asking = threads.submit(echo, client, "slow")
            until(lambda: not proxy.planned, within=2)
        assert connected(any_server, "closed") == 1
        asking.result()
        until(lambda: connected(any_server, "closed") == 0, within=2)
        echo(client, "closed clients connect again")
        until(lambda: connected(any_server, "closed") == 0, within=2)


# Large ones.


def test_large_commands_and_replies_pass(any_server):
    body = os.urandom(LARGE)
    with direct(any_server.url) as client:
        assert said(client, "SET", "large", body) == b"OK"
        assert said(client, "GETDEL", "large") == body
        assert len(idle(client)) == 1


def test_several_commands_together_are_one_message_and_an_error_among_them_is_a_value(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        echo(client, "connected")
        begun = len(proxy.requests)
        first, second, third = together(
            client, ("SET", "list", memoryview(b"text")), ("LPUSH", "list", "x"), ("GETDEL", "list")
        )
        assert (first, third) == (b"OK", b"text")
        assert isinstance(second, redis.ResponseError)
        assert len(proxy.requests) == begun + 1


def test_a_wait_among_several_commands_may_take_its_time(any_server):
    with direct(any_server.url) as client:
        echo(client, "idle from now on")
        assert together(client, ("SET", "k", "v"), ("WAIT", 1, 300), ("DEL", "k"), within=0.5) == [b"OK", 0, 1]


# How connections are made.


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_connection_is_made_as_the_url_and_the_options_say(guarded, protocol):
    options = {"client_name": "mine", "protocol": protocol, "decode_responses": True}
    with direct(f"redis://me:right@{guarded}/3", **options) as client:
        own = said(client, "CLIENT", "ID")
        (shown,) = (each for each in client.client_list() if each["id"] == str(own))
        assert [shown[each] for each in ("user", "name", "db", "resp")] == ["me", "mine", "3", str(protocol)]
        assert client.execute_command("ECHO", "usual") == "usual"  # which is decoded


def test_credentials_can_come_from_a_provider(guarded):
    provider = UsernamePasswordCredentialProvider("me", "right")
    with direct(f"redis://{guarded}", credential_provider=provider) as client:
        assert said(client, "ACL", "WHOAMI") == b"me"


def test_a_wrong_password_is_an_error_at_once(guarded):
    with direct(f"redis://me:wrong@{guarded}") as client, pytest.raises(redis.AuthenticationError):
        said(client, "PING")


async def test_tls_is_heeded_with_its_options(any_server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def ask(url):
        with direct(url, ssl_ca_certs=str(certificate[0])) as client:
            for turn in range(20):
                echo(client, f"{turn}")
                echo(client, "x" * 100_000)
            own = said(client, "CLIENT", "ID")
            echo(client, "x" * (1 << 20))
            assert said(client, "CLIENT", "ID") == own
        with direct(url) as client, pytest.raises(redis.ConnectionError):
            echo(client, "not to be trusted")

    async with relay(any_server.port, ssl=context) as (port, _):
        await asyncio.to_thread(ask, f"rediss://127.0.0.1:{port}")


def test_a_unix_socket_is_reached(any_binary, tmp_path):
    path = tmp_path / "socket"
    with RedisServer(any_binary, "--unixsocket", str(path)), direct(f"unix://{path}") as client:
        echo(client, "by its path")


async def test_a_server_that_says_more_than_the_handshake_asked_is_not_talked_to(any_server):
    def ask(url):
        with direct(url) as client, pytest.raises(redis.ConnectionError, match="more than it was asked"):
            echo(client, "x")

    async with relay(any_server.port, lambda reply: reply + b"+OK\r\n") as (port, _):
        await asyncio.to_thread(ask, f"redis://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "options",
    [
        {"retry": Retry(NoBackoff(), 1)},
        {"health_check_interval": 5},
        {"socket_timeout": 1},
        {"max_connections": 5},
        {"socket_read_size": 5},
    ],
    ids=lambda options: ",".join(options),
)
def test_an_option_that_the_direct_path_does_not_heed_makes_it_the_usual_client(options):
    where = RedisConnection(url="redis://localhost")
    assert type(blocking_client(where, Deadline(), direct=True, **options)) is redis.Redis


def test_the_usual_client_is_what_direct_false_asks_for(any_server):
    with RedisPersistenceLayer.from_url(any_server.url, direct=False) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        assert type(layer._client()) is redis.Redis


def test_the_usual_client_leaves_a_server_that_is_a_replica_now_too(any_server):
    with (
        Proxy(any_server.port) as proxy,
        RedisPersistenceLayer.from_url(proxy.url, direct=False) as layer,
    ):
        assert layer.acquire(a_claim()) == Acquired(1)
        before = layer._client().client_id()
        proxy.when(
            b"EVALSHA", "answer request", reply=b"-READONLY You can't write against a read only replica.\r\n"
        )
        assert layer.acquire(a_claim()) == Acquired(1)
        assert layer._client().client_id() != before


def test_a_redis_py_that_has_not_what_is_reached_for_is_used_as_usual():
    assert can_be_direct_blocking(object, {}) is False


def test_where_nobody_can_be_polled_redis_py_is_used_as_usual(monkeypatch):
    monkeypatch.delattr(select, "poll")  # as on Windows, and under eventlet
    assert can_be_direct_blocking(redis.Connection, {}) is False
