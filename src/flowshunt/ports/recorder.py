"""Captures of what passes a port, as files that do not grow without end."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from flowshunt.packet.schema import TX
from flowshunt.ports.api import PortError
from flowshunt.ports.capture import pcap
from flowshunt.ports.capture.linktypes import LINK_ETHERNET
from flowshunt.ports.capture.scan import LARGEST_PACKET
from flowshunt.ports.capture.writer import FRAME, emit_pcap
from flowshunt.ports.finishing import Finisher
from flowshunt.ports.live import Frames, LiveBatch

DEFAULT_SIZE = 100 << 20
"""Bytes that a file may have when nothing else is said."""

_HEADER_SIZE, _RECORD_SIZE = 24, 16
_TICK_NS = 1000
_OUT_SIZE = 1 << 19
_TIMES_END_NS = 1_000_000_000 << 32


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record of a port. `received`, `sent`: names of files, which may be the same; `size`: bytes of each."""

    received: str | None = None
    sent: str | None = None
    size: int = DEFAULT_SIZE


class PcapFile:
    """A pcap file that is appended to, in microseconds, as Open vSwitch's dummy ports write theirs.

    What is written can be read at once. Once the next packet would make it larger than `limit` no more is written;
    `n_left_out` counts what was not, `problem` says why, when it was not the limit.
    """

    def __init__(self, path: str, limit: int) -> None:
        """Open it, or make it. Raises PortError when it cannot be."""
        self.path = path
        self.n_left_out = 0
        self.problem: str | None = None
        self._limit = limit
        self._is_full = False
        self._out = np.zeros(_OUT_SIZE, np.uint8)
        self._state = np.zeros(2, np.int64)
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            with ExitStack() as opened:
                self._file = opened.enter_context(io.FileIO(os.open(path, flags, 0o600), "ab"))
                self._size = os.fstat(self._file.fileno()).st_size
                if self._size == 0:
                    header = struct.pack("<IHHiIII", pcap.MICROSECONDS, 2, 4, 0, 0, LARGEST_PACKET, LINK_ETHERNET)
                    self._size += self._file.write(header)
                opened.pop_all()
        except OSError as problem:
            raise PortError(f"{path} cannot be written ({problem.strerror})") from None

    def write(self, data: np.ndarray, tx: np.ndarray) -> None:
        """Append frames: TX records that lie in `data`. What the file cannot take is counted."""
        frames = np.zeros(len(tx), FRAME)
        frames["data"], frames["length"], frames["wire_length"] = tx["data"], tx["length"], tx["length"]
        frames["time_ns"] = np.clip(tx["time_ns"], 0, _TIMES_END_NS - 1)
        ends = self._size + np.cumsum(frames["length"] + _RECORD_SIZE)
        n = 0 if self._is_full else int(np.count_nonzero(ends <= self._limit))
        self._is_full = self._is_full or n < len(frames)
        self.n_left_out += len(frames) - n
        done = 0
        while done < n and self.problem is None:
            emit_pcap(data, frames[done:n], _TICK_NS, self._out, self._state)
            done += int(self._state[0])
            self._append(self._out[: int(self._state[1])])

    def _append(self, content: np.ndarray) -> None:
        try:
            written = self._file.write(content.data) or 0
        except OSError as problem:
            written = 0
            self.problem = problem.strerror
        self._size += written
        if written < len(content):
            self.problem = self.problem or "it took a part only"
            self._is_full = True

    def close(self) -> None:
        """Close it. A second call does nothing."""
        self._file.close()


class Recorder:
    """Writes what a port receives and sends to pcap files, as it would be on a wire."""

    def __init__(self, recording: Recording) -> None:
        """Raises PortError when a file cannot be written."""
        self._finisher = Finisher()
        self._files: dict[str, PcapFile] = {}
        for path in (recording.received, recording.sent):
            if path is not None and path not in self._files:
                self._files[path] = PcapFile(path, recording.size)
        self._received = self._files.get(recording.received or "")
        self._sent = self._files.get(recording.sent or "")

    def received(self, received: LiveBatch) -> None:
        """A batch has come in, and was not worked on yet."""
        if self._received is not None:
            for frames in self._finisher(_as_frames(received)):
                _write(self._received, frames)

    def sent(self, frames: Frames, port: int) -> None:
        """Frames leave; those for `port` are this one's."""
        if self._sent is not None:
            for finished in self._finisher(frames, port):
                _write(self._sent, finished)

    def problems(self) -> Iterator[str]:
        """What has gone wrong with the files since this was last asked."""
        for file in self._files.values():
            if file.problem is not None:
                yield f"{file.path}: {file.problem}"
                file.problem = None

    @property
    def n_left_out(self) -> int:
        """Packets that are in no file: those were full, or could not be written."""
        return self._finisher.n_refused + sum(file.n_left_out for file in self._files.values())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def _as_frames(received: LiveBatch) -> Frames:
    """What has come in, as if it left as it is."""
    packets = received.batch.packets
    tx = np.zeros(len(packets), TX)
    for name in ("data", "time_ns", "length"):
        tx[name] = packets[name]
    tx["packet"] = np.arange(len(packets))
    return Frames(received, tx, received.batch.data)


def _write(file: PcapFile, frames: Frames) -> None:
    """Frames that are plain: finished ones lie in `tx_data`, others where they were."""
    for source, data in ((0, frames.received.batch.data), (1, frames.tx_data)):
        chosen = frames.tx["source"] == source
        if chosen.all():
            file.write(data, frames.tx)
            return
    for start in range(len(frames.tx)):  # of both kinds: one by one, so that their order stays
        one = frames.tx[start : start + 1]
        file.write(frames.tx_data if one["source"][0] else frames.received.batch.data, one)
