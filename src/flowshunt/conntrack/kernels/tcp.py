"""TCP as Open vSwitch's userspace tracker judges it: two peers, each with a state and a window.

The window check is arithmetic and therefore code: Guido van Rooij's method from pf ("Real Stateful TCP Packet
Filtering in IP Filter", 2001), with the tolerances that Open vSwitch uses. Peers are indexed by direction, 0 is the
side that sent the first packet; `d` is the direction of the packet at hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import states as S
from flowshunt.conntrack.schema import C_TCP_ACK, C_TCP_FLAGS, C_TCP_RESET, C_TCP_SEQUENCE
from flowshunt.jit import kernel
from flowshunt.packet.schema import WSCALE_ABSENT

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20

WSCALE_KNOWN = 0x80
"""In a peer's `wscale`: the option was seen, its shift is in the low bits."""
WSCALE_UNKNOWN = 0x40
"""The SYN was not seen, so any shift is possible."""
WSCALE_SHIFT = 0x0F
MAX_WSCALE = 14

ACK_WINDOW = 0xFFFF + 1500
"""How far an acknowledgement may be off, in bytes: one window and one packet."""

_U32 = 0xFFFFFFFF
_HALF = 1 << 31


@kernel
def seq_geq(a: Any, b: Any) -> Any:
    """Whether sequence number `a` is at or after `b` (RFC 1982 arithmetic)."""
    return ((a - b) & _U32) < _HALF


@kernel
def seq_gt(a: Any, b: Any) -> Any:
    """Whether sequence number `a` is after `b`."""
    return a != b and seq_geq(a, b)


@kernel
def seq_difference(a: Any, b: Any) -> Any:
    """`a - b` as a signed 32-bit number."""
    return (((a - b) & _U32) ^ _HALF) - _HALF


@kernel
def invalid_flags(flags: Any) -> Any:
    """Whether no sane TCP sends this combination (pf's and Open vSwitch's list)."""
    if flags & SYN:
        if flags & (RST | FIN):
            return True
    elif not flags & (ACK | RST):
        return True
    return not flags & ACK and flags & (FIN | PSH | URG) != 0


@kernel
def valid_new(flags: Any, loose: Any) -> Any:
    """Whether a packet may create a connection: a SYN, with `loose` also the middle of a stream, but not a SYN-ACK."""
    return not invalid_flags(flags) and flags & (SYN | ACK) != SYN | ACK and (flags & SYN != 0 or loose != 0)


@kernel
def _peer_wscale(option: Any) -> Any:
    if option == WSCALE_ABSENT:
        return 0
    return min(option, MAX_WSCALE) | WSCALE_KNOWN


@kernel
def create(conns: Any, row: Any, flags: Any, seq: Any, ack: Any, window: Any, wscale: Any, length: Any) -> Any:
    """Fill the TCP part of a new connection from its first packet. Returns the timeout class."""
    shift = 0
    if flags & SYN:
        conns["wscale"][row, 0] = _peer_wscale(wscale)
        conns["wscale"][row, 1] = 0
        if wscale != WSCALE_ABSENT:
            shift = min(wscale, MAX_WSCALE)
    else:
        conns["wscale"][row, 0] = WSCALE_UNKNOWN
        conns["wscale"][row, 1] = WSCALE_UNKNOWN
    end = seq + length + 1 + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
    # A SYN's window is not scaled; kept divided, so that the shift applies to all later ones alike.
    conns["window"][row, 0] = (max(window, 1) + (1 << shift) - 1) >> shift
    conns["window"][row, 1] = 1
    conns["lo"][row, 0] = seq
    conns["hi"][row, 0] = end & _U32
    conns["lo"][row, 1] = 0
    conns["hi"][row, 1] = 1
    conns["peer"][row, 0] = S.PEER_SYN_SENT
    conns["peer"][row, 1] = S.PEER_CLOSED
    return S.T_TCP_FIRST_PACKET


