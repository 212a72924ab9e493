"""JSON-RPC 1.0 over a byte stream, as Open vSwitch speaks it on its sockets: bytes to messages and back, no I/O.

Messages follow each other without anything in between (RFC 7047, section 4: "a stream of JSON objects"). What comes in
is bounded in size and depth; whatever is malformed raises `JsonRpcError`, and nothing else.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from flowshunt.base.errors import InputError

MAX_MESSAGE = 1 << 22
"""Bytes of one message."""
MAX_DEPTH = 64

_MARKS = re.compile(rb'["\\{}\[\]]')
_BLANK = b" \t\r\n"


class JsonRpcError(InputError):
    """The peer sent what is no message; its connection is of no more use."""


class Request(NamedTuple):
    """A call that wants an answer. `id` is whatever the peer chose."""

    method: str
    params: list[Any]
    id: Any


class Reply(NamedTuple):
    """An answer: `error` is None, or else `result` is."""

    result: Any
    error: Any
    id: Any


class Notification(NamedTuple):
    """A message that wants no answer."""

    method: str
    params: list[Any]


Message = Request | Reply | Notification


class Decoder:
    """Takes bytes as they come, gives messages."""

    def __init__(self, max_size: int = MAX_MESSAGE) -> None:
        """`max_size`: bytes of one message at most."""
        self._max_size = max_size
        self._waiting = bytearray()
        self._at = 0  # how far the first message was looked through
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises JsonRpcError; nothing can be read any more after that."""
        self._waiting += data
        found: list[Message] = []
        while (end := self._end_of_first()) is not None:
            text = bytes(self._waiting[:end])
            del self._waiting[:end]
            self._at = 0
            found.append(message(text))
        if len(self._waiting) > self._max_size:
            raise JsonRpcError(f"a message of more than {self._max_size} bytes")
        return found

    def _end_of_first(self) -> int | None:
        """Where the first message ends; None when that has not come yet."""
        if self._at == 0:
            self._waiting = self._waiting.lstrip(_BLANK)
            if self._waiting and self._waiting[0] != ord("{"):
                raise JsonRpcError(f"a message begins with {bytes(self._waiting[:1])!r}")
        while (mark := _MARKS.search(self._waiting, self._at)) is not None:
            at, byte = mark.start(), mark.group()
            if byte == b"\\":
                if at + 1 == len(self._waiting):
                    self._at = at
                    return None
                self._at = at + 2
                continue
            self._at = at + 1
            if byte == b'"':
                self._in_string = not self._in_string
            elif not self._in_string and self._nest(1 if byte in b"{[" else -1):
                return self._at
        self._at = len(self._waiting)
        return None

    def _nest(self, step: int) -> bool:
        """Go in or out; whether that was the way out of the message."""
        self._depth += step
        if self._depth > MAX_DEPTH:
            raise JsonRpcError(f"a message nested more than {MAX_DEPTH} deep")
        return self._depth == 0


def message(text: bytes) -> Message:
    """One message from its text. Raises JsonRpcError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JsonRpcError(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise JsonRpcError("a message is an object")
    method, params, number = found.get("method"), found.get("params"), found.get("id")
    if method is None:
        if number is None:
            raise JsonRpcError("a message without method and id")
        return Reply(found.get("result"), found.get("error"), number)
    if not isinstance(method, str) or not isinstance(params, list):
        raise JsonRpcError("a request has a method, which is a string, and params, an array")
    return Notification(method, params) if number is None else Request(method, params, number)


def encode(what: Message) -> bytes:
    """A message as bytes, in ASCII."""
    fields: dict[str, Any] = dict(what._asdict())
    if isinstance(what, Notification):
        fields["id"] = None
    return json.dumps(fields, separators=(",", ":")).encode("ascii")
