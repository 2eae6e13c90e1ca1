"""Clusters and Sentinels on loopback, in about two seconds and without redis-cli.

    with RedisCluster(binary) as cluster:
        cluster.masters      three servers that share the 16,384 slots
    with RedisSentinel(binary, master) as sentinel:
        sentinel.port        its port; it knows the master as "main"

`Replicas` of a server are started by `RedisServer(binary, "--replicaof", "127.0.0.1", str(port))`.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.servers import RedisServer, free_port

__all__ = ["SERVICE", "RedisCluster", "RedisSentinel", "until"]

SLOTS = 16384
SERVICE = "main"


def until(condition: Callable[[], bool], within: float = 20.0) -> None:
    """Wait until the condition holds; an error of redis-py counts as not yet."""
    ends = time.monotonic() + within
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {within} s")
        time.sleep(0.02)


class RedisCluster:
    """Three masters, each with a third of the slots, and `replicas` copies of each.

    `master_options` returns further options of the master on a port.
    """

    def __init__(
        self,
        binary: Path,
        *options: str,
        replicas: int = 0,
        master_options: Callable[[int], tuple[str, ...]] = lambda port: (),
    ) -> None:
        every = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *options)
        ports = [free_port() for _ in range(3)]
        self.masters = [RedisServer(binary, *every, *master_options(port), port=port) for port in ports]
        self.replicas = [RedisServer(binary, *every) for _ in range(3 * replicas)]

    @property
    def nodes(self) -> list[RedisServer]:
        return self.masters + self.replicas

    @property
    def url(self) -> str:
        return self.masters[0].url

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for number, master in enumerate(self.masters):
            share = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            _tell(master, "CLUSTER", "ADDSLOTSRANGE", *share)
            _tell(master, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            _tell(node, "CLUSTER", "MEET", "127.0.0.1", self.masters[0].port)
        for number, replica in enumerate(self.replicas):
            master_id = _tell(self.masters[number % 3], "CLUSTER", "MYID").decode()
            until(lambda replica=replica, master_id=master_id: _replicates(replica, master_id))
        for node in self.nodes:
            until(lambda node=node: self._is_whole(node))

    def _is_whole(self, node: RedisServer) -> bool:
        lines = _tell(node, "CLUSTER", "INFO").decode().split("\r\n")
        wanted = {f"cluster_known_nodes:{len(self.nodes)}", "cluster_state:ok", f"cluster_slots_ok:{SLOTS}"}
        return wanted <= set(lines)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.__exit__(None, None, None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _tell(node: RedisServer, *command: object) -> Any:
    with node.client() as client:
        return client.execute_command(*command)


def _replicates(replica: RedisServer, master_id: str) -> bool:
    return _tell(replica, "CLUSTER", "REPLICATE", master_id) in (True, b"OK")


class RedisSentinel(RedisServer):
    """One Sentinel that watches one master; with a quorum of one it starts a failover alone."""

    def __init__(self, binary: Path, master: RedisServer, *lines: str, quorum: int = 1) -> None:
        super().__init__(binary)
        config = Path(self._folder) / "sentinel.conf"
        config.write_text(
            "\n".join(
                [
                    f"port {self.port}",
                    "bind 127.0.0.1",
                    f"dir {self._folder}",
                    f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} {quorum}",
                    f"sentinel down-after-milliseconds {SERVICE} 1000",
                    f"sentinel failover-timeout {SERVICE} 5000",
                    *lines,
                ]
            )
        )
        self._command = [str(binary), str(config), "--sentinel"]

    def start(self, within: float = 10.0) -> None:
        super().start(within)
        until(lambda: bool(_tell(self, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)))
