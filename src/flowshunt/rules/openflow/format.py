"""Flows as text, as `ovs-ofctl dump-flows` prints them; `parse_flow` reads it back to an equal flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowshunt.packet.schema import VLAN_PRESENT
from flowshunt.rules.openflow import flow as flows
from flowshunt.rules.openflow import values
from flowshunt.rules.openflow.fields import PROTOCOLS, USER_FIELDS, UserField
from flowshunt.rules.openflow.flow import Action, Flow, SetField, Subfield
from flowshunt.rules.openflow.learning import write_learn
from flowshunt.rules.openflow.links import write_bundle, write_multipath
from flowshunt.rules.openflow.match import Facts, facts_of
from flowshunt.rules.openflow.nat import write_nat
from flowshunt.rules.openflow.parse import FLAGS, Command
from flowshunt.rules.openflow.setters import full_mask
from flowshunt.rules.openflow.values import write_flags, write_ipv4, write_ipv6, write_mac, write_port

Names = Mapping[int, str]
_NO_NAMES: Names = {}

_WORDS = {pair: name for name, pair in reversed([*PROTOCOLS.items()])}
_PCP = 0xE000
_VID = 0x0FFF
_ARP_NAMES = {
    "nw_src": "arp_spa",
    "nw_dst": "arp_tpa",
    "nw_proto": "arp_op",
    "arp_sha": "arp_sha",
    "arp_tha": "arp_tha",
}
_ND_NAMES = {"arp_sha": "nd_sll", "arp_tha": "nd_tll"}
_MASKED: Mapping[values.Reader, Callable[[int, int], str]] = {
    values.read_ipv4: write_ipv4,
    values.read_ipv6: write_ipv6,
    values.read_mac: write_mac,
}


def format_flow(flow: Flow, ports: Mapping[str, int] | None = None, *, command: Command = "add") -> str:
    """`flow` as `ovs-ofctl --no-stats dump-flows` prints it, with names of `ports` (name to number) where given.

    For a deletion, `command` leaves the actions out. Raises ValueError for a flow that no text says, such as one
    that sets TOS and ECN at once.
    """
    names = {number: name for name, number in ports.items()} if ports else _NO_NAMES
    heads = []
    if flow.cookie_mask:
        heads.append(f"cookie={flow.cookie:#x}/{flow.cookie_mask:#x}, ")
    elif flow.cookie:
        heads.append(f"cookie={flow.cookie:#x}, ")
    if flow.new_cookie is not None:
        heads.append(f"cookie={flow.new_cookie:#x}, ")
    if flow.table and flow.table != flows.ALL_TABLES:
        heads.append(f"table={flow.table}, ")
    for name, number in (("idle_timeout", flow.idle_timeout), ("hard_timeout", flow.hard_timeout)):
        if number:
            heads.append(f"{name}={number}, ")
    heads += [f"{name} " for name in FLAGS if name in flow.flags]
    if flow.importance:
        heads.append(f"importance={flow.importance}, ")
    if flow.out_port is not None:
        heads.append(f"out_port={write_port(flow.out_port, names)}, ")
    if flow.out_group is not None:
        heads.append(f"out_group={flow.out_group}, ")
    match = format_match(flow, names)
    if command in ("del", "del_strict"):
        return ("".join(heads) + match).removesuffix(", ")
    return f"{''.join(heads)}{match}{' ' if match else ''}actions={format_actions(flow, names)}"


def format_match(flow: Flow, names: Names = _NO_NAMES) -> str:
    """Priority and match of `flow`, with the port names in `names` (number to name)."""
    bits = {place: (value, mask) for place, value, mask in flow.match}
    facts = facts_of(bits)
    writer = _MatchWriter(bits, facts, names)
    if flow.priority != flows.DEFAULT_PRIORITY:
        writer.found.append(f"priority={flow.priority}")
    return writer.write()


def format_fields(bits: Mapping[str, tuple[int, int]], names: Names = _NO_NAMES) -> str:
    """Fields of a match, (value, mask) by place, as `format_match` writes them, without a priority."""
    return _MatchWriter(bits, facts_of(bits), names).write()


def format_action(action: Action, flow: Flow, names: Names = _NO_NAMES) -> str:
    """One action of `flow`, or one inside of it."""
    facts = facts_of({place: (value, mask) for place, value, mask in flow.match})
    return _ActionWriter(facts, names).one(action)


def format_part(part: Subfield, flow: Flow) -> str:
    """A field, and which of its bits, as the actions of `flow` name it."""
    return _ActionWriter(facts_of({place: (value, mask) for place, value, mask in flow.match}), _NO_NAMES).part(part)


class _MatchWriter:
    """Writes the fields of one match, in Open vSwitch's order."""

    def __init__(self, bits: Mapping[str, tuple[int, int]], facts: Facts, names: Names) -> None:
        self.bits = bits
        self.facts = facts
        self.names = names
        self.found: list[str] = []

    def write(self) -> str:
        """All of them, with commas between."""
        self._decimal("conj_id", "conj_id", 0xFFFFFFFF)
        self._tracking()
        self._protocol()
        for n in range(16):
            self._hex(f"reg{n}")
        self._hex("metadata")
        self._put("in_port", "in_port", lambda value, mask: write_port(value, self.names))
        self._vlan()
        self._put("eth_src", "dl_src", write_mac)
        self._put("eth_dst", "dl_dst", write_mac)
        if self.bits.get("eth_type") and self.protocol_word is None:
            self.found.append(f"dl_type={self.bits['eth_type'][0]:#06x}")
        self._network()
        self._transport()
        return ",".join(self.found)

    def _put(self, place: str, name: str, write: Callable[[int, int], str]) -> None:
        pair = self.bits.get(place)
        if pair is not None:
            self.found.append(f"{name}={write(*pair)}")

    def _hex(self, place: str) -> None:
        self._put(place, place, lambda value, mask: _masked_hex(value, mask, USER_FIELDS[place].width))

    def _decimal(self, place: str, name: str, full: int = 0xFFFF) -> None:
        self._put(place, name, lambda value, mask: str(value) if mask == full else f"{value:#x}/{mask:#x}")

    def _tracking(self) -> None:
        self._put("ct_state", "ct_state", lambda value, mask: write_flags(value, mask, values.CT_STATE_FLAGS))
        self._decimal("ct_zone", "ct_zone")
        self._hex("ct_mark")
        self._hex("ct_label")
        for end in ("src", "dst"):
            self._put(f"ct_nw_{end}", f"ct_nw_{end}", write_ipv4)
            self._put(f"ct_ipv6_{end}", f"ct_ipv6_{end}", write_ipv6)
        self._decimal("ct_nw_proto", "ct_nw_proto", 0xFF)
        self._decimal("ct_tp_src", "ct_tp_src")
        self._decimal("ct_tp_dst", "ct_tp_dst")

    def _protocol(self) -> None:
        """The word that stands for eth_type, and nw_proto where one does for both."""
        eth_type = self.facts.eth_type
        both = _WORDS.get((eth_type or 0, self.facts.protocol))
        self.word_has_protocol = both is not None and self.facts.protocol is not None
        self.protocol_word = both or _WORDS.get((eth_type or 0, None))
        if self.protocol_word is not None:
            self.found.append(self.protocol_word)

    def _vlan(self) -> None:
        pair = self.bits.get("vlan_tci")
        if pair is None:
            return
        value, mask = pair
        if not value & VLAN_PRESENT or mask & ~VLAN_PRESENT not in (_VID, _PCP, _VID | _PCP):
            text = f"vlan_tci={value:#06x}"
            self.found.append(text if mask == 0xFFFF else f"{text}/{mask:#06x}")
            return
        if mask & _VID:
            self.found.append(f"dl_vlan={value & _VID}")
        if mask & _PCP:
            self.found.append(f"dl_vlan_pcp={value >> 13}")

    def _network(self) -> None:
        arp = self.facts.fulfil("arp")
        self._put("nw_src", "arp_spa" if arp else "nw_src", write_ipv4)
        self._put("nw_dst", "arp_tpa" if arp else "nw_dst", write_ipv4)
        self._put("ipv6_src", "ipv6_src", write_ipv6)
        self._put("ipv6_dst", "ipv6_dst", write_ipv6)
        label = self.bits.get("ipv6_label")
        if label is not None:
            value, mask = label
            self.found.append(f"ipv6_label={value:#07x}" + ("" if mask == 0xFFFFF else f"/{mask:#07x}"))
        if arp:
            self._decimal("nw_proto", "arp_op", 0xFF)
            self._put("arp_sha", "arp_sha", write_mac)
            self._put("arp_tha", "arp_tha", write_mac)
        elif not self.word_has_protocol:
            self._decimal("nw_proto", "nw_proto", 0xFF)
        value, mask = self.bits.get("nw_tos", (0, 0))
        if mask & 0xFC:
            self.found.append(f"nw_tos={value & 0xFC}")
        if mask & 3:
            self.found.append(f"nw_ecn={value & 3}")
        self._decimal("nw_ttl", "nw_ttl", 0xFF)
        self._put("nw_frag", "nw_frag", values.write_fragment)

    def _transport(self) -> None:
        icmp = self.facts.fulfil("icmp") or self.facts.fulfil("icmp6")
        for place, name in (("tp_src", "icmp_type"), ("tp_dst", "icmp_code")):
            exact = self.bits.get(place, (0, 0))[1] == 0xFFFF
            self._decimal(place, name if icmp and exact else place)
        self._put("nd_target", "nd_target", write_ipv6)
        if not self.facts.fulfil("arp"):
            self._put("arp_sha", "nd_sll", write_mac)
            self._put("arp_tha", "nd_tll", write_mac)
        self._put("tcp_flags", "tcp_flags", lambda value, mask: write_flags(value, mask, values.TCP_FLAGS))


