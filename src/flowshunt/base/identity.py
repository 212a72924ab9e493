"""Results remembered for the very objects that they were made of."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

LARGE = 4096
"""Bytes of a result that is not remembered: there may be thousands, of things that nobody has any more."""


class IdentityCache(Generic[Result]):
    """Like `functools.lru_cache` for one argument that is shared and takes long to hash, such as a list of actions.

    Equal objects are others here. `key` is what else the result depends on.
    """

    def __init__(self, size: int) -> None:
        """Room for so many results; when there are more, all are forgotten."""
        self._size = size
        self._known: dict[int, tuple[Any, Any, Result]] = {}

    def find(self, thing: Any, key: Any) -> Result | None:
        """What was kept of `thing`, if it was with an equal key."""
        known = self._known.get(id(thing))
        return known[2] if known is not None and known[0] is thing and known[1] == key else None

    def keep(self, thing: Any, key: Any, result: Result, size: int = 0) -> Result:
        """Keep a result, in place of the one before, and return it. One of more than LARGE bytes is not kept."""
        if size > LARGE:
            return result
        if len(self._known) >= self._size:
            self._known.clear()
        self._known[id(thing)] = thing, key, result
        return result
