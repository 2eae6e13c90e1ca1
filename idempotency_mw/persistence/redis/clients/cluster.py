"""redis-py's cluster clients, where slots move and callers come at once."""

import asyncio

from idempotency_mw.persistence.redis.redis_py import Untyped

__all__ = ["one_first", "open_to_newcomers"]

# What one release of redis-py annotates, another does not have: it is used untyped here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false


def open_to_newcomers(base: type[Untyped]) -> type[Untyped]:
    """Return redis-py's cluster client, blocking or async, which also follows ASK to a node that has no slot yet.

    When the first slot moves to a new node, no map of the slots names that node. redis-py, 5.0 to 8.1, finds no
    node by the name and raises `AttributeError`, because it uses `None` as a node.
    """

    class OpenCluster(base):  # type: ignore[misc]
        def get_node(
            self, host: str | None = None, port: int | str | None = None, node_name: str | None = None
        ) -> object:
            node = super().get_node(host, port, node_name)
            return node or self._newcomer(node_name or f"{host}:{port}")

        def _newcomer(self, name: str) -> object:
            host, port = name.rsplit(":", 1)
            nodes = self.nodes_manager
            kind: Untyped = type(next(iter(nodes.nodes_cache.values())))
            # An async node makes its own connections. A blocking one is given a pool when it is first used.
            own = nodes.connection_kwargs if hasattr(kind, "acquire_connection") else {}
            node = kind(host, int(port), "primary", **own)
            return nodes.nodes_cache.setdefault(node.name, node)

    return OpenCluster


def one_first(base: type[Untyped]) -> type[Untyped]:
    """Return redis-py's async cluster client, whose first command goes alone.

    Time 0: A and B ask; both find that the topology is not known, and ask for it. Time 1: A knows it, and waits
    for its reply on a node's connection. Time 2: B knows it too, and redis-py replaces all nodes' connections,
    so that A fails. With one command first, the others find the topology known.
    """

    class OneFirstCluster(base):  # type: ignore[misc]
        first = asyncio.Lock()
        is_known = False

        async def execute_command(self, *args: object, **options: object) -> object:
            if not self.is_known:
                async with self.first:
                    if not self.is_known:
                        reply = await super().execute_command(*args, **options)
                        self.is_known = True
                        return reply
            return await super().execute_command(*args, **options)

    return OneFirstCluster
