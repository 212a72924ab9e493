"""What a provider answers that forwards TCP and UDP, and keeps nothing of a connection before its flow is installed."""

from __future__ import annotations

import errno

import numpy as np

from flowshunt.base.picking import pick
from flowshunt.offload import reasons as R
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, POLICY, UPD, Batch
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_PROTOCOL = R.number_of("protocol")

_ERRORS = np.full(256, errno.EINVAL, np.int32)
_ERRORS[[ADD, DEL, EST, FLUSH, POLICY]] = 0
_ERRORS[UPD] = errno.ENODATA
"""By type."""
_FORWARDED = np.zeros(256, bool)
_FORWARDED[[PROTO_TCP, PROTO_UDP]] = True


def answer(batch: Batch, *, declines: bool) -> tuple[bool, np.ndarray]:
    """Answer a batch; returns whether there was a FLUSH, and the records of the connections that ended, OPERATION (n,).

    UPD has no answer: last uses are told by `statistics`. Other protocols are refused when they begin; with `declines`
    they are also declined when the framework asks (POLICY), so that another provider gets them.
    """
    records = batch.records
    kinds = records["type"]
    records["error"] = _ERRORS[kinds]
    others = ~_FORWARDED[(records["tuple"] >> 8) & 0xFF]
    if others.any():
        others &= (kinds == ADD) | ((kinds == POLICY) & declines)
        records["error"][others] = np.where(kinds[others] == POLICY, errno.EPERM, errno.EOPNOTSUPP)
        records["reason"][others] = _PROTOCOL
    ended = kinds == DEL
    return bool((kinds == FLUSH).any()), pick(records, ended) if ended.any() else records[:0]
