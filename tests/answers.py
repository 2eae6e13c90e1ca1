"""What the answers of both surfaces' drivers have in common."""

import json

__all__ = ["HTTPAnswer"]


class HTTPAnswer:
    """An answer with a status, headers and a body."""

    status: int | None
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return the values of every header of this name."""
        raise NotImplementedError

    def one(self, name: str) -> str | None:
        """Return the value of the only header of this name, or `None`."""
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def replayed(self) -> bool:
        return self.one("idempotent-replayed") == "true"

    @property
    def slug(self) -> str:
        """The last part of the problem's type."""
        assert self.one("content-type") == "application/problem+json", self
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return str(problem["type"].rsplit(":", 1)[1])

    def brief(self) -> tuple[int | None, bytes]:
        return self.status, self.body
