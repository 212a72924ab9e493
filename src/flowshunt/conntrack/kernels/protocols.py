"""What each protocol says of a packet: may it begin a connection, and what does it do to an existing one.

TCP has machines of its own, one per profile, and SCTP one in profile linux; UDP and all others know only whether the
peer answered.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels import sctp_linux, tcp, tcp_linux
from flowshunt.conntrack.kernels.adjust import own_ack
from flowshunt.jit import kernel
from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, W_FLAGS

PROTO_NONE = 59
"""IPv6: no next header. linux does not track it."""

_PLAIN = tcp.SYN | tcp.FIN | tcp.RST | tcp.ACK
STREAM_AFTER_MS = 2000
"""linux: a UDP flow answered for this long is a stream (nf_conntrack_proto_udp.c)."""


@kernel
def _tcp_valid_new(t: Any, packets: Any, i: Any, flags: Any) -> Any:
    if t.state["linux"][0]:
        return tcp_linux.valid_new(flags, np.int64(packets["seq"][i]), np.int64(packets["ack"][i]), t.state["loose"][0])
    return tcp.valid_new(flags, t.state["loose"][0])


@kernel
def valid_new(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, proto: Any, kind: Any) -> Any:
    """Whether the packet may create a connection, which `create` then must do next. An ICMP reply may not."""
    if proto == PROTO_TCP:
        return _tcp_valid_new(t, packets, i, (keys[k, W_FLAGS] >> 48) & 0xFFF)
    if t.state["linux"][0]:
        if proto == PROTO_SCTP:
            return sctp_linux.valid_new(data, packets, i, t.draft)
        if proto == PROTO_NONE and packets["family"][i] == 6:
            return False
    return kind & 1 == 0


@kernel(inline=False)
def why_not_new(t: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, proto: Any) -> Any:
    """The counter of a packet that is not `valid_new`."""
    flags = (keys[k, W_FLAGS] >> 48) & 0xFFF
    if proto == PROTO_SCTP and t.state["linux"][0]:
        return np.int64(C.C_FIRST_PACKET if sctp_linux.has_chunks(data, packets, i) else C.C_SCTP_CHUNKS)
    if proto != PROTO_TCP:
        return np.int64(C.C_FIRST_PACKET)
    if t.state["linux"][0]:
        if not tcp_linux.valid_flags(flags):
            return np.int64(C.C_TCP_FLAGS)
        in_the_middle = tcp_linux.valid_new(flags, np.int64(0), np.int64(0), np.int64(1))
    else:
        if tcp.invalid_flags(flags):
            return np.int64(C.C_TCP_FLAGS)
        in_the_middle = tcp.valid_new(flags, np.int64(1))
    return np.int64(C.C_MID_STREAM if in_the_middle else C.C_FIRST_PACKET)


@kernel(inline=False)
def _linux_tcp_create(t: Any, row: Any, packets: Any, i: Any, flags: Any, length: Any) -> Any:
    return tcp_linux.create(
        t.conns, row, flags, np.int64(packets["seq"][i]), np.int64(packets["ack"][i]),
        np.int64(packets["window"][i]), np.int64(packets["wscale"][i]), length,
        t.timeouts, _policy(t, row),
    )  # fmt: skip


@kernel
def _tcp_create(t: Any, row: Any, packets: Any, i: Any, flags: Any) -> Any:
    length = np.int64(packets["l3_end"][i]) - np.int64(packets["payload"][i])
    if t.state["linux"][0]:
        return _linux_tcp_create(t, row, packets, i, flags, length)
    return tcp.create(
        t.conns, row, flags, np.int64(packets["seq"][i]), np.int64(packets["ack"][i]),
        np.int64(packets["window"][i]), np.int64(packets["wscale"][i]), length,
    )  # fmt: skip


@kernel
def create(t: Any, row: Any, packets: Any, i: Any, keys: Any, k: Any, proto: Any) -> Any:
    """Fill the protocol's part of a new row for a packet that is `valid_new`. Returns the timeout class."""
    t.conns["state"][row] = 0
    if proto == PROTO_TCP:
        return _tcp_create(t, row, packets, i, (keys[k, W_FLAGS] >> 48) & 0xFFF)
    if t.state["linux"][0]:
        if proto == PROTO_SCTP:
            return sctp_linux.create(t.conns, row, t.draft)
        if proto == PROTO_UDP:
            return S.T_LINUX_UDP
        return S.T_LINUX_ICMP if proto == PROTO_ICMP or proto == PROTO_ICMPV6 else S.T_LINUX_GENERIC
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return S.T_ICMP_FIRST
    return S.T_UDP_FIRST if proto == PROTO_UDP else S.T_OTHER_FIRST


