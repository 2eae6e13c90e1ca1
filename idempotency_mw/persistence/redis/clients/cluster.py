"""redis-py's cluster clients, where slots move and callers come at once."""

import asyncio
from typing import Any

__all__ = ["one_first", "open_to_newcomers"]

# What one release of redis-py annotates, another does not have: it is used untyped here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false


def open_to_newcomers(base: type[Any]) -> type[Any]:
    """Return redis-py's cluster client, which follows ASK to a node that has no slot yet, too.

    When the first slot moves to a new node, no map of the slots names it. redis-py finds no node by that name and
    stumbles over None, up to 8.1 at least.
    """

    class OpenCluster(base):  # type: ignore[misc]
        def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
            node = super().get_node(host, port, node_name)
            return node or self._newcomer(*(node_name.rsplit(":", 1) if node_name else (host, port)))

        def _newcomer(self, host: str, port: Any) -> Any:
            nodes = self.nodes_manager
            kind: Any = type(next(iter(nodes.nodes_cache.values())))
            # Async nodes make connections of their own, the others are given some when they are first used.
            own = nodes.connection_kwargs if hasattr(kind, "acquire_connection") else {}
            node = kind(host, int(port), "primary", **own)
            return nodes.nodes_cache.setdefault(node.name, node)

    return OpenCluster


def one_first(base: type[Any]) -> type[Any]:
    """Return redis-py's async cluster client, whose first command goes alone.

    redis-py renews the connections of every node when it has learnt the topology, those too on which others are
    just shaking hands, or wait for a reply. With one command first, the others find it learnt.
    """

    class OneFirstCluster(base):  # type: ignore[misc]
        first = asyncio.Lock()
        is_known = False

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            if not self.is_known:
                async with self.first:
                    if not self.is_known:
                        reply = await super().execute_command(*args, **options)
                        self.is_known = True
                        return reply
            return await super().execute_command(*args, **options)

    return OneFirstCluster
