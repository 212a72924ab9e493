"""Writing captures. The same packets give the same bytes: no time of writing, no names of machine or program.

Files named *.gz and *.zst are compressed, "-" is standard output.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import zstandard

from flowshunt.jit import kernel
from flowshunt.ports.capture import pcap, pcapng
from flowshunt.ports.capture.linktypes import LINK_ETHERNET
from flowshunt.ports.capture.pcapng import ENHANCED_PACKET_BLOCK
from flowshunt.ports.capture.scan import LARGEST_PACKET, NS_PER_SECOND, copy_bytes, store_le32

FRAME = np.dtype(
    [
        ("data", np.int64),
        ("length", np.int64),
        ("wire_length", np.int64),
        ("time_ns", np.int64),
        ("interface", np.int64),
    ],
    align=True,
)
"""A frame to write."""

_OUT_SIZE = 1 << 20
_LARGEST_OVERHEAD = 40  # of a record or block, padding included
_RESOLUTION_NS = 9


def _open_target(path: str) -> BinaryIO:
    if path == "-":
        return io.BufferedWriter(io.FileIO(1, "wb", closefd=False))
    file = io.BufferedWriter(io.FileIO(path, "wb"))
    if path.endswith(".gz"):
        return cast(BinaryIO, _GzipFile(file))
    if path.endswith(".zst"):
        return cast(BinaryIO, zstandard.ZstdCompressor(level=3).stream_writer(file))
    return file


class _GzipFile(gzip.GzipFile):
    """gzip without name and time; closes the file below it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
        self._below = file

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._below.close()


class CaptureWriter:
    """What both writers share; use `PcapWriter` or `PcapngWriter`. `n_packets`: written so far."""

    def __init__(self, path: str | os.PathLike[str], header: bytes, last_time_ns: int) -> None:
        self.path = os.fspath(path)
        self.n_packets = 0
        self._last_time_ns = last_time_ns
        self._out = np.zeros(_OUT_SIZE, np.uint8)
        self._view = self._out.data
        self._file: BinaryIO | None = _open_target(self.path)
        self._file.write(header)

    def write_frames(self, data: np.ndarray, frames: np.ndarray) -> None:
        """Write FRAME records. Raises ValueError, with nothing written, when a frame doesn't lie within `data`, is
        longer than readers take (256 kB), or has a time that the format can't say; or when the writer is closed."""
        if self._file is None:
            raise ValueError(f"{self.path}: writer is closed")
        _check(data, frames, self._last_time_ns)
        done = 0
        while done < len(frames):
            n, size = self._emit(data, frames[done:])
            self._file.write(self._view[:size])
            done += n
        self.n_packets += done

    def _emit(self, data: np.ndarray, frames: np.ndarray) -> tuple[int, int]:
        raise AssertionError("the format's writer has it")

    def close(self) -> None:
        """Finish and close the file; a second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PcapWriter(CaptureWriter):
    """Writes classic pcap: Ethernet, little-endian, in ns, or in µs rounded down. A context manager that closes.

    Raises OSError when the file can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str], nanoseconds: bool = True) -> None:
        self._tick_ns = 1 if nanoseconds else 1000
        magic = pcap.NANOSECONDS if nanoseconds else pcap.MICROSECONDS
        header = struct.pack("<IHHiIII", magic, 2, 4, 0, 0, LARGEST_PACKET, LINK_ETHERNET)
        super().__init__(path, header, NS_PER_SECOND * (1 << 32) - 1)

    def __enter__(self) -> PcapWriter:
        return self

    def write(
        self,
        data: np.ndarray,
        packets: np.ndarray | tuple[np.ndarray, np.ndarray],
        time_ns: np.ndarray | int | None = None,
        wire_length: np.ndarray | int | None = None,
    ) -> None:
        """Write packets in the order given.

        `data`: uint8 buffer. `packets`: records with the fields data (offset), length and time_ns, and wire_length
        where they have it (PACKET, transmit records), or (offsets, lengths). `time_ns`, `wire_length`: override; a
        wire length below the length is the length. Errors as in `write_frames`; ValueError also when no time is given.
        """
        self.write_frames(data, _frames(packets, time_ns, wire_length))

    def _emit(self, data: np.ndarray, frames: np.ndarray) -> tuple[int, int]:
        state = np.zeros(2, np.int64)
        emit_pcap(data, frames, self._tick_ns, self._out, state)
        return int(state[0]), int(state[1])


class PcapngWriter(CaptureWriter):
    """Writes pcapng: one little-endian section, Ethernet interfaces with the names given, in ns.

    A context manager that closes. Raises OSError when the file can't be opened, ValueError for no interface or more
    than 4,096.
    """

    def __init__(self, path: str | os.PathLike[str], interfaces: Sequence[str] = ("",)) -> None:
        if not 1 <= len(interfaces) <= pcapng.LARGEST_INTERFACES:
            raise ValueError(f"{len(interfaces)} interfaces, must be 1 to {pcapng.LARGEST_INTERFACES}")
        self._n_interfaces = len(interfaces)
        section = struct.pack("<IHHq", pcapng.BYTE_ORDER_MAGIC, 1, 0, -1)
        header = _block(pcapng.SECTION_BLOCK, section)
        header += b"".join(_block(pcapng.INTERFACE_BLOCK, _interface_body(name)) for name in interfaces)
        super().__init__(path, header, (1 << 63) - 1)

    def __enter__(self) -> PcapngWriter:
        return self

    def write(
        self,
        data: np.ndarray,
        packets: np.ndarray | tuple[np.ndarray, np.ndarray],
        time_ns: np.ndarray | int | None = None,
        wire_length: np.ndarray | int | None = None,
        interface: np.ndarray | int = 0,
    ) -> None:
        """As `PcapWriter.write`; `interface`: index into the interfaces, for all or for each packet."""
        frames = _frames(packets, time_ns, wire_length)
        frames["interface"] = interface
        _refuse(
            (frames["interface"] < 0) | (frames["interface"] >= self._n_interfaces),
            f"is of an interface that the writer doesn't have (it has {self._n_interfaces})",
        )
        self.write_frames(data, frames)

    def _emit(self, data: np.ndarray, frames: np.ndarray) -> tuple[int, int]:
        state = np.zeros(2, np.int64)
        emit_pcapng(data, frames, self._out, state)
        return int(state[0]), int(state[1])


