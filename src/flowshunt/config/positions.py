"""Where in a TOML text a key stands. The parser of the standard library does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r'''(?P<string>"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|'[^'\n]*')'''
    r"|(?P<comment>\#[^\n]*)|(?P<word>[A-Za-z0-9_-]+)|(?P<newline>\n)|(?P<mark>[\[\]{}=])",
    re.DOTALL,
)

Path = tuple[str, ...]


def lines_of(text: str) -> dict[Path, int]:
    """Line (from 1) of every table header and of every key outside of inline tables; `text` is valid TOML.

    Paths are the names on the way, without quotes; of an array of tables the last header counts.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    for line, is_header, names in _statements(text):
        if is_header:
            table = names
        lines[names if is_header else table + names] = line
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of a key, or of the nearest table around it that has one."""
    for n in range(len(path), 0, -1):
        if path[:n] in lines:
            return lines[path[:n]]
    return None


def _statements(text: str) -> Iterator[tuple[int, bool, Path]]:
    """Line, whether it is a header, and the names, of each header and each `key =`."""
    names: list[str] = []
    line, start, depth, is_header, in_value = 1, 1, 0, False, False
    for token in _TOKEN.finditer(text):
        kind, word = token.lastgroup, token[0]
        if kind == "newline" and depth == 0:
            if is_header and names:
                yield start, True, tuple(names)
            names, is_header, in_value = [], False, False
        elif kind == "mark" and word == "=" and not in_value and names:
            yield start, False, tuple(names)
            in_value = True
        elif kind == "mark" and in_value:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(word, 0)
        elif kind == "mark":
            is_header = True
        elif kind in ("word", "string") and not in_value:
            start = line if not names else start
            names.append(word.strip("\"'") if kind == "string" else word)
        line += word.count("\n")
    if is_header and names:
        yield start, True, tuple(names)
