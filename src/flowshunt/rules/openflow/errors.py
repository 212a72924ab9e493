"""What is wrong with a flow text, and where."""

from __future__ import annotations

from typing import NamedTuple

from flowshunt.base.errors import UsageError

EXCERPT = 100
"""Most characters of a line that a message shows."""
MAX_MISTAKES = 10
"""Most mistakes of a text that are told at once."""
QUOTED = 40
"""Most characters of a word that a message repeats."""


def printable(text: str) -> str:
    """`text` with everything that could upset a terminal or break a line replaced by a question mark."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text.replace("\t", " "))


def quote(word: str) -> str:
    """`word` as messages show it: in quotes, printable, cut when it is long."""
    return f'"{printable(word if len(word) <= QUOTED else word[:QUOTED] + "...")}"'


class BadValueError(ValueError):
    """A value that can't be read, without its place: the reader of the flow looks for `word` in the value it read."""

    def __init__(self, message: str, hint: str = "", word: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.word = word


class FlowSyntaxError(UsageError, ValueError):
    """A flow text that can't be read, or that asks for what can't be.

    `source` names the text, `line` and `column` count from 1, `word` is what was read there, `message` says what is
    wrong and `hint`, which may be None, what would be right. `text` is the line. `others` are the mistakes of later
    lines, MAX_MISTAKES in all. As a string: all of that, and the line with carets under the word, for each mistake.
    """

    def __init__(
        self, message: str, *, source: str, line: int, column: int, word: str = "", hint: str = "", text: str = ""
    ) -> None:
        super().__init__(message, where=f"{source}:{line}:{column}", hint=hint or None)
        self.message = message
        self.source = source
        self.line = line
        self.column = column
        self.word = word
        self.text = text
        self.others: tuple[FlowSyntaxError, ...] = ()

    def __str__(self) -> str:
        return "\n".join(mistake._said() for mistake in (self, *self.others))

    def _said(self) -> str:
        said = f"{self.where}: {self.message}"
        if self.hint:
            said += f": {self.hint}"
        if not self.text:
            return said
        first = max(0, self.column - 1 - EXCERPT // 2) if len(self.text) > EXCERPT else 0
        excerpt = printable(self.text[first : first + EXCERPT])
        at = self.column - 1 - first
        carets = "^" * max(1, min(len(self.word), len(excerpt) - at))
        return f"{said}\n  {excerpt}\n  {' ' * at}{carets}"


class FlowWarning(NamedTuple):
    """Something in a flow text that is read otherwise than it looks; `line` and `column` count from 1."""

    source: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}: {self.message}"
