"""Calling a provider so that nothing it does gets further than an errno.

What it raises, returns or writes is checked here; whoever calls gets answers in sane ranges, one for each operation.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flowshunt.base.log import logger
from flowshunt.base.picking import copied, pick
from flowshunt.offload import reasons as R
from flowshunt.offload.api import Provider
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, OPERATION_NAMES, POLICY, UPD, Batch, Devices, Operation
from flowshunt.offload.errors import MAX_ERRNO, ProviderError, errno_of

_log = logger(__name__)


def failures() -> tuple[type[BaseException], ...]:
    """What a provider may raise without reaching anybody else; only the user's Ctrl-C passes.

    For `except failures()`: evaluated when something is raised, so that a start does not wait for asyncio.
    """
    from asyncio import CancelledError

    return Exception, SystemExit, GeneratorExit, CancelledError


_PLAIN_REFUSAL = R.number_of("provider-refused", errno.EPERM)


class Outcome(NamedTuple):
    """How a provider answered operations, which are as they were submitted: OPERATION (n,), all of one type.

    `error`: int32 (n,), 0 to MAX_ERRNO. `last_used_ms`: int64 (n,), at most the operation's `now_ms`. `reason`: uint16
    (n,), why not, where `error` is not 0. `epoch`: as submitted.
    """

    records: np.ndarray
    error: np.ndarray
    last_used_ms: np.ndarray
    reason: np.ndarray
    epoch: int

    def only(self, those: np.ndarray) -> Outcome:
        """The answers to some of the operations, bool (n,)."""
        columns = self.records[those], self.error[those], self.last_used_ms[those], self.reason[those]
        return Outcome(*columns, self.epoch)


def has(provider: object, callback: str) -> bool:
    """Whether a provider has an optional callback."""
    return getattr(provider, callback, None) is not None


def perform(provider: Provider, records: np.ndarray, devices: Devices | None, epoch: int = 0) -> Outcome:
    """Have a provider serve operations of one type; ADD asks `can_offload` first. Raises nothing of the provider's."""
    if len(records) and records["type"][0] == ADD:
        return _offer(provider, records, devices, epoch)
    return _ask(provider, records, devices, epoch)


def _offer(provider: Provider, records: np.ndarray, devices: Devices | None, epoch: int) -> Outcome:
    answer = _ask(provider, records, devices, epoch, POLICY)
    wanted = answer.error == 0
    if wanted.all():
        return _ask(provider, records, devices, epoch)
    error = answer.error.copy()
    reason = np.where(answer.reason == _PLAIN_REFUSAL, R.DECLINED, answer.reason).astype(np.uint16)
    if wanted.any():
        added = _ask(provider, pick(records, wanted), devices, epoch)
        error[wanted] = added.error
        reason[wanted] = added.reason
    return Outcome(records, error, np.zeros(len(records), np.int64), reason, epoch)


def _ask(
    provider: Provider, records: np.ndarray, devices: Devices | None, epoch: int, type_: int | None = None
) -> Outcome:
    """`type_`: ask that instead of what the operations are."""
    batch = Batch(copied(records), devices)
    if type_ is not None:
        batch.records["type"] = type_
    failed = 0
    try:
        submit: Callable[[Batch], object] | None = getattr(provider, "batch_submit", None)
        if submit is None:
            serve(provider, batch)
        else:
            submit(batch)
    except failures() as failure:
        failed = errno_of(failure)
        _report(provider, "batch_submit", failure)
    answered: Any = batch.records
    if getattr(answered, "dtype", None) != records.dtype or answered.shape != records.shape:
        _log.warning("provider %s gave the batch other records", provider.name)
        answered, failed = records, errno.EPROTO
    return _sane(records, answered, failed, epoch)


