"""A provider under examination: called as the framework calls it, and held to what it may answer."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flowshunt.offload.api import Provider
from flowshunt.offload.attachment import MAX_ASKS
from flowshunt.offload.batch import Batch, ConnectionId, Context
from flowshunt.offload.calls import has
from flowshunt.offload.errors import MAX_ERRNO, ProviderError
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

START_MS = 1_000_000_000_000
"""When the scenarios take place: in 2001, so that a clock that is read shows itself."""

Factory = Callable[[], Provider]


class BrokenContractError(Exception):
    """The provider breaks the contract; the text says how."""


class NotApplicableError(Exception):
    """The scenario needs something that the provider does not have to have; the text says what."""


def expect(holds: bool, what: str) -> None:
    """Raise BrokenContractError with `what` unless it holds."""
    if not holds:
        raise BrokenContractError(what)


def connection(
    number: int,
    generation: int = 0,
    *,
    row: int | None = None,
    zone: int = 0,
    protocol: int | None = None,
    in_port: int | None = 1,
    now_ms: int = START_MS,
) -> Context:
    """A context of a connection whose tuple is made of `number`; even ones are TCP, odd ones UDP, in its own row."""
    proto = protocol or (PROTO_UDP if number % 2 else PROTO_TCP)
    ports = (1024 + number % 60000) << 16 | 443
    word = ports << 32 | zone << 16 | proto << 8
    word -= 1 << 64 if word >> 63 else 0
    source = 0x0A000000 | (number // 60000) & 0xFFFFFF
    identity = ConnectionId(number if row is None else row, generation)
    return Context(
        identity, (0, source), (0, 0x0A630001), word, in_port=in_port, now_ms=now_ms, devices=lambda n: f"p{n}"
    )


def ended(context: Context, now_ms: int | None = None) -> Context:
    """The same connection as del and upd name it: without an input port."""
    time = context.now_ms if now_ms is None else now_ms
    return Context(context.connection, context._source, context._destination, context._word, now_ms=time)


class Subject:
    """A fresh provider, its init() called.

    The methods call one callback each and return errno, 0 for success. They raise BrokenContractError for what no
    provider may do.
    """

    def __init__(self, factory: Factory) -> None:
        self.provider = factory()
        if has(self.provider, "init"):
            self.call("init")

    def call(self, name: str, *arguments: object) -> tuple[Any, int]:
        """Call a callback. Returns its answer and 0, or None and the errno of what it raised."""
        try:
            return getattr(self.provider, name)(*arguments), 0
        except (ProviderError, OSError) as failure:
            number = failure.errno
            expect(
                type(number) is int and 0 < number <= MAX_ERRNO,
                f"{name} raises {type(failure).__name__} with errno {number!r}; it must be 1 to {MAX_ERRNO}",
            )
            return None, int(number or errno.EIO)
        except (Exception, SystemExit) as failure:
            what = (
                f"{name} raises {type(failure).__name__}: {failure}; a refusal is a ProviderError or OSError with errno"
            )
            raise BrokenContractError(what) from failure

    def has(self, name: str) -> bool:
        """Whether the provider has an optional callback."""
        return has(self.provider, name)

    def wants(self, context: Context) -> bool:
        """can_offload."""
        answer, error = self.call("can_offload", context)
        if error:
            return False
        expect(isinstance(answer, (bool, np.bool_)), f"can_offload answers {answer!r}; it must be a bool")
        return bool(answer)

    def add(self, context: Context) -> int:
        """conn_add."""
        answer, error = self.call("conn_add", context)
        expect(answer is None, f"conn_add returns {answer!r}; it must return None, or raise to refuse")
        return error

    def delete(self, context: Context) -> int:
        """conn_del."""
        return self.call("conn_del", ended(context))[1]

    def establish(self, context: Context) -> bool:
        """conn_established, until it agrees; True also where there is no such callback."""
        if not self.has("conn_established"):
            return True
        for _ in range(MAX_ASKS):
            answer, error = self.call("conn_established", context)
            if error:
                return False
            expect(isinstance(answer, (bool, np.bool_)), f"conn_established answers {answer!r}; it must be a bool")
            if answer:
                return True
        raise BrokenContractError(f"conn_established still says False when it is asked for the {MAX_ASKS}th time")

    def update(self, context: Context, now_ms: int | None = None) -> int:
        """conn_update: the last use, 0 when the provider does not know or has no such callback."""
        if not self.has("conn_update"):
            return 0
        answer, error = self.call("conn_update", ended(context, now_ms))
        if error:
            return 0
        is_number = isinstance(answer, (int, np.integer)) and not isinstance(answer, bool)
        expect(is_number, f"conn_update answers {answer!r}; it must be an int, milliseconds since the epoch or 0")
        return int(answer)

    def flush(self) -> int:
        """flush."""
        return self.call("flush")[1] if self.has("flush") else 0

    def submit(self, operations: Iterable[tuple[int, Context | None]]) -> Batch:
        """batch_submit of one batch. Raises NotApplicableError without it."""
        if not self.has("batch_submit"):
            raise NotApplicableError("it has no batch_submit")
        batch = Batch.of(operations)
        before = batch.records.copy()
        self.call_batch(batch)
        for name in ("now_ms", "source", "destination", "tuple", "row", "generation", "in_port", "type"):
            same = np.array_equal(batch.records[name], before[name])
            expect(same, f"batch_submit writes to {name} of its operations; only ANSWERS are the provider's")
        error = batch.records["error"]
        sane = bool(((error >= 0) & (error <= MAX_ERRNO)).all())
        expect(sane, f"batch_submit sets errors outside of 0 to {MAX_ERRNO}: {sorted(set(error.tolist()))[:4]}")
        return batch

    def call_batch(self, batch: Batch) -> None:
        """batch_submit must not raise: every operation has an error of its own."""
        try:
            self.provider.batch_submit(batch)  # type: ignore[attr-defined]
        except (Exception, SystemExit) as failure:
            raise BrokenContractError(f"batch_submit raises {type(failure).__name__}: {failure}") from failure

    def take(self, context: Context) -> bool:
        """Offer a connection as the framework does; whether the provider took it."""
        return self.wants(context) and self.add(context) == 0

    def taken(self, contexts: Iterable[Context]) -> list[Context]:
        """Offer connections; those that it took. Raises BrokenContractError when it took none."""
        found = [context for context in contexts if self.take(context)]
        expect(bool(found), "it takes neither a TCP nor a UDP connection, so there is nothing to offload")
        return found
