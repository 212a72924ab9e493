"""What was asked of a trace: words as `ofproto/trace` takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.datapath.schema import PORT_NONE
from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.odp import OdpError, frame
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.errors import BadValueError, FlowSyntaxError, FlowWarning
from flowshunt.rules.openflow.parse import parse_flow
from flowshunt.rules.openflow.tracing.keys import full, write
from flowshunt.rules.openflow.values import CT_STATE_FLAGS

_LEAST_FRAME = 14
_MAX_FRAME = 65_549
_MAX_PAYLOAD = 64_000
_FREE_MASKS = frozenset(("vlan_tci", "nw_tos", "nw_frag", "ct_state", "tcp_flags"))
"""Fields whose exact masks are narrower than the field."""
_NOT_HERE = re.compile(r"(?:^|,)\s*(?:recirc_id=0(?:x0+)?|vlan_tci1=0(?:x0+)?)(?=,|$)")
_TRACKED, _NEW, _EST, _REL, _RPL, _INV = 0x20, 0x01, 0x02, 0x04, 0x08, 0x10
_ODP = re.compile(r"(in_port|ct_state|ct_zone|ct_mark|ct_label|recirc_id)\(([^()]*)\)")
_ODP_FLOW = re.compile(r"\s*[a-z_0-9]+\(")


class Words(NamedTuple):
    """The options and the other words of a command. `packet`: the bytes given for one."""

    rest: list[str]
    ct_next: tuple[int, ...]
    generate: bool
    names: bool
    consistent: bool
    payload: bytes | None


def read_words(words: Sequence[str], *, consistent: bool = False) -> Words:
    """Take the options out. Raises UsageError with the words of Open vSwitch.

    `consistent`: whether -consistent is an option.
    """
    rest: list[str] = []
    states: list[int] = []
    generate = names = is_consistent = False
    payload: bytes | None = None
    following = iter(words)
    for word in following:
        if word in ("-generate", "--generate"):
            generate = True
        elif word in ("-names", "--names"):
            names = True
        elif consistent and word in ("-consistent", "--consistent"):
            is_consistent = True
        elif word in ("--ct-next", "--l7", "--l7-len"):
            value = next(following, None)
            if value is None:
                raise UsageError(f"Missing argument for option {word}")
            if word == "--ct-next":
                states.append(read_state(value))
            else:
                payload = _payload(value) if word == "--l7" else _counted(value)
        elif word.startswith("-"):
            raise UsageError(f"{word}: unknown option")
        else:
            rest.append(word)
    return Words(rest, tuple(states), generate, names, is_consistent, payload)


def read_state(text: str) -> int:
    """A ct_state as --ct-next takes it: `trk,new` or `trk|new`. Raises UsageError."""
    state = 0
    for word in re.split(r"[,|\s]+", text.strip()):
        if word not in CT_STATE_FLAGS:
            raise UsageError(f"{word}: unknown connection tracking state flag")
        state |= 1 << CT_STATE_FLAGS.index(word)
    if state and not state & _TRACKED:
        raise UsageError('invalid connection state: If "trk" is unset, no other flags are set')
    if state & _INV and state & ~(_TRACKED | _INV):
        raise UsageError('invalid connection state: when "inv" is set, only "trk" may also be set')
    if state & _NEW and state & _EST:
        raise UsageError('invalid connection state: "new" and "est" are mutually exclusive')
    if state & _NEW and state & _RPL:
        raise UsageError('invalid connection state: "new" and "rpl" are mutually exclusive')
    return state


def read_packet(text: str) -> bytes:
    """A packet's bytes, in hexadecimal digits. Raises UsageError."""
    try:
        data = bytes.fromhex("".join(text.split()))
    except ValueError:
        raise UsageError("Trailing garbage in packet data") from None
    if len(data) < _LEAST_FRAME:
        raise UsageError("Packet data too short for Ethernet")
    if len(data) > _MAX_FRAME:
        raise UsageError("Packet data too long")
    return data


def is_packet(text: str) -> bool:
    """Whether a word can only be a packet's bytes."""
    return re.fullmatch(r"[0-9a-fA-F\s]{28,}", text) is not None


def _payload(text: str) -> bytes:
    try:
        return bytes.fromhex("".join(text.split()))
    except ValueError:
        raise UsageError("Trailing garbage in packet data") from None


def _counted(text: str) -> bytes:
    length = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if length > _MAX_PAYLOAD:
        raise UsageError(f"{text}: too much L7 data")
    return bytes(n & 0xFF for n in range(length))


def is_odp(text: str) -> bool:
    """Whether a flow is written in the notation of datapaths."""
    return _ODP_FLOW.match(text) is not None


class OdpFlow(NamedTuple):
    """A flow in that notation: the datapath's port (number or name), fields of the pipeline, the frame."""

    in_port: str
    fields: dict[str, int]
    frame: bytes


def read_odp(text: str) -> OdpFlow:
    """Read one. Raises UsageError."""
    fields: dict[str, int] = {}
    in_port = "0"
    for name, value in _ODP.findall(text):
        if name == "in_port":
            in_port = value
        elif name == "recirc_id":
            if _number(value, text):
                raise UsageError("recirculations are not kept: name the flow as it was in the beginning")
        elif name == "ct_state":
            flags = [word for word in re.split(r"[+|,\s]", value.partition("/")[0]) if word and word[0] != "-"]
            fields[name] = read_state(",".join(word.partition("-")[0] for word in flags)) if flags else 0
        else:
            fields[name] = _number(value, text)
    try:
        return OdpFlow(in_port, {name: value for name, value in fields.items() if value}, frame(text))
    except OdpError as error:
        raise UsageError(f"syntax error at {error}") from None


def _number(text: str, whole: str) -> int:
    try:
        return int(text.partition("/")[0], 0)
    except ValueError:
        raise UsageError(f"syntax error at {whole}") from None


def read_flow(text: str, ports: Mapping[str, int]) -> tuple[int, ...]:
    """The key of a packet that an OpenFlow flow describes; what it does not say is zero, and its port none.

    Raises UsageError for what is none, for fields that are not exact, and for those whose protocol is not said.
    """
    doubts: list[FlowWarning] = []
    plain = _NOT_HERE.sub("", text).lstrip(",")
    try:
        flow = parse_flow(plain, ports=ports, source="<flow>", command="del", warn=doubts.append)
    except (FlowSyntaxError, BadValueError) as error:
        raise UsageError(f"Bad openflow flow syntax: {text}: {_reason(error)}") from None
    if doubts:
        raise UsageError(f"Bad openflow flow syntax: {text}: {doubts[0]}")
    values = [] if any(place == "in_port" for place, _, _ in flow.match) else [("in_port", PORT_NONE)]
    for place, value, mask in flow.match:
        if mask != full(place) and place not in _FREE_MASKS:
            raise UsageError(f"Bad openflow flow syntax: {text}: {place} must be exact: wildcards not allowed here")
        if place == "vlan_tci" and mask & ~VLAN_PRESENT:
            values += [("vlan_tpid", 0x8100)] if value & VLAN_PRESENT else []
        values.append((place, value))
    return write(values)


def _reason(error: FlowSyntaxError | BadValueError) -> str:
    return f"{error.message}: {error.hint}" if error.hint else error.message


def read_actions(text: str, ports: Mapping[str, int]) -> tuple[F.Action, ...]:
    """Actions of no flow. Raises UsageError."""
    try:
        return parse_flow(f"actions={text}", ports=ports, source="<actions>").actions
    except (FlowSyntaxError, BadValueError) as error:
        raise UsageError(f"Bad actions: {_reason(error)}") from None