def _masked_hex(value: int, mask: int, width: int) -> str:
    text = f"{value:#x}" if value else "0"
    return text if mask == full_mask(width) else f"{text}/{mask:#x}"


def format_actions(flow: Flow, names: Names = _NO_NAMES) -> str:
    """The actions of `flow`, `drop` when there are none, with the port names in `names` (number to name)."""
    facts = facts_of({place: (value, mask) for place, value, mask in flow.match})
    return _ActionWriter(facts, names).list_of(flow.actions)


class _ActionWriter:
    """Writes actions; `facts` of the match decide what a place is called."""

    def __init__(self, facts: Facts, names: Names) -> None:
        self.facts = facts
        self.names = names

    def list_of(self, actions: tuple[Action, ...]) -> str:
        """Actions with commas between."""
        return ",".join(map(self.one, actions)) or "drop"

    def one(self, action: Action) -> str:
        """One action."""
        match action:
            case flows.Output(port):
                return f"output:{write_port(port, self.names) if isinstance(port, int) else self.part(port)}"
            case SetField():
                return self.set_field(action)
            case flows.Move(source, dest):
                return f"move:{self.part(source)}->{self.part(dest)}"
            case flows.Resubmit():
                return self.resubmit(action)
            case flows.Ct():
                return self.ct(action)
            case flows.Clone(actions):
                return f"clone({self.list_of(actions)})"
            case flows.WriteActions(actions):
                return f"write_actions({self.list_of(actions)})"
            case flows.DecTtl(controllers):
                return f"dec_ttl({','.join(map(str, controllers))})" if controllers else "dec_ttl"
            case flows.GotoTable(table):
                return f"goto_table:{table}"
            case flows.PushVlan(tpid):
                return f"push_vlan:{tpid:#06x}"
            case flows.Note(data):
                return f"note:{data.hex('.')}"
            case flows.Controller():
                return _controller(action)
            case flows.Group(group):
                return f"group:{group}"
            case flows.Meter(meter):
                return f"meter:{meter}"
            case flows.Enqueue(port, queue):
                return f"enqueue:{write_port(port, self.names)}:{queue}"
            case flows.SetQueue(number):
                return "pop_queue" if number is None else f"set_queue:{number}"
            case flows.Learn():
                return write_learn(action, self.part)
            case flows.FinTimeout(idle, hard):
                said = [
                    f"{name}={number}" for name, number in (("idle_timeout", idle), ("hard_timeout", hard)) if number
                ]
                return f"fin_timeout({','.join(said)})"
            case flows.Push(source):
                return f"push:{self.part(source)}"
            case flows.Pop(dest):
                return f"pop:{self.part(dest)}"
            case flows.CheckLarger(size, dest):
                return f"check_pkt_larger({size})->{self.part(dest)}"
            case flows.OutputTruncated(port, max_len):
                return f"output(port={write_port(port, self.names)},max_len={max_len})"
            case flows.Conjunction(number, clause, n_clauses):
                return f"conjunction({number},{clause}/{n_clauses})"
            case flows.Multipath():
                return write_multipath(action, self.part)
            case flows.Bundle():
                return write_bundle(action, self.part, lambda port: write_port(port, self.names))
        return _FIXED[type(action)]

    def resubmit(self, action: flows.Resubmit) -> str:
        """A resubmit, in its short form when it has only a port."""
        port = "" if action.port is None else write_port(action.port, self.names)
        if action.ct:
            return f"resubmit({port},{'' if action.table is None else action.table},ct)"
        return f"resubmit:{port}" if action.table is None else f"resubmit({port},{action.table})"

    def ct(self, action: flows.Ct) -> str:
        """A ct with those of its arguments that it has."""
        arguments = [word for word, given in (("commit", action.commit), ("force", action.force)) if given]
        if action.table is not None:
            arguments.append(f"table={action.table}")
        if isinstance(action.zone, Subfield):
            arguments.append(f"zone={self.part(action.zone)}")
        elif action.zone:
            arguments.append(f"zone={action.zone}")
        if action.nat is not None:
            arguments.append(write_nat(action.nat))
        if action.exec:
            arguments.append(f"exec({self.list_of(action.exec)})")
        if action.alg is not None:
            arguments.append(f"alg={action.alg}")
        return f"ct({','.join(arguments)})"

    def set_field(self, action: SetField) -> str:
        """The old name of the action where it has one, else load, or set_field for what is wide or masked."""
        dest, value = action.dest, action.value
        if action.mask != full_mask(dest.width):
            return self._masked(action)
        old = self._old_name(dest, value)
        if old:
            return old
        field = field_of(dest, self.facts)
        if dest.width > 64 and dest.width == field.width:
            wide = write_ipv6(value) if field.read is values.read_ipv6 else f"{value:#x}"
            return f"set_field:{wide}->{field.name}"
        return f"load:{value:#x}->{self.part(dest)}" if value else f"load:0->{self.part(dest)}"

    def _masked(self, action: SetField) -> str:
        field = field_of(action.dest, self.facts)
        low = action.dest.start - field.shift
        value, mask = action.value << low, action.mask << low
        write = _MASKED.get(field.read)
        return f"set_field:{write(value, mask) if write else f'{value:#x}/{mask:#x}'}->{field.name}"

    def _old_name(self, dest: Subfield, value: int) -> str:
        """A mod_* action, or nothing."""
        place, start, width = dest.field, dest.start, dest.width
        if (place, start, width) == ("vlan_tci", 0, 13) and value & VLAN_PRESENT:
            return f"mod_vlan_vid:{value & _VID}"
        if (place, start, width) == ("vlan_tci", 12, 4) and value & 1:
            return f"mod_vlan_pcp:{value >> 1}"
        if place in ("eth_src", "eth_dst") and width == 48:
            return f"mod_dl_{place[4:]}:{write_mac(value)}"
        if place in ("nw_src", "nw_dst") and width == 32 and not self.facts.fulfil("arp"):
            return f"mod_{place}:{write_ipv4(value)}"
        if place == "nw_tos" and (start, width) == (2, 6):
            return f"mod_nw_tos:{value << 2}"
        if place in ("tp_src", "tp_dst") and width == 16:
            return f"mod_{place}:{value}"
        return ""

    def part(self, place: Subfield) -> str:
        """The name of a field and which of its bits."""
        field = field_of(place, self.facts)
        name = field.nxm or field.name
        start = place.start - field.shift
        if start == 0 and place.width == field.width:
            return f"{name}[]"
        return f"{name}[{start}]" if place.width == 1 else f"{name}[{start}..{start + place.width - 1}]"