@kernel
def _ack_of(t: Any, row: Any, d: Any, packets: Any, i: Any) -> Any:
    """The acknowledgement of a segment in its peer's own numbers."""
    ack = np.int64(packets["ack"][i])
    return ack if t.conns["ext"][row] == 0 else own_ack(t, row, d, ack)


@kernel(inline=False)
def _linux_tcp_update(t: Any, row: Any, d: Any, packets: Any, i: Any, flags: Any, length: Any, check: Any) -> Any:
    return tcp_linux.update(
        t.conns, row, d, flags, np.int64(packets["seq"][i]), _ack_of(t, row, d, packets, i),
        np.int64(packets["window"][i]), np.int64(packets["wscale"][i]), length, check,
        t.timeouts, _policy(t, row),
    )  # fmt: skip


@kernel
def _is_back(t: Any, row: Any) -> Any:
    """Whether packets of the connection went unseen, and do so no longer."""
    return t.conns["flags"][row] & S.F_SEQ_CHECK_OFF != 0 and t.conns["watch"][row] & S.WATCH_HELD == 0


@kernel(inline=False)
def _come_back(t: Any, row: Any, d: Any, packets: Any, i: Any, length: Any) -> Any:
    """The first plain segment after packets went unseen sets both windows."""
    if t.state["linux"][0]:
        t.conns["window"][row, 0] = 0  # as for a connection picked up in the middle (flow_offload_fixup_tcp in Linux)
        t.conns["window"][row, 1] = 0
    else:
        tcp.resume(
            t.conns, row, d, np.int64(packets["seq"][i]), np.int64(packets["ack"][i]),
            np.int64(packets["window"][i]), length,
        )  # fmt: skip
    t.conns["flags"][row] = np.int64(t.conns["flags"][row]) & ~S.F_SEQ_CHECK_OFF


@kernel
def _zone(t: Any, row: Any) -> Any:
    return (t.conns["tuple"][row] >> 16) & 0xFFFF


@kernel
def _policy(t: Any, row: Any) -> Any:
    return np.int64(t.zones["policy"][_zone(t, row)])


@kernel
def _what_to_check(t: Any, row: Any) -> Any:
    """`states.CHECK_*` for a TCP connection."""
    own = np.int64(t.conns["flags"][row])
    if t.state["check_sequence"][0] == 0 or own & S.F_SEQ_CHECK_OFF:
        return np.int64(S.CHECK_NOTHING)
    zone = np.int64(t.zones["flags"][_zone(t, row)])
    liberal = own & S.F_LIBERAL | zone & C.ZONE_LIBERAL
    if zone & C.ZONE_STRICT == 0:
        liberal |= t.state["liberal"][0]
    return np.int64(S.CHECK_RESETS if liberal else S.CHECK_ALL)


@kernel
def _tcp_update(t: Any, row: Any, d: Any, packets: Any, i: Any, flags: Any) -> Any:
    length = np.int64(packets["l3_end"][i]) - np.int64(packets["payload"][i])
    if flags & _PLAIN == tcp.ACK and _is_back(t, row):
        _come_back(t, row, d, packets, i, length)
    check = _what_to_check(t, row)
    if t.state["linux"][0]:
        return _linux_tcp_update(t, row, d, packets, i, flags, length, check)
    return tcp.update(
        t.conns, row, d, flags, np.int64(packets["seq"][i]), _ack_of(t, row, d, packets, i),
        np.int64(packets["window"][i]), np.int64(packets["wscale"][i]), length, check,
    )  # fmt: skip


