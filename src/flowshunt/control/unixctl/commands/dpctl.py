"""What all `dpctl/*` commands share: options, the optional name of the datapath, the form of errors."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.registry import CommandError

PROGRAM = "ovs-vswitchd"
"""The name that errors of dpctl begin with."""

_SLICE = 2048
"""Entries that are taken from a table between two batches of packets."""
_OPTIONS = ("statistics", "names", "no-names", "clear", "may-create", "read-only", "more")
_LETTERS = {"s": "statistics", "m": "more"}
_NUMBER = re.compile(r"\s*([0-9]+)")
_T = TypeVar("_T")


class Arguments(NamedTuple):
    """Arguments of a command without its options, and the long names of those."""

    rest: list[str]
    options: frozenset[str]


def refusal(text: str, number: int = errno.EINVAL) -> CommandError:
    """The error of a dpctl command, with the words of an errno behind it; 0: none."""
    return CommandError(f"{PROGRAM}: {text} ({os.strerror(number)})" if number else f"{PROGRAM}: {text}")


def split(arguments: list[str]) -> Arguments:
    """Take the options out, wherever they stand. Raises CommandError for one that dpctl does not have."""
    rest: list[str] = []
    options: set[str] = set()
    for at, word in enumerate(arguments):
        if word == "--":
            rest += arguments[at + 1 :]
            break
        if word.startswith("--"):
            if word[2:] not in _OPTIONS:
                raise CommandError(f"Unrecognized option {word}")
            options.add(word[2:])
        elif word.startswith("-") and len(word) > 1:
            unknown = next((letter for letter in word[1:] if letter not in _LETTERS), None)
            if unknown is not None:
                raise CommandError(f"Unrecognized option -{unknown}")
            options.update(_LETTERS[letter] for letter in word[1:])
        else:
            rest.append(word)
    return Arguments(rest, frozenset(options))


def without_datapath(rest: list[str], most: int) -> list[str]:
    """Arguments without the datapath that they may begin with.

    `most`: how many there are with a datapath; so many without one are an error, as in dpctl. Raises CommandError.
    """
    if rest and rest[0] == DATAPATH_NAME:
        return rest[1:]
    if len(rest) >= most:
        raise refusal("datapath not found")
    return rest


def operands(arguments: list[str], n: int) -> list[str]:
    """The n arguments of a command besides options and datapath, "" for those that are missing. Raises CommandError."""
    found = without_datapath(split(arguments).rest, n + 1)
    return [*found, *[""] * n][:n]


def take_number(rest: list[str], key: str, limit: int) -> tuple[list[str], int | None]:
    """Take `key=N` off the end of the arguments, when it is there and N at most `limit`."""
    if rest and rest[-1].startswith(f"{key}=") and (found := _NUMBER.match(rest[-1], len(key) + 1)):
        number = int(found.group(1))
        if number <= limit:
            return rest[:-1], number
    return rest, None


def decimal(text: str) -> int | None:
    """A decimal number of 32 bits, or None."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 11 and int(text) < 1 << 32 else None


async def in_slices(node: Node, begin: Callable[[], Iterator[_T]]) -> list[_T]:
    """All that an iterator gives that lives on the packet thread, with packets in between."""
    iterator = await node.call(begin)
    found: list[_T] = []
    while part := await node.call(lambda: list(islice(iterator, _SLICE))):
        found += part
    return found
