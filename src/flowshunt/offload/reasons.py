"""Why a connection is not offloaded: stable codes, each with a sentence and a fix.

A reason travels as one small integer (uint16): the code's number, and in the bits above it a parameter, an errno or a
match field, where the code has one. 0 is no refusal.
"""

from __future__ import annotations

from typing import NamedTuple

from flowshunt.offload.errors import MAX_ERRNO, errno_name
from flowshunt.packet.schema import FIELDS


class Reason(NamedTuple):
    """A stable `code`, what it says about a connection, and what would change it."""

    code: str
    sentence: str
    fix: str


REASONS = (
    Reason("none", "Nothing stands against offloading it.", "Nothing to do."),
    Reason(
        "not-established",
        "The connection is not established yet, or is closing.",
        "Wait for the end of the handshake; one that is closing goes the long way to its end.",
    ),
    Reason("no-reply-yet", "Nobody has answered yet.", "Wait for the first packet in the reply direction."),
    Reason(
        "protocol",
        "The provider does not forward this protocol.",
        "Use a provider that does; smart NICs take TCP and UDP only.",
    ),
    Reason(
        "helper",
        "A helper (FTP, TFTP) reads the packets of this connection.",
        "Remove alg= from its ct action if the helper is not needed; data connections are offloaded without it.",
    ),
    Reason("fragments", "Its packets come in fragments.", "Lower the sender's MTU, or let path MTU discovery work."),
    Reason("ip-options", "Its packets carry IP options or extension headers.", "Have the sender leave them out."),
    Reason(
        "multiple-outputs",
        "Its packets leave on more than one port, or on none.",
        "Send it to one port: a learned address with normal, or output:PORT.",
    ),
    Reason(
        "varying-match",
        "A rule on its way matches on {parameter}, which differs between packets of a connection.",
        "Match it in a table that established connections do not visit, or at a lower priority.",
    ),
    Reason(
        "controller",
        "A rule on its way sends packets to the controller.",
        "Send only new connections to the controller (ct_state=+new).",
    ),
    Reason("learn", "A rule on its way learns from each packet.", "Learn from new connections only (ct_state=+new)."),
    Reason(
        "path-unknown",
        "No packet has shown yet where one of the directions leads.",
        "Wait for a packet in each direction after the last change of the rules.",
    ),
    Reason("table-full", "The provider's table is full.", "Raise its limit, or shorten its ageing."),
    Reason(
        "no-group",
        "More traffic patterns than the NIC has flow groups for.",
        "Raise num_of_groups, or use fewer different matches.",
    ),
    Reason("too-many-zones", "It passes more than four zones.", "Use fewer ct actions on its way."),
    Reason("mirror", "A mirror copies its packets.", "Take the port or VLAN out of the mirror."),
    Reason("policer", "A policer or meter limits its rate.", "Take it out of the policer."),
    Reason("tunnel", "It goes through a tunnel.", "Use a provider that forwards tunnels."),
    Reason("zone-excluded", "Its zone is excluded from offloading.", "Take the zone off the list of excluded ones."),
    Reason(
        "provider-refused",
        "The provider refused it with {parameter}.",
        "See the provider's own log; the name is an errno.",
    ),
    Reason("provider-declined", "The provider does not want it (can_offload).", "See the provider's policy."),
    Reason(
        "provider-not-ready",
        "The provider asked to be asked again (conn_established).",
        "Wait for the next reply packet.",
    ),
    Reason(
        "queue-full",
        "The provider's worker is behind, its queue was full.",
        "It is offered again at its next reply packet; raise the provider's queue_limit if this lasts.",
    ),
    Reason("provider-pending", "The provider has not answered yet.", "Wait for its worker."),
    Reason("offload-off", "Offloading is switched off.", "Set hw-offload to true."),
    Reason(
        "not-told",
        "The connection is older than the provider's registration.",
        "It is offered at its next reply packet.",
    ),
    Reason("no-provider", "No provider of that name is registered.", "See `flowshunt provider list`."),
    Reason("idle", "It was silent for the provider's timeout.", "Its next packets bring it back; raise the timeout."),
    Reason(
        "rewrite",
        "Its packets are changed in a way that a path cannot say.",
        "Leave it to the long way; paths change MACs, VLAN tag, addresses, ports, TTL and TOS.",
    ),
    Reason("long-chain", "It meets more rules than a path remembers.", "Use fewer tables on its way."),
    Reason("held-elsewhere", "Another provider forwards it.", "Put this one first in hw-offload-priority."),
    Reason(
        "path-changed",
        "A packet of it went another way than before.",
        "It is offered again once packets have shown both directions' paths.",
    ),
    Reason(
        "group",
        "A group on its way chooses where its packets go, and counts them.",
        "Output to ports themselves in the rules that established connections meet.",
    ),
    Reason(
        "several-bridges",
        "Several bridges track it, in the same zone.",
        "Track it in one of them alone, or give each bridge a zone of its own.",
    ),
    Reason(
        "no-device",
        "A port on its way is no network device that the provider forwards between.",
        "Use ports that are devices (type system); the host's own port and patch ports go the long way.",
    ),
)

_BITS = 6
_MASK = (1 << _BITS) - 1
_BY_CODE = {reason.code: number for number, reason in enumerate(REASONS)}
_FIELD_NAMES = tuple(FIELDS)


def number_of(code: str, parameter: int | str = 0) -> int:
    """The small integer of a code. `parameter`: an errno, or the name of a match field. Raises KeyError, ValueError."""
    value = _FIELD_NAMES.index(parameter) if isinstance(parameter, str) else parameter
    if not 0 <= value <= MAX_ERRNO:
        raise ValueError(f"{value} is no parameter of a reason; those are 0 to {MAX_ERRNO}")
    return _BY_CODE[code] | value << _BITS


def is_code(code: object) -> bool:
    """Whether there is such a code."""
    return isinstance(code, str) and code in _BY_CODE


NONE = 0
PROVIDER_REFUSED = number_of("provider-refused")
"""Add an errno << PARAMETER_SHIFT."""
PARAMETER_SHIFT = _BITS
CODE_MASK = _MASK
QUEUE_FULL = number_of("queue-full")
NOT_TOLD = number_of("not-told")
NOT_READY = number_of("provider-not-ready")
DECLINED = number_of("provider-declined")
PATH_UNKNOWN = number_of("path-unknown")
NOT_ESTABLISHED = number_of("not-established")
PATH_CHANGED = number_of("path-changed")
IDLE = number_of("idle")
HELD_ELSEWHERE = number_of("held-elsewhere")
TABLE_FULL = number_of("table-full")


def reason(number: int) -> Reason:
    """What a small integer says, with its parameter filled in: `provider-refused:ENOSPC`, `varying-match:nw_ttl`."""
    found = REASONS[number & _MASK]
    parameter = _parameter(found.code, number >> _BITS)
    if parameter is None:
        return found
    return found._replace(code=f"{found.code}:{parameter}", sentence=found.sentence.format(parameter=parameter))


def reason_of(code: str) -> Reason:
    """What a code says, written as `reason` writes it. Raises KeyError."""
    base, _, parameter = code.partition(":")
    found = REASONS[_BY_CODE[base]]
    return found._replace(code=code, sentence=found.sentence.format(parameter=parameter))


def _parameter(code: str, value: int) -> str | None:
    if code == "provider-refused":
        return errno_name(value)
    if code == "varying-match":
        return _FIELD_NAMES[value] if value < len(_FIELD_NAMES) else str(value)
    return None
