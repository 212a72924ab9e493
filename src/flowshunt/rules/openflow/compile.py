"""Flows compiled for the datapath: match to masked words of the flow key, actions to a program."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.base.identity import IdentityCache
from flowshunt.conntrack.helpers import BY_NAME
from flowshunt.datapath import program as P
from flowshunt.datapath import spreading
from flowshunt.datapath.program import Assembler, CompiledRule, ConjunctionCell, Handled, Late, Place, as_int64
from flowshunt.datapath.schema import (
    N_TABLES,
    OUTSIDE_TABLE,
    PORT_ALL,
    PORT_CONTROLLER,
    PORT_FLOOD,
    PORT_IN_PORT,
    PORT_LOCAL,
    PORT_NORMAL,
    PORT_RESERVED_32,
)
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV6,
    ETH_RARP,
    FIELDS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    VLAN_PRESENT,
    W_CT_LABEL,
    W_PORT,
)
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.action_set import parts_of
from flowshunt.rules.openflow.elsewhere import REASONS
from flowshunt.rules.openflow.links import ALGORITHMS, HASH_FIELDS, MAX_CLAUSES, MEMBER_ALGORITHMS, MIN_CLAUSES

_IN_PORT = "in_port"
_WORD = (1 << 64) - 1
_HIGHEST = (1 << 63) - 1
_FIXED_GUARDS = {
    "ipv6_src": P.GUARD_IPV6,
    "ipv6_dst": P.GUARD_IPV6,
    "ipv6_label": P.GUARD_IPV6,
    "nw_tos": P.GUARD_IP,
    "nw_ttl": P.GUARD_IP,
    "nw_frag": P.GUARD_IP,
    "tcp_flags": P.GUARD_PORTS,
    "nd_target": P.GUARD_ND,
}
_PIPELINE = P.GUARD_NONE
_FIN, _RST = 1, 4
_ETH_TYPE_EXACT, _PROTO_EXACT = 0xFFFF, 0xFF


def compile_flow(flow: F.Flow, *, keeps_counters: bool = False) -> CompiledRule:
    """Compile one flow. `keeps_counters`: see CompiledRule.

    Raises UsageError for what no packet path can do: a table or port out of range, an unknown field, a value outside
    its mask, subfields of unequal width, exec that writes something else than ct_mark and ct_label.
    """
    if not 0 <= flow.table < N_TABLES:
        raise UsageError(f"table {flow.table} is out of range", hint=f"0 to {N_TABLES - 1}")
    match = compile_match(flow.match)
    clauses = [action for action in flow.actions if isinstance(action, F.Conjunction)]
    program, late = _clause(flow, clauses) if clauses else _program_of(flow)
    return CompiledRule(
        flow.table,
        flow.priority,
        match,
        program,
        flow,
        1000 * flow.idle_timeout,
        1000 * flow.hard_timeout,
        keeps_counters,
        "check_overlap" in flow.flags,
        late,
        bool(clauses),
    )


def _clause(flow: F.Flow, clauses: list[F.Conjunction]) -> tuple[tuple[int, ...], tuple[Late, ...]]:
    """The program of a flow that is a clause, see `datapath.conjunctions`."""
    if any(not isinstance(action, F.Conjunction | F.Note) for action in flow.actions):
        raise UsageError("conjunction goes with no other action than note")
    words, late = [len(clauses)], []
    for action in clauses:
        if not 1 <= action.clause <= action.n_clauses <= MAX_CLAUSES or action.n_clauses < MIN_CLAUSES:
            raise UsageError(f"there is no clause {action.clause} of {action.n_clauses}")
        late.append(Late(len(words), 0, ConjunctionCell(flow.table, flow.priority, action.id)))
        words += (0, action.id << 8 | action.clause - 1, as_int64((1 << action.n_clauses) - 1))
    return tuple(words), tuple(late)


_Program = tuple[tuple[int, ...], tuple[Late, ...]]
_PROGRAMS: IdentityCache[_Program] = IdentityCache(8192)


def _program_of(flow: F.Flow) -> _Program:
    """The program of a flow and what is filled into it. Flows share them that say as much of their packets."""
    eth_type, proto = _protocol_of(flow.match)
    key = eth_type, proto, flow.table
    found = _PROGRAMS.find(flow.actions, key)
    if found is not None:
        return found
    made = _Actions(flow).list_of(flow.actions)
    if any(isinstance(late.thing, Handled) for late in made[1]):  # the flow's own
        return made
    return _PROGRAMS.keep(flow.actions, key, made, 8 * len(made[0]))


def _protocol_of(match: tuple[tuple[str, int, int], ...]) -> tuple[int | None, int | None]:
    """Ethernet type and protocol that a match wants."""
    eth_type = proto = None
    for name, value, mask in match:
        if name == "eth_type" and mask == _ETH_TYPE_EXACT:
            eth_type = value
        elif name == "nw_proto" and mask == _PROTO_EXACT:
            proto = value
    return eth_type, proto


def compile_actions(
    actions: tuple[F.Action, ...], flow: F.Flow | None = None
) -> tuple[tuple[int, ...], tuple[Late, ...]]:
    """The program of a list that belongs to no table, and what is filled into it.

    `flow` is what handlers of punted packets get to see. Raises UsageError as `compile_flow`.
    """
    return _Actions(F.Flow(table=OUTSIDE_TABLE) if flow is None else flow).list_of(actions)


def action_places(flow: F.Flow, actions: Iterable[F.Action]) -> dict[int, list[F.Action]]:
    """Actions of a flow by where they begin in its program, in words; those that need no instruction stand before the
    next one that does. Actions in a clone are found too.
    """
    return _Actions(flow).places_of(actions)


class FlowCompiler:
    """What a datapath needs to know of flows (`datapath.tables.Compiler`)."""

    def compile(self, flow: F.Flow, *, keeps_counters: bool = False) -> CompiledRule:
        """`compile_flow`."""
        return compile_flow(flow, keeps_counters=keeps_counters)

    def compile_selection(self, request: F.Flow) -> CompiledRule:
        """Table (maybe ALL_TABLES), priority and match of a modification or deletion; its actions don't count."""
        if not 0 <= request.table <= F.ALL_TABLES:
            raise UsageError(f"table {request.table} is out of range", hint=f"0 to {N_TABLES - 1}")
        return CompiledRule(request.table, request.priority, compile_match(request.match), (P.OP_END,), request)

    def is_selected(self, flow: F.Flow, request: F.Flow) -> bool:
        """Whether a flow has the cookie that a request wants, and outputs to the port and the group that it wants."""
        if (flow.cookie ^ request.cookie) & request.cookie_mask:
            return False
        if request.out_group is not None and not leads_to_group(flow.actions, request.out_group):
            return False
        return request.out_port is None or _outputs_to(flow.actions, request.out_port)

    def looks_at_flows(self, request: F.Flow) -> bool:
        """Whether a request has a cookie, a port or a group."""
        return bool(request.cookie_mask) or request.out_group is not None or request.out_port is not None

    def merge(self, flow: F.Flow, request: F.Flow) -> F.Flow:
        """A flow with the actions of a modification, and its cookie if it brings one."""
        cookie = flow.cookie if request.new_cookie is None else request.new_cookie
        return dataclasses.replace(flow, actions=request.actions, cookie=cookie)


