"""TCP as Linux's nf_conntrack judges it (6.18, net/netfilter/nf_conntrack_proto_tcp.c): one state, two windows.

The state table is data (`conntrack.linux_states`). Here is what is arithmetic: the window check after Guido van Rooij
("Real Stateful TCP Packet Filtering in IP Filter", 2001), and the special cases that a table cannot hold: segments let
through unjudged and what their answers tell, challenge ACKs (RFC 5961), resets, ports used again.

Fields of a connection, by direction `d`: `lo` highest end sent, `hi` end of what may be sent, `window` largest window
(0: nothing sent yet), `max_ack` highest acknowledgement, `wscale` shift, `peer` LF_* flags; for both: `state`, and
`last_*`, the segment remembered last. SACK blocks are not read: the acknowledgement alone stands for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import linux_states as L
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels.tcp import ACK, FIN, MAX_WSCALE, RST, SYN, URG
from flowshunt.conntrack.schema import C_STATE, C_TCP_ACK, C_TCP_FLAGS, C_TCP_RESET, C_TCP_SEQUENCE
from flowshunt.jit import kernel
from flowshunt.packet.schema import WSCALE_ABSENT

LF_WINDOW_SCALE = 0x01
"""Flags of one direction, and of the remembered SYN, in the kernel's numbers. This one: the SYN offered scaling."""
LF_CLOSE_INIT = 0x04
"""This side closed first."""
LF_LIBERAL = 0x08
"""Picked up in mid-stream: the scale is unknown, so no window is enforced."""
LF_UNACKNOWLEDGED = 0x10
"""This side sent something that was not acknowledged yet."""
LF_MAX_ACK = 0x20
"""`max_ack` is set."""
LF_CHALLENGE = 0x40
"""The remembered SYN may be answered by a challenge ACK, which must not count as the last one."""
LF_SIMULTANEOUS = 0x80
"""Both sides sent a SYN."""

ACK_WINDOW = 66000
"""How far behind an acknowledgement may be, where the window is smaller than this."""
MAX_RETRANSMISSIONS = 3

_KIND = 0x0F
"""`last_index`: kind of segment, direction, and from bit 5 how often it came again (at most 3)."""
_DIRECTION = 0x10
_RETRANSMISSIONS = 5
_SCALE = 0x0F
"""`last_flags`: shift of the remembered SYN, below the LF_* flags; LF_WINDOW_SCALE moves to LAST_SCALED there."""
_LAST_SCALED = 0x10

_ACCEPT, _IGNORE, _INVALID = 0, 1, 2
_KEEP_STATE, _SKIP_WINDOW = 3, 4
_INVALID_ACK = 5
_U32 = 0xFFFFFFFF
_HALF = 1 << 31
_TRANSITIONS = L.TRANSITIONS


@kernel
def _before(a: Any, b: Any) -> Any:
    return ((a - b) & _U32) >= _HALF


@kernel
def segment_kind(flags: Any) -> Any:
    """linux_states.SYN ... NO_FLAG."""
    if flags & RST:
        return np.int64(L.RST)
    if flags & SYN:
        return np.int64(L.SYN_ACK if flags & ACK else L.SYN)
    if flags & FIN:
        return np.int64(L.FIN)
    return np.int64(L.ACK if flags & ACK else L.NO_FLAG)


@kernel
def valid_flags(flags: Any) -> Any:
    """Whether the combination exists; PSH, ECE and CWR don't matter."""
    flags &= FIN | SYN | RST | ACK | URG
    if flags & RST:
        return flags & ~(RST | ACK) == 0
    if flags & SYN:
        return flags == SYN or flags == SYN | URG or flags == SYN | ACK
    return flags & ACK != 0


@kernel
def _next_state(d: Any, kind: Any, state: Any) -> Any:
    return np.int64(_TRANSITIONS[(d * L.N_SEGMENTS + kind) * L.N_STATES + state])


@kernel
def valid_new(flags: Any, seq: Any, ack: Any, loose: Any) -> Any:
    """Whether a packet may create a connection: a SYN, or with `loose` an ACK in mid-stream."""
    if not valid_flags(flags):
        return False
    state = _next_state(L.ORIGINAL, segment_kind(flags), L.NONE)
    return state == L.SYN_SENT or (state == L.ESTABLISHED and loose != 0)


