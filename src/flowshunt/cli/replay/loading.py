"""`--load-table`: a connection table from a file into the switch, just before its first packet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowshunt.cli.replay.table_file import TableFile, TableFileError
from flowshunt.conntrack.listing.read_json import EntryError, connection_of
from flowshunt.conntrack.table import first_ms

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.conntrack.restore import Entry
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch

SHOWN_REFUSALS = 20


_OF_THE_RUN = frozenset(("provider", "reasons"))
"""Fields that `offload_document.connection` adds to a connection: of the run in which it was written."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """How it went: connections in the table, refused entries, and where the file could not be read any further."""

    path: str
    n_loaded: int = 0
    n_refused: int = 0
    damage: TableFileError | None = None

    @property
    def is_partial(self) -> bool:
        """Whether anything in the file was not loaded."""
        return self.n_refused > 0 or self.damage is not None


class Loader:
    """A switch that loads a table before its first batch.

    The times left in the file count from the moment when its table stood (`summary.last_ns`), so a replay can go on
    where another one ended; in a file that does not say, from the first packet.
    """

    def __init__(self, switch: Switch, file: TableFile, complain: Callable[[str], None]) -> None:
        self._switch, self._file, self._complain = switch, file, complain
        self._loaded: Loaded | None = None

    def process(self, batch: Batch) -> Result:
        """`Switch.process`."""
        if self._loaded is None and len(batch.packets):
            self._load(first_ms(batch))
        return self._switch.process(batch)

    def finish(self) -> Loaded:
        """How it went. A run without packets has loaded nothing yet, and does it now."""
        return self._loaded or self._load(None)

    def _load(self, first_packet_ms: int | None) -> Loaded:
        clock_ms = self._file.clock_ms
        if clock_ms is not None and first_packet_ms is not None and clock_ms > first_packet_ms:
            self._complain(f"warning: {self._file.path}: that table is of a later time than the first packet")
        self._n_refused = 0
        self._damage: TableFileError | None = None
        n_loaded = 0
        now_ms = (first_packet_ms or 0) if clock_ms is None else clock_ms
        for outcome in self._switch.tracker.restore(self._connections(), now_ms):
            if outcome.field is None:
                n_loaded += 1
            else:
                self._refuse(outcome.number, outcome.field, outcome.what or "")
        if self._n_refused > SHOWN_REFUSALS:
            self._complain(f"{self._file.path}: {self._n_refused - SHOWN_REFUSALS} more entries refused")
        if self._damage is not None:
            self._complain(str(self._damage))
        self._loaded = Loaded(self._file.path, n_loaded, self._n_refused, self._damage)
        return self._loaded

    def _connections(self) -> Iterator[Entry]:
        """The entries as connections, or what is wrong with them; a damage ends the list."""
        profile = self._switch.tracker.profile
        try:
            for number, entry in self._file.entries():
                try:
                    yield number, connection_of(_without_offload(entry), profile)
                except EntryError as error:
                    yield number, error
        except TableFileError as error:
            self._damage = error

    def _refuse(self, number: int, field: str, what: str) -> None:
        self._n_refused += 1
        if self._n_refused <= SHOWN_REFUSALS:
            self._complain(f"{self._file.path}: connection {number} refused: {field}: {what}")


def _without_offload(entry: Any) -> Any:
    """An entry, whatever it is, without what it says of providers."""
    if not isinstance(entry, dict):
        return entry
    return {name: value for name, value in entry.items() if name not in _OF_THE_RUN}
