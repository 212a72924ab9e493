"""What a provider answers that forwards TCP and UDP, and keeps nothing of a connection before its flow is installed."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.jit import kernel
from flowshunt.offload import reasons as R
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, OPERATION, POLICY, UPD, Batch
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_PROTOCOL = R.number_of("protocol")

_ERRORS = np.full(256, errno.EINVAL, np.int32)
_ERRORS[[ADD, DEL, EST, FLUSH, POLICY]] = 0
_ERRORS[UPD] = errno.ENODATA
"""By type."""
_FLUSHED, _ENDED = 1, 2


@kernel(example=lambda: (np.zeros(0, OPERATION), 0))
def _answer(records: Any, declines: Any) -> Any:
    """Write `error` and `reason` of OPERATION (n,). Returns _FLUSHED and _ENDED, if there was such a one."""
    found = np.int64(0)
    for i in range(len(records)):
        kind = np.int64(records["type"][i])
        error = np.int64(_ERRORS[kind])
        if kind == ADD or (kind == POLICY and declines):
            protocol = records["tuple"][i] >> 8 & 0xFF
            if protocol != PROTO_TCP and protocol != PROTO_UDP:
                error = np.int64(errno.EPERM if kind == POLICY else errno.EOPNOTSUPP)
                records["reason"][i] = _PROTOCOL
        elif kind == FLUSH:
            found |= _FLUSHED
        elif kind == DEL:
            found |= _ENDED
        records["error"][i] = error
    return found


def answer(batch: Batch, *, declines: bool) -> tuple[bool, np.ndarray]:
    """Answer a batch; returns whether there was a FLUSH, and the records of the connections that ended, OPERATION (n,).

    UPD has no answer: last uses are told by `statistics`. Other protocols are refused when they begin; with `declines`
    they are also declined when the framework asks (POLICY), so that another provider gets them.
    """
    records = batch.records
    found = _answer(records, int(declines))
    ended = pick(records, records["type"] == DEL) if found & _ENDED else records[:0]
    return bool(found & _FLUSHED), ended
