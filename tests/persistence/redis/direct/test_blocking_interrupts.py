"""What interrupts a blocking exchange closes its connection, and no reply goes to another caller."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from idempotency_mw.core.record import Acquired
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis
from tests.clusters import until
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.blocking_talk import (
    DEADLINE,
    connected,
    direct,
    echo,
    idle,
    several_idle,
)
from tests.proxy import Proxy


def test_a_reply_that_comes_too_late_goes_to_nobody(any_server):
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
        proxy.when(b"late", "delay reply", seconds=0.3)

        def interrupt_its_waiting():
            until(lambda: proxy.count(b"late") == 1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

        usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
        interrupting = threading.Thread(target=interrupt_its_waiting)
        try:
            with pytest.raises(KeyboardInterrupt) as interrupted:
                interrupting.start()
                echo(client, "late")
        finally:
            interrupting.join()
            signal.signal(signal.SIGALRM, usual)
        time.sleep(0.3)  # until the reply has come
        assert interrupted.tb  # holds what was in use: nothing is closed by the collector
        assert len(idle(client)) == 2
        until(lambda: connected(any_server, "interrupted") == 2, within=2)
        echo(client, "after")


def test_an_interrupt_while_it_connects_leaves_no_connection(any_server):
    made = []

    class Interrupted(redis.Connection):
        def connect(self):
            super().connect()
            made.append(self)  # nothing is closed by the collector
            assert connected(any_server, "interrupted_early") == 1
            raise KeyboardInterrupt

    options = {"port": any_server.port, "client_name": "interrupted_early"}
    client = DirectBlockingRedis(redis.ConnectionPool(**options), lambda: Interrupted(**options), DEADLINE)
    with pytest.raises(KeyboardInterrupt):
        echo(client, "never")
    assert len(made) == 1
    until(lambda: connected(any_server, "interrupted_early") == 0, within=2)


UNDER_GEVENT = """
import sys, warnings
warnings.simplefilter("ignore", ResourceWarning)  # of redis-py's, killed while it connects
warnings.filterwarnings("ignore", message="Monkey-patching ssl")
if sys.argv[2] == "late":
    import idempotency_mw.persistence.redis
from gevent import monkey
monkey.patch_all()
import gevent, random
from tests.persistence.redis.direct.blocking_talk import direct, echo, idle

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
    environment = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[4])}
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
        client = layer._client()
        several_idle(client)
        proxy.when(b"EVALSHA", action)
        assert layer.acquire(a_claim()) == Acquired(1)
        several_idle(client)
        proxy.freeze()
        assert layer.acquire(a_claim()) == Acquired(1)


def test_an_error_that_lasts_is_not_tried_again(any_server):
    with Proxy(any_server.port) as proxy, RedisPersistenceLayer.from_url(proxy.url) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        proxy.when(b"EVALSHA", "answer request", reply=b"-NOPERM this user may not\r\n")
        with pytest.raises(IdempotencyPersistenceLayerError, match="may not"):
            layer.extend(a_claim())