def _controller(action: flows.Controller) -> str:
    """The short form where nothing but the length is said."""
    if action == flows.Controller(action.max_len):
        return f"CONTROLLER:{action.max_len}"
    said = []
    if action.reason != 1:
        said.append(f"reason={_REASONS.get(action.reason, action.reason)}")
    if action.max_len != 0xFFFF:
        said.append(f"max_len={action.max_len}")
    if action.controller:
        said.append(f"id={action.controller}")
    if action.userdata:
        said.append(f"userdata={action.userdata.hex('.')}")
    if action.pause:
        said.append("pause")
    if action.meter is not None:
        said.append(f"meter_id={action.meter}")
    return f"controller({','.join(said)})"


_REASONS = {0: "no_match", 1: "action", 2: "invalid_ttl", 3: "action_set", 4: "group", 5: "packet_out"}


def field_of(place: Subfield, facts: Facts) -> UserField:
    """The field by whose name users know these bits, in a flow whose match says `facts`.

    Raises ValueError for bits that have no common name.
    """
    name = place.field
    if name in _ARP_NAMES and facts.fulfil("arp"):
        name = _ARP_NAMES[name]
    elif name in _ND_NAMES:
        name = _ND_NAMES[name]
    elif name in ("tp_src", "tp_dst"):
        name = _transport_name(name, facts)
    elif name == "nw_tos":
        if place.start + place.width <= 2:
            name = "nw_ecn"
        elif place.start < 2:
            raise ValueError(f"{place} has no name: it is a part of nw_tos and of nw_ecn")
    return USER_FIELDS[name]


def _transport_name(place: str, facts: Facts) -> str:
    end = place.removeprefix("tp_")
    code = "type" if end == "src" else "code"
    for needs, name in (
        ("udp", f"udp_{end}"),
        ("sctp", f"sctp_{end}"),
        ("icmp", f"icmp_{code}"),
        ("icmp6", f"icmpv6_{code}"),
    ):
        if facts.fulfil(needs):
            return name
    return f"tcp_{end}"


_FIXED: Mapping[type, str] = {
    flows.Normal: "NORMAL",
    flows.Flood: "FLOOD",
    flows.All: "ALL",
    flows.InPort: "IN_PORT",
    flows.Local: "LOCAL",
    flows.ToTable: "TABLE",
    flows.PopVlan: "strip_vlan",
    flows.CtClear: "ct_clear",
    flows.ClearActions: "clear_actions",
    flows.Exit: "exit",
}
