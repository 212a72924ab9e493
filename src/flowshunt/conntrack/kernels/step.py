"""One packet through the tracker: the step that the batch loop and the datapath call."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels import protocols
from flowshunt.conntrack.kernels.buckets import find, insert, suggest_row
from flowshunt.conntrack.kernels.expectations import (
    adopt,
    attach_helper,
    find_expectation,
    helper_by_port,
    related_state,
    shown_origin,
    shown_state,
)
from flowshunt.conntrack.kernels.expected_nat import choose_expected
from flowshunt.conntrack.kernels.nat import NAT_BITS, bind, choose_reply, load_quote, translate, translate_error
from flowshunt.conntrack.kernels.nat_choice import EXHAUSTED, UNCHANGED, is_reply_free, prefetch_reply, turn_packet
from flowshunt.conntrack.kernels.policies import take_admitted_row
from flowshunt.conntrack.kernels.pools import BEGAN, note_ports
from flowshunt.conntrack.kernels.rows import advance, destroy, emit_event, is_over, set_timer, start_timer
from flowshunt.conntrack.kernels.statistics import PROTO_UNKNOWN, count, use_zone
from flowshunt.conntrack.kernels.tuples import KIND_ICMP, has_ports, hash_packet, match_row, tuple_word, turn_word
from flowshunt.jit import kernel
from flowshunt.packet.checksum import ip_checksum_ok, l4_checksum_ok
from flowshunt.packet.icmp import ICMP_ERROR, ICMP_QUERY
from flowshunt.packet.icmp import classify as classify_icmp
from flowshunt.packet.quoted import parse_quoted
from flowshunt.packet.schema import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    VERDICT_OK,
    W_ARP_SHA,
    W_CT,
    W_CT_DST,
    W_CT_L4,
    W_CT_LABEL,
    W_CT_SRC,
    W_FLAGS,
    W_L4,
    W_NW_DST,
    W_NW_SRC,
    W_PORT,
)

COMMIT = 1
FORCE = 2
HASHED = 4
"""`hashes[k]` and `candidates[k]` are the packet's, from the stages before."""
NAT = 8
"""Packets are translated as their connection is; a new one gets the NAT that `nat_spec` asks for."""
HELPER_SHIFT = 24
"""From this bit on, the flags hold the helper that a new connection gets."""

_QUERY = 0
_ERROR = 1
_ENDED = -2
_WAS_REPLY = 1 << 15
_WAS_ERROR = 1 << 14
"""Beside the state that `tracked` remembers: the packet's direction, and that it is an ICMP error."""
_STATE = _WAS_ERROR - 1
_U32 = 0xFFFFFFFF


@kernel
def forget(t: Any, k: Any) -> Any:
    """Nothing is known of packet k of the batch, which was tracked nowhere (at its beginning, and after ct_clear)."""
    t.tracked["word"][k] = 0
    t.tracked["row"][k] = -1


@kernel
def packet_is_reply(t: Any, k: Any) -> Any:
    """Direction, 0 or 1, of packet k of the batch in the connection that it was tracked in last."""
    return np.int64(1 if t.tracked["state"][k] & _WAS_REPLY else 0)


@kernel
def _write_state(keys: Any, k: Any, state: Any, zone: Any, mark: Any) -> Any:
    keys[k, W_PORT] = keys[k, W_PORT] & ~_U32 | mark
    keys[k, W_CT] = zone << 48 | state << 32


@kernel
def _write_invalid(keys: Any, k: Any, zone: Any) -> Any:
    _write_state(keys, k, np.int64(S.CS_INVALID | S.CS_TRACKED), zone, np.int64(0))
    for word in range(W_CT_LABEL, W_CT_LABEL + 2):
        keys[k, word] = 0
    for word in range(W_CT_SRC, W_CT_L4 + 1):
        keys[k, word] = 0