@kernel
def _shift_of(wscale: Any) -> Any:
    return np.int64(0) if wscale == WSCALE_ABSENT else min(wscale, MAX_WSCALE)


@kernel
def _set_flag(conns: Any, row: Any, d: Any, flag: Any) -> Any:
    conns["peer"][row, d] = np.int64(conns["peer"][row, d]) | flag


@kernel
def _take_options(conns: Any, row: Any, d: Any, wscale: Any) -> Any:
    """A SYN's options start its direction's flags anew; being picked up in mid-stream is not forgotten."""
    scaled = 0 if wscale == WSCALE_ABSENT else LF_WINDOW_SCALE
    conns["wscale"][row, d] = _shift_of(wscale)
    conns["peer"][row, d] = (np.int64(conns["peer"][row, d]) & LF_LIBERAL) | scaled


@kernel
def _end_of(flags: Any, seq: Any, length: Any) -> Any:
    return (seq + length + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)) & _U32


@kernel
def create(
    conns: Any,
    row: Any,
    flags: Any,
    seq: Any,
    ack: Any,
    window: Any,
    wscale: Any,
    length: Any,
    timeouts: Any,
    policy: Any,
) -> Any:
    """Fill the TCP part of a new connection from its first packet, one that is `valid_new`.

    The packet is judged as well, so it needs no `update`. Returns the timeout class (see `update`).
    """
    for d in range(2):
        conns["lo"][row, d] = 0
        conns["hi"][row, d] = 0
        conns["window"][row, d] = 0
        conns["max_ack"][row, d] = 0
        conns["wscale"][row, d] = 0
        conns["peer"][row, d] = 0
    conns["last_seq"][row] = 0
    conns["last_ack"][row] = 0
    conns["last_end"][row] = 0
    conns["last_window"][row] = 0
    conns["last_index"][row] = L.NO_FLAG
    conns["last_flags"][row] = 0
    conns["state"][row] = L.NONE
    end = _end_of(flags, seq, length)
    conns["lo"][row, 0] = end
    conns["window"][row, 0] = max(window, 1)
    conns["hi"][row, 0] = end
    if flags & SYN:
        _take_options(conns, row, 0, wscale)
    else:
        conns["hi"][row, 0] = (end + max(window, 1)) & _U32
        conns["peer"][row, 0] = LF_LIBERAL
        conns["peer"][row, 1] = LF_LIBERAL
    check = np.int64(S.CHECK_ALL)
    verdict = update(conns, row, np.int64(0), flags, seq, ack, window, wscale, length, check, timeouts, policy)
    return (verdict >> 8) & 0xFF


@kernel
def _start_sender(conns: Any, row: Any, d: Any, end: Any, window: Any, wscale: Any) -> Any:
    """Set a direction's window up from its SYN or SYN-ACK; scaling needs the option of both."""
    o = 1 - d
    conns["lo"][row, d] = end
    conns["hi"][row, d] = end
    conns["window"][row, d] = max(window, 1)
    _take_options(conns, row, d, wscale)
    if d == L.REPLY and conns["peer"][row, 0] & conns["peer"][row, 1] & LF_WINDOW_SCALE == 0:
        conns["wscale"][row, d] = 0
        conns["wscale"][row, o] = 0


@kernel
def _start_in_the_middle(conns: Any, row: Any, d: Any, end: Any, ack: Any, window: Any) -> Any:
    """Set a direction's window up from any other segment, for lack of a SYN."""
    o = 1 - d
    scaled = max(window << np.int64(conns["wscale"][row, d]), 1)
    conns["lo"][row, d] = end
    conns["window"][row, d] = scaled
    conns["hi"][row, d] = (end + scaled) & _U32
    if conns["window"][row, o] == 0:
        conns["lo"][row, o] = ack
        conns["hi"][row, o] = ack
    elif ack == (np.int64(conns["lo"][row, o]) + 1) & _U32:
        # The answer to a keepalive, which sends one byte less than it has.
        conns["lo"][row, o] = ack


