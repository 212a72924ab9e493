"""Reading a connection table from JSON piece by piece, so that its size does not matter.

The file is what `--json` writes: an object with the list `connections`. A list alone will do, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Any

from flowshunt.base.errors import InputError

CHUNK = 1 << 16
MAX_ENTRY = 1 << 16
"""Characters of one connection."""
MAX_VALUE = 1 << 24
"""Characters of any other value at the top."""
MAX_DIGITS = 40
_BLANK = " \t\r\n"


class Unfit:
    """A number that no field takes: too long, or none that JSON knows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _whole(text: str) -> int | Unfit:
    return int(text) if len(text) <= MAX_DIGITS else Unfit(text[:MAX_DIGITS])


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=Unfit, parse_constant=Unfit)


class TableFileError(InputError):
    """A file that is not a connection table."""


class TableFile:
    """A connection table in a file; a context manager that closes it. Reading it again begins anew."""

    def __init__(self, path: str) -> None:
        """Open a file. Raises OSError, and TableFileError for one that cannot be a table from its beginning on."""
        self.path = path
        self._is_list = False
        self._file: IO[str] = open(path, encoding="utf-8", newline="")  # noqa: SIM115  (closed by __exit__)
        try:
            self.clock_ms = self._read_clock()
        except TableFileError:
            self._file.close()
            raise

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def entries(self) -> Iterator[tuple[int, Any]]:
        """The connections, numbered from 1, as plain values. Raises TableFileError where the file is damaged."""
        number = 0
        for key, value in self._items():
            if key is None:
                number += 1
                yield number, value

    def _read_clock(self) -> int | None:
        """The moment at which the table stood, `summary.last_ns`, in milliseconds; None where it does not say."""
        for key, value in self._items():
            if key is None and self._is_list:
                return None
            if key == "summary":
                last_ns = value.get("last_ns") if isinstance(value, dict) else None
                return last_ns // 1_000_000 if type(last_ns) is int and 0 <= last_ns < 1 << 63 else None
        return None

    def _items(self) -> Iterator[tuple[str | None, Any]]:
        """Top values with their keys, and each connection with None."""
        self._file.seek(0)
        text = _Text(self._file, self.path)
        self._is_list = text.peek() == "["
        if self._is_list:
            yield from ((None, value) for value in text.elements())
        elif text.peek() == "{":
            yield from self._object(text)
        else:
            raise text.error("a list of connections, or an object with one, was expected")
        if text.peek():
            raise text.error("there is more behind the end")

    def _object(self, text: _Text) -> Iterator[tuple[str | None, Any]]:
        has_table = False
        for key in text.members():
            if key == "connections":
                has_table = True
                yield from ((None, value) for value in text.elements())
            else:
                yield key, text.value(MAX_VALUE)
        if not has_table:
            raise text.error("it holds no list called connections")


class _Text:
    """The text of a file and a place in it."""

    def __init__(self, file: IO[str], path: str) -> None:
        self.file, self.path = file, path
        self.buffer, self.at, self.before = "", 0, 0
        self.is_whole = False

    def error(self, what: str) -> TableFileError:
        where = f"{self.path} at character {self.before + self.at}"
        return TableFileError(what, where=where, hint="flowshunt replay --json writes such files")

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.buffer) or not self._more(CHUNK):
                return self.buffer[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """One character out of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            raise self.error(f"{found!r} stands where one of {expected} was expected" if found else "it ends too soon")
        self.at += 1
        return found

    def value(self, most: int) -> Any:
        """The next value, of up to `most` characters."""
        if not self.peek():
            raise self.error("it ends too soon")
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                end, value, problem = len(self.buffer), None, error.msg[:1].lower() + error.msg[1:]
            except RecursionError:
                raise self.error("not JSON: too deep") from None
            else:
                problem = ""
            if (end < len(self.buffer) or self.is_whole) and not problem:
                if end - self.at > most:
                    raise self.error(f"a value is longer than {most} characters")
                self.at = end
                return value
            left = len(self.buffer) - self.at
            if left > most:
                raise self.error(f"a value is longer than {most} characters")
            if not self._more(max(CHUNK, left)) and problem:
                raise self.error(f"not JSON: {problem}")

    def elements(self) -> Iterator[Any]:
        """The elements of the list that is next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value(MAX_ENTRY)
            if self.take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """The keys of the object that is next; the caller takes each value before it asks for another."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            key = self.value(MAX_ENTRY)
            if not isinstance(key, str):
                raise self.error("a key was expected")
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def _more(self, size: int) -> bool:
        """Read on; False at the end. What lies behind is let go."""
        if self.is_whole:
            return False
        try:
            chunk = self.file.read(size)
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 text: {error.reason}") from None
        self.buffer, self.before, self.at = self.buffer[self.at :] + chunk, self.before + self.at, 0
        self.is_whole = not chunk
        return bool(chunk)
