"""The outermost grammar of flow text: keys and values, as Open vSwitch's tools separate them.

White space and commas separate items. An item is a key, or a key and a value: after `:` or `=` the value ends at the
next white space or comma outside parentheses, after `(` at the matching parenthesis, except that `key(x)->y` has the
value `x)->y`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, NoReturn

from flowshunt.rules.openflow.errors import BadValueError, FlowSyntaxError, FlowWarning

MAX_TEXT = 1 << 16
"""Most characters of a flow; what Open vSwitch can put in one message is less."""

# No part of any of these can match what the next one starts with, so that none of them ever tries twice.
_KEY = re.compile(r"[, \t\r\n]*([^:=(, \t\r\n]*)([:=(]?)")
_PLAIN_VALUE = re.compile(r"[^(, \t\r\n]*")
_PARENTHESIS = re.compile(r"[()]")


class Item(NamedTuple):
    """A key and its value; positions are offsets in the text. A key without value has an empty one."""

    key: str
    key_at: int
    value: str
    value_at: int
    closed: bool  # False: the value's closing parenthesis is missing


class Context(NamedTuple):
    """A flow text while it is read: where it comes from, and the names of ports and tables."""

    text: str
    source: str
    line: int
    ports: Mapping[str, int]
    tables: Mapping[str, int]
    warn: Callable[[FlowWarning], None] | None

    def place(self, at: int) -> tuple[int, int, str]:
        """Line, column (both from 1) and text of the line of offset `at`."""
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", start)
        line = self.text[start:] if end < 0 else self.text[start:end]
        return self.line + self.text.count("\n", 0, start), at - start + 1, line.rstrip("\r")

    def fail(self, at: int, word: str, message: str, hint: str = "") -> NoReturn:
        """Raise the error for `word` at offset `at`."""
        raise self.error(at, word, message, hint)

    def error(self, at: int, word: str, message: str, hint: str = "") -> FlowSyntaxError:
        """The error for `word` at offset `at`."""
        line, column, text = self.place(at)
        return FlowSyntaxError(message, source=self.source, line=line, column=column, word=word, hint=hint, text=text)

    def blame(self, item: Item, problem: BadValueError) -> FlowSyntaxError:
        """The error for the value of `item`, or for its key when there is none."""
        at, word = (item.value_at, item.value) if item.value else (item.key_at, item.key)
        if problem.word and problem.word in item.value:
            at, word = item.value_at + item.value.index(problem.word), problem.word
        return self.error(at, word, problem.message, problem.hint)

    def tell(self, at: int, message: str) -> None:
        """Report a warning about what stands at offset `at`."""
        if self.warn is not None:
            line, column, _ = self.place(at)
            self.warn(FlowWarning(self.source, line, column, message))


def items(text: str, start: int, end: int) -> Iterator[Item]:
    """The items of `text[start:end)`, in order."""
    scan = _KEY.match
    plain = _PLAIN_VALUE.match
    while True:
        found = scan(text, start, end)
        assert found is not None  # it matches the empty string
        key, delimiter = found.groups()
        key_at = found.start(1)
        start = found.end()
        if not delimiter:
            if not key:
                return
            yield Item(key, key_at, "", start, True)
            continue
        value_at = start
        closed = True
        if delimiter == "(":
            stop, closed = _closing(text, start, end)
            if text.startswith(")->", stop, end):
                stop, closed = _value_end(text, stop, end)
        else:
            value = plain(text, start, end)
            assert value is not None
            stop = value.end()
            if stop < end and text[stop] == "(":
                stop, closed = _value_end(text, stop, end)
        start = min(stop + 1, end)
        yield Item(key, key_at, text[value_at:stop], value_at, closed)


def _value_end(text: str, at: int, end: int) -> tuple[int, bool]:
    """Where the value that contains offset `at` ends: before white space or comma outside parentheses."""
    while True:
        found = _PLAIN_VALUE.match(text, at, end)
        assert found is not None
        at = found.end()
        if at == end or text[at] != "(":
            return at, True
        at, closed = _closing(text, at + 1, end)
        if not closed:
            return end, False
        at += 1


def _closing(text: str, at: int, end: int) -> tuple[int, bool]:
    """Offset of the parenthesis that closes one open at `at`, or `end` and False."""
    level = 1
    for found in _PARENTHESIS.finditer(text, at, end):
        level += 1 if found.group() == "(" else -1
        if level == 0:
            return found.start(), True
    return end, False
