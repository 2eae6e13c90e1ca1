"""The blocking direct path: threads, processes and large commands share a client."""

import os
import random
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from idempotency_mw.persistence.redis.direct import blocking
from idempotency_mw.persistence.redis.direct.resp import packed
from tests.clusters import until
from tests.persistence.redis.direct.blocking_talk import (
    connected,
    direct,
    echo,
    idle,
    idle_lists,
    said,
    several_idle,
    sockets_to,
    together,
    until_unfit,
)
from tests.proxy import Proxy

LARGE = 10 << 20


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


def test_each_thread_that_asks_has_a_connection_and_fifty_stay_open(any_server):
    with direct(any_server.url, client_name="many") as client, ThreadPoolExecutor(70) as threads:
        with any_server.client() as store:
            store.delete("list")
            asked = [threads.submit(said, client, "BLPOP", "list", 10) for _ in range(70)]
            until(lambda: connected(any_server, "many") == 70, within=5)
            store.rpush("list", *range(70))
        assert len({tuple(each.result()) for each in asked}) == 70
        assert len(idle(client)) == 50
        until(lambda: connected(any_server, "many") == 50, within=2)


def test_a_thread_connects_if_another_one_takes_the_last_idle_connection_first(any_server):
    class Emptied(list):
        """A list that has just become empty: it had something when the client looked."""

        def __bool__(self):
            return True

    with direct(any_server.url) as client:
        idle_lists(client)[os.getpid()] = Emptied()
        echo(client, "after")
        assert len(idle(client)) == 1


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
def test_all_connections_to_a_server_that_can_not_be_used_are_closed(any_server, reply):
    with Proxy(any_server.port) as proxy, direct(proxy.url, client_name="unfit") as client:
        several_idle(client)
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(redis.RedisError) as raised:
            said(client, "EVALSHA", "0" * 40, 0)
        assert isinstance(raised.value, redis.ReadOnlyError | redis.BusyLoadingError)
        until(lambda: connected(any_server, "unfit") == 0, within=2)
        echo(client, "after")


def test_an_unrequested_message_is_not_taken_for_the_next_reply(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        several_idle(client)
        proxy.say(b"$5\r\nstale\r\n")
        until_unfit(client)
        echo(client, "after")
        assert len(idle(client)) == 1


def test_connections_that_the_server_closed_are_replaced_without_an_error(any_server):
    with direct(any_server.url, client_name="killed") as client:
        several_idle(client)
        with any_server.client() as store:
            for each in store.client_list():
                if each["name"] == "killed":
                    store.client_kill_filter(_id=each["id"])
        until_unfit(client)
        echo(client, "after")
        assert len(idle(client)) == 1


def test_connections_that_were_idle_so_long_that_a_firewall_may_have_forgotten_them_are_not_used(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url, client_name="rested") as client:
        several_idle(client)
        proxy.freeze()
        now = time.monotonic() + 31
        assert client.ask(packed(("ECHO", "after")), now, now + 1) == b"after"
        assert len(idle(client)) == 1
        until(lambda: connected(any_server, "rested") == 1, within=2)


def test_connections_that_were_idle_for_less_time_are_used(any_server):
    with direct(any_server.url) as client:
        before = said(client, "CLIENT", "ID")
        now = time.monotonic() + 29
        assert client.ask(packed(("CLIENT", "ID")), now, now + 1) == before


def test_a_child_uses_no_socket_of_its_parent_and_closes_its_copies(any_server):
    others = sockets_to(any_server.port)
    with direct(any_server.url) as client:
        several_idle(client)
        parents = tuple(idle(client))  # so that the collector does not close them
        own = said(client, "CLIENT", "ID")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks with threads
            child = os.fork()
        if child == 0:
            theirs = said(client, "CLIENT", "ID")
            os._exit(0 if theirs != own and len(sockets_to(any_server.port) - others) == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert said(client, "CLIENT", "ID") == own
        assert tuple(idle(client)) == parents


def test_a_child_closes_and_forgets_its_parents_connections(any_server, monkeypatch):
    with direct(any_server.url, client_name="left") as client:
        several_idle(client)
        left = tuple(idle(client))  # so that the collector does not close them
        with monkeypatch.context() as in_a_child:
            in_a_child.setattr(blocking, "getpid", lambda: -1)
            echo(client, "the child's first")
            until(lambda: connected(any_server, "left") == 1, within=2)
        assert list(idle_lists(client)) == [-1]
        assert len(left) == 3


def test_a_thread_keeps_the_connections_of_another_one_that_was_first_in_this_process(any_server, monkeypatch):
    # Time 0: a thread finds no connections of this process. Time 1: another thread leaves some. Time 2: the first
    # one goes on, and looks again.
    found_none = iter([-1])
    with direct(any_server.url) as client:
        several_idle(client)
        before = tuple(idle(client))
        monkeypatch.setattr(blocking, "getpid", lambda: next(found_none, os.getpid()))
        echo(client, "after")
        assert tuple(idle(client)) == before


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


def test_closing_closes_idle_connections_and_those_that_are_given_back_later(any_server):
    with Proxy(any_server.port) as proxy, ThreadPoolExecutor(1) as threads:
        with direct(proxy.url, client_name="closed") as client:
            several_idle(client)
            proxy.when(b"slow", "delay reply", seconds=0.2)
            asking = threads.submit(echo, client, "slow")
            until(lambda: not proxy.planned, within=2)
        until(lambda: connected(any_server, "closed") == 1, within=2)
        asking.result()
        until(lambda: connected(any_server, "closed") == 0, within=2)
        echo(client, "closed clients connect again")
        until(lambda: connected(any_server, "closed") == 0, within=2)


def test_large_commands_and_replies_pass(any_server):
    body = os.urandom(LARGE)
    with direct(any_server.url) as client:
        assert said(client, "SET", "large", body) == b"OK"
        assert said(client, "GETDEL", "large") == body
        assert len(idle(client)) == 1


def test_a_pipeline_is_one_message_and_an_error_reply_is_a_value(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        echo(client, "connected")
        begun = len(proxy.requests)
        first, second, third = together(
            client, ("SET", "list", memoryview(b"text")), ("LPUSH", "list", "x"), ("GETDEL", "list")
        )
        assert (first, third) == (b"OK", b"text")
        assert isinstance(second, redis.ResponseError)
        assert len(proxy.requests) == begun + 1


def test_a_wait_in_a_pipeline_may_use_the_whole_deadline(any_server):
    with direct(any_server.url) as client:
        echo(client, "idle from now on")
        # Longer than half of the deadline, after which a single command would be given up.
        assert together(client, ("SET", "k", "v"), ("WAIT", 1, 800), ("DEL", "k"), within=1.5) == [b"OK", 0, 1]
