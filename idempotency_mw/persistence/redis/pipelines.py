"""Several commands in one round trip: in order, on one connection, an error as a value among the replies.

What is said is a talk: a generator that yields the commands of a trip, is sent their replies, and returns the
outcome. It knows no connection, so that one talk serves blocking and async code. This module is the way to the
server: a client's own `together(commands)`, where it has one, else redis-py's pipeline without a transaction. It
knows no verbs.

In a cluster redis-py's pipeline would take a trip apart by keys, and has no place for WAIT, which has none. There
the node that owns the key gets it all. Where the client's map of the slots is out of date, the client is made to
send the first command by itself, which teaches it; so a first command must be harmless when it is repeated.
"""

from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from idempotency_mw.persistence.redis.address import RedisClientProtocol
from idempotency_mw.persistence.redis.direct.resp import Argument
from idempotency_mw.persistence.redis.errors import ASK, MOVED, RESPONSE, UNKNOWN_NODE, TryAgainError

__all__ = ["RAW", "Command", "Talk", "ask", "ask_async", "sends_together", "together", "together_async"]

RAW: dict[str, Any] = {"NEVER_DECODE": True}
"""The option that keeps redis-py from decoding a reply as text, whatever `decode_responses` says."""

Command: TypeAlias = tuple[Argument, ...]
Outcome = TypeVar("Outcome")
Talk: TypeAlias = Generator[Sequence[Command], Sequence[Any], Outcome]

_ASKING: Command = ("ASKING",)


def sends_together(client: object) -> bool:
    """Tell whether a client can send several commands in one trip."""
    return hasattr(client, "together") or hasattr(client, "pipeline")


def ask(client: RedisClientProtocol, key: str, talk: Talk[Outcome]) -> Outcome:
    """Hold the talk about this key to its end."""
    try:
        commands = next(talk)
        while True:
            commands = talk.send(together(client, key, commands))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


async def ask_async(client: RedisClientProtocol, key: str, talk: Talk[Outcome]) -> Outcome:
    """As `ask`."""
    try:
        commands = next(talk)
        while True:
            commands = talk.send(await together_async(client, key, commands))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def together(client: Any, key: str, commands: Sequence[Command]) -> Sequence[Any]:
    """Send the commands, all about this key or about none, and return their replies."""
    commands = _as_taken(client, commands)
    if hasattr(client, "together"):
        return list(client.together(commands))
    if len(commands) == 1:
        try:
            return [client.execute_command(*commands[0], **RAW)]
        except RESPONSE as error:
            return [error]
    if hasattr(client, "get_node_from_key"):
        return _in_cluster(client, key, commands)
    return _pipelined(client, commands)


def _as_taken(client: object, commands: Sequence[Command]) -> Sequence[Command]:
    """Return the commands as the client takes them: without arguments in parts, but for clients of ours."""
    if getattr(client, "takes_parts", False):
        return commands
    return [
        tuple([b"".join(each) if isinstance(each, tuple) else each for each in command]) for command in commands
    ]


def _pipelined(client: Any, commands: Sequence[Command]) -> Sequence[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **RAW)
    return list(pipeline.execute(raise_on_error=False))


def _in_cluster(client: Any, key: str, commands: Sequence[Command]) -> Sequence[Any]:
    try:
        replies = _at_owner(client, key, commands)
        if isinstance(replies[0], MOVED):
            _teach(client, commands)
            replies = _at_owner(client, key, commands)
    except UNKNOWN_NODE:
        _teach(client, commands)
        raise
    if _is_asked_elsewhere(replies):
        node = _named(client, replies[0])
        return _pipelined(client.get_redis_connection(node), _each_asking(commands))[1::2]
    return replies


def _at_owner(client: Any, key: str, commands: Sequence[Command]) -> Sequence[Any]:
    return _pipelined(client.get_redis_connection(client.get_node_from_key(key)), commands)


def _teach(client: Any, commands: Sequence[Command]) -> None:
    with suppress(*RESPONSE):
        client.execute_command(*commands[0], **RAW)


async def together_async(client: Any, key: str, commands: Sequence[Command]) -> Sequence[Any]:
    """As `together`."""
    commands = _as_taken(client, commands)
    if hasattr(client, "together"):
        return list(await client.together(commands))
    if len(commands) == 1:
        try:
            return [await client.execute_command(*commands[0], **RAW)]
        except RESPONSE as error:
            return [error]
    if hasattr(client, "get_node_from_key"):
        return await _in_cluster_async(client, key, commands)
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **RAW)
    return list(await pipeline.execute(raise_on_error=False))


async def _in_cluster_async(client: Any, key: str, commands: Sequence[Command]) -> Sequence[Any]:
    try:
        replies = await _at_node(client.get_node_from_key(key), commands)
        if isinstance(replies[0], MOVED):
            await _teach_async(client, commands)
            replies = await _at_node(client.get_node_from_key(key), commands)
    except UNKNOWN_NODE:
        await _teach_async(client, commands)
        raise
    if _is_asked_elsewhere(replies):
        return (await _at_node(_named(client, replies[0]), _each_asking(commands)))[1::2]
    return replies


class _Sent:
    """A command as a node of redis-py's async cluster takes it in a pipeline."""

    def __init__(self, command: Command) -> None:
        self.args = command
        self.kwargs = RAW
        self.result: Any = None


async def _at_node(node: Any, commands: Sequence[Command]) -> Sequence[Any]:
    sent = [_Sent(command) for command in commands]
    await node.execute_pipeline(sent)
    for each in sent:
        # Here a lost connection too is a value among the replies.
        if isinstance(each.result, Exception) and not isinstance(each.result, RESPONSE):
            raise each.result
    return [each.result for each in sent]


async def _teach_async(client: Any, commands: Sequence[Command]) -> None:
    with suppress(*RESPONSE):
        await client.execute_command(*commands[0], **RAW)


def _is_asked_elsewhere(replies: Sequence[Any]) -> bool:
    """Tell whether the key's slot is on the move, and the key is to be looked for where it moves."""
    return isinstance(replies[0], ASK) and not isinstance(replies[0], MOVED)


def _named(client: Any, error: Any) -> Any:
    """Return the node that the error names."""
    node = client.get_node(host=error.host, port=error.port)
    if node is None:
        raise TryAgainError(f"the cluster names a node that this client does not know: {error}")
    return node


def _each_asking(commands: Sequence[Command]) -> Sequence[Command]:
    return [each for command in commands for each in (_ASKING, command)]