@kernel
def _accept(conns: Any, row: Any, d: Any, kind: Any, flags: Any, seq: Any, ack: Any, raw: Any, end: Any) -> Any:
    """Take over what a segment inside the window says about both directions. `raw`: its window field."""
    o = 1 - d
    window = raw if flags & SYN else raw << np.int64(conns["wscale"][row, d])
    if np.int64(conns["window"][row, d]) < window:
        conns["window"][row, d] = window
    if _before(np.int64(conns["lo"][row, d]), end):
        conns["lo"][row, d] = end
        _set_flag(conns, row, d, LF_UNACKNOWLEDGED)
    if flags & ACK and (conns["peer"][row, d] & LF_MAX_ACK == 0 or _before(np.int64(conns["max_ack"][row, d]), ack)):
        conns["max_ack"][row, d] = ack
        _set_flag(conns, row, d, LF_MAX_ACK)
    hi = np.int64(conns["hi"][row, d])
    other_window = np.int64(conns["window"][row, o])
    if other_window != 0 and _before(hi, end):
        conns["window"][row, o] = (other_window + end - hi) & _U32
    if _before(np.int64(conns["hi"][row, o]) - 1, ack + window):
        conns["hi"][row, o] = (ack + max(window, 1)) & _U32
    if ack == np.int64(conns["lo"][row, o]):
        conns["peer"][row, o] = np.int64(conns["peer"][row, o]) & ~LF_UNACKNOWLEDGED & 0xFF
    if kind == L.ACK:
        _count_retransmissions(conns, row, d, seq, ack, end, raw)


@kernel
def _count_retransmissions(conns: Any, row: Any, d: Any, seq: Any, ack: Any, end: Any, window: Any) -> Any:
    last = np.int64(conns["last_index"][row])
    if (
        (last & _DIRECTION != 0) == (d != 0)
        and np.int64(conns["last_seq"][row]) == seq
        and np.int64(conns["last_ack"][row]) == ack
        and np.int64(conns["last_end"][row]) == end
        and np.int64(conns["last_window"][row]) == window
    ):
        times: Any = min((last >> _RETRANSMISSIONS) + 1, MAX_RETRANSMISSIONS)
        conns["last_index"][row] = (last & (_KIND | _DIRECTION)) | times << _RETRANSMISSIONS
        return
    conns["last_index"][row] = (last & _KIND) | d * _DIRECTION
    conns["last_seq"][row] = seq
    conns["last_ack"][row] = ack
    conns["last_end"][row] = end
    conns["last_window"][row] = window


@kernel
def _check_window(
    conns: Any,
    row: Any,
    d: Any,
    kind: Any,
    flags: Any,
    seq: Any,
    ack: Any,
    raw: Any,
    wscale: Any,
    end: Any,
    liberal: Any,
) -> Any:
    """_ACCEPT, _IGNORE, _INVALID or _INVALID_ACK; takes the segment's numbers over when it is inside the window."""
    o = 1 - d
    state = np.int64(conns["state"][row])
    restarted = flags & SYN and (state == L.SYN_SENT or state == L.SYN_RECV)
    if conns["window"][row, d] == 0:
        if flags & SYN:
            _start_sender(conns, row, d, end, raw, wscale)
            if not flags & ACK:
                return _ACCEPT
        else:
            _start_in_the_middle(conns, row, d, end, ack, raw)
    elif restarted and _before(np.int64(conns["lo"][row, d]), end):
        _start_sender(conns, row, d, end, raw, wscale)
        if d == L.REPLY and not flags & ACK:
            return _ACCEPT

    lo = np.int64(conns["lo"][row, d])
    other_lo = np.int64(conns["lo"][row, o])
    # No acknowledgement to check; some stacks leave it zero in a RST-ACK.
    if not flags & ACK or (flags & RST and ack == 0):
        ack = other_lo
    if flags & RST and seq == 0 and state == L.SYN_SENT:
        seq = lo
        end = lo
    other_window = np.int64(conns["window"][row, o])
    behind: Any = max(np.int64(conns["window"][row, d]), ACK_WINDOW)
    ack_is_recent = _before(other_lo - behind - 1, ack)
    ack_was_sent = _before(ack, other_lo + 1)
    reaches_window = _before(lo - other_window - 1, end)
    hi = np.int64(conns["hi"][row, d])
    verdict = _ACCEPT
    inside = True
    if not _before(seq, hi + 1):
        # Sent a little more than the receiver allowed: remember the end, or its acknowledgement would be invalid too.
        inside = False
        verdict = _INVALID
        overshot = (end - hi + 1) & _U32
        if other_window and reaches_window and ack_is_recent and ack_was_sent and overshot <= other_window:
            conns["lo"][row, d] = end
            _set_flag(conns, row, d, LF_UNACKNOWLEDGED)
            verdict = _IGNORE
    elif not ack_was_sent:
        inside = False
        verdict = _INVALID_ACK
    elif (other_window and not reaches_window) or not ack_is_recent:
        inside = False
        verdict = _IGNORE
    if inside:
        _accept(conns, row, d, kind, flags, seq, ack, raw, end)
    return _ACCEPT if liberal else verdict


