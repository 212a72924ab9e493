"""TCP as Linux's nf_conntrack follows it (6.18): one state table, a window per direction, many special cases.

Written from the behaviour of net/netfilter/nf_conntrack_proto_tcp.c. The names are the kernel's, so that a reader can
hold the two side by side. With `sack` off, the right edges of SACK blocks are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracle.frames import ACK, FIN, RST, SYN, URG, Tcp
from tests.oracle.pf_tcp import signed

NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2 = range(10)
NAMES = (
    "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
    "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
)  # fmt: skip
TIMEOUTS_S = {
    SYN_SENT: 120, SYN_RECV: 60, ESTABLISHED: 5 * 86400, FIN_WAIT: 120, CLOSE_WAIT: 60,
    LAST_ACK: 30, TIME_WAIT: 120, CLOSE: 10, SYN_SENT2: 120, "retrans": 300, "unack": 300,
}  # fmt: skip
MAX_RETRANS = 3

# Kinds of segment, by flag.
K_SYN, K_SYNACK, K_FIN, K_ACK, K_RST, K_NONE = range(6)
IV, IG = "invalid", "ignore"
_COLUMNS = {"SS": SYN_SENT, "SR": SYN_RECV, "ES": ESTABLISHED, "FW": FIN_WAIT, "CW": CLOSE_WAIT, "LA": LAST_ACK}
_COLUMNS |= {"TW": TIME_WAIT, "CL": CLOSE, "S2": SYN_SENT2, "IV": IV, "IG": IG}


def _row(text: str) -> list:
    return [_COLUMNS[name] for name in text.split()]


# Columns: NONE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE SYN_SENT2
TABLE = (
    (
        _row("SS SS IG IG IG IG IG SS SS S2"),
        _row("IV IV SR IV IV IV IV IV IV SR"),
        _row("IV IV FW FW LA LA LA TW CL IV"),
        _row("ES IV ES ES CW CW TW TW CL IV"),
        _row("IV CL CL CL CL CL CL CL CL CL"),
        _row("IV IV IV IV IV IV IV IV IV IV"),
    ),
    (
        _row("IV S2 IV IV IV IV IV SS IV S2"),
        _row("IV SR IG IG IG IG IG IG IG SR"),
        _row("IV IV FW FW LA LA LA TW CL IV"),
        _row("IV IG SR ES CW CW TW TW CL IG"),
        _row("IV CL CL CL CL CL CL CL CL CL"),
        _row("IV IV IV IV IV IV IV IV IV IV"),
    ),
)
VALID_FLAGS = {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG}
MAXACKWINCONST = 66000

# What the caller does with a segment.
ACCEPT, IGNORE, INVALID, REPEAT, KILL = "accept", "ignore", "invalid", "repeat", "kill"


@dataclass
class Seen:
    """One direction; td_* as in the kernel."""

    end: int = 0
    maxend: int = 0
    maxwin: int = 0
    maxack: int = 0
    scale: int = 0
    wscale: bool = False  # IP_CT_TCP_FLAG_WINDOW_SCALE
    sack_perm: bool = False
    liberal: bool = False
    close_init: bool = False
    unacked: bool = False  # DATA_UNACKNOWLEDGED
    maxack_set: bool = False

    def take_options(self, segment: Tcp) -> None:
        self.scale = segment.scale or 0
        self.wscale = segment.scale is not None
        self.sack_perm = segment.sack_permitted
        self.close_init = self.unacked = self.maxack_set = False


@dataclass
class State:
    seen: list[Seen] = field(default_factory=lambda: [Seen(), Seen()])
    state: int = NONE
    last_index: int = K_NONE
    last_dir: int = 0
    last_seq: int = 0
    last_ack: int = 0
    last_end: int = 0
    last_win: int = 0
    last_scale: int = 0
    last_wscale: bool = False
    last_sack_perm: bool = False
    last_challenge: bool = False
    simultaneous: bool = False
    retrans: int = 0
    assured: bool = False
    seen_reply: bool = False


def before(a: int, b: int) -> bool:
    return signed(a - b) < 0


def after(a: int, b: int) -> bool:
    return before(b, a)


def kind_of(flags: int) -> int:
    if flags & RST:
        return K_RST
    if flags & SYN:
        return K_SYNACK if flags & ACK else K_SYN
    if flags & FIN:
        return K_FIN
    return K_ACK if flags & ACK else K_NONE


def flags_are_valid(flags: int) -> bool:
    return flags & (FIN | SYN | RST | ACK | URG) in VALID_FLAGS


def segment_end(segment: Tcp) -> int:
    return segment.seq + segment.length + bool(segment.flags & SYN) + bool(segment.flags & FIN) & 0xFFFFFFFF


def start(segment: Tcp) -> State | None:
    """The state before the first segment is followed; None when it may not start a connection."""
    new_state = TABLE[0][kind_of(segment.flags)][NONE]
    if new_state in (IV, IG):
        return None
    state = State()
    first = state.seen[0]
    first.end = segment_end(segment)
    first.maxwin = segment.window or 1
    first.maxend = first.end
    if new_state == SYN_SENT:
        first.take_options(segment)
    else:
        first.maxend = first.end + first.maxwin & 0xFFFFFFFF
        for seen in state.seen:
            seen.sack_perm = seen.liberal = True
    return state


def follow(
    s: State,
    d: int,
    segment: Tcp,
    *,
    sack: bool = True,
    check: bool = True,
    timeouts: dict[int | str, int] = TIMEOUTS_S,
) -> tuple[str, int | str | None]:  # fmt: skip
    """What to do with a segment, and the timeout class it starts (None: leave the timer).

    KILL: accept the segment, then forget the connection; REPEAT: forget it and look up again.
    """
    old, kind, end = s.state, kind_of(segment.flags), segment_end(segment)
    new = TABLE[d][kind][old]
    skip_window = False
    if new == SYN_SENT and old >= TIME_WAIT:
        if any(seen.close_init for seen in s.seen) or (s.last_dir == d and s.last_index == K_RST):
            return REPEAT, None
        new = IG
    if new == IG:
        if (
            kind == K_SYNACK and s.last_index == K_SYN and s.last_dir != d and segment.ack == s.last_end
        ):  # answers a SYN that was let through: the ends agree, so take over their numbers
            old, new = SYN_SENT, SYN_RECV
            s.last_challenge = False
            s.seen[s.last_dir] = Seen(
                s.last_end, s.last_end, s.last_win or 1, 0, s.last_scale, s.last_wscale, s.last_sack_perm
            )
            s.seen[d] = Seen()
        else:
            remember_ignored(s, d, kind, segment, old)
            return IGNORE, None
    elif new == IV:
        return INVALID, None
    elif new == TIME_WAIT:
        if old == LAST_ACK and kind == K_ACK and s.last_dir != d and s.last_index == K_SYN and s.last_challenge:
            s.last_challenge = False
            return IGNORE, None
    elif new == SYN_SENT2:
        s.simultaneous = True
    elif new == SYN_RECV and d == 1 and kind == K_ACK and s.simultaneous:
        new = ESTABLISHED
    elif new == CLOSE and kind == K_RST:
        verdict = check_reset(s, d, segment, old)
        if verdict == INVALID:
            return INVALID, None
        skip_window = verdict == "skip"
        if verdict == "keep":
            new = old

    if not skip_window:
        verdict = in_window(s, d, kind, segment, end, sack, check)
        if verdict == IGNORE:
            return IGNORE, None
        if verdict == INVALID:
            return INVALID, shorten(s, d, kind)
    s.last_index, s.last_dir = kind, d
    s.state = new
    if old != new and new == FIN_WAIT:
        s.seen[d].close_init = True
    return finish(s, kind, old, new, timeouts)


def finish(s: State, kind: int, old: int, new: int, timeouts: dict[int | str, int]) -> tuple[str, int | str]:
    timeout: int | str = new
    seconds = timeouts[new]
    if s.retrans >= MAX_RETRANS and seconds > timeouts["retrans"]:
        timeout = "retrans"
    elif kind == K_RST:
        timeout = CLOSE
    elif any(seen.unacked for seen in s.seen) and seconds > timeouts["unack"]:
        timeout = "unack"
    elif s.last_win == 0 and seconds > timeouts["retrans"]:
        timeout = "retrans"
    if not s.seen_reply:
        if kind == K_RST:
            return KILL, timeout
        if new == ESTABLISHED and timeouts[timeout] > timeouts["unack"]:
            timeout = "unack"
    elif not s.assured and old in (SYN_RECV, ESTABLISHED) and new == ESTABLISHED:
        s.assured = True
    return ACCEPT, timeout


def remember_ignored(s: State, d: int, kind: int, segment: Tcp, old: int) -> None:
    s.last_index, s.last_dir = kind, d
    s.last_seq, s.last_end, s.last_win = segment.seq, segment_end(segment), segment.window
    if kind == K_SYN and d == 0:
        s.last_wscale = segment.scale is not None
        s.last_scale = segment.scale or 0
        s.last_sack_perm = segment.sack_permitted
        s.last_challenge = old == LAST_ACK
        s.simultaneous = False
    if old == SYN_SENT and kind == K_ACK and d == 1:
        s.last_ack = segment.ack


def check_reset(s: State, d: int, segment: Tcp, old: int) -> str:
    """INVALID, "skip" (accept without looking at the window), "keep" (accept, but the state stays) or ACCEPT."""
    if old in (FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE):
        return "skip"
    other = s.seen[1 - d]
    established = old == ESTABLISHED and s.assured
    result = ACCEPT
    if other.maxack_set and s.last_index != K_SYN:
        if segment.seq == 0 and not established:
            return ACCEPT
        if before(segment.seq, other.maxack):
            return INVALID
        if not established or segment.seq == other.maxack:
            return ACCEPT
        if s.last_index == K_ACK and s.last_dir == d and segment.seq == s.last_end:
            return ACCEPT
        result = "keep"
    answers_ignored = (s.seen_reply and s.last_index == K_SYN) or (not s.assured and s.last_index == K_ACK)
    if answers_ignored and segment.ack == s.last_end:
        return "skip"
    return result


def in_window(s: State, d: int, kind: int, segment: Tcp, end: int, use_sack: bool, check: bool) -> str:
    mine, other = s.seen[d], s.seen[1 - d]
    seq, ack, window, flags = segment.seq, segment.ack, segment.window, segment.flags
    sack = ack
    if use_sack and other.sack_perm:
        for edge in segment.sack:
            if after(edge, sack):
                sack = edge
    if mine.maxwin == 0:
        if flags & SYN:
            init_sender(mine, other, d, segment, end)
            if not flags & ACK:
                return ACCEPT
        else:
            mine.end = end
            mine.maxwin = (window << mine.scale) or 1
            mine.maxend = end + mine.maxwin & 0xFFFFFFFF
            if other.maxwin == 0:
                other.end = other.maxend = sack
            elif sack == other.end + 1 & 0xFFFFFFFF:
                other.end = other.end + 1 & 0xFFFFFFFF
    elif flags & SYN and after(end, mine.end) and s.state in (SYN_SENT, SYN_RECV):
        init_sender(mine, other, d, segment, end)
        if d == 1 and not flags & ACK:
            return ACCEPT

    if not flags & ACK or (flags & RST and ack == 0):
        ack = sack = other.end
    if flags & RST and seq == 0 and s.state == SYN_SENT:
        seq = end = mine.end

    most_back = max(mine.maxwin, MAXACKWINCONST)
    ack_not_old = after(sack, other.end - most_back - 1)
    ack_seen = before(sack, other.end + 1)
    liberal = mine.liberal or not check
    if not before(seq, mine.maxend + 1):
        overshot = end - mine.maxend + 1 & 0xFFFFFFFF
        in_receive_window = other.maxwin and after(end, mine.end - other.maxwin - 1)
        if in_receive_window and ack_not_old and overshot <= other.maxwin and ack_seen:
            mine.end = end
            mine.unacked = True
            return ACCEPT if liberal else IGNORE
        return ACCEPT if liberal else INVALID
    if not ack_seen:
        return ACCEPT if liberal else INVALID
    if other.maxwin and not after(end, mine.end - other.maxwin - 1):
        return ACCEPT if liberal else IGNORE
    if not ack_not_old:
        return ACCEPT if liberal else IGNORE

    win = window if flags & SYN else window << mine.scale
    mine.maxwin = max(mine.maxwin, win + (sack - ack & 0xFFFFFFFF) & 0xFFFFFFFF)
    if after(end, mine.end):
        mine.end = end
        mine.unacked = True
    if flags & ACK and (not mine.maxack_set or after(ack, mine.maxack)):
        mine.maxack, mine.maxack_set = ack, True
    if other.maxwin and after(end, mine.maxend):
        other.maxwin = other.maxwin + end - mine.maxend & 0xFFFFFFFF
    if after(sack + win, other.maxend - 1):
        other.maxend = sack + (win or 1) & 0xFFFFFFFF
    if ack == other.end:
        other.unacked = False
    if kind == K_ACK:
        now = (d, seq, ack, end, window)
        if (s.last_dir, s.last_seq, s.last_ack, s.last_end, s.last_win) == now:
            s.retrans += 1
        else:
            s.last_dir, s.last_seq, s.last_ack, s.last_end, s.last_win = now
            s.retrans = 0
    return ACCEPT


def init_sender(mine: Seen, other: Seen, d: int, segment: Tcp, end: int) -> None:
    mine.end = mine.maxend = end
    mine.maxwin = segment.window or 1
    mine.take_options(segment)
    if d == 1 and not (mine.wscale and other.wscale):
        mine.scale = other.scale = 0


def shorten(s: State, d: int, kind: int) -> str | None:
    """A second closing segment out of the window: the ends may be gone, so do not wait for the long timeout."""
    if not s.assured or kind not in (K_RST, K_FIN):
        return None
    if s.last_dir != d and s.last_index in (K_RST, K_FIN):
        return "at most unack"
    s.last_index, s.last_dir = kind, d
    return None