@kernel
def _write_own_tuple(keys: Any, k: Any) -> Any:
    """Original-direction tuple of a packet without a connection: its own."""
    l4 = keys[k, W_L4]
    keys[k, W_CT] |= ((l4 >> 24) & 0xFF) << 24
    keys[k, W_CT_SRC] = keys[k, W_NW_SRC]
    keys[k, W_CT_SRC + 1] = keys[k, W_NW_SRC + 1]
    keys[k, W_CT_DST] = keys[k, W_NW_DST]
    keys[k, W_CT_DST + 1] = keys[k, W_NW_DST + 1]
    keys[k, W_CT_L4] = ((l4 >> 32) & _U32) << 32
    keys[k, W_CT_LABEL] = 0
    keys[k, W_CT_LABEL + 1] = 0


@kernel
def _original_ports(word: Any) -> Any:
    """tp_src << 48 | tp_dst << 32 of the first packet of a tuple word: ports, or ICMP type and code."""
    kind = word & KIND_ICMP
    if kind == 0:
        return word & ~_U32
    if (word >> 8) & 0xFF == PROTO_ICMPV6:
        return np.int64(128 << 48)
    return np.int64(8 << 48) if kind == 2 else (kind + 9) << 48


@kernel
def write_fields(t: Any, keys: Any, k: Any, row: Any, state: Any, zone: Any) -> Any:
    """Fill the ct fields of keys[k] from connection `row`; the original tuple is that of its parent, if it has one."""
    c = t.conns
    first = shown_origin(t, row) if c["ext"][row] else row
    word = c["tuple"][first]
    source_high, source_low = c["source"][first, 0], c["source"][first, 1]
    destination_high, destination_low = c["destination"][first, 0], c["destination"][first, 1]
    keys[k, W_PORT] = keys[k, W_PORT] & ~_U32 | np.int64(c["mark"][row])
    keys[k, W_CT] = zone << 48 | state << 32 | (word & 0xFF00) << 16
    keys[k, W_CT_SRC] = source_high
    keys[k, W_CT_SRC + 1] = source_low
    keys[k, W_CT_DST] = destination_high
    keys[k, W_CT_DST + 1] = destination_low
    keys[k, W_CT_L4] = _original_ports(word)
    if c["flags"][row] & S.F_HAS_LABEL:
        keys[k, W_CT_LABEL] = c["label"][row, 0]
        keys[k, W_CT_LABEL + 1] = c["label"][row, 1]
    else:
        keys[k, W_CT_LABEL] = 0
        keys[k, W_CT_LABEL + 1] = 0


@kernel
def _protocol(keys: Any, k: Any) -> Any:
    return (keys[k, W_L4] >> 24) & 0xFF


@kernel(inline=False)
def _reject(t: Any, keys: Any, k: Any, zone: Any, counter: Any) -> Any:
    count(t, zone, np.int64(PROTO_UNKNOWN) if counter == C.C_NOT_IP else _protocol(keys, k), counter)
    _write_invalid(keys, k, zone)
    return np.int64(-1)


@kernel(inline=False)
def _refuse(t: Any, keys: Any, k: Any, zone: Any, counter: Any) -> Any:
    """There is no room for the packet's connection: it stays new, as in Open vSwitch; linux would drop it: invalid."""
    if t.state["linux"][0]:
        return _reject(t, keys, k, zone, counter)
    count(t, zone, _protocol(keys, k), counter)
    _write_state(keys, k, np.int64(S.CS_NEW | S.CS_TRACKED), zone, np.int64(0))
    _write_own_tuple(keys, k)
    return np.int64(-1)


@kernel
def classify(packets: Any, i: Any, keys: Any, k: Any, linux: Any) -> Any:
    """What the tracker can do with a packet: 0 look it up, 1 it is an ICMP error, below 0: minus the counter."""
    if packets["family"][i] == 0 or (linux and keys[k, W_ARP_SHA] & 0xFFFF):  # linux does not see two VLAN tags
        return np.int64(-C.C_NOT_IP)
    l4 = keys[k, W_L4]
    if l4 & 0xFF:
        return np.int64(-C.C_FRAGMENT)
    if packets["verdict"][i] != VERDICT_OK or packets["l4"][i] == 0:
        return np.int64(-C.C_MALFORMED)
    proto = (l4 >> 24) & 0xFF
    if has_ports(proto):
        portless = (l4 >> 48) & 0xFFFF == 0 or (l4 >> 32) & 0xFFFF == 0
        return np.int64(-C.C_MALFORMED if portless and not linux else _QUERY)
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return _classify_icmp(proto, (l4 >> 48) & 0xFFFF, (l4 >> 32) & 0xFFFF, linux)
    return np.int64(_QUERY)


