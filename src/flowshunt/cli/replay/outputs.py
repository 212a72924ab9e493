"""Files that take note of every packet: its state, and what left each port."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.states import CS_HELD, ct_state_text
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.ports.capture.writer import PcapngWriter, PcapWriter

if TYPE_CHECKING:
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch


class StatesWriter:
    """One line `N: state` per packet, N from 1: the flags of its last ct_state joined by `|`, or `-`.

    A fragment is `held`. When packet M completes its datagram, the state of the whole is that of all its fragments:
    `state @M`. With `first_only` it is that of the first fragment alone, and the others remain held, as in Linux, where
    the whole goes on in its place. Lines wait for a fragment as long as the switch does. A context manager that writes
    what still waits.
    """

    def __init__(
        self, out: TextIO, oldest_held: Callable[[], int | None] = lambda: None, *, first_only: bool = False
    ) -> None:
        """`oldest_held` gives the number, from 0, of a packet before which no fragment is held; None: none is held."""
        self._out = out
        self._oldest_held = oldest_held
        self._first_only = first_only
        self._n_taken = 0
        self._n_written = 0
        self._waiting: deque[np.ndarray] = deque()
        self._marked: dict[int, str] = {}
        self._texts = [ct_state_text(value) for value in range(CS_HELD + 1)]

    def take(self, batch: Batch, result: Result) -> None:
        """Write the lines of a batch, and those before it, as far as they are known."""
        first = self._n_taken
        self._n_taken += len(result.ct_state)
        self._waiting.append(result.ct_state.copy())
        for fragment, packet, is_first in result.joined.tolist():
            state = self._texts[result.ct_state[packet - first]]
            if is_first or not self._first_only:
                self._marked[fragment] = state if fragment == packet else f"{state} @{packet + 1}"
            elif fragment == packet:
                self._marked[fragment] = self._texts[CS_HELD]
        held = self._oldest_held()
        self._write(self._n_taken if held is None else held)

    def _write(self, end: int) -> None:
        """Write what waits, up to packet number `end`, from 0."""
        while self._n_written < end:
            states = self._waiting.popleft()
            n = min(len(states), end - self._n_written)
            if n < len(states):
                self._waiting.appendleft(states[n:])
            lines = [self._texts[state] for state in states[:n].tolist()]
            for number in [number for number in self._marked if number < self._n_written + n]:
                lines[number - self._n_written] = self._marked.pop(number)
            text = "".join(f"{number}: {line}\n" for number, line in enumerate(lines, self._n_written + 1))
            self._n_written += n
            try:
                self._out.write(text)
            except OSError:
                self._n_written = self._n_taken  # the rest would fail again at the exit
                raise

    def __enter__(self) -> StatesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(self._n_taken)


class PortWriters:
    """Captures of what left the ports. A context manager that closes them.

    `paths`: file name by port number; `*.pcapng` (also with .gz or .zst behind it) makes a pcapng, anything else a
    pcap with nanoseconds. Raises OSError when a file cannot be opened.
    """

    def __init__(self, paths: Mapping[int, str], names: Mapping[int, str]) -> None:
        self._writers: dict[int, PcapWriter | PcapngWriter] = {}
        with ExitStack() as opened:
            for number, path in paths.items():
                self._writers[number] = writer = _open(path, names[number])
                opened.callback(writer.close)
            self._open = opened.pop_all()

    def take(self, batch: Batch, result: Result) -> None:
        """Write what the packets of a batch became, in the order in which it left.

        Raises UsageError for a packet that the format cannot hold.
        """
        for number, writer in self._writers.items():
            frames = result.tx[result.tx["port"] == number]
            cut = batch.packets["wire_length"].astype(np.int64) - batch.packets["length"]
            wire_length = frames["length"] + cut[frames["packet"]]
            for run in _runs(frames["source"]):
                data = batch.data if frames["source"][run.start] == SOURCE_BATCH else result.tx_data
                try:
                    writer.write(data, frames[run], wire_length=wire_length[run])
                except ValueError as error:
                    hint = "pcapng says times that pcap cannot: --write-port NAME=FILE.pcapng"
                    raise UsageError(f"{writer.path}: {error}", hint=hint) from None

    def __enter__(self) -> PortWriters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _open(path: str, port: str) -> PcapWriter | PcapngWriter:
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in (".gz", ".zst")]
    return PcapngWriter(path, [port]) if suffixes[-1:] == [".pcapng"] else PcapWriter(path)


def _runs(values: np.ndarray) -> list[slice]:
    """The ranges of equal values, in order."""
    ends = [*(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False) if end > start]