@kernel
def _check_reset(conns: Any, row: Any, d: Any, seq: Any, ack: Any) -> Any:
    """What to do with a RST: _ACCEPT (if the window agrees), _INVALID, _KEEP_STATE or _SKIP_WINDOW."""
    o = 1 - d
    state = np.int64(conns["state"][row])
    if L.FIN_WAIT <= state <= L.CLOSE:
        # Closing: the ports may be in use again already, with numbers that we don't know.
        return _SKIP_WINDOW
    own = np.int64(conns["flags"][row])
    established = state == L.ESTABLISHED and own & S.F_ASSURED != 0
    last = np.int64(conns["last_index"][row]) & _KIND
    result = _ACCEPT
    if conns["peer"][row, o] & LF_MAX_ACK and last != L.SYN:
        if seq == 0 and not established:
            return _ACCEPT
        max_ack = np.int64(conns["max_ack"][row, o])
        if _before(seq, max_ack):
            return _INVALID
        if not established or seq == max_ack:
            return _ACCEPT
        same_side = (np.int64(conns["last_index"][row]) & _DIRECTION != 0) == (d != 0)
        if last == L.ACK and same_side and seq == np.int64(conns["last_end"][row]):
            return _ACCEPT
        # Not exact, so the receiver answers with a challenge ACK: the connection may live on.
        result = _KEEP_STATE
    answers_syn = own & S.F_SEEN_REPLY != 0 and last == L.SYN
    answers_ack = own & S.F_ASSURED == 0 and last == L.ACK
    if (answers_syn or answers_ack) and ack == np.int64(conns["last_end"][row]):
        return _SKIP_WINDOW
    return result


@kernel
def _answers_ignored_syn(conns: Any, row: Any, d: Any, kind: Any, ack: Any) -> Any:
    last = np.int64(conns["last_index"][row])
    return (
        kind == L.SYN_ACK
        and last & _KIND == L.SYN
        and (last & _DIRECTION != 0) != (d != 0)
        and ack == np.int64(conns["last_end"][row])
    )


@kernel
def _adopt_ignored_syn(conns: Any, row: Any, d: Any) -> Any:
    """A SYN that was let through is answered: both ends agree, so go on from its numbers."""
    o = 1 - d
    last_flags = np.int64(conns["last_flags"][row]) & ~LF_CHALLENGE & 0xFF
    conns["last_flags"][row] = last_flags
    conns["lo"][row, o] = conns["last_end"][row]
    conns["hi"][row, o] = conns["last_end"][row]
    conns["window"][row, o] = max(np.int64(conns["last_window"][row]), 1)
    conns["wscale"][row, o] = last_flags & _SCALE
    conns["peer"][row, o] = LF_WINDOW_SCALE if last_flags & _LAST_SCALED else 0
    conns["lo"][row, d] = 0
    conns["hi"][row, d] = 0
    conns["window"][row, d] = 0
    conns["max_ack"][row, d] = 0
    conns["max_ack"][row, o] = 0
    conns["wscale"][row, d] = 0
    conns["peer"][row, d] = 0


@kernel
def _remember_ignored(
    conns: Any, row: Any, d: Any, kind: Any, seq: Any, ack: Any, window: Any, wscale: Any, end: Any, state: Any
) -> Any:
    """Keep what the answer to a segment let through unjudged will be held against."""
    times = np.int64(conns["last_index"][row]) >> _RETRANSMISSIONS
    conns["last_index"][row] = kind | d * _DIRECTION | times << _RETRANSMISSIONS
    conns["last_seq"][row] = seq
    conns["last_end"][row] = end
    conns["last_window"][row] = window
    if kind == L.SYN and d == L.ORIGINAL:
        challenge = LF_CHALLENGE if state == L.LAST_ACK else 0
        scaled = 0 if wscale == WSCALE_ABSENT else _LAST_SCALED
        conns["last_flags"][row] = _shift_of(wscale) | scaled | challenge
    if state == L.SYN_SENT and kind == L.ACK and d == L.REPLY:
        conns["last_ack"][row] = ack


