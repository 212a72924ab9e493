"""What a provider answers that forwards TCP and UDP, and keeps nothing of a connection before its flow is installed."""

from __future__ import annotations

import errno

import numpy as np

from flowshunt.offload import reasons as R
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, POLICY, UPD, Batch
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP

_PROTOCOL = R.number_of("protocol")


def answer(batch: Batch, *, declines: bool) -> tuple[bool, np.ndarray]:
    """Answer a batch; returns whether there was a FLUSH, and the records of the connections that ended, OPERATION (n,).

    UPD has no answer: last uses are told by `statistics`. Other protocols are refused when they begin; with `declines`
    they are also declined when the framework asks (POLICY), so that another provider gets them.
    """
    records = batch.records
    kinds = records["type"]
    records["error"] = np.where(np.isin(kinds, (ADD, DEL, EST, FLUSH, POLICY)), 0, errno.EINVAL)
    records["error"][kinds == UPD] = errno.ENODATA
    asked = (kinds == ADD) | ((kinds == POLICY) & declines)
    if asked.any():
        others = asked & ~np.isin((records["tuple"] >> 8) & 0xFF, (PROTO_TCP, PROTO_UDP))
        records["error"][others] = np.where(kinds[others] == POLICY, errno.EPERM, errno.EOPNOTSUPP)
        records["reason"][others] = _PROTOCOL
    return bool((kinds == FLUSH).any()), records[kinds == DEL]