@kernel
def _slide(conns: Any, row: Any, d: Any, end: Any, ack: Any, window: Any, shift: Any) -> Any:
    """Take over what an accepted packet says about both windows."""
    o = 1 - d
    if window > np.int64(conns["window"][row, d]):
        conns["window"][row, d] = window
    if seq_gt(end, np.int64(conns["lo"][row, d])):
        conns["lo"][row, d] = end
    if seq_geq(ack + (window << shift), np.int64(conns["hi"][row, o])):
        conns["hi"][row, o] = (ack + max(window << shift, 1)) & _U32


@kernel
def timeout_class(src: Any, dst: Any) -> Any:
    """The timeout class of a connection whose peers are in these states."""
    if src >= S.PEER_FIN_WAIT_2 and dst >= S.PEER_FIN_WAIT_2:
        return S.T_TCP_CLOSED
    if src >= S.PEER_CLOSING and dst >= S.PEER_CLOSING:
        return S.T_TCP_FIN_WAIT
    if src < S.PEER_ESTABLISHED or dst < S.PEER_ESTABLISHED:
        return S.T_TCP_OPENING
    if src >= S.PEER_CLOSING or dst >= S.PEER_CLOSING:
        return S.T_TCP_CLOSING
    return S.T_TCP_ESTABLISHED


@kernel(inline=False)
def _first_from_peer(conns: Any, row: Any, d: Any, flags: Any, seq: Any, end: Any, window: Any, wscale: Any) -> Any:
    """The first packet that this peer sends: set its window up.

    Returns whether the acknowledgement must be checked | the window to go on with << 8.
    """
    o = 1 - d
    other_scale = np.int64(conns["wscale"][row, o])
    other_shift = np.int64(0)
    if flags & SYN:
        if other_scale & WSCALE_KNOWN:
            own = _peer_wscale(wscale)
            conns["wscale"][row, d] = own
            if own & WSCALE_KNOWN:
                shift = own & WSCALE_SHIFT
                window = (window + (1 << shift) - 1) >> shift
                other_shift = other_scale & WSCALE_SHIFT
            else:
                # The peer does not scale, so neither side does: restore the window of the SYN. Open vSwitch keeps it
                # in 16 bits, and so do we.
                conns["window"][row, o] = (np.int64(conns["window"][row, o]) << (other_scale & WSCALE_SHIFT)) & 0xFFFF
                conns["wscale"][row, o] = 0
    elif other_scale & WSCALE_KNOWN and np.int64(conns["wscale"][row, d]) & WSCALE_KNOWN:
        other_shift = other_scale & WSCALE_SHIFT
    elif other_scale & WSCALE_UNKNOWN and np.int64(conns["wscale"][row, d]) & WSCALE_UNKNOWN:
        other_shift = np.int64(MAX_WSCALE)
    conns["lo"][row, d] = seq
    conns["peer"][row, d] = S.PEER_SYN_SENT
    check_ack = 1
    limit = (end + max(1, np.int64(conns["window"][row, o]) << other_shift)) & _U32
    hi = np.int64(conns["hi"][row, d])
    if hi == 1 or seq_geq(limit, hi):
        conns["hi"][row, d] = limit
        check_ack = 0
    if window > np.int64(conns["window"][row, d]):
        conns["window"][row, d] = window
    return check_ack | window << 8


@kernel
def _advance(conns: Any, row: Any, d: Any, flags: Any) -> Any:
    """Move both peers' states for an accepted packet."""
    o = 1 - d
    if flags & FIN and conns["peer"][row, d] < S.PEER_CLOSING:
        conns["peer"][row, d] = S.PEER_CLOSING
    if flags & ACK:
        if conns["peer"][row, o] == S.PEER_SYN_SENT:
            conns["peer"][row, o] = S.PEER_ESTABLISHED
        elif conns["peer"][row, o] == S.PEER_CLOSING:
            conns["peer"][row, o] = S.PEER_FIN_WAIT_2
    if flags & RST:
        conns["peer"][row, 0] = S.PEER_TIME_WAIT
        conns["peer"][row, 1] = S.PEER_TIME_WAIT


