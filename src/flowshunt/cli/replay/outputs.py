"""Files that take note of every packet: its state, and what left each port."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.states import ct_state_text
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.ports.capture.writer import PcapngWriter, PcapWriter

if TYPE_CHECKING:
    from flowshunt.datapath.tables import Result
    from flowshunt.packet.schema import Batch


class StatesWriter:
    """One line `N: state` per packet, N from 1: the flags of its last ct_state joined by `|`, or `-`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._n = 0
        self._texts = [ct_state_text(value) for value in range(256)]

    def take(self, batch: Batch, result: Result) -> None:
        """Write the lines of a batch."""
        texts = self._texts
        states = result.ct_state.tolist()
        self._out.write("".join(f"{n}: {texts[state]}\n" for n, state in enumerate(states, self._n + 1)))
        self._n += len(states)


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
