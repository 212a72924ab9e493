"""TCP as Open vSwitch's userspace tracker follows it: pf's two peers, each with a state and a window.

Written from the behaviour of lib/conntrack-tcp.c (2026), in plain Python integers. Sequence numbers are compared
modulo 2**32. Names: `low` is the highest sequence number sent (+1), `high` the end of what the other side allows,
`window` the largest one advertised before scaling.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.oracle.frames import ACK, FIN, PSH, RST, SYN, URG, Tcp

CLOSED, LISTEN, SYN_SENT, SYN_RECV, ESTABLISHED, CLOSE_WAIT, FIN_WAIT_1, CLOSING, LAST_ACK, FIN_WAIT_2, TIME_WAIT = (
    range(11)
)
NAMES = (
    "CLOSED", "LISTEN", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "CLOSE_WAIT",
    "FIN_WAIT_1", "CLOSING", "LAST_ACK", "FIN_WAIT_2", "TIME_WAIT",
)  # fmt: skip
TIMEOUTS_S = {
    "first": 30, "opening": 30, "established": 24 * 3600, "closing": 15 * 60, "fin_wait": 45, "closed": 30,
}  # fmt: skip

INVALID, VALID, VALID_NEW, NEW = "invalid", "valid", "valid new", "new"

SLACK = 0xFFFF + 1500
"""How far an acknowledgement may be off, either way."""
MOST_SCALE = 14


@dataclass
class Peer:
    state: int = CLOSED
    low: int = 0
    high: int = 0
    window: int = 0
    scale: int | None = None  # None: did not offer scaling
    scale_unknown: bool = False  # picked up in mid-stream


def signed(value: int) -> int:
    return (value + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def at_least(a: int, b: int) -> bool:
    return signed(a - b) >= 0


def flags_are_invalid(flags: int) -> bool:
    if flags & SYN:
        if flags & (RST | FIN):
            return True
    elif not flags & (ACK | RST):
        return True
    return not flags & ACK and bool(flags & (FIN | PSH | URG))


def may_start(segment: Tcp, loose: bool = True) -> bool:
    if not loose and not segment.flags & SYN:
        return False
    return not flags_are_invalid(segment.flags) and segment.flags & (SYN | ACK) != SYN | ACK


def unscaled(window: int, scale: int | None) -> int:
    """The window in units of the scale, rounded up."""
    return -(-window >> (scale or 0))


def start(segment: Tcp) -> tuple[list[Peer], str]:
    """The peers of a new connection, and the name of its timeout."""
    source, target = Peer(SYN_SENT), Peer(CLOSED, high=1, window=1)
    source.low = segment.seq
    source.high = segment.seq + segment.length + 1
    if segment.flags & SYN:
        source.high += 1
        source.scale = segment.scale
    else:
        source.scale_unknown = target.scale_unknown = True
    if segment.flags & FIN:
        source.high += 1
    source.high &= 0xFFFFFFFF
    source.window = unscaled(max(segment.window, 1), source.scale)
    return [source, target], "first"


def follow(
    peers: list[Peer], reply: bool, segment: Tcp, *, check_sequence: bool = True, liberal: bool = False
) -> tuple[str, str | None]:
    """What a segment of a known connection is, and the name of the timeout it starts (None: leave the timer).

    `liberal`: only resets are held against the window.
    """
    source, target = (peers[1], peers[0]) if reply else (peers[0], peers[1])
    flags, window = segment.flags, segment.window
    if flags_are_invalid(flags):
        return INVALID, None
    if flags & (SYN | ACK) == SYN:
        if source.state >= FIN_WAIT_2 and target.state >= FIN_WAIT_2:
            source.state = target.state = CLOSED
            return NEW, None
        if source.state <= SYN_SENT:
            source.state = SYN_SENT
            return VALID_NEW, "first"

    source_scale = target_scale = 0
    if not flags & SYN:
        if source.scale is not None and target.scale is not None:
            source_scale, target_scale = source.scale, target.scale
        elif source.scale_unknown and target.scale_unknown:
            source_scale = target_scale = MOST_SCALE

    seq, end = segment.seq, segment.seq + segment.length + bool(flags & SYN) + bool(flags & FIN) & 0xFFFFFFFF
    check_ack = True
    if source.state < SYN_SENT:
        if flags & SYN and target.scale is not None:
            source.scale, source.scale_unknown = segment.scale, False
            if source.scale is not None:
                source_scale, target_scale = source.scale, target.scale
                window = unscaled(window, source_scale)
            else:
                target.window = target.window << target.scale & 0xFFFF  # 16 bits, as Open vSwitch keeps it
                target.scale = None
        source.low = seq
        source.state = SYN_SENT
        allowed = end + max(1, target.window << target_scale) & 0xFFFFFFFF
        if source.high == 1 or at_least(allowed, source.high):
            source.high = allowed
            check_ack = False
        source.window = max(source.window, window)

    ack = segment.ack
    if not flags & ACK or (ack == 0 and flags & RST):
        ack = target.low
    if seq == end:
        seq = end = source.low

    skew = signed(target.low - ack) if check_ack else 0
    in_window = (
        at_least(source.high, end)
        and at_least(seq, source.low - (target.window << target_scale))
        and -SLACK <= skew <= SLACK << source_scale
        and (not flags & RST or abs(signed(segment.seq - source.low)) <= 1)
    )
    if in_window or not check_sequence or (liberal and not flags & RST):
        advance(source, target, seq, end, ack, window, source_scale)
        if flags & FIN and source.state < CLOSING:
            source.state = CLOSING
        if flags & ACK:
            if target.state == SYN_SENT:
                target.state = ESTABLISHED
            elif target.state == CLOSING:
                target.state = FIN_WAIT_2
        if flags & RST:
            source.state = target.state = TIME_WAIT
        return VALID, timeout_of(peers)
    loose = target.state < SYN_SENT or source.state >= FIN_WAIT_2 or target.state >= FIN_WAIT_2
    if loose and at_least(source.high + SLACK, end) and at_least(seq, source.low - SLACK):
        advance(source, target, seq, end, ack, window, source_scale)
        if flags & FIN and source.state < CLOSING:
            source.state = CLOSING
        if flags & RST:
            source.state = target.state = TIME_WAIT
        return VALID, None
    return INVALID, None


def advance(source: Peer, target: Peer, seq: int, end: int, ack: int, window: int, scale: int) -> None:
    source.window = max(source.window, window)
    if signed(end - source.low) > 0:
        source.low = end
    if at_least(ack + (window << scale), target.high):
        target.high = ack + max(window << scale, 1) & 0xFFFFFFFF


def timeout_of(peers: list[Peer]) -> str:
    low, high = sorted(peer.state for peer in peers)
    if low >= FIN_WAIT_2:
        return "closed"
    if low >= CLOSING:
        return "fin_wait"
    if low < ESTABLISHED:
        return "opening"
    if high >= CLOSING:
        return "closing"
    return "established"