@kernel
def _shifts(conns: Any, row: Any, d: Any) -> Any:
    """By how much the windows of the sender `d` and of its peer are scaled in a segment without SYN."""
    own = np.int64(conns["wscale"][row, d])
    other = np.int64(conns["wscale"][row, 1 - d])
    if own & other & WSCALE_KNOWN:
        return own & WSCALE_SHIFT, other & WSCALE_SHIFT
    unknown = np.int64(MAX_WSCALE if own & other & WSCALE_UNKNOWN else 0)
    return unknown, unknown


@kernel
def resume(conns: Any, row: Any, d: Any, seq: Any, ack: Any, window: Any, length: Any) -> Any:
    """Set both windows from one plain segment, as if all that went before it had been seen."""
    shift, other_shift = _shifts(conns, row, d)
    o = 1 - d
    end = (seq + length) & _U32
    conns["lo"][row, d] = end
    conns["hi"][row, d] = (end + max(np.int64(conns["window"][row, o]) << other_shift, 1)) & _U32
    conns["lo"][row, o] = ack
    conns["hi"][row, o] = (ack + max(window << shift, 1)) & _U32


@kernel
def _continues(conns: Any, row: Any, d: Any, seq: Any, ack: Any, window: Any, length: Any, check_sequence: Any) -> Any:
    """Take a plain segment of an established connection, when it fits the windows; else nothing has changed."""
    shift, other_shift = _shifts(conns, row, d)
    lo = np.int64(conns["lo"][row, d])
    end = (seq + length) & _U32
    if length == 0:
        seq = lo
        end = lo
    skew = seq_difference(np.int64(conns["lo"][row, 1 - d]), ack)
    if check_sequence == S.CHECK_ALL and not (
        seq_geq(np.int64(conns["hi"][row, d]), end)
        and seq_geq(seq, lo - (np.int64(conns["window"][row, 1 - d]) << other_shift))
        and skew >= -ACK_WINDOW
        and skew <= ACK_WINDOW << shift
    ):
        return False
    _slide(conns, row, d, end, ack, window, shift)
    return True


@kernel
def update(
    conns: Any,
    row: Any,
    d: Any,
    flags: Any,
    seq: Any,
    ack: Any,
    window: Any,
    wscale: Any,
    length: Any,
    check_sequence: Any,
) -> Any:
    """Judge a packet of an existing connection and advance it: the common case here, all others in `_update`.

    `check_sequence`: `states.CHECK_*`. Returns what `_update` does.
    """
    if (
        flags & (SYN | FIN | RST | ACK) == ACK
        and conns["peer"][row, 0] == S.PEER_ESTABLISHED
        and conns["peer"][row, 1] == S.PEER_ESTABLISHED
        and _continues(conns, row, d, seq, ack, window, length, check_sequence)
    ):
        return np.int64(S.UPDATE_VALID | S.T_TCP_ESTABLISHED << 8)
    return _update(conns, row, d, flags, seq, ack, window, wscale, length, check_sequence)