def _sane(records: np.ndarray, answered: np.ndarray, failed: int, epoch: int) -> Outcome:
    """Answers copied out of the provider's reach, and put into range."""
    if not failed and not answered["error"].any() and not answered["last_used_ms"].any():
        n = len(records)
        return Outcome(records, np.zeros(n, np.int32), np.zeros(n, np.int64), np.zeros(n, np.uint16), epoch)
    error = answered["error"].copy()
    error[(error < 0) | (error > MAX_ERRNO)] = errno.EPROTO
    if failed:
        error[:] = failed
    last_used = np.clip(answered["last_used_ms"], 0, np.maximum(records["now_ms"], 0))
    reason = answered["reason"].copy()
    plain = (reason & R.CODE_MASK == 0) | (reason & R.CODE_MASK >= len(R.REASONS))
    reason[plain] = (R.PROVIDER_REFUSED | error << R.PARAMETER_SHIFT).astype(np.uint16)[plain]
    reason[error == 0] = R.NONE
    return Outcome(records, error, last_used, reason, epoch)


# --- one by one ------------------------------------------------------------------------------------------------------


def serve(provider: Provider, batch: Batch) -> None:
    """Serve a batch operation by operation through a provider's callbacks for single connections.

    What `batch_submit` of a provider without one would do (see OptionalCallbacks.batch_submit for the errors);
    EOPNOTSUPP where the callback is not there. Raises nothing of the provider's.
    """
    for operation in batch:
        handler = _HANDLERS.get(operation.type)
        if handler is None:
            operation.error = errno.EINVAL
            continue
        try:
            operation.error = handler(provider, operation)
        except failures() as failure:
            operation.error = errno_of(failure)
            _note_reason(batch, operation, failure)
            _report(provider, OPERATION_NAMES[operation.type], failure)


def _note_reason(batch: Batch, operation: Operation, failure: BaseException) -> None:
    code = getattr(failure, "reason", None)
    if R.is_code(code):
        batch.records["reason"][operation.index] = R.number_of(str(code))


def _report(provider: Provider, call: str, failure: BaseException) -> None:
    """A refusal is the provider's right and counted; anything else is its bug and logged."""
    if isinstance(failure, (ProviderError, OSError)):
        _log.debug("provider %s, %s: %s", provider.name, call, failure)
    else:
        _log.error("provider %s failed in %s", provider.name, call, exc_info=failure)


def _wrong(provider: Provider, call: str, answer: object, right: str) -> int:
    _log.warning("provider %s answers %s with %s; it must be %s", provider.name, call, type(answer).__name__, right)
    return errno.EPROTO


def _policy(provider: Provider, operation: Operation) -> int:
    answer: Any = provider.can_offload(operation.context)  # type: ignore[arg-type]
    if not isinstance(answer, (bool, np.bool_)):
        return _wrong(provider, "can_offload", answer, "a bool")
    return 0 if answer else errno.EPERM


def _add(provider: Provider, operation: Operation) -> int:
    answer: Any = provider.conn_add(operation.context)  # type: ignore[arg-type]
    return 0 if answer is None else _wrong(provider, "conn_add", answer, "None, and an exception to refuse")


def _del(provider: Provider, operation: Operation) -> int:
    provider.conn_del(operation.context)  # type: ignore[arg-type]
    return 0


def _established(provider: Any, operation: Operation) -> int:
    if not has(provider, "conn_established"):
        return errno.EOPNOTSUPP
    answer = provider.conn_established(operation.context)
    if not isinstance(answer, (bool, np.bool_)):
        return _wrong(provider, "conn_established", answer, "a bool")
    return 0 if answer else errno.EAGAIN


def _update(provider: Any, operation: Operation) -> int:
    if not has(provider, "conn_update"):
        return errno.EOPNOTSUPP
    answer = provider.conn_update(operation.context)
    if not isinstance(answer, (int, np.integer)) or isinstance(answer, bool) or not 0 <= answer < 1 << 63:
        return _wrong(provider, "conn_update", answer, "an int, milliseconds since the epoch or 0")
    operation.last_used_ms = int(answer)
    return 0 if answer else errno.ENODATA


def _flush(provider: Any, operation: Operation) -> int:
    if not has(provider, "flush"):
        return errno.EOPNOTSUPP
    provider.flush()
    return 0


_HANDLERS: dict[int, Callable[[Any, Operation], int]] = {
    ADD: _add,
    DEL: _del,
    UPD: _update,
    POLICY: _policy,
    FLUSH: _flush,
    EST: _established,
}
