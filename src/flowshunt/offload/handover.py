"""What a process after this one needs, to have flows forwarded that went on without a process between the two.

A forwarder that outlives its process keeps HANDOVER and KEPT records of its flows where the next one finds them. They
are written when a flow is installed: whatever changes its connections later, but for counters and timers, has it
withdrawn or installed again. The next process puts the connections back first, and then has the flows adopted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowshunt.base.picking import as_bytes
from flowshunt.conntrack import schema as C
from flowshunt.datapath.paths.records import LEARNED, N_ZONES, PATH
from flowshunt.offload.batch import EST, OPERATION
from flowshunt.offload.table import Records

if TYPE_CHECKING:
    from flowshunt.offload.book import Book

HANDOVER = np.dtype(
    [
        ("paths", PATH, 2),  # as they were installed
        ("ct_states", np.uint16, 2),  # by path
        ("turned", np.uint8, 2),  # by path: bit z: its packets are replies of connection z
        ("n_zones", np.uint8),
        ("is_linux", np.uint8),  # the tracker's profile
    ],
    align=True,
)
"""A flow."""

KEPT = np.dtype([("connection", C.CONNECTION), ("ext", C.EXT), ("idle_limit_ms", np.int64)], align=True)
"""One of its connections, as it was when the flow was installed, and how long it may be silent."""

NO_CHAIN = 0xFFFFFFFF
"""Which rules adopted flows go by is not known before one of their packets has shown it."""


class Described(NamedTuple):
    """HANDOVER (n,), and KEPT (n,) for each place on the way that any of the flows has; of no meaning beyond."""

    flows: np.ndarray
    connections: list[np.ndarray]


def describe(table: Records, book: Book, flows: np.ndarray) -> Described:
    """What is to be kept of FLOW (n,) that are being installed."""
    leaders = flows["rows"][:, 0]
    described = np.zeros(len(flows), HANDOVER)
    as_bytes(described, "paths")[:] = as_bytes(flows, "paths")
    described["ct_states"] = flows["ct_state"]
    described["turned"] = book.entries["turned"][leaders]
    described["n_zones"] = flows["n_zones"]
    described["is_linux"] = table.is_linux
    places = range(int(flows["n_zones"].max(initial=1)))
    return Described(described, [_kept(table, flows, zone) for zone in places])


def _kept(table: Records, flows: np.ndarray, zone: int) -> np.ndarray:
    """KEPT (n,) of the connections at one place on the way."""
    rows = flows["rows"][:, zone].astype(np.int64)
    kept = np.zeros(len(flows), KEPT)
    records, exts = table.records(rows)
    as_bytes(kept, "connection")[:] = records.view(np.uint8).reshape(len(kept), C.CONNECTION.itemsize)
    as_bytes(kept, "ext")[:] = exts.view(np.uint8).reshape(len(kept), C.EXT.itemsize)
    kept["idle_limit_ms"] = table.idle_limits(rows, flows["generations"][:, zone].astype(np.int64))
    return kept


def learned_of(flows: np.ndarray, rows: np.ndarray, generations: np.ndarray, epoch: int, now_ms: int) -> np.ndarray:
    """LEARNED (2 n,): what packets of HANDOVER (n,) would show if they went the way that they went before.

    `rows`, `generations`: int64 (n, N_ZONES), of their connections as they are now, zeros where there are fewer.
    """
    places = np.arange(N_ZONES)
    order = np.argsort(np.where(places < flows["n_zones"][:, None], rows, 1 << 32), axis=1, kind="stable")
    learned = np.zeros((2, len(flows)), LEARNED)
    learned["rows"] = np.take_along_axis(rows, order, 1)
    learned["generations"] = np.take_along_axis(generations, order, 1)
    for d in range(2):
        turned = np.take_along_axis(flows["turned"][:, d, None].astype(np.int64) >> places & 1, order, 1)
        learned["turned"][d] = (turned << places).sum(axis=1)
        learned["ct_state"][d] = flows["ct_states"][:, d]
        as_bytes(learned[d], "path")[:] = as_bytes(flows, "paths").reshape(len(flows), 2, -1)[:, d]
    learned["n_zones"], learned["epoch"], learned["time_ms"] = flows["n_zones"], epoch, now_ms
    learned["chain"] = NO_CHAIN
    return learned.reshape(-1)


def established(table: Records, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
    """OPERATION (n,) of type EST about connections, int64 (n,)."""
    operations = np.zeros(len(rows), OPERATION)
    records = table.records(rows)[0]
    for name in ("source", "destination", "tuple"):
        operations[name] = records[name]
    operations["type"], operations["now_ms"] = EST, now_ms
    operations["row"], operations["generation"] = rows, generations
    return operations
