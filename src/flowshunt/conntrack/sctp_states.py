"""SCTP states of profile linux as data: what each kind of chunk does in each state, and why.

Linux's tracker gives an association one state for both sides and moves it chunk by chunk (the table of
net/netfilter/nf_conntrack_proto_sctp.c, 6.18). The rules below cover that table cell by cell; `TRANSITIONS` is their
dense form for the kernels. Verification tags are arithmetic: `kernels.sctp_linux`. Chunks of other kinds, such as DATA,
change no state.
"""

from __future__ import annotations

from flowshunt.conntrack.linux_states import INVALID, ORIGINAL, REPLY, Rule, compile_rules
from flowshunt.conntrack.states import SCTP_NAMES

(
    NONE,
    CLOSED,
    COOKIE_WAIT,
    COOKIE_ECHOED,
    ESTABLISHED,
    SHUTDOWN_SENT,
    SHUTDOWN_RECD,
    SHUTDOWN_ACK_SENT,
    HEARTBEAT_SENT,
) = range(len(SCTP_NAMES))
N_STATES = len(SCTP_NAMES)

CHUNK_NAMES = (
    "INIT",
    "INIT-ACK",
    "ABORT",
    "SHUTDOWN",
    "SHUTDOWN-ACK",
    "ERROR",
    "COOKIE-ECHO",
    "COOKIE-ACK",
    "SHUTDOWN-COMPLETE",
    "HEARTBEAT",
    "HEARTBEAT-ACK",
)
"""Kinds of chunk that the table knows."""
(
    INIT,
    INIT_ACK,
    ABORT,
    SHUTDOWN,
    SHUTDOWN_ACK,
    ERROR,
    COOKIE_ECHO,
    COOKIE_ACK,
    SHUTDOWN_COMPLETE,
    HEARTBEAT,
    HEARTBEAT_ACK,
) = range(len(CHUNK_NAMES))
N_CHUNKS = len(CHUNK_NAMES)

SHUTDOWN_SEEN = (SHUTDOWN_SENT, SHUTDOWN_RECD)
OPENING = (COOKIE_WAIT, COOKIE_ECHOED)
ENDING = (*SHUTDOWN_SEEN, SHUTDOWN_ACK_SENT)
KNOWN = (CLOSED, *OPENING, ESTABLISHED, *ENDING)
"""States of an association whose beginning was seen."""


def _stays(direction: int, kind: int, states: tuple[int, ...], why: str) -> tuple[Rule, ...]:
    return tuple(Rule(direction, kind, (state,), state, why) for state in states)


_ANEW = "out of the blue: seen, but it opens nothing"
_LATE = "said again, or too late to mean anything"
_SECOND_PATH = "a path of an association that is tracked elsewhere: only heartbeats are expected here"
_NOT_THE_FIRST = "a reply begins nothing"

