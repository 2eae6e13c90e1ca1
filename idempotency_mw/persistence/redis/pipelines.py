"""Several commands in one round trip: in order, on one connection, an error as a value among the replies.

What a verb does in such trips is a generator: it yields the commands of a trip, is sent their replies, and
returns the outcome. It knows no connection, so one generator serves blocking and async code. This module sends
the commands: with a client's own `send_pipeline(commands)` if it has one, else with redis-py's pipeline, without
a transaction. It knows no verbs.

In a cluster, redis-py's pipeline would split a trip by its keys, and has no place for WAIT, which has none.
There all commands go to the node that owns the key. If the client's map of the slots is out of date, the client
sends the first command by itself, which teaches it the map. So a first command must be harmless when it is
repeated.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeAlias, TypeVar, cast

from idempotency_mw.persistence.redis.address import RedisClientProtocol
from idempotency_mw.persistence.redis.direct.resp import Argument, Reply
from idempotency_mw.persistence.redis.errors import ASK, MOVED, RESPONSE, UNKNOWN_NODE, TryAgainError

__all__ = ["RAW", "Command", "PipelineSteps", "has_pipeline", "run", "run_async", "send", "send_async"]

RAW: Final = {"NEVER_DECODE": True}
"""The option that keeps redis-py from decoding a reply as text, whatever `decode_responses` says."""

Command: TypeAlias = tuple[Argument, ...]
Outcome = TypeVar("Outcome")
PipelineSteps: TypeAlias = Generator[Sequence[Command], Sequence[Reply], Outcome]

_ASKING: Command = ("ASKING",)

Result_co = TypeVar("Result_co", covariant=True)
Node_co = TypeVar("Node_co", covariant=True)


class _Pipeline(Protocol[Result_co]):
    """redis-py's pipeline. An async one returns an awaitable of the replies."""

    def execute_command(self, *args: Argument, **options: object) -> object: ...
    def execute(self, *, raise_on_error: bool) -> Result_co: ...


class _HasPipeline(Protocol[Result_co]):
    def pipeline(self, *, transaction: bool) -> _Pipeline[Result_co]: ...


class _Redirection(Protocol):
    host: str
    port: int


class _KnowsNodes(RedisClientProtocol, Protocol[Node_co]):
    """A client of redis-py for a cluster."""

    def get_node_from_key(self, key: str) -> Node_co: ...
    def get_node(self, *, host: str, port: int) -> Node_co | None: ...


class _Cluster(_KnowsNodes[object], Protocol):
    def get_redis_connection(self, node: object) -> _HasPipeline[Sequence[Reply]]: ...


class _AsyncNode(Protocol):
    async def execute_pipeline(self, commands: "list[_NodeCommand]") -> object: ...


def has_pipeline(client: object) -> bool:
    """Tell whether a client can send several commands in one trip."""
    return hasattr(client, "send_pipeline") or hasattr(client, "pipeline")