@kernel
def _other_update(conns: Any, row: Any, d: Any, first_class: Any) -> Any:
    before = np.int64(conns["state"][row])
    state = np.int64(S.OTHER_BIDIRECTIONAL)
    if before != S.OTHER_BIDIRECTIONAL:
        state = np.int64(S.OTHER_BIDIRECTIONAL if d == 1 else S.OTHER_MULTIPLE)
        if state != before:  # what is not written need not go back to memory
            conns["state"][row] = state
    result = S.UPDATE_VALID if state == S.OTHER_BIDIRECTIONAL else S.UPDATE_VALID_NEW
    return result | (first_class + state) << 8


@kernel
def _icmp_update(conns: Any, row: Any, d: Any) -> Any:
    if d == 1:
        conns["state"][row] = S.ICMP_REPLY
    if conns["state"][row] == S.ICMP_REPLY:
        return S.UPDATE_VALID | S.T_ICMP_REPLY << 8
    return S.UPDATE_VALID_NEW | S.T_ICMP_FIRST << 8


@kernel(inline=False)
def _linux_update(t: Any, row: Any, d: Any, proto: Any, now: Any) -> Any:
    """linux: est once a reply was seen; UDP becomes a stream, with the longer timeout, after a while."""
    flags = np.int64(t.conns["flags"][row])
    answered = d == 1 or flags & S.F_SEEN_REPLY != 0
    result = S.UPDATE_VALID if answered else S.UPDATE_VALID_NEW
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return result | S.T_LINUX_ICMP << 8
    if proto != PROTO_UDP:
        return result | S.T_LINUX_GENERIC << 8
    if flags & S.F_SEEN_REPLY and now - t.conns["start_ms"][row] > STREAM_AFTER_MS:
        t.conns["flags"][row] = flags | S.F_ASSURED
        return result | S.T_LINUX_UDP_STREAM << 8
    return result | S.T_LINUX_UDP << 8


@kernel
def update(t: Any, row: Any, d: Any, data: Any, packets: Any, i: Any, keys: Any, k: Any, proto: Any, now: Any) -> Any:
    """Judge a packet of an existing connection: `states.UPDATE_* | timeout class << 8 | STATE_CHANGED`.

    With UPDATE_INVALID also the counter of why, in the bits from `states.WHY_SHIFT` on.
    """
    if proto == PROTO_TCP:
        return _tcp_update(t, row, d, packets, i, (keys[k, W_FLAGS] >> 48) & 0xFFF)
    if t.state["linux"][0]:
        if proto == PROTO_SCTP:
            return sctp_linux.update(data, packets, i, t.conns, row, d)
        return _linux_update(t, row, d, proto, now)
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return _icmp_update(t.conns, row, d)
    return _other_update(t.conns, row, d, S.T_UDP_FIRST if proto == PROTO_UDP else S.T_OTHER_FIRST)


@kernel
def _current_class(t: Any, row: Any, policy: Any) -> Any:
    c = t.conns
    proto = (c["tuple"][row] >> 8) & 0xFF
    state = np.int64(c["state"][row])
    if t.state["linux"][0]:
        if proto == PROTO_TCP:
            return tcp_linux.timeout_class(c, row, state, t.timeouts, policy)
        if proto == PROTO_UDP:
            return np.int64(S.T_LINUX_UDP_STREAM if c["flags"][row] & S.F_ASSURED else S.T_LINUX_UDP)
        if proto == PROTO_SCTP:
            return S.T_LINUX_SCTP + state
        return np.int64(S.T_LINUX_ICMP if proto == PROTO_ICMP or proto == PROTO_ICMPV6 else S.T_LINUX_GENERIC)
    if proto == PROTO_TCP:
        return np.int64(tcp.timeout_class(np.int64(c["peer"][row, 0]), np.int64(c["peer"][row, 1])))
    if proto == PROTO_ICMP or proto == PROTO_ICMPV6:
        return S.T_ICMP_FIRST + state
    return (S.T_UDP_FIRST if proto == PROTO_UDP else S.T_OTHER_FIRST) + state


@kernel(inline=False)
def current_timeout(t: Any, row: Any) -> Any:
    """Milliseconds that a packet of this connection would give it that changes no state."""
    policy = _policy(t, row)
    return t.timeouts[policy, _current_class(t, row, policy)]