_BY_CLIENT = (
    Rule(ORIGINAL, INIT, (NONE, CLOSED), CLOSED, "the association begins; a reply must follow"),
    Rule(ORIGINAL, INIT, SHUTDOWN_SEEN, CLOSED, "the client begins anew"),
    Rule(ORIGINAL, INIT, (HEARTBEAT_SENT,), COOKIE_WAIT, "the path that was probed opens an association"),
    *_stays(ORIGINAL, INIT, (*OPENING, ESTABLISHED, SHUTDOWN_ACK_SENT), _LATE),
    Rule(ORIGINAL, INIT_ACK, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    *_stays(ORIGINAL, INIT_ACK, KNOWN, "who sent the INIT does not answer it"),
    Rule(ORIGINAL, ABORT, tuple(range(N_STATES)), CLOSED, "one side aborts"),
    Rule(ORIGINAL, SHUTDOWN, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    Rule(ORIGINAL, SHUTDOWN, (ESTABLISHED,), SHUTDOWN_SENT, "the client closes"),
    *_stays(ORIGINAL, SHUTDOWN, (CLOSED, *OPENING, *ENDING), _LATE),
    Rule(ORIGINAL, SHUTDOWN_ACK, (NONE, HEARTBEAT_SENT), SHUTDOWN_ACK_SENT, "a SHUTDOWN-COMPLETE must follow"),
    Rule(ORIGINAL, SHUTDOWN_ACK, ENDING, SHUTDOWN_ACK_SENT, "the SHUTDOWN is answered"),
    *_stays(ORIGINAL, SHUTDOWN_ACK, (CLOSED, *OPENING, ESTABLISHED), "no SHUTDOWN was seen"),
    Rule(ORIGINAL, ERROR, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    *_stays(ORIGINAL, ERROR, KNOWN, "no error of the client ends an association"),
    Rule(ORIGINAL, COOKIE_ECHO, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    Rule(ORIGINAL, COOKIE_ECHO, OPENING, COOKIE_ECHOED, "the cookie of the INIT-ACK goes back"),
    *_stays(ORIGINAL, COOKIE_ECHO, (CLOSED, ESTABLISHED, *ENDING), _LATE),
    Rule(ORIGINAL, COOKIE_ACK, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    Rule(ORIGINAL, COOKIE_ACK, (COOKIE_ECHOED,), ESTABLISHED, "both sides opened at once"),
    *_stays(ORIGINAL, COOKIE_ACK, (CLOSED, COOKIE_WAIT, ESTABLISHED, *ENDING), _LATE),
    Rule(ORIGINAL, SHUTDOWN_COMPLETE, (NONE, HEARTBEAT_SENT), CLOSED, _ANEW),
    Rule(ORIGINAL, SHUTDOWN_COMPLETE, (SHUTDOWN_ACK_SENT,), CLOSED, "both sides are done"),
    *_stays(ORIGINAL, SHUTDOWN_COMPLETE, (CLOSED, *OPENING, ESTABLISHED, *SHUTDOWN_SEEN), "nothing to complete yet"),
    Rule(ORIGINAL, HEARTBEAT, (NONE, HEARTBEAT_SENT), HEARTBEAT_SENT, "a second path is probed"),
    *_stays(ORIGINAL, HEARTBEAT, KNOWN, "a sign of life"),
    Rule(ORIGINAL, HEARTBEAT_ACK, (NONE,), CLOSED, _ANEW),
    *_stays(ORIGINAL, HEARTBEAT_ACK, (*KNOWN, HEARTBEAT_SENT), "a sign of life"),
)

_BY_SERVER = (
    *(
        Rule(REPLY, kind, (NONE, HEARTBEAT_SENT), INVALID, _SECOND_PATH)
        for kind in range(N_CHUNKS)
        if kind not in (HEARTBEAT, HEARTBEAT_ACK)
    ),
    *_stays(REPLY, INIT, KNOWN, "both sides open at once: the first INIT leads"),
    Rule(REPLY, INIT_ACK, (CLOSED, COOKIE_WAIT), COOKIE_WAIT, "the INIT is answered"),
    *_stays(REPLY, INIT_ACK, (COOKIE_ECHOED, ESTABLISHED, *ENDING), _LATE),
    Rule(REPLY, ABORT, KNOWN, CLOSED, "one side aborts"),
    Rule(REPLY, SHUTDOWN, (ESTABLISHED,), SHUTDOWN_RECD, "the server closes"),
    *_stays(REPLY, SHUTDOWN, (CLOSED, *OPENING, *ENDING), _LATE),
    Rule(REPLY, SHUTDOWN_ACK, ENDING, SHUTDOWN_ACK_SENT, "the SHUTDOWN is answered"),
    *_stays(REPLY, SHUTDOWN_ACK, (CLOSED, *OPENING, ESTABLISHED), "no SHUTDOWN was seen"),
    Rule(REPLY, ERROR, (COOKIE_ECHOED,), CLOSED, "the cookie was too old"),
    *_stays(REPLY, ERROR, (CLOSED, COOKIE_WAIT, ESTABLISHED, *ENDING), "an error that ends nothing"),
    Rule(REPLY, COOKIE_ECHO, OPENING, COOKIE_ECHOED, "both sides opened at once"),
    *_stays(REPLY, COOKIE_ECHO, (CLOSED, ESTABLISHED, *ENDING), _LATE),
    Rule(REPLY, COOKIE_ACK, (COOKIE_ECHOED,), ESTABLISHED, "the handshake is done"),
    *_stays(REPLY, COOKIE_ACK, (CLOSED, COOKIE_WAIT, ESTABLISHED, *ENDING), _LATE),
    Rule(REPLY, SHUTDOWN_COMPLETE, (SHUTDOWN_ACK_SENT,), CLOSED, "both sides are done"),
    *_stays(REPLY, SHUTDOWN_COMPLETE, (CLOSED, *OPENING, ESTABLISHED, *SHUTDOWN_SEEN), "nothing to complete yet"),
    *(Rule(REPLY, kind, (NONE,), INVALID, _NOT_THE_FIRST) for kind in (HEARTBEAT, HEARTBEAT_ACK)),
    *_stays(REPLY, HEARTBEAT, (*KNOWN, HEARTBEAT_SENT), "a sign of life"),
    *_stays(REPLY, HEARTBEAT_ACK, KNOWN, "a sign of life"),
    Rule(REPLY, HEARTBEAT_ACK, (HEARTBEAT_SENT,), ESTABLISHED, "the second path works"),
)

RULES = (*_BY_CLIENT, *_BY_SERVER)
"""Every cell of the table in exactly one rule."""

TRANSITIONS = compile_rules(RULES, CHUNK_NAMES, SCTP_NAMES)
