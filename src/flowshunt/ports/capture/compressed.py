"""The bytes of a capture file, plain or decompressed, in bounded pieces.

`open_source` looks at the first bytes, not at the name. Decompression hands out everything before a damage: gzip
data are fed again byte by byte where they went wrong, zstd data go block by block anyway.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator

import zstandard

_PIECE = 1 << 16
_LARGEST_PIECE = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_LARGEST_HEADER = 18
_ZSTD_BLOCK_LIMIT = 1 << 17  # RFC 8878, 3.1.1.2.4: Block_Maximum_Size
_OTHERS = {b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip"}


class CompressionError(Exception):
    """Compressed data that cannot be decompressed further; all that came before has been handed out."""

    def __init__(self, problem: str, expected: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected


class RawFile:
    """A file or pipe read once from front to back, with a look ahead. `position`: bytes taken so far."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._ahead = b""
        self.position = 0

    def peek(self, size: int) -> bytes:
        """The next bytes without taking them; fewer than `size` only at the end."""
        while len(self._ahead) < size:
            piece = self._file.read(size - len(self._ahead))
            if not piece:
                break
            self._ahead += piece
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none only at the end."""
        if self._ahead:
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            piece = self._file.read(size) or b""
        self.position += len(piece)
        return piece

    def read_into(self, target: memoryview) -> int:
        """Like `read`, into `target`; returns the number of bytes."""
        if self._ahead:
            piece = self.read(len(target))
            target[: len(piece)] = piece
            return len(piece)
        n = self._file.readinto(target) or 0
        self.position += n
        return n

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Source:
    """The decompressed bytes of a file.

    `compression`: "" (none), "gzip" or "zstd". `size`: bytes of the file on disk, None for pipes.
    """

    def __init__(self, file: RawFile, compression: str, size: int | None, pieces: Iterator[bytes] | None) -> None:
        self.compression = compression
        self.size = size
        self._file = file
        self._pieces = pieces
        self._piece = memoryview(b"")

    @property
    def position(self) -> int:
        """Bytes of the file on disk that were read."""
        return self._file.position

    def read_into(self, target: memoryview) -> int:
        """Fill at most all of `target`; returns the number of bytes, 0 only at the end. Raises CompressionError."""
        if self._pieces is None:
            return self._file.read_into(target)
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        n = min(len(target), len(self._piece))
        target[:n] = self._piece[:n]
        self._piece = self._piece[n:]
        return n

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_source(path: str) -> Source:
    """Open a file, or standard input for "-". Raises OSError as `open` does."""
    raw = io.FileIO(0, closefd=False) if path == "-" else io.FileIO(path)
    try:
        status = os.fstat(raw.fileno())
        file = RawFile(raw)
        start = file.peek(4)
    except BaseException:
        raw.close()
        raise
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    if start.startswith(_GZIP_MAGIC):
        return Source(file, "gzip", size, _gunzip(file))
    if _is_zstd(start):
        return Source(file, "zstd", size, _unzstd(file))
    return Source(file, "", size, None)


def other_compression(start: bytes) -> str | None:
    """The name of a compression that can't be read, by a file's first bytes."""
    return next((name for magic, name in _OTHERS.items() if start.startswith(magic)), None)


# --- gzip ------------------------------------------------------------------------------------------------------------


def _gunzip(file: RawFile) -> Iterator[bytes]:
    """RFC 1952: members one after the other; zeros after the last one are padding."""
    yield from _gunzip_member(file)
    while start := file.peek(2):
        if start == _GZIP_MAGIC:
            yield from _gunzip_member(file)
        elif start.strip(b"\0"):
            raise CompressionError("bytes that are not gzip after the gzip data", "another gzip member or the end")
        else:
            file.read(len(start))


def _gunzip_member(file: RawFile) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    while not inflate.eof:
        data = file.peek(_PIECE)
        before = inflate.copy()
        try:
            piece = inflate.decompress(data, _LARGEST_PIECE)
        except zlib.error:
            yield from _inflate_to_damage(before, data)
        file.read(len(data) - len(inflate.unconsumed_tail) - len(inflate.unused_data))
        yield piece
        if not data and not piece and not inflate.eof:  # with output left over, a call without input still gives some
            raise CompressionError("gzip data end early", "the rest of the gzip data")


def _inflate_to_damage(inflate: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """What `data` gives before zlib refuses them (it drops the output of the call that fails), then the damage."""
    for at in range(len(data)):
        try:
            piece = inflate.decompress(data[at : at + 1])
        except zlib.error as error:
            raise CompressionError(f"damaged gzip data ({error})", "valid gzip data") from error
        yield piece
    raise CompressionError("damaged gzip data", "valid gzip data")


# --- zstd ------------------------------------------------------------------------------------------------------------


def _is_zstd(start: bytes) -> bool:
    return start == _ZSTD_MAGIC or _is_skippable(start)


def _is_skippable(start: bytes) -> bool:
    return len(start) == 4 and start[0] & 0xF0 == 0x50 and start[1:] == b"\x2a\x4d\x18"


def _unzstd(file: RawFile) -> Iterator[bytes]:
    """RFC 8878: frames one after the other. Each block goes to the decoder alone, so its output is bounded and
    comes out before a damage behind it."""
    while start := file.peek(4):
        if start == _ZSTD_MAGIC:
            yield from _unzstd_frame(file)
        elif _is_skippable(start):
            left = int.from_bytes(_exactly(file, 8)[4:], "little")
            while left:
                left -= len(_exactly(file, min(left, _PIECE)))
        else:
            raise CompressionError("bytes that are not zstd after the zstd data", "another zstd frame or the end")


def _unzstd_frame(file: RawFile) -> Iterator[bytes]:
    decode = zstandard.ZstdDecompressor().decompressobj().decompress
    header = file.peek(_ZSTD_LARGEST_HEADER)
    try:
        size = zstandard.frame_header_size(header)
        has_checksum = zstandard.get_frame_parameters(header).has_checksum
    except zstandard.ZstdError as error:
        raise CompressionError(f"damaged zstd frame header ({error})", "a zstd frame header") from error
    yield _decode(decode, _exactly(file, size))
    last = False
    while not last:
        word = int.from_bytes(block := _exactly(file, 3), "little")
        last, kind, length = bool(word & 1), (word >> 1) & 3, word >> 3
        if length > _ZSTD_BLOCK_LIMIT:
            raise CompressionError(f"zstd block of {length} bytes", f"at most {_ZSTD_BLOCK_LIMIT}")
        yield _decode(decode, block + _exactly(file, 1 if kind == 1 else length))
    if has_checksum:
        yield _decode(decode, _exactly(file, 4))


def _decode(decode: Callable[[bytes], bytes], data: bytes) -> bytes:
    try:
        return decode(data)
    except zstandard.ZstdError as error:
        raise CompressionError(f"damaged zstd data ({error})", "valid zstd data") from error


def _exactly(file: RawFile, size: int) -> bytes:
    data = file.read(size)
    while len(data) < size:
        piece = file.read(size - len(data))
        if not piece:
            raise CompressionError("zstd data end early", "the rest of the zstd data")
        data += piece
    return data
