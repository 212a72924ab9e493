"""Learning, as the interpreter calls it: what is noted of a packet on its way.

With learning off each call costs a test. With it on, only packets are noted that the ones after them could be like:
plain TCP segments and UDP datagrams of which nothing was told lately; and noting ends at the first ct action that does
not find an established connection.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels.step import packet_is_reply
from flowshunt.conntrack.kernels.tuples import match_row
from flowshunt.datapath.paths.records import N_ZONES
from flowshunt.datapath.paths.schema import (
    E_GENERATION,
    E_RULE,
    MAX_CHAIN,
    MISS,
    NOTED_FLOOD,
    NOTED_NORMAL,
    R_DIRECTION,
    R_GENERATION,
    R_ROW,
    UNFIT_FRAGMENTS,
    UNFIT_HELPER,
    UNFIT_LONG,
    UNFIT_OPTIONS,
    UNFIT_ZONES,
)
from flowshunt.datapath.paths.tell import FRESH, UNTOLD, conclude, is_settled, when_told
from flowshunt.jit import kernel, mix, prefetch
from flowshunt.packet.schema import (
    FRAG_ANY,
    HEADER_WORDS,
    KEY_WORDS,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_OK,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    W_PORT,
)

_U32 = 0xFFFFFFFF
_ZONE = 0xFFFF0000
"""Of a tuple word."""
_K = np.int64(0x2545F4914F6CDD1D)
_SYN_FIN_RST, _ACK = 0x07, 0x10
_CONSTANT_FLAGS = _SYN_FIN_RST | _ACK


@kernel
def prefetch_told(w: Any, t: Any, i: Any) -> Any:
    """Ask for what was told of packet i of a chunk, if the tracker has suggested its connection."""
    if w.paths["on"][0] and t.candidates[i] >= 0:
        prefetch(w.told, t.candidates[i], 0)


@kernel
def begin_noting(w: Any, t: Any, b: Any, i: Any) -> Any:
    """A packet begins, packet i of `b`, whose key is in keys[0]."""
    if w.paths["on"][0]:
        _begin_noting(w, t, b.packets, i)


@kernel
def note_lookup(w: Any, c: Any, table: Any, rule: Any, port: Any) -> Any:
    """The key met `rule` (-1: none) in a table, with the input port `port` if that is not -1."""
    if w.paths["noting"][0]:
        _note_lookup(w, c, table, rule, port)


@kernel
def note_connection(w: Any, t: Any) -> Any:
    """A ct action was passed; it left its connection in the machine and in the tracker's memory of the packet."""
    if w.paths["noting"][0]:
        _note_connection(w, t)


@kernel
def note_output(w: Any, p: Any, index: Any, by_normal: Any) -> Any:
    """The packet leaves, as its key is now, on the port in place `index`, or (-1) is flooded."""
    if w.paths["noting"][0]:
        _note_output(w, p, index, by_normal)


@kernel
def note_normal(w: Any, vlan: Any) -> Any:
    """`normal` has found the packet to be in a VLAN; a port's settings may still give its key another tag."""
    if w.paths["noting"][0]:
        w.paths["normal_tci"][0] = w.keys[0, W_ETH_SRC] & 0xFFFF
        w.paths["normal_vlan"][0] = vlan


@kernel
def stop_noting(w: Any) -> Any:
    """What becomes of the packet depends on more than a path can say."""
    w.paths["noting"][0] = 0


@kernel
def note_stations(w: Any, p: Any) -> Any:
    """`normal` has learned: when a station on a path is not where it was, the next epoch begins."""
    if p.state["disturbed"][0]:
        w.paths["disturbed"][0] += p.state["disturbed"][0]
        p.state["disturbed"][0] = 0
        w.paths["epoch"][0] += 1


@kernel
def note_end(w: Any, p: Any, o: Any, t: Any, packet: Any) -> Any:
    """A packet ends; its outputs lie behind those of the packets before it."""
    if w.paths["noting"][0]:
        conclude(w, p, o, t, packet)


@kernel
def note_mark(w: Any, t: Any, row: Any, mark: Any, mask: Any) -> Any:
    """A ct action is about to set bits of a connection's mark. What changes it is not what later packets would do."""
    if w.paths["noting"][0] and (np.int64(t.conns["mark"][row]) ^ mark) & mask:
        w.paths["noting"][0] = 0


@kernel
def note_label(w: Any, t: Any, row: Any, high: Any, low: Any, mask: Any, mask_low: Any) -> Any:
    """The same for bits of a connection's label."""
    labels = t.conns["label"]
    if w.paths["noting"][0] and (labels[row, 0] ^ high) & mask | (labels[row, 1] ^ low) & mask_low:
        w.paths["noting"][0] = 0


