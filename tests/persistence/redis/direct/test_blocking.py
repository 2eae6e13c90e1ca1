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
def test_a_server_that_can_not_be_used_costs_all_connections_to_it(any_server, reply):
    with Proxy(any_server.port) as proxy, direct(proxy.url, client_name="unfit") as client:
        several_idle(client)
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(redis.RedisError) as raised:
            said(client, "EVALSHA", "0" * 40, 0)
        assert isinstance(raised.value, redis.ReadOnlyError | redis.BusyLoadingError)
        until(lambda: connected(any_server, "unfit") == 0, within=2)
        echo(client, "after")


def test_what_the_server_says_unasked_is_not_a_reply_to_the_next_command(any_server):
    with Proxy(any_server.port) as proxy, direct(proxy.url) as client:
        several_idle(client)
        proxy.say(b"$5\r\nstale\r\n")
        until_unfit(client)
        echo(client, "after")
        assert len(idle(client)) == 1


def test_connections_that_the_server_closed_meanwhile_cost_no_error_and_no_pause(any_server):
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
        own = said(client, "CLIENT", "ID")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12 on
            child = os.fork()
        if child == 0:
            theirs = said(client, "CLIENT", "ID")
            os._exit(0 if theirs != own and len(sockets_to(any_server.port) - others) == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert said(client, "CLIENT", "ID") == own
        assert len(idle(client)) == 3


def test_what_another_process_left_is_closed_and_forgotten_when_this_one_begins(any_server, monkeypatch):
    with direct(any_server.url, client_name="left") as client:
        several_idle(client)
        with monkeypatch.context() as in_a_child:
            in_a_child.setattr(blocking, "getpid", lambda: -1)
            echo(client, "the child's first")
            until(lambda: connected(any_server, "left") == 1, within=2)
        assert idle(client) == []  # also for a process that gets the number of the first one later


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
        # Longer than half of the deadline, after which a single command would be given up.
        assert together(client, ("SET", "k", "v"), ("WAIT", 1, 800), ("DEL", "k"), within=1.5) == [b"OK", 0, 1]
