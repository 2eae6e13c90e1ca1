"""redis-py's connections, which keep to a deadline and leave a server that was demoted."""

from typing import Any

from redis.exceptions import ReadOnlyError

from idempotency_mw.persistence.redis.direct.deadline import Deadline

__all__ = ["leaving_replicas", "timed"]

# What one release of redis-py annotates, another does not have: it is used untyped here.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false


def timed(deadline: Deadline, base: type[Any]) -> type[Any]:
    """Return redis-py's connection with each wait on its socket cut to what is left of the deadline.

    Time-outs that are fixed beforehand add up, over the steps of a handshake and over tries, to many times the
    deadline. `_sock` and `_connect` have been redis-py's names for these from 5.0 to 8.1.
    """

    class TimedConnection(base):  # type: ignore[misc]
        is_demoted = False

        def _connect(self) -> Any:
            self.socket_connect_timeout = self.socket_timeout = deadline.left()
            return super()._connect()

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self.is_demoted:  # a replica now: under its name there may be another server
                self.is_demoted = False
                self.disconnect()
            self._cut()
            super().send_packed_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            self._cut()
            try:
                return super().read_response(*args, **options)
            except ReadOnlyError:
                self.is_demoted = True
                raise

        def _cut(self) -> None:
            if self._sock is not None:
                self._sock.settimeout(deadline.left())

    return TimedConnection


def leaving_replicas(base: type[Any]) -> type[Any]:
    """Return redis-py's async connection, which closes once its server says that it is a replica now."""

    class LeavingConnection(base):  # type: ignore[misc]
        is_demoted = False

        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self.is_demoted:  # under its name there may be another server
                self.is_demoted = False
                await self.disconnect()
            await super().send_packed_command(*args, **options)

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except ReadOnlyError:
                self.is_demoted = True
                raise

    return LeavingConnection
