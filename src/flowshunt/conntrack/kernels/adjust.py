"""Sequence numbers of a connection whose payload was made longer or shorter.

As in Linux (nf_conntrack_seqadj.c): per direction the number at which the latest change was made, and what is added
before and after it. The tracker judges every segment in the numbers of its sender, so acknowledgements are turned back
first; adding comes last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.extensions import take_ext
from flowshunt.conntrack.kernels.tcp import ACK, seq_gt
from flowshunt.jit import kernel, load_be16, load_be32, store_be16, store_be32
from flowshunt.packet.checksum import update32
from flowshunt.packet.schema import CHECKSUM_PARTIAL
from flowshunt.packet.transport import TCP_SIZE

_U32 = 0xFFFFFFFF
_OPTION_END, _OPTION_NOP, _OPTION_SACK = 0, 1, 5
_BLOCK_SIZE = 8


@kernel
def _take_adjustment(t: Any) -> Any:
    """A free record, or -1."""
    state = t.state
    if state["free_adjusted"][0] != 0:
        place = state["free_adjusted"][0] - 1
        state["free_adjusted"][0] = np.int64(t.adjustments["next"][place])
    else:
        place = state["fresh_adjusted"][0]
        if place >= len(t.adjustments):
            return np.int64(-1)
        state["fresh_adjusted"][0] = place + 1
    for d in range(2):
        t.adjustments["position"][place, d] = 0
        t.adjustments["before"][place, d] = 0
        t.adjustments["after"][place, d] = 0
    return place


@kernel(inline=False)
def free_adjustment(t: Any, ext: Any) -> Any:
    """Give the record of an extension record back, if it has one."""
    place = np.int64(t.exts["adjust"][ext]) - 1
    if place >= 0:
        t.adjustments["next"][place] = t.state["free_adjusted"][0]
        t.state["free_adjusted"][0] = place + 1
        t.exts["adjust"][ext] = 0


@kernel(inline=False)
def note_change(t: Any, row: Any, d: Any, seq: Any, by: Any) -> Any:
    """The payload of the segment `seq` in direction d grew by `by` bytes. False when there is no room to remember that.

    Of a segment that is sent again it is known already.
    """
    ext = take_ext(t, row)
    place = np.int64(t.exts["adjust"][ext]) - 1
    if place < 0:
        place = _take_adjustment(t)
        if place < 0:
            return False
        t.exts["adjust"][ext] = place + 1
    a = t.adjustments
    before = np.int64(a["before"][place, d])
    after = np.int64(a["after"][place, d])
    if before == after or seq_gt(seq, np.int64(a["position"][place, d])):
        a["position"][place, d] = seq
        a["before"][place, d] = after
        a["after"][place, d] = after + by
    return True


@kernel
def _added(a: Any, place: Any, d: Any, seq: Any) -> Any:
    """What is added to a sequence number of the sender in direction d."""
    if seq_gt(seq, np.int64(a["position"][place, d])):
        return np.int64(a["after"][place, d])
    return np.int64(a["before"][place, d])


@kernel
def _turned_back(a: Any, place: Any, d: Any, ack: Any) -> Any:
    """A number that the peer of direction d's sender acknowledges, as that sender counts."""
    before = np.int64(a["before"][place, d])
    if seq_gt((ack - before) & _U32, np.int64(a["position"][place, d])):
        return (ack - np.int64(a["after"][place, d])) & _U32
    return (ack - before) & _U32


@kernel(inline=False)
def own_ack(t: Any, row: Any, d: Any, ack: Any) -> Any:
    """The acknowledgement of a segment in direction d of a connection with an extension record, as its peer counts."""
    place = np.int64(t.exts["adjust"][np.int64(t.conns["ext"][row]) - 1]) - 1
    return ack if place < 0 else _turned_back(t.adjustments, place, 1 - d, ack)


@kernel
def _replace(data: Any, at: Any, new: Any, checksum: Any) -> Any:
    """Write 32 bits; returns the checksum after that."""
    old = load_be32(data, at)
    store_be32(data, at, new)
    return update32(checksum, old, new)


@kernel
def _replace_odd(data: Any, at: Any, new: Any, checksum: Any) -> Any:
    """`_replace` at an odd distance from the beginning of the segment: the checksum sees the bytes exchanged."""
    old = load_be32(data, at)
    store_be32(data, at, new)
    return update32(checksum, _turn(old), _turn(new))


@kernel
def _turn(value: Any) -> Any:
    """32 bits as they add up when they begin at the low byte of a word."""
    return ((value >> 8) & 0xFFFFFF) | (value & 0xFF) << 24


@kernel(inline=False)
def _adjust_sacks(a: Any, place: Any, d: Any, data: Any, l4: Any, end: Any, checksum: Any) -> Any:
    """Turn the edges of SACK blocks back, options `[l4 + TCP_SIZE, end)`; returns the checksum after that."""
    at = l4 + TCP_SIZE
    while end - at >= 2:
        kind = np.int64(data[at])
        if kind == _OPTION_END:
            break
        if kind == _OPTION_NOP:
            at += 1
            continue
        size = np.int64(data[at + 1])
        if size < 2 or size > end - at:
            break
        if kind == _OPTION_SACK and (size - 2) % _BLOCK_SIZE == 0:
            for edge in range(at + 2, at + size, 4):
                new = _turned_back(a, place, 1 - d, load_be32(data, edge))
                if (edge - l4) & 1:
                    checksum = _replace_odd(data, edge, new, checksum)
                else:
                    checksum = _replace(data, edge, new, checksum)
        at += size
    return checksum


@kernel(inline=False)
def adjust_segment(t: Any, row: Any, d: Any, data: Any, packets: Any, i: Any) -> Any:
    """Write a TCP segment of connection `row` in direction d as its receiver counts, in place; its checksum follows.

    Returns its sequence number as its sender counts.
    """
    seq = np.int64(packets["seq"][i])
    place = np.int64(t.exts["adjust"][np.int64(t.conns["ext"][row]) - 1]) - 1
    if place < 0:
        return seq
    a = t.adjustments
    l4 = packets["data"][i] + np.int64(packets["l4"][i])
    checksum = load_be16(data, l4 + 16)
    new_seq = (seq + _added(a, place, d, seq)) & _U32
    checksum = _replace(data, l4 + 4, new_seq, checksum)
    packets["seq"][i] = new_seq
    if np.int64(data[l4 + 13]) & ACK:
        new_ack = _turned_back(a, place, 1 - d, np.int64(packets["ack"][i]))
        checksum = _replace(data, l4 + 8, new_ack, checksum)
        packets["ack"][i] = new_ack
        end = packets["data"][i] + np.int64(packets["payload"][i])
        checksum = _adjust_sacks(a, place, d, data, l4, end, checksum)
    if packets["checksum"][i] != CHECKSUM_PARTIAL:
        store_be16(data, l4 + 16, checksum)
    return seq
