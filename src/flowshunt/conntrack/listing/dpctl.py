"""Lines of `ovs-appctl dpctl/dump-conntrack [-m] [-s]`."""

from __future__ import annotations

from datetime import UTC, datetime

from flowshunt.conntrack.connection import Connection, Tuple, address_text, combined_tcp_state

PROTOCOLS = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
"""Protocols that Open vSwitch calls by name; the others are numbers."""

_TCP = 6
_STATES = {"FIN_WAIT": "FIN_WAIT_1", "CLOSE": "CLOSED", "SYN_SENT2": "SYN_SENT", "NONE": "CLOSED"}


def line(connection: Connection, *, more: bool = False, statistics: bool = False) -> str:
    """One line for `connection`; `more` and `statistics` are the command's -m and -s.

    TCP states are in Open vSwitch's words, whatever the profile. Times of day are in UTC.
    """
    parts = [PROTOCOLS.get(connection.protocol, str(connection.protocol))]
    for d, word in enumerate(("orig", "reply")):
        parts.append(f"{word}=({_direction(connection, d, statistics)})")
    if statistics and connection.start_ms:
        parts.append(f"start={_time_of_day(connection.start_ms)}")
    if more:
        parts.append(f"id={connection.id}")
    if connection.zone:
        parts.append(f"zone={connection.zone}")
    if more:
        parts.append(f"status={'|'.join(connection.status) or 0}")
    if statistics and connection.offload is None:
        parts.append(f"timeout={connection.timeout_s}")
    parts += _rest(connection, more)
    return ",".join(parts)


def _rest(connection: Connection, more: bool) -> list[str]:
    parts = []
    if connection.mark:
        parts.append(f"mark={connection.mark}")
    if connection.label:
        parts.append(f"labels=0x{connection.label:x}")
    if connection.state is not None and connection.protocol == _TCP:
        state = _peers(connection) if more else f"state={combined_tcp_state(*peer_states(connection))}"
        parts.append(f"protoinfo=({state})")
    elif connection.state is not None and (tags := connection.verification_tags) is not None:
        parts.append(f"protoinfo=(state={connection.state},vtag_orig={tags[0]},vtag_reply={tags[1]})")
    if connection.helper is not None:
        parts.append(f"helper={connection.helper}")
    if more and connection.parent_tuple is not None:
        parts.append(f"parent=({tuple_text(connection.parent_tuple)})")
    return parts


def peer_states(connection: Connection) -> tuple[str, str]:
    """Of the two peers, in Open vSwitch's words. The Linux profile knows one state for both."""
    original, reply = connection.states or (connection.state or "", connection.state or "")
    return _STATES.get(original, original), _STATES.get(reply, reply)


def _peers(connection: Connection) -> str:
    original, reply = peer_states(connection)
    words = [f"state_orig={original}", f"state_reply={reply}"]
    shifts = [shift or 0 for shift in connection.wscale]
    if any(shifts):
        words += [f"wscale_orig={shifts[0]}", f"wscale_reply={shifts[1]}"]
    words += [f"flags_orig={_peer_flags(connection, 0)}", f"flags_reply={_peer_flags(connection, 1)}"]
    return ",".join(words)


def _peer_flags(connection: Connection, d: int) -> str:
    flags = []
    if connection.wscale[d] is not None:
        flags.append("WINDOW_SCALE")
    if connection.liberal[d]:
        flags.append("BE_LIBERAL")
    return "|".join(flags) or "0"


def _direction(connection: Connection, d: int, statistics: bool) -> str:
    text = tuple_text(connection.reply if d else connection.original)
    if statistics and connection.packets[d]:
        text += f",packets={connection.packets[d]},bytes={connection.bytes[d]}"
    return text


def tuple_text(way: Tuple) -> str:
    """One direction, without its brackets."""
    text = f"src={address_text(way.source)},dst={address_text(way.destination)}"
    if way.icmp_type is not None:
        return f"{text},id={way.icmp_id},type={way.icmp_type},code={way.icmp_code}"
    return f"{text},sport={way.source_port},dport={way.destination_port}"


def _time_of_day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03}"