def run(client: RedisClientProtocol, key: str, steps: PipelineSteps[Outcome]) -> Outcome:
    """Send what the steps yield, all of it about this key, to their end. Return their outcome."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(send(client, key, commands))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


async def run_async(client: RedisClientProtocol, key: str, steps: PipelineSteps[Outcome]) -> Outcome:
    """As `run`."""
    try:
        commands = next(steps)
        while True:
            commands = steps.send(await send_async(client, key, commands))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def send(client: RedisClientProtocol, key: str, commands: Sequence[Command]) -> Sequence[Reply]:
    """Send the commands, all about this key or about none, in one trip. Return their replies."""
    commands = _as_taken(client, commands)
    own: Callable[[Sequence[Command]], Sequence[Reply]] | None = getattr(client, "send_pipeline", None)
    if own is not None:
        return list(own(commands))
    if len(commands) == 1:
        try:
            return [client.execute_command(*commands[0], **RAW)]
        except RESPONSE as error:
            return [error]
    if hasattr(client, "get_node_from_key"):
        return _send_in_cluster(cast("_Cluster", client), key, commands)
    return _pipelined(cast("_HasPipeline[Sequence[Reply]]", client), commands)


def _as_taken(client: object, commands: Sequence[Command]) -> Sequence[Command]:
    """Return the commands as the client takes them. Only our own clients take arguments in parts."""
    if getattr(client, "takes_parts", False):
        return commands
    return [
        tuple([b"".join(each) if isinstance(each, tuple) else each for each in command]) for command in commands
    ]


def _pipelined(client: _HasPipeline[Sequence[Reply]], commands: Sequence[Command]) -> Sequence[Reply]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **RAW)
    return list(pipeline.execute(raise_on_error=False))


def _send_in_cluster(client: _Cluster, key: str, commands: Sequence[Command]) -> Sequence[Reply]:
    try:
        replies = _at_owner(client, key, commands)
        if isinstance(replies[0], MOVED):
            _teach(client, commands)
            replies = _at_owner(client, key, commands)
    except UNKNOWN_NODE:
        _teach(client, commands)
        raise
    if (redirection := _asked_elsewhere(replies)) is not None:
        node = _named(client, redirection)
        return _pipelined(client.get_redis_connection(node), _each_asking(commands))[1::2]
    return replies


def _at_owner(client: _Cluster, key: str, commands: Sequence[Command]) -> Sequence[Reply]:
    return _pipelined(client.get_redis_connection(client.get_node_from_key(key)), commands)


def _teach(client: RedisClientProtocol, commands: Sequence[Command]) -> None:
    """Make the client follow a redirection, by which it learns the slots."""
    with suppress(*RESPONSE):
        client.execute_command(*commands[0], **RAW)


async def send_async(client: RedisClientProtocol, key: str, commands: Sequence[Command]) -> Sequence[Reply]:
    """As `send`."""
    commands = _as_taken(client, commands)
    own: Callable[[Sequence[Command]], Awaitable[Sequence[Reply]]] | None = getattr(client, "send_pipeline", None)
    if own is not None:
        return list(await own(commands))
    if len(commands) == 1:
        try:
            return [await client.execute_command(*commands[0], **RAW)]
        except RESPONSE as error:
            return [error]
    if hasattr(client, "get_node_from_key"):
        return await _send_in_cluster_async(cast("_KnowsNodes[_AsyncNode]", client), key, commands)
    pipeline = cast("_HasPipeline[Awaitable[Sequence[Reply]]]", client).pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **RAW)
    return list(await pipeline.execute(raise_on_error=False))


async def _send_in_cluster_async(
    client: _KnowsNodes[_AsyncNode], key: str, commands: Sequence[Command]
) -> Sequence[Reply]:
    try:
        replies = await _at_node(client.get_node_from_key(key), commands)
        if isinstance(replies[0], MOVED):
            await _teach_async(client, commands)
            replies = await _at_node(client.get_node_from_key(key), commands)
    except UNKNOWN_NODE:
        await _teach_async(client, commands)
        raise
    if (redirection := _asked_elsewhere(replies)) is not None:
        return (await _at_node(_named(client, redirection), _each_asking(commands)))[1::2]
    return replies


class _NodeCommand:
    """A command as a node of redis-py's async cluster takes it in a pipeline."""

    def __init__(self, command: Command) -> None:
        self.args = command
        self.kwargs = RAW
        self.result: Reply = None


async def _at_node(node: _AsyncNode, commands: Sequence[Command]) -> Sequence[Reply]:
    sent = [_NodeCommand(command) for command in commands]
    await node.execute_pipeline(sent)
    for each in sent:
        # Here a lost connection, too, is a value among the replies.
        if isinstance(each.result, Exception) and not isinstance(each.result, RESPONSE):
            raise each.result
    return [each.result for each in sent]


async def _teach_async(client: RedisClientProtocol, commands: Sequence[Command]) -> None:
    """As `_teach`."""
    with suppress(*RESPONSE):
        await client.execute_command(*commands[0], **RAW)


def _asked_elsewhere(replies: Sequence[Reply]) -> _Redirection | None:
    """Return the error that says where the key's slot is moving to; `None` if the slot is not on the move."""
    first = replies[0]
    if isinstance(first, ASK) and not isinstance(first, MOVED):
        return cast("_Redirection", first)
    return None


def _named(client: _KnowsNodes[Node_co], error: _Redirection) -> Node_co:
    """Return the node that the error names."""
    node = client.get_node(host=error.host, port=error.port)
    if node is None:
        raise TryAgainError(f"the cluster names a node that this client does not know: {error}")
    return node


def _each_asking(commands: Sequence[Command]) -> Sequence[Command]:
    return [each for command in commands for each in (_ASKING, command)]
