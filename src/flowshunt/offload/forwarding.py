"""Calls of a forwarder's methods, from the arguments that the framework hands over to answers that it can trust.

Like `calls` for the notifications: nothing that a provider raises, returns or writes gets further than an errno, a
counter and a log line.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.log import logger
from flowshunt.base.picking import copied
from flowshunt.offload import reasons as R
from flowshunt.offload.calls import failures
from flowshunt.offload.errors import MAX_ERRNO, errno_of
from flowshunt.offload.installing import USAGE

INSTALL, RENEW, BEGIN_EPOCH, WITHDRAW, STATISTICS, HANDED_BACK = (
    "install",
    "renew",
    "begin_epoch",
    "withdraw",
    "statistics",
    "handed_back",
)
"""What is called, by the names of `installing.Forwarder`."""

_log = logger(__name__)


class Call(NamedTuple):
    """One call. `keep`: what the framework needs again when the answer comes. `epoch`: of the attachment."""

    name: str
    arguments: tuple[Any, ...]
    now_ms: int
    epoch: int = 0
    keep: Any = None

    @property
    def size(self) -> int:
        """Connections that it is about."""
        first = self.arguments[0]
        return len(first) if isinstance(first, np.ndarray) else 1


class Answer(NamedTuple):
    """`value`: INSTALL: errors int32 (n,) and reasons uint16 (n,). WITHDRAW, STATISTICS: USAGE (n,). HANDED_BACK: rows
    and generations, int64 (n,), reasons uint16 (n,), USAGE (n,). Otherwise None.
    `error`: the errno of what it raised, 0: it returned."""

    call: Call
    value: Any
    error: int


def carry_out(provider: Any, call: Call) -> Answer:
    """Make a call; whatever happens, there is an answer."""
    error = 0
    try:
        value = getattr(provider, call.name)(*call.arguments)
    except failures() as failure:
        error, value = errno_of(failure), None
        _log.error("provider %s failed in %s", provider.name, call.name, exc_info=failure)
    judge = _JUDGES.get(call.name)
    try:
        return Answer(call, None if judge is None else judge(call, value, error), error)
    except failures() as failure:  # an answer of a type that nobody could foresee
        error = errno_of(failure)
        _log.warning("provider %s answers %s with nonsense: %s", provider.name, call.name, failure)
        return Answer(call, None if judge is None else judge(call, None, error), error)


def _installed(call: Call, value: object, error: int) -> tuple[np.ndarray, np.ndarray]:
    flows = call.arguments[0]
    errors, reasons = flows["error"].copy(), flows["reason"].copy()
    if error:
        errors[:], reasons[:] = error, 0
    if not errors.any():
        return errors, np.zeros(len(errors), np.uint16)
    errors[(errors < 0) | (errors > MAX_ERRNO)] = errno.EPROTO
    plain = (reasons & R.CODE_MASK == 0) | (reasons & R.CODE_MASK >= len(R.REASONS))
    reasons[plain] = (R.PROVIDER_REFUSED | errors << R.PARAMETER_SHIFT).astype(np.uint16)[plain]
    reasons[errors == 0] = R.NONE
    return errors, reasons


def _told_usage(call: Call, value: object, error: int) -> np.ndarray:
    if value is None:
        return np.zeros(call.size, USAGE)
    return _sane(value, call.size, call.now_ms)


def _sane(value: Any, n: int, now_ms: int) -> np.ndarray:
    """USAGE in which nothing is negative or ahead of now. Raises ValueError for anything else."""
    if not isinstance(value, np.ndarray) or value.dtype != USAGE or value.shape != (n,):
        raise ValueError(f"USAGE of {n} flows was wanted")
    counters = ("packets", "bytes", "frame_bytes")
    is_positive = min(value[name].min(initial=0) for name in (*counters, "last_used_ms")) >= 0
    if is_positive and value["last_used_ms"].max(initial=0) <= now_ms:
        return value
    usage = copied(np.ascontiguousarray(value))
    for name in counters:
        np.maximum(usage[name], 0, out=usage[name])
    np.clip(usage["last_used_ms"], 0, max(now_ms, 0), out=usage["last_used_ms"])
    return usage


def _handed_back(call: Call, value: Any, error: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if value is None:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0, np.uint16), np.zeros(0, USAGE)
    rows, generations, reasons, usage = value
    n = len(rows)
    if not len(generations) == len(reasons) == n:
        raise ValueError("rows, generations and reasons differ in length")
    known = (np.asarray(reasons) & R.CODE_MASK) < len(R.REASONS)
    sane = np.where(known, reasons, R.PROVIDER_REFUSED).astype(np.uint16)
    return (
        np.asarray(rows).astype(np.int64),
        np.asarray(generations).astype(np.int64),
        sane,
        _sane(usage, n, call.now_ms),
    )


_JUDGES: dict[str, Callable[[Call, Any, int], Any]] = {
    INSTALL: _installed,
    WITHDRAW: _told_usage,
    STATISTICS: _told_usage,
    HANDED_BACK: _handed_back,
}