@kernel
def _is_challenge_ack(conns: Any, row: Any, d: Any, kind: Any, state: Any) -> Any:
    last = np.int64(conns["last_index"][row])
    return (
        state == L.LAST_ACK
        and kind == L.ACK
        and last & _KIND == L.SYN
        and (last & _DIRECTION != 0) != (d != 0)
        and conns["last_flags"][row] & LF_CHALLENGE != 0
    )


@kernel
def _may_reopen(conns: Any, row: Any, d: Any) -> Any:
    """Whether a SYN after the end begins a new connection: one side closed properly, or this one aborted."""
    last = np.int64(conns["last_index"][row])
    closed = (np.int64(conns["peer"][row, 0]) | np.int64(conns["peer"][row, 1])) & LF_CLOSE_INIT != 0
    return closed or (last & _KIND == L.RST and (last & _DIRECTION != 0) == (d != 0))


@kernel
def _valid(conns: Any, row: Any, d: Any) -> Any:
    """Only a reply makes a connection established."""
    if d == L.REPLY or np.int64(conns["flags"][row]) & S.F_SEEN_REPLY:
        return np.int64(S.UPDATE_VALID)
    return np.int64(S.UPDATE_VALID_NEW)


@kernel
def _timeout_class(conns: Any, row: Any, kind: Any, state: Any, timeouts: Any, policy: Any) -> Any:
    """What `_usual_timeout` says, or a shorter one for what was picked up in mid-stream and not answered yet."""
    usual = _usual_timeout(conns, row, kind, state, timeouts, policy)
    unanswered = state == L.ESTABLISHED and np.int64(conns["flags"][row]) & S.F_SEEN_REPLY == 0
    if unanswered and timeouts[policy, usual] > timeouts[policy, S.T_LINUX_UNACK]:
        return np.int64(S.T_LINUX_UNACK)
    return usual


@kernel
def _usual_timeout(conns: Any, row: Any, kind: Any, state: Any, timeouts: Any, policy: Any) -> Any:
    """The state's own, or a shorter one for a connection that seems stuck."""
    longest = timeouts[policy, S.T_LINUX + state]
    beyond_retrans = longest > timeouts[policy, S.T_LINUX_RETRANS]
    beyond_unack = longest > timeouts[policy, S.T_LINUX_UNACK]
    if beyond_retrans and np.int64(conns["last_index"][row]) >> _RETRANSMISSIONS >= MAX_RETRANSMISSIONS:
        return np.int64(S.T_LINUX_RETRANS)
    if kind == L.RST:
        return np.int64(S.T_LINUX + L.CLOSE)
    if beyond_unack and (np.int64(conns["peer"][row, 0]) | np.int64(conns["peer"][row, 1])) & LF_UNACKNOWLEDGED:
        return np.int64(S.T_LINUX_UNACK)
    if beyond_retrans and conns["last_window"][row] == 0:
        return np.int64(S.T_LINUX_RETRANS)
    return np.int64(S.T_LINUX + state)


@kernel
def timeout_class(conns: Any, row: Any, state: Any, timeouts: Any, policy: Any) -> Any:
    """The timeout class of a connection in this state, after a segment that carried data or an acknowledgement."""
    return _timeout_class(conns, row, np.int64(L.ACK), state, timeouts, policy)


@kernel
def _finish(
    conns: Any, row: Any, d: Any, kind: Any, old: Any, new: Any, changed: Any, timeouts: Any, policy: Any
) -> Any:
    """Move to the new state. Returns what `update` returns."""
    last = np.int64(conns["last_index"][row])
    conns["last_index"][row] = kind | d * _DIRECTION | last >> _RETRANSMISSIONS << _RETRANSMISSIONS
    conns["state"][row] = new
    if old != new and new == L.FIN_WAIT:
        _set_flag(conns, row, d, LF_CLOSE_INIT)
    own = np.int64(conns["flags"][row])
    if own & S.F_SEEN_REPLY == 0:
        if kind == L.RST:
            conns["flags"][row] = own | S.F_DYING
    elif new == L.ESTABLISHED and (old == L.SYN_RECV or old == L.ESTABLISHED):
        conns["flags"][row] = own | S.F_ASSURED
    return _valid(conns, row, d) | _timeout_class(conns, row, kind, new, timeouts, policy) << 8 | changed