@kernel(inline=False)
def _classify_icmp(proto: Any, icmp_type: Any, code: Any, linux: Any) -> Any:
    meaning = classify_icmp(proto, icmp_type)
    if meaning == ICMP_ERROR:
        return np.int64(_ERROR)
    if meaning == ICMP_QUERY and (code == 0 or linux):
        return np.int64(_QUERY)
    if linux and proto == PROTO_ICMP and (icmp_type == 17 or icmp_type == 18):
        return np.int64(_QUERY)
    return np.int64(-C.C_ICMP_TYPE)


@kernel
def packet_word(packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Tuple word of packet i in keys[k], zone 0."""
    return tuple_word(keys, k, np.int64(packets["family"][i]), np.int64(packets["icmp_id"][i]))


@kernel
def checksums_ok(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Whether packet i's checksums are right, or nobody asks."""
    if t.state["check_checksums"][0] == 0:
        return True
    return ip_checksum_ok(data, packets, i) and l4_checksum_ok(data, packets, i, keys, k)


@kernel(inline=False)
def _track_error(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, flags: Any, now: Any) -> Any:
    """An ICMP error belongs to the connection of the packet that it quotes, against that packet's direction."""
    word = load_quote(t, keys, k)
    if word == 0:
        if not parse_quoted(data, packets, i, t.inner_key, 0, i):
            return _reject(t, keys, k, zone, C.C_ICMP_ERROR)
        word = packet_word(packets, i, t.inner_key, 0)
    ports_ok = (word >> 48) & 0xFFFF != 0 and (word >> 32) & 0xFFFF != 0
    if t.state["linux"][0] == 0 and has_ports((word >> 8) & 0xFF) and not ports_ok:
        return _reject(t, keys, k, zone, C.C_ICMP_ERROR)
    for half in range(2):  # the error goes where an answer to the quoted packet would go
        source = t.inner_key[0, W_NW_SRC + half]
        t.inner_key[0, W_NW_SRC + half] = t.inner_key[0, W_NW_DST + half]
        t.inner_key[0, W_NW_DST + half] = source
    word = turn_word(word)
    found = find(t, hash_packet(t.state, t.inner_key, 0, word), t.inner_key, 0, word | zone << 16)
    row = found >> 1
    if found < 0 or is_over(t, row, now):
        return _reject(t, keys, k, zone, C.C_ICMP_UNKNOWN)
    d = found & 1
    state = np.int64(S.CS_RELATED | S.CS_TRACKED | _WAS_ERROR) | d * (S.CS_REPLY | _WAS_REPLY)
    if flags & NAT:
        state |= translate_error(t, keys, k, row, d)
    count(t, zone, _protocol(keys, k), np.int64(C.C_RELATED))
    return _remember(t, keys, k, row, state, zone)


@kernel
def _remember(t: Any, keys: Any, k: Any, row: Any, state: Any, zone: Any) -> Any:
    """Show in the key, and keep, in which state (with `_WAS_REPLY`, `_WAS_ERROR`) the packet was in this zone."""
    write_fields(t, keys, k, row, state & _STATE, zone)
    t.tracked["row"][k] = row
    t.tracked["generation"][k] = t.conns["generation"][row]
    t.tracked["state"][k] = state
    t.tracked["zone"][k] = zone
    return row


@kernel
def _count(t: Any, row: Any, d: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    t.conns["packets"][row, d] += 1
    t.conns["bytes"][row, d] += np.int64(packets["l3_end"][i]) - np.int64(packets["l3"][i])
    seen = np.int64(t.conns["tcp_flags"][row, d])
    flags = (keys[k, W_FLAGS] >> 48) & 0xFF
    if flags & ~seen:
        t.conns["tcp_flags"][row, d] = seen | flags


@kernel
def _is_known(t: Any, k: Any) -> Any:
    """Whether another zone has a connection for the packet."""
    row = t.tracked["row"][k]
    return row >= 0 and t.tracked["generation"][k] == t.conns["generation"][row]


@kernel
def _extend(t: Any, row: Any, word: Any, flags: Any, expected: Any) -> Any:
    """Give a new connection its parent or its helper, if it has any."""
    if expected >= 0:
        adopt(t, row, expected)
    helper = (flags >> HELPER_SHIFT) & 0xFF
    if helper == 0 and expected < 0 and t.state["helper_ports"][0, 0] != 0:
        helper = helper_by_port(t, word)
    if helper != 0:
        attach_helper(t, row, helper)


@kernel
def _insert(
    t: Any, packets: Any, i: Any, keys: Any, k: Any, flags: Any, hashed: Any, word: Any, expected: Any, now: Any
) -> Any:
    """Commit a new connection for the packet, the one of expectation `expected` if that is not -1.

    Returns its row, or minus the counter of why there is no room.
    """
    zone = (word >> 16) & 0xFFFF
    proto = (word >> 8) & 0xFF
    row = take_admitted_row(t, hashed, zone, _is_known(t, k), now)
    if row < 0:
        return row
    c = t.conns
    for half in range(2):
        c["source"][row, half] = keys[k, W_NW_SRC + half]
        c["destination"][row, half] = keys[k, W_NW_DST + half]
        c["label"][row, half] = 0
        c["packets"][row, half] = 0
        c["bytes"][row, half] = 0
        c["tcp_flags"][row, half] = 0
        c["peer"][row, half] = 0
    c["tuple"][row] = word
    c["mark"][row] = 0
    c["flags"][row] = S.F_LIVE
    c["ext"][row] = 0
    c["watch"][row] = 0
    c["start_ms"][row] = now
    in_port = t.state["home"][0] | np.int64(packets["in_port"][i])
    c["in_port"][row] = in_port
    timeout = protocols.create(t, row, packets, i, keys, k, proto)
    start_timer(t, row, now + t.timeouts[np.int64(t.zones["policy"][zone]), timeout])
    insert(t, hashed, row)
    _count(t, row, np.int64(0), packets, i, keys, k)
    count(t, zone, proto, np.int64(C.C_INSERTED))
    _extend(t, row, word, flags, expected)
    emit_event(t, row, C.EVENT_CREATED, 0, 0, in_port, now)
    return row


@kernel(inline=False)
def _track_new(
    t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, flags: Any, hashed: Any, word: Any, now: Any
) -> Any:
    proto = (word >> 8) & 0xFF
    if not protocols.valid_new(t, data, packets, i, keys, k, proto, word & KIND_ICMP):
        return _reject(t, keys, k, zone, protocols.why_not_new(t, data, packets, i, keys, k, proto))
    state = np.int64(S.CS_NEW | S.CS_TRACKED)
    expected = np.int64(-1)
    if t.state["n_expected"][0] != 0:
        expected = find_expectation(t, keys, k, word, now)
        if expected >= 0:
            state = related_state(t, state)
    if flags & COMMIT:
        nat = np.int64(UNCHANGED)
        t.state["nat_new"][0] = 0
        if flags & NAT:
            if expected >= 0:
                nat = choose_expected(t, keys, k, word, expected, hashed, now)
            else:
                nat = choose_reply(t, keys, k, word, hashed, now)
            if nat == EXHAUSTED:
                return _reject(t, keys, k, zone, C.C_NAT_EXHAUSTED)
        elif t.state["n_ext_fresh"][0] > t.state["n_ext_free"][0] and not is_reply_free(t, keys, k, word, now):
            return _reject(t, keys, k, zone, C.C_REPLY_TAKEN)
        row = _insert(t, packets, i, keys, k, flags, hashed, word, expected, now)
        if row < 0:
            return _refuse(t, keys, k, zone, -row)
        if nat != UNCHANGED:
            bind(t, row, nat)
            state |= translate(t, keys, k, row, np.int64(0))
        if t.state["n_pools"][0]:
            note_ports(t, row, np.int64(BEGAN))
        count(t, zone, proto, np.int64(C.C_NEW))
        return _remember(t, keys, k, row, state, zone)
    count(t, zone, proto, np.int64(C.C_NEW))
    if expected >= 0:
        write_fields(t, keys, k, np.int64(t.expectations["parent_row"][expected]), state, zone)
        return np.int64(-1)
    _write_state(keys, k, state, zone, np.int64(0))
    _write_own_tuple(keys, k)
    return np.int64(-1)


@kernel(inline=False)
def _reply(t: Any, row: Any, packets: Any, i: Any, now: Any) -> Any:
    """The first packet in the reply direction, or another that a module waits for."""
    t.conns["flags"][row] = np.int64(t.conns["flags"][row]) | S.F_SEEN_REPLY
    t.conns["watch"][row] = np.int64(t.conns["watch"][row]) & ~S.WATCH_REPLY
    emit_event(t, row, C.EVENT_REPLY, 0, 1, t.state["home"][0] | np.int64(packets["in_port"][i]), now)


@kernel
def _update(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, row: Any, d: Any, word: Any, now: Any) -> Any:
    """Take the packet into connection `row`, with timer, counters and events: what `protocols.update` returns."""
    proto = (word >> 8) & 0xFF
    verdict = protocols.update(t, row, d, data, packets, i, keys, k, proto, now)
    result = verdict & S.RESULT_MASK
    timeout = (verdict >> 8) & 0xFF
    if timeout != S.KEEP_TIMER:
        expires = now + t.timeouts[np.int64(t.zones["policy"][(word >> 16) & 0xFFFF]), timeout]
        # linux: an invalid packet may shorten a life, never lengthen it
        if result != S.UPDATE_INVALID or expires < t.conns["expires_ms"][row]:
            set_timer(t, row, expires)
    if result == S.UPDATE_INVALID or result == S.UPDATE_NEW:
        return verdict
    _count(t, row, d, packets, i, keys, k)
    if d == 1 and (t.conns["flags"][row] & S.F_SEEN_REPLY == 0 or t.conns["watch"][row] & S.WATCH_REPLY):
        _reply(t, row, packets, i, now)
    if verdict & S.STATE_CHANGED:
        emit_event(t, row, C.EVENT_STATE, 0, d, t.state["home"][0] | np.int64(packets["in_port"][i]), now)
    return verdict


@kernel
def _meet(
    t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, flags: Any, word: Any, found: Any, now: Any
) -> Any:
    """Take the packet into the connection that it belongs to. Returns its row, -1 (invalid), or _ENDED.

    _ENDED: that connection was over (or overruled by force) and is destroyed; the packet may begin another.
    """
    row = found >> 1
    d = found & 1
    reason = np.int64(-1)
    if is_over(t, row, now):
        reason = np.int64(C.REASON_EXPIRED)
    elif flags & FORCE and d == 1:
        reason = np.int64(C.REASON_FORCED)
    else:
        verdict = _update(t, data, packets, i, keys, k, row, d, word, now)
        result = verdict & S.RESULT_MASK
        state = np.int64(S.CS_TRACKED)
        if flags & NAT and result != S.UPDATE_NEW:
            state |= _translate_met(t, keys, k, row, d, result)
        if result == S.UPDATE_VALID:
            state |= S.CS_ESTABLISHED | (S.CS_REPLY | _WAS_REPLY if d == 1 else 0)
            return _accept(t, keys, k, row, state, zone, now)
        if result == S.UPDATE_VALID_NEW:
            state |= S.CS_NEW | (_WAS_REPLY if d == 1 else 0)
            return _accept(t, keys, k, row, state, zone, now)
        if result == S.UPDATE_INVALID:
            count(t, zone, (word >> 8) & 0xFF, verdict >> S.WHY_SHIFT)
            if state & NAT_BITS:  # its tuple is no longer the one to find it by
                _remember(t, keys, k, row, state | S.CS_INVALID, zone)
            else:
                write_fields(t, keys, k, row, state | S.CS_INVALID, zone)
            return np.int64(-1)
        reason = np.int64(C.REASON_REPLACED)
    destroy(t, row, reason, now)
    return np.int64(_ENDED)


@kernel
def _translate_met(t: Any, keys: Any, k: Any, row: Any, d: Any, result: Any) -> Any:
    """Translate a packet, also an invalid one, which Linux leaves alone. Returns its ct_state bits."""
    if t.conns["ext"][row] == 0 or (result == S.UPDATE_INVALID and t.state["linux"][0]):
        return np.int64(0)
    return translate(t, keys, k, row, d)


@kernel
def _accept(t: Any, keys: Any, k: Any, row: Any, state: Any, zone: Any, now: Any) -> Any:
    count(t, zone, _protocol(keys, k), np.int64(C.C_FOUND))
    if t.conns["ext"][row] != 0:
        state = shown_state(t, row, state)
    _remember(t, keys, k, row, state, zone)
    if t.conns["flags"][row] & S.F_DYING:  # linux: this packet was its last
        destroy(t, row, C.REASON_CLOSED, now)
        return np.int64(-1)
    return row


@kernel
def _look_up(t: Any, keys: Any, k: Any, hashed: Any, word: Any, flags: Any) -> Any:
    """`find`, beginning with the row that the packet's bucket suggested."""
    row = t.candidates[k]
    if flags & HASHED and row >= 0 and t.conns["flags"][row] & S.F_LIVE:
        direction = match_row(t, row, keys, k, word)
        if direction >= 0:
            return row << 1 | direction
    return find(t, hashed, keys, k, word)


@kernel(inline=False)
def _is_of(t: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, row: Any, d: Any) -> Any:
    """Whether the packet has the tuple of connection `row` in direction `d` (-1: any), or what it is translated to."""
    word = packet_word(packets, i, keys, k) | zone << 16
    found = match_row(t, row, keys, k, word)
    if found >= 0 and (found == d or d < 0):
        return True
    turn_packet(t, keys, k)
    found = match_row(t, row, t.nat_key, np.int64(0), turn_word(word))
    return found >= 0 and (found == 1 - d or d < 0)


@kernel(inline=False)
def _comes_back(t: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, flags: Any, now: Any) -> Any:
    """Whether this is the zone where the packet was tracked last, and the connection lives; then it is as before.

    One that actions have given another tuple is tracked anew. It is translated now if it was not then, and never twice.
    Force, which only means something to a reply, is not satisfied; a translated packet no longer leads to its
    connection, which therefore ends here.
    """
    row = t.tracked["row"][k]
    state = np.int64(t.tracked["state"][k])
    if t.tracked["zone"][k] != zone or t.tracked["generation"][k] != t.conns["generation"][row]:
        return False
    d = np.int64(1 if state & _WAS_REPLY else 0)
    known = np.int64(-1) if state & S.CS_INVALID else d  # of what is invalid the direction was not kept
    if flags & HASHED == 0 and state & _WAS_ERROR == 0 and not _is_of(t, packets, i, keys, k, zone, row, known):
        t.tracked["row"][k] = -1
        return False
    if flags & FORCE and state & S.CS_REPLY:
        if state & NAT_BITS:
            destroy(t, row, C.REASON_FORCED, now)
        return False
    if flags & NAT and state & NAT_BITS == 0 and t.conns["ext"][row]:
        state |= translate_error(t, keys, k, row, d) if state & _WAS_ERROR else translate(t, keys, k, row, d)
    count(t, zone, _protocol(keys, k), np.int64(C.C_AGAIN))
    _remember(t, keys, k, row, state, zone)
    return True


@kernel
def track(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, zone: Any, flags: Any, now_ms: Any) -> Any:
    """Send packet i of `packets`, parsed into keys[k], through the tracker in `zone`.

    `flags`: COMMIT, FORCE, HASHED, NAT, a helper << HELPER_SHIFT. `now_ms`: the packet's time (see `rows.advance`).
    Sets the ct fields of keys[k], and with NAT what is translated. Returns the connection's row, or -1 (new and not
    committed, invalid). There must be room for EVENTS_PER_TRACK events. A packet that comes back to the zone where it
    was tracked last keeps its state, as in Open vSwitch and Linux, unless its tuple was changed since.
    """
    now = advance(t, now_ms)
    use_zone(t, zone)
    if t.tracked["row"][k] >= 0 and _comes_back(t, packets, i, keys, k, zone, flags, now):
        return np.int64(-1 if t.tracked["state"][k] & S.CS_INVALID else t.tracked["row"][k])
    word = t.tracked["word"][k] if flags & HASHED else np.int64(0)
    kind = np.int64(_QUERY)
    if word == 0:
        kind = classify(packets, i, keys, k, t.state["linux"][0])
        if kind < 0:
            return _reject(t, keys, k, zone, -kind)
        word = packet_word(packets, i, keys, k)
    if not checksums_ok(t, data, packets, i, keys, k):
        return _reject(t, keys, k, zone, C.C_CHECKSUM)
    if kind == _ERROR:
        return _track_error(t, data, packets, i, keys, k, zone, flags, now)
    hashed = t.hashes[k] if flags & HASHED else hash_packet(t.state, keys, k, word)
    word |= zone << 16
    found = _look_up(t, keys, k, hashed, word, flags)
    met = np.int64(_ENDED)
    if found >= 0:
        met = _meet(t, data, packets, i, keys, k, zone, flags, word, found, now)
    if met != _ENDED:
        return met
    return _track_new(t, data, packets, i, keys, k, zone, flags, hashed, word, now)


@kernel
def hash_parsed(t: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """First stage of a batch: the packet's tuple hash into hashes[k], for `buckets.prefetch_bucket`."""
    word = packet_word(packets, i, keys, k)
    hashed = hash_packet(t.state, keys, k, word)
    t.hashes[k] = hashed
    t.tracked["word"][k] = word if classify(packets, i, keys, k, t.state["linux"][0]) == _QUERY else np.int64(0)
    t.tracked["row"][k] = -1


@kernel
def suggest(t: Any, keys: Any, k: Any) -> Any:
    """Second stage of a batch: the row that packet k may belong to into candidates[k], on its way into the cache."""
    row = suggest_row(t, t.hashes[k])
    t.candidates[k] = row
    if row < 0 and t.state["nat_new"][0] and t.tracked["word"][k] != 0:
        prefetch_reply(t, keys, k, t.tracked["word"][k], t.hashes[k])


@kernel(inline=False)
def set_mark(t: Any, row: Any, value: Any, mask: Any, now: Any) -> Any:
    """Set the bits of `mask` in a connection's mark; an event tells when it changed."""
    old = np.int64(t.conns["mark"][row])
    new = (old & ~mask | value & mask) & _U32
    if new != old:
        t.conns["mark"][row] = new
        emit_event(t, row, C.EVENT_MARK, 0, 0, np.int64(t.conns["in_port"][row]), now)


@kernel(inline=False)
def set_label(t: Any, row: Any, high: Any, low: Any, mask_high: Any, mask_low: Any, now: Any) -> Any:
    """Set the bits of the mask in a connection's 128-bit label; an event tells when it changed."""
    c = t.conns
    high = c["label"][row, 0] & ~mask_high | high & mask_high
    low = c["label"][row, 1] & ~mask_low | low & mask_low
    if high == c["label"][row, 0] and low == c["label"][row, 1]:
        return
    c["label"][row, 0] = high
    c["label"][row, 1] = low
    emit_event(t, row, C.EVENT_LABEL, 0, 0, np.int64(t.conns["in_port"][row]), now)
    if c["label"][row, 0] != 0 or c["label"][row, 1] != 0:
        c["flags"][row] = np.int64(c["flags"][row]) | S.F_HAS_LABEL
