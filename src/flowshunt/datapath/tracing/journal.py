"""Arrays that remember what was written to them, and take it back."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


class Journaled:
    """An array, or part of one, whose writes are noted in a journal. Reads and writes go to the array itself."""

    __slots__ = ("array", "journal")

    def __init__(self, array: np.ndarray, journal: list[tuple[np.ndarray, Any, Any]]) -> None:
        self.array = array
        self.journal = journal

    def __len__(self) -> int:
        """As the array's."""
        return len(self.array)

    def __getitem__(self, key: Any) -> Any:
        """An element, or a part that is journaled too."""
        value = self.array[key]
        return Journaled(value, self.journal) if type(value) is np.ndarray else value

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write, and note what was there."""
        before = self.array[key]
        if isinstance(before, np.ndarray | np.void):
            before = before.copy()
        self.journal.append((self.array, key, before))
        self.array[key] = value.array if isinstance(value, Journaled) else value

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        """The array itself."""
        return self.array

    def __getattr__(self, name: str) -> Any:
        """What else an array has (shape, dtype, size)."""
        return getattr(self.array, name)


class Journal:
    """Lends arrays; `undo` makes all of them what they were."""

    def __init__(self) -> None:
        self._writes: list[tuple[np.ndarray, Any, Any]] = []

    def lend(self, arrays: _Arrays) -> _Arrays:
        """A NamedTuple of arrays, journaled."""
        return type(arrays)(*(Journaled(array, self._writes) for array in arrays))

    def undo(self) -> None:
        """Take all writes back, the last one first."""
        while self._writes:
            array, key, before = self._writes.pop()
            array[key] = before