@kernel
def _invalid(conns: Any, row: Any, d: Any, kind: Any, why: Any) -> Any:
    """A segment outside the window. The second closing one, from the other side, shortens the wait for the end."""
    if np.int64(conns["flags"][row]) & S.F_ASSURED and (kind == L.RST or kind == L.FIN):
        last = np.int64(conns["last_index"][row])
        closing = last & _KIND == L.RST or last & _KIND == L.FIN
        if closing and (last & _DIRECTION != 0) != (d != 0):
            return S.UPDATE_INVALID | S.T_LINUX_UNACK << 8 | why << S.WHY_SHIFT
        conns["last_index"][row] = kind | d * _DIRECTION | last >> _RETRANSMISSIONS << _RETRANSMISSIONS
    return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | why << S.WHY_SHIFT


@kernel(inline=False)
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
    timeouts: Any,
    policy: Any,
) -> Any:
    """Judge a packet of a connection and advance it.

    `check_sequence`: `states.CHECK_*`; whatever it says, resets are judged, as by nf_conntrack. `timeouts`: int64
    (policies, N_TIMEOUTS), of which row `policy` holds.

    Returns `result | timeout_class << 8`, with `states.STATE_CHANGED` added when the state changed, and the reason from
    `states.WHY_SHIFT` on beside UPDATE_INVALID. A timeout class there is an upper bound for the time left. Sets
    F_ASSURED; sets F_DYING when the connection ends with this packet, whose state stays as it is (a RST before any
    reply). Reads F_SEEN_REPLY as it was before it.
    """
    if not valid_flags(flags):
        return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | C_TCP_FLAGS << S.WHY_SHIFT
    kind = segment_kind(flags)
    end = _end_of(flags, seq, length)
    visible = np.int64(conns["state"][row])
    old = visible
    new = _next_state(d, kind, old)
    skip_window = False
    if new == L.SYN_SENT and (old == L.TIME_WAIT or old == L.CLOSE):
        if _may_reopen(conns, row, d):
            return S.UPDATE_NEW | S.KEEP_TIMER << 8
        new = np.int64(L.IGNORED)
    if new == L.INVALID:
        return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | C_STATE << S.WHY_SHIFT
    if new == L.IGNORED:
        if not _answers_ignored_syn(conns, row, d, kind, ack):
            _remember_ignored(conns, row, d, kind, seq, ack, window, wscale, end, old)
            return _valid(conns, row, d) | S.KEEP_TIMER << 8
        _adopt_ignored_syn(conns, row, d)
        old = np.int64(L.SYN_SENT)
        new = np.int64(L.SYN_RECV)
    elif new == L.TIME_WAIT and _is_challenge_ack(conns, row, d, kind, old):
        conns["last_flags"][row] = np.int64(conns["last_flags"][row]) & ~LF_CHALLENGE & 0xFF
        return _valid(conns, row, d) | S.KEEP_TIMER << 8
    elif new == L.SYN_SENT2:
        conns["last_flags"][row] = np.int64(conns["last_flags"][row]) | LF_SIMULTANEOUS
    elif new == L.SYN_RECV and d == L.REPLY and kind == L.ACK:
        if np.int64(conns["last_flags"][row]) & LF_SIMULTANEOUS:
            new = np.int64(L.ESTABLISHED)
    elif new == L.CLOSE and kind == L.RST:
        meaning = _check_reset(conns, row, d, seq, ack)
        if meaning == _INVALID:
            return S.UPDATE_INVALID | S.KEEP_TIMER << 8 | C_TCP_RESET << S.WHY_SHIFT
        skip_window = meaning == _SKIP_WINDOW
        if meaning == _KEEP_STATE:
            new = old
    if not skip_window:
        liberal = check_sequence != S.CHECK_ALL or np.int64(conns["peer"][row, d]) & LF_LIBERAL != 0
        judged = _check_window(conns, row, d, kind, flags, seq, ack, window, wscale, end, liberal)
        if judged == _IGNORE:
            return _valid(conns, row, d) | S.KEEP_TIMER << 8
        if judged != _ACCEPT:
            return _invalid(conns, row, d, kind, np.int64(C_TCP_ACK if judged == _INVALID_ACK else C_TCP_SEQUENCE))
    changed = S.STATE_CHANGED if new != visible else 0
    return _finish(conns, row, d, kind, old, new, changed, timeouts, policy)