_RESERVED = {F.Normal: PORT_NORMAL, F.Flood: PORT_FLOOD, F.All: PORT_ALL, F.InPort: PORT_IN_PORT, F.Local: PORT_LOCAL}
_RESERVED_PORTS = {**_RESERVED, F.Controller: PORT_CONTROLLER}


def _outputs_to(actions: Iterable[F.Action], port: int) -> bool:
    """Whether a list names the port, be it a reserved one, in a clone or for the action set.

    As in Open vSwitch, fields that hold a number, bundles and truncated outputs don't count.
    """
    for action in actions:
        if isinstance(action, F.Clone | F.WriteActions):
            named = _outputs_to(action.actions, port)
        elif isinstance(action, F.Output | F.Enqueue):
            named = isinstance(action.port, int) and _port(action.port) == _port(port)
        else:
            named = _RESERVED_PORTS.get(type(action)) == _port(port)
        if named:
            return True
    return False


def leads_to_group(actions: Iterable[F.Action], group: int) -> bool:
    """Whether a list goes through a group, be it in a clone or by the action set."""
    return any(
        leads_to_group(action.actions, group)
        if isinstance(action, F.Clone | F.WriteActions)
        else action == F.Group(group)
        for action in actions
    )


def compile_match(match: tuple[tuple[str, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    """(word, mask, value) per word of the key that a match looks at, in order of word; int64 bit patterns."""
    form = _form(tuple([(name, mask) for name, _, mask in match]))
    if form is None:
        return _compile_each(match)
    found = []
    for word, mask, parts in form:
        bits = 0
        for index, right, left in parts:
            name, value, allowed = match[index]
            if value & ~allowed or (name == _IN_PORT and value >= PORT_RESERVED_32):
                return _compile_each(match)
            bits |= (value >> right & _WORD) << left
        found.append((word, mask, bits if bits <= _HIGHEST else bits - (1 << 64)))
    return tuple(found)


_Form = tuple[tuple[int, int, tuple[tuple[int, int, int], ...]], ...]
"""Per word of the key: word, mask, and which triples of the match go there, moved right and then left."""


@lru_cache(maxsize=4096)
def _form(fields: tuple[tuple[str, int], ...]) -> _Form | None:
    """Where the values of a match of these fields and masks go; None where that takes a closer look."""
    words: dict[int, int] = {}
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for index, (name, mask) in enumerate(fields):
        place = FIELDS.get(name)
        if place is None or mask < 0 or mask >> place.width:
            return None
        halves = ((place.word, 64, 0), (place.word + 1, 0, 0)) if place.width > 64 else ((place.word, 0, place.shift),)
        for word, right, left in halves:
            part = (mask >> right & _WORD) << left
            if words.get(word, 0) & part:
                return None
            if part:
                words[word] = words.get(word, 0) | part
                parts.setdefault(word, []).append((index, right, left))
    return tuple((word, as_int64(mask), tuple(parts[word])) for word, mask in sorted(words.items()))


def _compile_each(match: Iterable[tuple[str, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """`compile_match`, field by field; raises UsageError for what cannot be matched."""
    words: dict[int, tuple[int, int]] = {}
    for name, value, mask in match:
        place = FIELDS.get(name)
        if place is None:
            raise UsageError(f"unknown field {name!r}")
        if value & ~mask or mask >> place.width:
            raise UsageError(f"{name}={value:#x}/{mask:#x} has bits outside its mask or the field")
        if name == _IN_PORT and value >= PORT_RESERVED_32:
            value &= 0xFFFF
        parts: tuple[tuple[int, int, int], ...]
        if place.width > 64:
            parts = ((place.word, mask >> 64, value >> 64), (place.word + 1, mask & _WORD, value & _WORD))
        else:
            parts = ((place.word, mask << place.shift, value << place.shift),)
        for word, part_mask, part_value in parts:
            if part_mask:
                old_mask, old_value = words.get(word, (0, 0))
                if (old_value ^ part_value) & old_mask & part_mask:
                    raise UsageError(f"{name} contradicts another field of the match")
                words[word] = old_mask | part_mask, old_value | part_value
    return tuple((word, as_int64(mask), as_int64(value)) for word, (mask, value) in sorted(words.items()))


def _pieces(subfield: F.Subfield) -> list[tuple[Place, int]]:
    """Places of a subfield in the key, low bits first, each with its distance from the subfield's own bit 0."""
    place = FIELDS.get(subfield.field)
    if place is None:
        raise UsageError(f"unknown field {subfield.field!r}")
    if subfield.start < 0 or subfield.width < 1 or subfield.start + subfield.width > place.width:
        raise UsageError(
            f"{subfield.field}[{subfield.start}..{subfield.start + subfield.width - 1}] is outside the field",
            hint=f"{subfield.field} has {place.width} bits",
        )
    if place.width <= 64:
        return [(Place(place.word, place.shift + subfield.start, subfield.width), 0)]
    end = subfield.start + subfield.width
    pieces = []
    for word, low in ((place.word + 1, 0), (place.word, 64)):
        first, last = max(subfield.start, low), min(end, low + 64)
        if first < last:
            pieces.append((Place(word, first - low, last - first), first - subfield.start))
    return pieces


def _aligned(source: F.Subfield, dest: F.Subfield) -> list[tuple[Place, Place]]:
    """A move of any width as moves within words, in an order that is safe when source and destination overlap."""
    sources, dests = _pieces(source), _pieces(dest)
    cuts = {at for pieces in (sources, dests) for _, at in pieces} | {dest.width}
    edges = sorted(cuts)
    moves = [(_cut(sources, low, high - low), _cut(dests, low, high - low)) for low, high in itertools.pairwise(edges)]
    return moves if _is_safe(moves) else moves[::-1]


def _is_safe(moves: list[tuple[Place, Place]]) -> bool:
    """Whether no move overwrites what a later one reads; fields may overlap under different names (reg0, xreg0)."""
    return not any(
        dest.word == source.word and dest.shift < source.shift + source.width and source.shift < dest.shift + dest.width
        for number, (_, dest) in enumerate(moves)
        for source, _ in moves[number + 1 :]
    )


def _cut(pieces: list[tuple[Place, int]], low: int, width: int) -> Place:
    place, at = next((place, at) for place, at in pieces if at <= low < at + place.width)
    return Place(place.word, place.shift + low - at, width)


def _port(port: int) -> int:
    """A port number as the datapath has it: 16 bits."""
    number = port & 0xFFFF if port >= PORT_RESERVED_32 else port
    if not 0 <= number <= 0xFFFF:
        raise UsageError(f"port {port} is out of range", hint="0 to 65535, or a reserved port")
    return number


class _Actions:
    """Compiles the actions of one flow; what its match says decides which header a shared field means."""

    def __init__(self, flow: F.Flow) -> None:
        self._eth_type, self._proto = _protocol_of(flow.match)
        self._table = flow.table
        self._flow = flow

    def list_of(self, actions: tuple[F.Action, ...]) -> tuple[tuple[int, ...], tuple[Late, ...]]:
        """The program of a list and what is filled into it; goto_table comes last, wherever it stands."""
        assembler = Assembler()
        last = None
        for action in actions:
            if isinstance(action, F.GotoTable):
                last = action.table
            else:
                _handler(action)(self, assembler, action)
        if last is not None:
            if not self._table < last < N_TABLES:
                raise UsageError(
                    f"goto_table:{last} does not lead to a later table", hint=f"use {self._table + 1} to 254"
                )
            assembler.goto(last)
        return assembler.finish(), tuple(assembler.late)

    def places_of(self, actions: Iterable[F.Action], start: int = 0) -> dict[int, list[F.Action]]:
        """Actions by where their instructions begin in the program of `list_of`, `start` words before it."""
        found: dict[int, list[F.Action]] = {}
        assembler = Assembler()
        last: list[F.Action] = []
        for action in actions:
            if isinstance(action, F.GotoTable):
                last = [action]
                continue
            at = start + len(assembler.words)
            found.setdefault(at, []).append(action)
            if isinstance(action, F.Clone):
                found |= self.places_of(action.actions, at + 1)
            _handler(action)(self, assembler, action)
        if last:
            found.setdefault(start + len(assembler.words), []).extend(last)
        return found

    def guard(self, subfield: F.Subfield, mask: int = 0) -> int:
        """What the packet must have, so that a field can be read or written."""
        name = subfield.field
        arp = self._eth_type in (ETH_ARP, ETH_RARP)
        if name in ("nw_src", "nw_dst", "nw_proto"):
            return P.GUARD_ARP if arp else P.GUARD_IP if name == "nw_proto" else P.GUARD_IPV4
        if name in ("arp_sha", "arp_tha"):
            return P.GUARD_ND if self._eth_type == ETH_IPV6 else P.GUARD_ARP
        if name in ("tp_src", "tp_dst"):
            return {PROTO_ICMP: P.GUARD_ICMP, PROTO_ICMPV6: P.GUARD_ICMPV6}.get(self._proto or 0, P.GUARD_PORTS)
        if name == "vlan_tci":
            return P.GUARD_NONE if mask << subfield.start & VLAN_PRESENT else P.GUARD_VLAN
        return _FIXED_GUARDS.get(name, _PIPELINE)

    def set(self, out: Assembler, action: F.SetField) -> None:
        if (action.value | action.mask) >> action.dest.width:
            raise UsageError(f"{action.value:#x}/{action.mask:#x} does not fit {action.dest.width} bits")
        guard = self.guard(action.dest, action.mask)
        for place, at in _pieces(action.dest):
            mask = (action.mask >> at) & ((1 << place.width) - 1)
            if mask:
                out.set(place.word, mask << place.shift, (action.value >> at & mask) << place.shift, guard)
        if action.dest.field == "vlan_tci":
            out.fix_vlan()

    def move(self, out: Assembler, action: F.Move) -> None:
        source, dest = action.source, action.dest
        if source.width != dest.width:
            raise UsageError(f"cannot move {source.width} bits to {dest.width} bits")
        source_guard = P.GUARD_NONE if source.field == "vlan_tci" else self.guard(source)
        dest_guard = self.guard(dest, (1 << dest.width) - 1)
        for place_from, place_to in _aligned(source, dest):
            out.move(place_from, place_to, source_guard, dest_guard)
        if dest.field == "vlan_tci":
            out.fix_vlan()

    def output(self, out: Assembler, action: F.Output) -> None:
        if isinstance(action.port, int):
            out.output(_port(action.port))
        else:
            out.output_field(self._single(out, action.port))

    def output_truncated(self, out: Assembler, action: F.OutputTruncated) -> None:
        out.output(_port(action.port), action.max_len)

    def multipath(self, out: Assembler, action: F.Multipath) -> None:
        number = ALGORITHMS.index(action.algorithm)
        parts = spreading.PARTS[HASH_FIELDS.index(action.fields)]
        self._take_link(out, out.link(number, action.n_links, action.basis, action.argument, parts), action.dest)

    def bundle(self, out: Assembler, action: F.Bundle) -> None:
        number = spreading.ACTIVE_BACKUP + MEMBER_ALGORITHMS.index(action.algorithm)
        ports = [_port(member) for member in action.members]
        parts = spreading.PARTS[HASH_FIELDS.index(action.fields)]
        chosen = out.link(number, len(ports), action.basis, 0, parts, ports)
        if action.dest is None:
            out.output_field(chosen)
        else:
            self._take_link(out, chosen, action.dest)

    def _take_link(self, out: Assembler, chosen: Place, dest: F.Subfield) -> None:
        """Put the number of a link into a field, of which the bits above it become zero."""
        guard = self.guard(dest, (1 << dest.width) - 1)
        for place, at in _pieces(dest):
            if at + place.width > 64:
                raise UsageError(f"{dest.width} bits are too many for a number", hint="name a part of the field")
            out.move(Place(chosen.word, chosen.shift + at, place.width), place, P.GUARD_NONE, guard)
        if dest.field == "vlan_tci":
            out.fix_vlan()

    def _single(self, out: Assembler, subfield: F.Subfield) -> Place:
        """A place that holds the value of a subfield of up to 64 bits, put together where it lies across words."""
        pieces = _pieces(subfield)
        if len(pieces) == 1:
            return pieces[0][0]
        if subfield.width > 64:
            raise UsageError(f"{subfield.width} bits are too many for a number", hint="name a part of the field")
        for place, at in pieces:
            out.move(place, Place(P.W_SCRATCH, at, place.width))
        return Place(P.W_SCRATCH, 0, subfield.width)

    def ct(self, out: Assembler, action: F.Ct) -> None:
        flags = (P.CT_COMMIT if action.commit else 0) | (P.CT_FORCE if action.force else 0)
        zone = action.zone if isinstance(action.zone, int) else self._single(out, action.zone)
        if isinstance(zone, int) and not 0 <= zone <= 0xFFFF:
            raise UsageError(f"ct zone {zone} is out of range", hint="0 to 65535")
        if action.table is not None and not 0 <= action.table < N_TABLES:
            raise UsageError(f"ct table {action.table} is out of range", hint=f"0 to {N_TABLES - 1}")
        if action.alg is not None and action.alg not in BY_NAME:
            raise UsageError(f"unknown helper {action.alg!r}", hint=", ".join(BY_NAME))
        helper = 0 if action.alg is None else BY_NAME[action.alg].number
        masks, words = self._exec(action.exec)
        nat = () if action.nat is None else action.nat.words()
        out.ct(flags, action.table, zone, masks=masks, program=words, nat=nat, helper=helper)

    def _exec(self, actions: tuple[F.SetField | F.Move, ...]) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """Bits of mark and label (high, low) that exec writes, and the instructions that do."""
        masks = {W_PORT: 0, W_CT_LABEL: 0, W_CT_LABEL + 1: 0}
        body = Assembler()
        for action in actions:
            if action.dest.field not in ("ct_mark", "ct_label"):
                raise UsageError(f"exec cannot write {action.dest.field}", hint="only ct_mark and ct_label")
            _HANDLERS[type(action)](self, body, action)
            mask = action.mask if isinstance(action, F.SetField) else (1 << action.dest.width) - 1
            for place, at in _pieces(action.dest):
                masks[place.word] |= (mask >> at & ((1 << place.width) - 1)) << place.shift
        return (masks[W_PORT], masks[W_CT_LABEL], masks[W_CT_LABEL + 1]), tuple(body.words)

    def resubmit(self, out: Assembler, action: F.Resubmit) -> None:
        if action.table is not None and not 0 <= action.table < N_TABLES:
            raise UsageError(f"resubmit to table {action.table} is out of range", hint=f"0 to {N_TABLES - 1}")
        port = None if action.port is None else _port(action.port)
        out.resubmit(None if port == PORT_IN_PORT else port, action.table, ct=action.ct)

    def clone(self, out: Assembler, action: F.Clone) -> None:
        out.clone(*self.list_of(action.actions))

    def write(self, out: Assembler, action: F.WriteActions) -> None:
        """Each part of the set is a program of its own, which belongs to this flow."""
        once, changes, last, rank = parts_of(action.actions)
        if isinstance(last, F.Controller):
            last = dataclasses.replace(last, reason=REASONS["action_set"])
        lists = (*((each,) if each else () for each in once), changes, (last,) if last else ())
        parts = [self.list_of(each) if each else ((), ()) for each in lists]
        out.write(parts, rank)

    def handled(self, out: Assembler, action: F.Action) -> None:
        out.handled(Handled(action, self._flow))

    def dec_ttl(self, out: Assembler, action: F.DecTtl) -> None:
        expired = Assembler()
        for controller in action.controllers:
            expired.handled(Handled(F.Controller(controller=controller, reason=REASONS["invalid_ttl"]), self._flow))
        out.dec_ttl(expired.finish() if action.controllers else (), expired.late)

    def fin_timeout(self, out: Assembler, action: F.FinTimeout) -> None:
        """Python is asked only for the packets that end a conversation."""
        inner = Assembler()
        inner.handled(Handled(action, self._flow))
        place = FIELDS["tcp_flags"]
        out.skip_unless(place.word, (_FIN | _RST) << place.shift, inner.words, inner.late)

    def enqueue(self, out: Assembler, action: F.Enqueue) -> None:
        """There are no queues: what would wait in one leaves."""
        out.output(_port(action.port))


def _stack_places(subfield: F.Subfield) -> tuple[Place, Place | None]:
    """Where the low and the high word of a value for the stack lie."""
    pieces = _pieces(subfield)
    if len(pieces) == 1:
        return pieces[0][0], None
    if subfield.start:
        raise UsageError(f"bits across the middle of {subfield.field} can't be pushed or popped", hint="use all of it")
    return pieces[0][0], pieces[1][0]


def _handler(action: F.Action) -> Callable[[_Actions, Assembler, Any], None]:
    handler = _HANDLERS.get(type(action))
    if handler is None:
        raise UsageError(f"not supported yet: action {type(action).__name__}")
    return handler


_HANDLERS: dict[type, Callable[[_Actions, Assembler, Any], None]] = {
    F.Output: _Actions.output,
    **dict.fromkeys(_RESERVED, lambda _, out, action: out.output(_RESERVED[type(action)])),
    F.ToTable: lambda _, out, action: out.resubmit(None, 0),
    F.Resubmit: _Actions.resubmit,
    F.SetField: _Actions.set,
    F.Move: _Actions.move,
    F.PushVlan: lambda _, out, action: out.push_vlan(action.tpid),
    F.PopVlan: lambda _, out, action: out.pop_vlan(),
    F.DecTtl: _Actions.dec_ttl,
    F.Ct: _Actions.ct,
    F.CtClear: lambda _, out, action: out.ct_clear(),
    F.Clone: _Actions.clone,
    F.ClearActions: lambda _, out, action: out.clear(),
    F.WriteActions: _Actions.write,
    F.Note: lambda _, out, action: None,
    F.Controller: _Actions.handled,
    F.Group: lambda _, out, action: out.group(action.group),
    F.Meter: lambda _, out, action: out.meter(action.meter),
    F.Enqueue: _Actions.enqueue,
    F.SetQueue: lambda _, out, action: None,
    F.Exit: lambda _, out, action: out.exit(),
    F.Learn: _Actions.handled,
    F.FinTimeout: _Actions.fin_timeout,
    F.Push: lambda _, out, action: out.push(*_stack_places(action.source)),
    F.Pop: lambda _, out, action: out.pop(*_stack_places(action.dest)),
    F.OutputTruncated: _Actions.output_truncated,
    F.Conjunction: lambda _, out, action: None,
    F.Multipath: _Actions.multipath,
    F.Bundle: _Actions.bundle,
    F.CheckLarger: lambda _, out, action: out.larger(_pieces(action.dest)[0][0], action.size),
}