@kernel
def _is_plain(w: Any, packets: Any, i: Any) -> Any:
    """Whether packets like this one may go unseen at all, but for fragments and options."""
    if packets["family"][i] == 0 or packets["verdict"][i] != VERDICT_OK or w.keys[0, W_ARP_SHA] & VLAN_PRESENT:
        return False
    proto = (w.keys[0, W_L4] >> 24) & 0xFF
    if proto == PROTO_TCP:
        flags = (w.keys[0, W_FLAGS] >> 48) & _CONSTANT_FLAGS
        return flags == _ACK or w.keys[0, W_L4] & FRAG_ANY != 0
    return proto == PROTO_UDP


@kernel
def _is_told(w: Any, t: Any, row: Any) -> Any:
    """Whether there is nothing new to tell of the packet's connection, in either direction, if that is `row`.

    That was suggested by a tag alone, which another connection may share; -1: nothing was.
    """
    if row < 0:
        return False
    word = t.tracked["word"][0] | t.conns["tuple"][row] & _ZONE
    if match_row(t, row, w.keys, np.int64(0), word) < 0:
        return False
    now = w.machine["now_ms"][0]
    generation = np.int64(t.conns["generation"][row])
    if when_told(w, row, np.int64(0), generation, now) != FRESH:
        return False
    return when_told(w, row, np.int64(1), generation, now) == FRESH


@kernel(inline=False)
def _begin_noting(w: Any, t: Any, packets: Any, i: Any) -> Any:
    s = w.paths
    s["noting"][0] = 0
    if not _is_plain(w, packets, i):
        return
    if _is_told(w, t, t.candidates[0]):
        return
    passing = np.int64(0)
    if w.keys[0, W_L4] & FRAG_ANY:
        passing = np.int64(UNFIT_FRAGMENTS)
    elif packets["options"][i]:
        passing = np.int64(UNFIT_OPTIONS)
    s["noting"][0] = 1
    s["n_lookups"][0] = 0
    s["mix"][0] = _K
    s["n_rows"][0] = 0
    s["unfit"][0] = 0
    s["passing"][0] = passing
    s["outputs"][0] = 0
    s["noted"][0] = 0
    s["packets_noted"][0] += 1


@kernel
def _find_fault(w: Any, unfit: Any) -> Any:
    if w.paths["unfit"][0] == 0:
        w.paths["unfit"][0] = unfit


@kernel(inline=False)
def _note_lookup(w: Any, c: Any, table: Any, rule: Any, port: Any) -> Any:
    s = w.paths
    n = s["n_lookups"][0]
    if n == MAX_CHAIN:
        _find_fault(w, UNFIT_LONG)
        return
    entry = table << 32 | MISS
    generation = np.int64(0)
    if rule >= 0:
        entry = table << 32 | rule
        generation = np.int64(c.rules["generation"][rule])
    w.lookups[n, E_RULE] = entry
    w.lookups[n, E_GENERATION] = generation
    for word in range(KEY_WORDS):
        w.lookup_keys[n, word] = w.keys[0, word]
    if port >= 0:
        w.lookup_keys[n, W_PORT] = w.keys[0, W_PORT] & _U32 | port << 32
    s["mix"][0] = mix(s["mix"][0] ^ entry ^ (generation & 0xFFFFFF) << 40, _K)
    s["n_lookups"][0] = n + 1


@kernel(inline=False)
def _note_connection(w: Any, t: Any) -> Any:
    s = w.paths
    row = w.machine["row"][0]
    if row < 0 or np.int64(t.tracked["state"][0]) & S.CS_ESTABLISHED == 0 or not is_settled(t, row):
        s["noting"][0] = 0
        return
    d = packet_is_reply(t, np.int64(0))
    generation = np.int64(t.conns["generation"][row])
    n = s["n_rows"][0]
    if n == 0:
        told = when_told(w, row, d, generation, w.machine["now_ms"][0])
        if told == FRESH or (told != UNTOLD and s["passing"][0]):
            s["noting"][0] = 0
            return
    if _has_helper(t, row):
        _find_fault(w, UNFIT_HELPER)
    for known in range(n):
        if w.passed[known, R_ROW] == row:
            return
    if n == N_ZONES:
        _find_fault(w, UNFIT_ZONES)
        return
    w.passed[n, R_ROW] = row
    w.passed[n, R_GENERATION] = generation
    w.passed[n, R_DIRECTION] = d
    s["n_rows"][0] = n + 1


@kernel
def _has_helper(t: Any, row: Any) -> Any:
    ext = np.int64(t.conns["ext"][row]) - 1
    return ext >= 0 and (t.exts["helper"][ext] != 0 or t.exts["adjust"][ext] != 0)


@kernel(inline=False)
def _note_output(w: Any, p: Any, index: Any, by_normal: Any) -> Any:
    s = w.paths
    s["outputs"][0] += 1
    s["noted"][0] |= (NOTED_NORMAL if by_normal else 0) | (NOTED_FLOOD if index < 0 else 0)
    s["out_port"][0] = p.ports["number"][index] if index >= 0 else 0
    for word in range(HEADER_WORDS):
        w.final_key[0, word] = w.keys[0, word]
