"""TCP states of profile linux as data: what each kind of segment does in each state, and why.

Linux's tracker judges a segment by its direction, its kind and one state for both sides (the table of
net/netfilter/nf_conntrack_proto_tcp.c). The rules below cover that table cell by cell; `TRANSITIONS` is their dense
form for the kernels. Windows and the special cases around ignored segments are arithmetic: `kernels.tcp_linux`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowshunt.conntrack.states import LINUX_NAMES

(NONE, SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE, SYN_SENT2) = range(10)
N_STATES = len(LINUX_NAMES)
INVALID = 14
"""Not a state: the segment is invalid and changes nothing."""
IGNORED = 15
"""Not a state: the segment may be right and our state stale, so it passes, is remembered, and changes nothing else."""

ORIGINAL, REPLY = 0, 1

SEGMENT_NAMES = ("SYN", "SYN-ACK", "FIN", "ACK", "RST", "none")
"""Kinds of segment, told by flags: RST first, then SYN (with or without ACK), FIN, ACK."""
SYN, SYN_ACK, FIN, ACK, RST, NO_FLAG = range(len(SEGMENT_NAMES))
N_SEGMENTS = len(SEGMENT_NAMES)

FIN_SEEN = (FIN_WAIT, CLOSE_WAIT)
OVER = (TIME_WAIT, CLOSE)
CLOSING = (FIN_WAIT, CLOSE_WAIT, LAST_ACK)
BEYOND_HANDSHAKE = (ESTABLISHED, *CLOSING, *OVER)
ANY = tuple(range(N_STATES))
EVERY_LIVE = ANY[1:]


class Rule(NamedTuple):
    """One entry: a segment of `kind` in `direction` takes each state of `states` to `to`, because of `why`."""

    direction: int
    kind: int
    states: tuple[int, ...]
    to: int
    why: str


_BOTH = (
    (FIN, (NONE,), INVALID, "the end of a stream begins nothing"),
    (FIN, (SYN_SENT, SYN_SENT2), INVALID, "no handshake yet: a SYN-ACK must come first"),
    (FIN, (SYN_RECV, ESTABLISHED), FIN_WAIT, "one side closes"),
    (FIN, (*FIN_SEEN, LAST_ACK), LAST_ACK, "both sides have closed, or one says it again"),
    (FIN, (TIME_WAIT,), TIME_WAIT, "said again after the end"),
    (FIN, (CLOSE,), CLOSE, "late, after a reset"),
    (RST, (NONE,), INVALID, "there is nothing to reset"),
    (RST, EVERY_LIVE, CLOSE, "one side aborts"),
    (NO_FLAG, ANY, INVALID, "TCP sends no segment without SYN, FIN, ACK and RST"),
)

RULES = (
    Rule(ORIGINAL, SYN, (NONE,), SYN_SENT, "a connection begins"),
    Rule(ORIGINAL, SYN, (SYN_SENT,), SYN_SENT, "the SYN again"),
    Rule(ORIGINAL, SYN, (SYN_SENT2,), SYN_SENT2, "the SYN again, while both sides open"),
    Rule(ORIGINAL, SYN, (SYN_RECV, ESTABLISHED, *CLOSING), IGNORED, "wrong, or the client began anew: its peer knows"),
    Rule(ORIGINAL, SYN, OVER, SYN_SENT, "the port is used again (RFC 9293, 3.6.1)"),
    Rule(ORIGINAL, SYN_ACK, (NONE,), INVALID, "the SYN was not seen"),
    Rule(ORIGINAL, SYN_ACK, (SYN_SENT,), INVALID, "who sent the SYN does not answer it"),
    Rule(ORIGINAL, SYN_ACK, (SYN_SENT2,), SYN_RECV, "both sides open: the answer to the peer's SYN"),
    Rule(ORIGINAL, SYN_ACK, (SYN_RECV,), SYN_RECV, "the same again"),
    Rule(ORIGINAL, SYN_ACK, BEYOND_HANDSHAKE, INVALID, "a client does not answer a SYN in mid-stream"),
    Rule(ORIGINAL, ACK, (NONE,), ESTABLISHED, "picked up in mid-stream, if that is allowed"),
    Rule(ORIGINAL, ACK, (SYN_SENT, SYN_SENT2), INVALID, "nothing was answered yet"),
    Rule(ORIGINAL, ACK, (SYN_RECV,), ESTABLISHED, "the handshake is done"),
    Rule(ORIGINAL, ACK, (ESTABLISHED,), ESTABLISHED, "the stream goes on"),
    Rule(ORIGINAL, ACK, FIN_SEEN, CLOSE_WAIT, "the FIN is acknowledged"),
    Rule(ORIGINAL, ACK, (LAST_ACK, TIME_WAIT), TIME_WAIT, "both FINs are acknowledged, unless a SYN was challenged"),
    Rule(ORIGINAL, ACK, (CLOSE,), CLOSE, "late, after a reset"),
    Rule(REPLY, SYN, (NONE,), INVALID, "a reply begins nothing"),
    Rule(REPLY, SYN, (SYN_SENT, SYN_SENT2), SYN_SENT2, "both sides open at once (RFC 9293, 3.5)"),
    Rule(REPLY, SYN, (SYN_RECV, ESTABLISHED, *CLOSING, CLOSE), INVALID, "a server does not open what is open"),
    Rule(REPLY, SYN, (TIME_WAIT,), SYN_SENT, "the ports are used again, the other way round"),
    Rule(REPLY, SYN_ACK, (NONE,), INVALID, "a reply begins nothing"),
    Rule(REPLY, SYN_ACK, (SYN_SENT, SYN_SENT2), SYN_RECV, "the SYN is answered"),
    Rule(REPLY, SYN_ACK, (SYN_RECV, *BEYOND_HANDSHAKE), IGNORED, "said again, or the answer to an ignored SYN"),
    Rule(REPLY, ACK, (NONE,), INVALID, "a reply begins nothing"),
    Rule(REPLY, ACK, (SYN_SENT, SYN_SENT2), IGNORED, "the peer may hold an old connection, and challenge the SYN"),
    Rule(REPLY, ACK, (SYN_RECV,), SYN_RECV, "the answer to a late SYN"),
    Rule(REPLY, ACK, (ESTABLISHED,), ESTABLISHED, "the stream goes on"),
    Rule(REPLY, ACK, FIN_SEEN, CLOSE_WAIT, "the FIN is acknowledged"),
    Rule(REPLY, ACK, (LAST_ACK, TIME_WAIT), TIME_WAIT, "both FINs are acknowledged, unless a SYN was challenged"),
    Rule(REPLY, ACK, (CLOSE,), CLOSE, "late, after a reset"),
    *(Rule(direction, *rule) for direction in (ORIGINAL, REPLY) for rule in _BOTH),
)
"""Every cell of the table in exactly one rule."""


def cell(direction: int, kind: int, state: int) -> int:
    """Index of a cell in `TRANSITIONS`."""
    return (direction * N_SEGMENTS + kind) * N_STATES + state


def compile_rules(
    rules: tuple[Rule, ...], kinds: tuple[str, ...] = SEGMENT_NAMES, states: tuple[str, ...] = LINUX_NAMES
) -> NDArray[np.uint8]:
    """Dense, read-only uint8 table of `rules`, indexed by `(direction * len(kinds) + kind) * len(states) + state`.

    Raises ValueError when a cell has no rule or two; `kinds` and `states` are names, for the message.
    """
    table = np.full(2 * len(kinds) * len(states), 0xFF, np.uint8)
    for rule in rules:
        for state in rule.states:
            at = (rule.direction * len(kinds) + rule.kind) * len(states) + state
            if table[at] != 0xFF:
                raise ValueError(f"two rules for {kinds[rule.kind]} in {states[state]}: {rule.why!r}")
            table[at] = rule.to
    if (missing := np.flatnonzero(table == 0xFF)).size:
        raise ValueError(f"no rule for cells {missing.tolist()}")
    table.flags.writeable = False
    return table


TRANSITIONS = compile_rules(RULES)