@kernel(inline=False)
def _update(
    conns: Any,
    row: Any,
    d: Any,
    flags: Any,
    seq: Any,
    ack: Any,
    window: Any,
    wscale: Any,
    length: Any,
    check_sequence: Any,
) -> Any:
    """`update` for every kind of packet and state.

    Returns `result | timeout_class << 8`, with `states.STATE_CHANGED` added when a peer's state changed. On
    UPDATE_INVALID, which comes with its reason, the connection is unchanged, except that a peer's very first packet
    sets its window up.
    """
    if invalid_flags(flags):
        return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | C_TCP_FLAGS << S.WHY_SHIFT
    o = 1 - d
    src = np.int64(conns["peer"][row, d])
    dst = np.int64(conns["peer"][row, o])
    if flags & (SYN | ACK) == SYN:
        if dst >= S.PEER_FIN_WAIT_2 and src >= S.PEER_FIN_WAIT_2:
            return S.UPDATE_NEW | S.KEEP_TIMER << 8
        if src <= S.PEER_SYN_SENT:
            conns["peer"][row, d] = S.PEER_SYN_SENT
            return S.UPDATE_VALID_NEW | S.T_TCP_FIRST_PACKET << 8 | (S.STATE_CHANGED if src != S.PEER_SYN_SENT else 0)

    shift = np.int64(0)
    other_shift = np.int64(0)
    if not flags & SYN:
        shift, other_shift = _shifts(conns, row, d)

    end = (seq + length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)) & _U32
    original_seq = seq
    check_ack = np.int64(1)
    if src < S.PEER_SYN_SENT:
        first = _first_from_peer(conns, row, d, flags, seq, end, window, wscale)
        check_ack = first & 1
        window = first >> 8
        if flags & SYN:
            own = np.int64(conns["wscale"][row, d])
            other = np.int64(conns["wscale"][row, o])
            if own & other & WSCALE_KNOWN:
                shift = own & WSCALE_SHIFT
                other_shift = other & WSCALE_SHIFT
    src_after_first = np.int64(conns["peer"][row, d])

    lo = np.int64(conns["lo"][row, d])
    hi = np.int64(conns["hi"][row, d])
    other_lo = np.int64(conns["lo"][row, o])
    # No acknowledgement to check; some stacks leave it zero in a RST-ACK.
    if not flags & ACK or (ack == 0 and flags & RST):
        ack = other_lo
    if seq == end:
        seq = lo
        end = lo
    skew = seq_difference(other_lo, ack) if check_ack else np.int64(0)
    other_window = np.int64(conns["window"][row, o]) << other_shift
    exact = not flags & RST or ((original_seq - lo + 1) & _U32) <= 2
    seq_fits = seq_geq(hi, end) and seq_geq(seq, lo - other_window)
    ack_fits = skew >= -ACK_WINDOW and skew <= ACK_WINDOW << shift
    unchecked = check_sequence == S.CHECK_NOTHING or (check_sequence == S.CHECK_RESETS and not flags & RST)
    if (seq_fits and ack_fits and exact) or unchecked:
        _slide(conns, row, d, end, ack, window, shift)
        _advance(conns, row, d, flags)
        new_src = np.int64(conns["peer"][row, d])
        new_dst = np.int64(conns["peer"][row, o])
        changed = S.STATE_CHANGED if new_src != src or new_dst != dst else 0
        return S.UPDATE_VALID | timeout_class(new_src, new_dst) << 8 | changed
    # Outside the window, but the connection is opening or over: be lenient and don't refresh the timer, so that
    # floods gain nothing (simultaneous SYNs, streams picked up in the middle, late FIN-ACKs).
    if (
        (dst < S.PEER_SYN_SENT or dst >= S.PEER_FIN_WAIT_2 or src_after_first >= S.PEER_FIN_WAIT_2)
        and seq_geq(hi + ACK_WINDOW, end)
        and seq_geq(seq, lo - ACK_WINDOW)
    ):
        _slide(conns, row, d, end, ack, window, shift)
        if flags & FIN and conns["peer"][row, d] < S.PEER_CLOSING:
            conns["peer"][row, d] = S.PEER_CLOSING
        if flags & RST:
            conns["peer"][row, 0] = S.PEER_TIME_WAIT
            conns["peer"][row, 1] = S.PEER_TIME_WAIT
        changed = S.STATE_CHANGED if conns["peer"][row, d] != src or conns["peer"][row, o] != dst else 0
        return S.UPDATE_VALID | S.KEEP_TIMER << 8 | changed
    why = C_TCP_SEQUENCE if not seq_fits else (C_TCP_ACK if not ack_fits else C_TCP_RESET)
    return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | why << S.WHY_SHIFT
