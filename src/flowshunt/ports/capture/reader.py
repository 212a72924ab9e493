"""Reading a capture: open, then batch after batch, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture import pcap, pcapng
from flowshunt.ports.capture.compressed import CompressionError, Source, open_source, other_compression
from flowshunt.ports.capture.decoders import Decoder, InterfaceInfo, PcapDecoder, PcapngDecoder
from flowshunt.ports.capture.scan import STOP_BLOCK, STOP_DAMAGE, STOP_LIMIT
from flowshunt.ports.capture.window import Window

_EXPECTED = "a pcap or pcapng capture, plain or compressed with gzip or zstd"


def open_capture(path: str | os.PathLike[str], in_port: int = 0) -> CaptureReader:
    """Open a capture, or standard input for "-". The format is told by the contents.

    Raises CaptureError when it is empty, no capture, of a link type that can't be read (classic pcap), or damaged
    before its first packet; OSError when the file can't be opened.
    """
    source = open_source(os.fspath(path))
    try:
        return CaptureReader(os.fspath(path), source, in_port)
    except BaseException:
        source.close()
        raise


class CaptureReader:
    """A capture being read; made by `open_capture`.

    `in_port`: written into every packet; may be changed between batches. `n_packets`: delivered so far.
    `first_time_ns`: time of the first packet delivered, None before. A context manager that closes.
    """

    def __init__(self, path: str, source: Source, in_port: int) -> None:
        self.path = path
        self.in_port = in_port
        self.n_packets = 0
        self.first_time_ns: int | None = None
        self._source = source
        self._window = Window(source)
        self._packets = np.zeros(0, PACKET)
        self._ended = False
        self._decoder = self._open()
        self._next(0)

    # --- what the capture is -----------------------------------------------------------------------------------------

    @property
    def format(self) -> str:
        """ "pcap" or "pcapng"."""
        return self._decoder.format

    @property
    def compression(self) -> str:
        """ "" (none), "gzip" or "zstd"."""
        return self._source.compression

    @property
    def link_types(self) -> tuple[int, ...]:
        """Link types met so far, readable or not, ascending."""
        return tuple(sorted(self._decoder.link_types))

    @property
    def interfaces(self) -> tuple[InterfaceInfo, ...]:
        """The interfaces of the capture; for pcapng, those of the present section."""
        return self._decoder.interfaces()

    @property
    def skipped(self) -> dict[int, int]:
        """Packets passed over because their link type can't be read, by link type."""
        return self._decoder.skipped()

    @property
    def n_skipped(self) -> int:
        """Packets passed over because their link type can't be read."""
        return int(self._decoder.scan["n_skipped"][0])

    @property
    def offset(self) -> int:
        """Bytes of the file taken so far, for progress. Of a compressed file, its compressed bytes."""
        return self._source.position if self._source.compression else self._window.offset

    @property
    def size(self) -> int | None:
        """Bytes of the file on disk; None for a pipe."""
        return self._source.size

    # --- reading -----------------------------------------------------------------------------------------------------

    def batches(self, limit: int) -> Iterator[Batch]:
        """All batches, of at most `limit` packets (at least 1) each, none empty.

        A batch's arrays are valid until the next one. Raises CaptureError at the first damage, after the batches before
        it; OSError when reading fails.
        """
        while (batch := self.receive(limit)) is not None:
            yield batch

    def receive(self, limit: int) -> Batch | None:
        """The next batch, never empty; None at the end, and ever after an error. See `batches`."""
        if limit < 1:
            raise ValueError(f"limit is {limit}, must be at least 1")
        if self._ended:
            return None
        if len(self._packets) < limit:
            self._packets = np.zeros(limit, PACKET)
        n = self._next(limit)
        if n == 0:
            self._ended = True
            return None
        packets = self._packets[:n]
        self.n_packets += n
        if self.first_time_ns is None:
            self.first_time_ns = int(packets["time_ns"][0])
        return Batch(self._window.data, packets)

    def close(self) -> None:
        """Close the file; nothing more is delivered."""
        self._ended = True
        self._source.close()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Decoder:
        start = self._peek(pcap.HEADER_SIZE)
        if not start:
            raise CaptureError(self.path, 0, "empty file", _EXPECTED)
        if pcapng.is_pcapng(start):
            return PcapngDecoder()
        if pcap.magic_of(start) is None:
            raise CaptureError(self.path, 0, _describe(start), _EXPECTED)
        if len(start) < pcap.HEADER_SIZE:
            raise CaptureError(
                self.path, 0, f"file ends after {len(start)} bytes of the header", f"{pcap.HEADER_SIZE} bytes"
            )
        try:
            decoder = PcapDecoder(start)
        except ValueError as error:
            raise CaptureError(self.path, 0, *error.args) from None
        self._window.advance(pcap.HEADER_SIZE)
        return decoder

    def _next(self, limit: int) -> int:
        """Scan to the next packets, `limit` at most, into `_packets`; returns their number, 0 at the end of the file.

        What stops the scan behind packets is left to the next call, which meets it again first. A limit of 0 only goes
        over what precedes the first packet.
        """
        window, scan = self._window, self._decoder.scan
        while True:
            scan["position"], scan["end"], scan["in_port"] = window.start, window.end, self.in_port
            n = self._decoder.run(window.data, self._packets, limit)
            window.advance(int(scan["position"][0]) - window.start)
            stop = scan["stop"][0]
            if n or stop == STOP_LIMIT:
                return n
            if stop == STOP_DAMAGE:
                problem, expected = self._decoder.problems[scan["problem"][0]]
                raise self._error(problem.format(int(scan["value"][0])), expected)
            if stop == STOP_BLOCK:
                self._take_block()
            elif not self._refill(int(scan["need"][0])):
                return 0

    def _take_block(self) -> None:
        head = self._window.peek(8)
        size = int.from_bytes(head[4:], "little" if self._decoder.scan["little"][0] else "big")
        try:
            self._decoder.take_block(self._window.peek(size))
        except ValueError as error:
            raise self._error(*error.args) from None
        self._window.advance(size)

    def _refill(self, need: int) -> bool:
        """Read more; False at a clean end of the file."""
        try:
            if self._window.refill(need):
                return True
        except CompressionError as error:
            raise self._error(error.problem, error.expected, len(self._window)) from error
        if len(self._window) or self._decoder.scan["skip"][0]:
            left, record = len(self._window), self._decoder.record
            problem = f"file ends after {left} bytes of a {record}" if left else f"file ends within a {record}"
            raise self._error(problem, "the rest of it")
        return False

    def _peek(self, size: int) -> bytes:
        try:
            return self._window.peek(size)
        except CompressionError as error:
            raise CaptureError(self.path, len(self._window), error.problem, error.expected) from error

    def _error(self, problem: str, expected: str, behind: int = 0) -> CaptureError:
        self._ended = True
        return CaptureError(self.path, self._window.offset + behind, problem, expected)


def _describe(start: bytes) -> str:
    """What a file that is no capture seems to be."""
    if name := other_compression(start):
        return f"{name}-compressed data"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        return f"a text file ({start[:16].decode('ascii')!r})"
    return f"not a capture (first bytes {start[:4].hex(' ')})"
