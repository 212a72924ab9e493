"""Connections put into the table as they once stood, without a packet."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.buckets import find, insert, insert_reply, record_hash, reply_hash
from flowshunt.conntrack.kernels.extensions import take_ext
from flowshunt.conntrack.kernels.gauges import find_gauge
from flowshunt.conntrack.kernels.policies import take_admitted_row
from flowshunt.conntrack.kernels.pools import BEGAN, note_ports
from flowshunt.conntrack.kernels.rows import destroy, emit_event, is_over, start_timer
from flowshunt.conntrack.kernels.statistics import count, use_zone
from flowshunt.conntrack.kernels.tuples import KIND_IPV6, hash_packet, turn_word
from flowshunt.jit import by_reference, kernel
from flowshunt.packet.schema import W_NW_DST, W_NW_SRC

DUPLICATE = -1000
REPLY_TAKEN = -1001
"""Results of `restore_rows` beside minus the counters of `policies.take_admitted_row`."""

_ZONE = 0xFFFF << 16


@kernel(inline=False)
def _is_taken(t: Any, records: Any, n: Any, is_turned: Any, word: Any, now: Any) -> Any:
    """Whether packets of the tuple in records[n] (of CONNECTION or EXT) belong to a connection; expired ones make room.

    `is_turned`: of that tuple turned round. `word`: of the tuple that is meant, zone included.
    """
    key = t.inner_key
    for half in range(2):
        key[0, (W_NW_DST if is_turned else W_NW_SRC) + half] = records["source"][n, half]
        key[0, (W_NW_SRC if is_turned else W_NW_DST) + half] = records["destination"][n, half]
    found = find(t, hash_packet(t.state, key, 0, word & ~_ZONE), key, 0, word)
    if found < 0:
        return False
    if not is_over(t, found >> 1, now):
        return True
    destroy(t, found >> 1, np.int64(C.REASON_EXPIRED), now)
    return find(t, hash_packet(t.state, key, 0, word & ~_ZONE), key, 0, word) >= 0


@kernel
def _copy(t: Any, row: Any, records: Any, n: Any) -> Any:
    """All that a record says of a connection, apart from where it is kept."""
    c = t.conns
    for d in range(2):
        c["source"][row, d] = records["source"][n, d]
        c["destination"][row, d] = records["destination"][n, d]
        c["window"][row, d] = records["window"][n, d]
        c["packets"][row, d] = records["packets"][n, d]
        c["bytes"][row, d] = records["bytes"][n, d]
        c["lo"][row, d] = records["lo"][n, d]
        c["hi"][row, d] = records["hi"][n, d]
        c["wscale"][row, d] = records["wscale"][n, d]
        c["peer"][row, d] = records["peer"][n, d]
        c["tcp_flags"][row, d] = records["tcp_flags"][n, d]
        c["label"][row, d] = records["label"][n, d]
        c["max_ack"][row, d] = records["max_ack"][n, d]
    c["tuple"][row] = records["tuple"][n]
    c["mark"][row] = records["mark"][n]
    c["state"][row] = records["state"][n]
    c["flags"][row] = np.int64(records["flags"][n]) | S.F_LIVE
    c["start_ms"][row] = records["start_ms"][n]
    c["in_port"][row] = records["in_port"][n]
    c["last_seq"][row] = records["last_seq"][n]
    c["last_ack"][row] = records["last_ack"][n]
    c["last_end"][row] = records["last_end"][n]
    c["last_window"][row] = records["last_window"][n]
    c["last_index"][row] = records["last_index"][n]
    c["last_flags"][row] = records["last_flags"][n]
    c["ext"][row] = 0


@kernel(inline=False)
def _extend(t: Any, row: Any, exts: Any, n: Any) -> Any:
    ext = take_ext(t, row)
    e = t.exts
    for half in range(2):
        e["source"][ext, half] = exts["source"][n, half]
        e["destination"][ext, half] = exts["destination"][n, half]
    e["tuple"][ext] = exts["tuple"][n]
    e["parent_row"][ext] = exts["parent_row"][n]
    e["parent_generation"][ext] = exts["parent_generation"][n]
    e["helper"][ext] = exts["helper"][n]
    nat = np.int64(exts["nat"][n])
    e["nat"][ext] = nat
    if nat != 0:
        end = exts["source"] if nat == C.NAT_DST else exts["destination"]
        family = np.int64(6 if exts["tuple"][n] & KIND_IPV6 else 4)
        gauge = find_gauge(t, family, end[n, 0], end[n, 1])
        t.gauges["used"][gauge] += 1
        e["gauge"][ext] = gauge + 1


@kernel
def _restore(t: Any, records: Any, exts: Any, n: Any, now: Any) -> Any:
    word = records["tuple"][n]
    zone = (word >> 16) & 0xFFFF
    has_reply = records["flags"][n] & S.F_NAT != 0
    if _is_taken(t, records, n, False, word, now):
        return np.int64(DUPLICATE)
    if has_reply:
        is_clash = _is_taken(t, exts, n, False, exts["tuple"][n], now)
    else:
        is_clash = _is_taken(t, records, n, True, turn_word(word), now)
    if is_clash:
        return np.int64(REPLY_TAKEN)
    hashed = record_hash(t.state, records, n)
    use_zone(t, zone)
    row = take_admitted_row(t, hashed, zone, True, now)
    if row < 0:
        return row
    _copy(t, row, records, n)
    if records["ext"][n]:
        _extend(t, row, exts, n)
    start_timer(t, row, records["expires_ms"][n])
    insert(t, hashed, row)
    if has_reply:
        insert_reply(t, reply_hash(t, row), row)
    if t.state["n_pools"][0]:
        note_ports(t, row, np.int64(BEGAN))
    count(t, zone, (word >> 8) & 0xFF, np.int64(C.C_INSERTED))
    emit_event(t, row, np.int64(C.EVENT_CREATED), 0, 0, np.int64(records["in_port"][n]), now)
    return row


def _example() -> tuple[Any, ...]:
    return example_arrays(), np.zeros(1, C.CONNECTION), np.zeros(1, C.EXT), np.zeros(1, np.int64), 0, 0


@kernel(example=_example)
def restore_rows(t: Any, records: Any, exts: Any, results: Any, n: Any, now_ms: Any) -> Any:
    """Put the first n connections of `records` (CONNECTION) into the table; their expiry is absolute.

    `exts`: EXT, one for each record, of those whose `ext` is not 0: the reply tuple if F_NAT is set, parent, NAT and
    helper. results[n] (int64): the row, or why there is none: DUPLICATE, REPLY_TAKEN, minus a counter. A record says
    nothing of rows, generations, buckets and timers. There must be room for 3 n events.
    """
    t = by_reference(t)
    for i in range(n):
        results[i] = _restore(t, records, exts, i, now_ms)