def _interface_body(name: str) -> bytes:
    body = struct.pack("<HHI", LINK_ETHERNET, 0, LARGEST_PACKET)
    if name:
        body += _option(pcapng.OPTION_IF_NAME, name.encode())
    return body + _option(pcapng.OPTION_IF_TSRESOL, bytes([_RESOLUTION_NS])) + bytes(4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(block_type: int, body: bytes) -> bytes:
    size = len(body) + 12
    return struct.pack("<II", block_type, size) + body + struct.pack("<I", size)


def _frames(
    packets: np.ndarray | tuple[np.ndarray, np.ndarray],
    time_ns: np.ndarray | int | None,
    wire_length: np.ndarray | int | None,
) -> np.ndarray:
    """FRAME records of what `write` takes."""
    offsets, lengths = packets if isinstance(packets, tuple) else (packets["data"], packets["length"])
    frames = np.zeros(len(offsets), FRAME)
    frames["data"], frames["length"] = offsets, lengths
    if not isinstance(packets, tuple):
        time_ns = packets["time_ns"] if time_ns is None else time_ns
        if wire_length is None and "wire_length" in (packets.dtype.names or ()):
            wire_length = packets["wire_length"]
    if time_ns is None:
        raise ValueError("(offsets, lengths) need time_ns too")
    frames["time_ns"] = time_ns
    frames["wire_length"] = np.maximum(frames["length"], 0 if wire_length is None else wire_length)
    return frames


def _check(data: np.ndarray, frames: np.ndarray, last_time_ns: int) -> None:
    bad = (frames["data"] < 0) | (frames["length"] < 0) | (frames["length"] > len(data) - frames["data"])
    _refuse(bad, "does not lie within the buffer")
    _refuse(frames["length"] > LARGEST_PACKET, f"is longer than {LARGEST_PACKET} bytes")
    _refuse(frames["wire_length"] >= 1 << 32, "has a wire length of 4 GB or more")
    _refuse((frames["time_ns"] < 0) | (frames["time_ns"] > last_time_ns), "has a time that the format can't say")


def _refuse(bad: np.ndarray, why: str) -> None:
    if bad.any():
        raise ValueError(f"packet {int(np.argmax(bad))} {why}")


# --- kernels ---------------------------------------------------------------------------------------------------------


@kernel(
    example=lambda: (
        np.zeros(1, np.uint8), np.zeros(1, FRAME), np.int64(1), np.zeros(1, np.uint8), np.zeros(2, np.int64)
    )
)  # fmt: skip
def emit_pcap(data: Any, frames: Any, tick_ns: Any, out: Any, state: Any) -> None:
    """Write records of the first frames into `out`, as many as fit; state[0]: frames done, state[1]: bytes.

    `data`, `out`: uint8; `frames`: FRAME, checked by the caller, unchanged.
    """
    at = np.int64(0)
    n = np.int64(0)
    while n < len(frames) and at + frames["length"][n] + _LARGEST_OVERHEAD <= len(out):
        time_ns = frames["time_ns"][n]
        length = frames["length"][n]
        store_le32(out, at, time_ns // NS_PER_SECOND)
        store_le32(out, at + 4, time_ns % NS_PER_SECOND // tick_ns)
        store_le32(out, at + 8, length)
        store_le32(out, at + 12, frames["wire_length"][n])
        copy_bytes(data, frames["data"][n], out, at + 16, length)
        at += 16 + length
        n += 1
    state[0] = n
    state[1] = at


@kernel(example=lambda: (np.zeros(1, np.uint8), np.zeros(1, FRAME), np.zeros(1, np.uint8), np.zeros(2, np.int64)))
def emit_pcapng(data: Any, frames: Any, out: Any, state: Any) -> None:
    """As `emit_pcap`, enhanced packet blocks with times in ns."""
    at = np.int64(0)
    n = np.int64(0)
    while n < len(frames) and at + frames["length"][n] + _LARGEST_OVERHEAD <= len(out):
        time_ns = frames["time_ns"][n]
        length = frames["length"][n]
        padded = (length + 3) & ~3
        store_le32(out, at, ENHANCED_PACKET_BLOCK)
        store_le32(out, at + 4, padded + 32)
        store_le32(out, at + 8, frames["interface"][n])
        store_le32(out, at + 12, time_ns >> 32)
        store_le32(out, at + 16, time_ns)
        store_le32(out, at + 20, length)
        store_le32(out, at + 24, frames["wire_length"][n])
        copy_bytes(data, frames["data"][n], out, at + 28, length)
        for b in range(at + 28 + length, at + 28 + padded):
            out[b] = 0
        store_le32(out, at + 28 + padded, padded + 32)
        at += padded + 32
        n += 1
    state[0] = n
    state[1] = at
