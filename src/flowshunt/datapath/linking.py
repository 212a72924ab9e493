"""What programs refer to by number: actions that Python carries out, groups, meters, conjunctions.

A program is compiled without these numbers; they are filled in when it is stored, and given back when it goes. Groups
and meters are reached through a *cell*, a word of the pool that holds where they are: a change of a group is a change
of its cell, whatever refers to it. The cell of a group that is gone, or that other groups lead to before it is there,
holds an empty program until nothing refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.datapath import changes
from flowshunt.datapath.conjunctions import CELL_WORDS
from flowshunt.datapath.program import ConjunctionCell, GroupNumber, Handled, Late, MeterNumber
from flowshunt.datapath.schema import TableArrays


class MissingError(UsageError):
    """A program refers to a group or meter (`thing`) that is not there."""

    def __init__(self, thing: GroupNumber | MeterNumber) -> None:
        kind = "group" if isinstance(thing, GroupNumber) else "meter"
        super().__init__(f"there is no {kind} {thing.number}", hint=f"add the {kind} first")
        self.thing = thing


class PoolFullError(UsageError):
    """There is no memory for another group, meter or conjunction."""


class Cells:
    """Things of one kind in the pool, by number, with how many programs refer to each."""

    def __init__(self, arrays: TableArrays) -> None:
        self._arrays = arrays
        self._cells: dict[int, int] = {}
        self._stored: dict[int, tuple[int, int]] = {}
        self.references: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        """Whether there is a thing of this number."""
        return number in self._stored

    def put(self, number: int, words: Sequence[int]) -> None:
        """Store the words of a thing, in the place of those before. Raises PoolFullError, and changes nothing."""
        known = self._cells.get(number)
        cell = known or self._make_cell()
        at = int(changes.store_words(self._arrays, np.array(words, np.int64)))
        if not at or not cell:
            self._free(at, len(words))
            self._free(0 if known else cell, 1)
            raise PoolFullError("the flow tables are full", hint="delete flows first")
        self._free(*self._stored.get(number, (0, 0)))
        self._stored[number] = at, len(words)
        self._cells[number] = cell
        self._arrays.pool[cell] = at

    def place(self, number: int) -> int:
        """Where the words of a thing begin in the pool."""
        return self._stored[number][0]

    def words(self, number: int) -> np.ndarray:
        """The words of a thing as they lie in the pool, counters included: a view."""
        at, n = self._stored[number]
        return self._arrays.pool[at : at + n]

    def remove(self, number: int) -> None:
        """Remove a thing; programs that refer to it find an empty one."""
        self._free(*self._stored.pop(number))
        self._arrays.pool[self._cells[number]] = 0
        self._tidy(number)

    def take(self, number: int) -> int:
        """The cell of a thing, whether or not it is there, for one more reference. Raises PoolFullError."""
        cell = self._cells.get(number) or self._make_cell()
        if not cell:
            raise PoolFullError("the flow tables are full", hint="delete flows first")
        self._cells[number] = cell
        self.references[number] = self.references.get(number, 0) + 1
        return cell

    def give_back(self, number: int) -> None:
        """One reference less."""
        self.references[number] -= 1
        self._tidy(number)

    def _make_cell(self) -> int:
        return int(changes.store_words(self._arrays, np.zeros(1, np.int64)))

    def _tidy(self, number: int) -> None:
        if not self.references.get(number):
            self.references.pop(number, None)
            if number not in self._stored:
                self._free(self._cells.pop(number), 1)

    def _free(self, at: int, n: int) -> None:
        changes.free_words(self._arrays, at, n)


class Tallies:
    """The cells of conjunctions in the pool, each there while a program names it."""

    def __init__(self, arrays: TableArrays) -> None:
        self._arrays = arrays
        self._cells: dict[ConjunctionCell, int] = {}
        self._users: dict[int, tuple[ConjunctionCell, int]] = {}

    def take(self, conjunction: ConjunctionCell) -> int:
        """The cell of a conjunction, for one more reference. Raises PoolFullError."""
        cell = self._cells.get(conjunction) or int(changes.store_words(self._arrays, np.zeros(CELL_WORDS, np.int64)))
        if not cell:
            raise PoolFullError("the flow tables are full", hint="delete flows first")
        self._cells[conjunction] = cell
        self._users[cell] = conjunction, self._users.get(cell, (conjunction, 0))[1] + 1
        return cell

    def give_back(self, cell: int) -> None:
        """One reference less."""
        conjunction, n = self._users[cell]
        self._users[cell] = conjunction, n - 1
        if n == 1:
            del self._users[cell], self._cells[conjunction]
            changes.free_words(self._arrays, cell, CELL_WORDS)


Token = tuple[Cells | Tallies | None, int]
"""One number that a program has: where it is from (None: an action for Python), and which."""


class Linker:
    """Fills numbers into programs, and takes them back. `on_released` hears of actions that no program has any more."""

    def __init__(self, arrays: TableArrays) -> None:
        self.groups = Cells(arrays)
        self.meters = Cells(arrays)
        self.tallies = Tallies(arrays)
        self._handled: list[Handled | None] = []
        self._free: list[int] = []
        self._pins = 0
        self._limbo: list[Token] = []
        self.on_released: Callable[[Handled], None] | None = None

    def handled(self, number: int) -> Handled | None:
        """The action for Python of this number; None when there is none any more."""
        return self._handled[number] if number < len(self._handled) else None

    def link(
        self, program: Sequence[int], late: Iterable[Late], *, awaits_groups: bool = False
    ) -> tuple[list[int], list[Token]]:
        """A program with its numbers, and what is to be given back when it goes.

        `awaits_groups`: it may lead to groups that are not there yet. Raises MissingError and PoolFullError.
        """
        words, tokens = list(program), []
        try:
            for at, shift, thing in late:
                number, token = self._take(thing, awaits_groups)
                tokens.append(token)
                words[at] |= number << shift
        except UsageError:
            self.unlink(tokens)
            raise
        return words, tokens

    def _take(
        self, thing: Handled | GroupNumber | MeterNumber | ConjunctionCell, awaits_groups: bool
    ) -> tuple[int, Token]:
        if isinstance(thing, ConjunctionCell):
            cell = self.tallies.take(thing)
            return cell, (self.tallies, cell)
        if isinstance(thing, Handled):
            if self._free:
                number = self._free.pop()
                self._handled[number] = thing
            else:
                number = len(self._handled)
                self._handled.append(thing)
            return number, (None, number)
        cells = self.groups if isinstance(thing, GroupNumber) else self.meters
        if thing.number not in cells and not (awaits_groups and cells is self.groups):
            raise MissingError(thing)
        return cells.take(thing.number), (cells, thing.number)

    def unlink(self, tokens: Iterable[Token]) -> None:
        """Take the numbers of a program back; while something is pinned, that waits."""
        if self._pins:
            self._limbo += tokens
            return
        for cells, number in tokens:
            if cells is not None:
                cells.give_back(number)
            else:
                thing, self._handled[number] = self._handled[number], None
                self._free.append(number)
                if self.on_released is not None and thing is not None:
                    self.on_released(thing)

    def handled_actions(self) -> Iterator[Any]:
        """The actions for Python that some program has."""
        return (thing.action for thing in self._handled if thing is not None)

    def pin(self) -> None:
        """Let all numbers stay valid that are so now, until `unpin`: a copy of some program is kept."""
        self._pins += 1

    def unpin(self) -> None:
        """One copy less."""
        self._pins -= 1
        if not self._pins:
            waiting, self._limbo = self._limbo, []
            self.unlink(waiting)
