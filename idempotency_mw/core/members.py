"""The members of a JSON object, each of which may stand in it only once."""

from typing import Any

__all__ = ["DuplicateMemberError", "distinct"]


class DuplicateMemberError(ValueError):
    """A member stands twice in one object: two readers may read two values (RFC 8259, section 4)."""


def distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object, as `object_pairs_hook` of the json module. Raises `DuplicateMemberError`."""
    data = dict(members)
    if len(data) != len(members):
        raise DuplicateMemberError("a member stands twice in one object")
    return data
