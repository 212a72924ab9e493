"""Lists of actions, from their text to the values of `flow`."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from flowshunt.conntrack.helpers import BY_NAME
from flowshunt.conntrack.nat import Nat
from flowshunt.packet.schema import ETH_IPV4, ETH_IPV6, PROTO_TCP
from flowshunt.rules.openflow import flow, values
from flowshunt.rules.openflow.action_set import has_place
from flowshunt.rules.openflow.elsewhere import (
    read_controller,
    read_enqueue,
    read_group,
    read_meter,
    read_set_queue,
)
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.flow import Action, Move, SetField
from flowshunt.rules.openflow.learning import read_fin_timeout, read_learn
from flowshunt.rules.openflow.links import check_conjunctions, read_bundle, read_conjunction, read_multipath
from flowshunt.rules.openflow.match import Facts
from flowshunt.rules.openflow.nat import read_nat
from flowshunt.rules.openflow.scanner import Context, Item, items
from flowshunt.rules.openflow.setters import Actions, FieldActions, read_part
from flowshunt.rules.openflow.values import nearest, read_int, read_port

MAX_NESTING = 16
"""How deep clone may lie within clone."""

_NOT_YET = frozenset(
    (
        "dec_mpls_ttl", "dec_nsh_ttl", "decap",
        "delete_field", "encap", "pop_mpls", "push_mpls", "sample", "set_mpls_label", "set_mpls_tc",
        "set_mpls_ttl", "set_tunnel", "set_tunnel64",
    )
)  # fmt: skip
_PORT_ACTIONS: MappingProxyType[int, Action] = MappingProxyType(
    {
        values.PORT_IN_PORT: flow.InPort(),
        values.PORT_NORMAL: flow.Normal(),
        values.PORT_FLOOD: flow.Flood(),
        values.PORT_ALL: flow.All(),
        values.PORT_LOCAL: flow.Local(),
        values.PORT_TABLE: flow.ToTable(),
    }
)
_INSTRUCTIONS = ("clear_actions", "write_actions", "write_metadata", "goto_table")
"""What stands behind actions, in this order."""
_CT_ARGUMENTS = ("commit", "force", "table", "zone", "exec", "nat", "alg")


def read_table(text: str, context: Context) -> int:
    """A table by number or name; 255, which is none, included."""
    if text.isdigit() and text.isascii() and len(text) <= 3 and int(text) <= flow.ALL_TABLES:
        return int(text)
    table = context.tables.get(values.unquote(text))
    if table is None:
        hint = nearest(text, [*context.tables]) or "a table is 0 to 254"
        raise BadValueError(f"unknown table {quote(text)}" if text else "a table is missing", hint)
    return table


def _to_port(port: int) -> Action:
    """The action that outputs to a port."""
    action = _PORT_ACTIONS.get(port)
    if action is not None:
        return action
    if port == values.PORT_CONTROLLER:
        return flow.Controller()
    if port > values.PORT_MAX:
        raise BadValueError(f"{values.write_port(port)} is not a port to output to", f"0 to {values.PORT_MAX}")
    return flow.Output(port)


class ActionReader:
    """Reads the actions of one flow. `table` is the flow's own."""

    __slots__ = ("context", "depth", "facts", "fields", "table")

    def __init__(self, context: Context, facts: Facts, table: int) -> None:
        self.context = context
        self.facts = facts
        self.table = table
        self.fields = FieldActions(context, facts)
        self.depth = 0

    def read(self, start: int, end: int, inside: str = "") -> Actions:
        """The actions of `text[start:end)`; `inside` names the action around them, empty at the top."""
        found: list[Action] = []
        n = 0
        drop: Item | None = None
        last = ""
        for item in items(self.context.text, start, end):
            name = item.key.lower()
            try:
                if not item.closed:
                    self.context.tell(item.key_at, f"{item.key} lacks its closing parenthesis")
                if name == "drop":
                    drop = item
                    continue
                n += 1
                if last:
                    _check_order(name, last)
                if name in _INSTRUCTIONS:
                    if inside:
                        raise BadValueError(f"{name} can't stand inside {inside}")
                    last = name
                actions = self._one(name, item, inside)
                if inside == "write_actions" and not all(map(has_place, actions)):
                    raise BadValueError(f"{quote(item.key)} can't stand in an action set", "put it in front, by itself")
                found.extend(actions)
            except BadValueError as problem:
                raise self.context.blame(item, problem) from None
        if drop is not None and n:
            self.context.fail(drop.key_at, drop.key, "drop can't be combined with other actions", "write it alone")
        mixture = "" if inside else check_conjunctions(tuple(found))
        if mixture:
            self.context.fail(start, "", mixture, "match conj_id=ID in another flow, with the actions")
        return tuple(found)

    def _one(self, name: str, item: Item, inside: str) -> Actions:
        handler = _FIELD_HANDLERS.get(name)
        if inside == "exec" and name not in ("set_field", "load", "move"):
            raise BadValueError(f"{quote(item.key)} can't stand inside exec", "there, set ct_mark or ct_label only")
        if handler is not None:
            return handler(self.fields, item)
        other = _HANDLERS.get(name)
        if other is not None:
            return (other(self, item),)
        return (self._bare(name, item),)

    def _bare(self, name: str, item: Item) -> Action:
        """An action that is a port's number or name, or unknown."""
        if name in _NOT_YET:
            raise self.context.error(item.key_at, item.key, f"not supported yet: {name}")
        try:
            port = read_port(item.key, self.context.ports)
        except BadValueError as problem:
            known = [*_HANDLERS, *_FIELD_HANDLERS, "drop", *values.RESERVED_PORTS, *self.context.ports]
            message, hint = f"unknown action {quote(item.key)}", nearest(item.key, known)
            if item.key[:1].isdigit():
                message, hint = problem.message, problem.hint
            elif name == "apply_actions":
                hint = "actions are applied at once anyway: write them without it"
            elif name == "nat":
                hint = "nat stands inside ct: write ct(commit,nat(...))"
            elif not hint and item.key:
                hint = "an action, or a port of the switch"
            raise self.context.error(item.key_at, item.key, message, hint) from None
        return _to_port(port)

    def output(self, item: Item) -> Action:
        """`output:PORT` or `output:FIELD`."""
        text = item.value
        try:
            port = read_port(text, self.context.ports)
        except BadValueError as problem:
            if text[:1].isdigit() or not text:
                raise
            if text.startswith(("port", "max_len")) and "=" in text:
                return self._output_truncated(item)
            if "[" not in text and "XM_" not in text and text not in values.RESERVED_PORTS:
                try:
                    read_part(text)
                except BadValueError:
                    raise problem from None
        else:
            return _to_port(port)
        return self._output_field(text)

    def _output_truncated(self, item: Item) -> Action:
        """`output(port=PORT,max_len=SIZE)`."""
        said: dict[str, int] = {}
        for argument in items(self.context.text, item.value_at, item.value_at + len(item.value)):
            try:
                if argument.key == "port":
                    said["port"] = read_port(argument.value, self.context.ports)
                elif argument.key == "max_len":
                    said["max_len"] = read_int(argument.value, 32)
                else:
                    raise BadValueError(f"unknown argument {quote(argument.key)} of output", "port, max_len")
            except BadValueError as problem:
                raise self.context.blame(argument, problem) from None
        if len(said) < 2:
            raise BadValueError(f"{quote(item.value)} lacks a port or a length", "write output(port=PORT,max_len=SIZE)")
        port, max_len = said["port"], said["max_len"]
        if not flow.can_truncate(port):
            raise BadValueError(f"output to {values.write_port(port)} can't be truncated", "name a port")
        if max_len < flow.MIN_TRUNCATED:
            raise BadValueError(f"{max_len} bytes are less than a header", f"at least {flow.MIN_TRUNCATED}")
        return flow.OutputTruncated(port, max_len)

    def output_reg(self, item: Item) -> Action:
        """`output_reg:FIELD`, the old name of output to a field."""
        return self._output_field(item.value)

    def _output_field(self, text: str) -> Action:
        return flow.Output(self.fields.source(text).subfield())

    def resubmit(self, item: Item) -> Action:
        """`resubmit:PORT`, `resubmit(PORT,TABLE)`, `resubmit(,TABLE)`, `resubmit(,TABLE,ct)`."""
        parts = item.value.split(",", 2)
        if parts[2:] not in ([], [""], ["ct"]):
            raise BadValueError(f"unknown argument {quote(parts[2])} of resubmit", "write resubmit(PORT,TABLE,ct)")
        port: int | None = None
        if parts[0]:
            port = read_port(parts[0], self.context.ports)
        table: int | None = None
        if len(parts) > 1 and parts[1]:
            table = read_table(parts[1], self.context)
        port = None if port == values.PORT_IN_PORT else port
        table = None if table == flow.ALL_TABLES else table
        if port is None and table is None:
            raise BadValueError("resubmit needs a port or a table", "write resubmit(PORT,TABLE) or resubmit(,TABLE)")
        return flow.Resubmit(port, table, parts[2:] == ["ct"])

    def goto_table(self, item: Item) -> Action:
        """`goto_table:TABLE`, a later one than the flow's."""
        table = read_table(item.value, self.context)
        if not self.table < table < flow.ALL_TABLES:
            first = max(self.table, 0) + 1
            hint = f"{first} to 254" + (f", or resubmit(,{table})" if table < first else "")
            raise BadValueError(f"goto_table leads to a later table than the flow's, not to {table}", hint)
        return flow.GotoTable(table)

    def dec_ttl(self, item: Item) -> Action:
        """`dec_ttl`, `dec_ttl()` and `dec_ttl(CONTROLLER,CONTROLLER...)`."""
        words = item.value.replace(",", " ").split()
        if len(words) > flow.MAX_CONTROLLERS:
            raise BadValueError(f"{len(words)} controllers are too many", f"at most {flow.MAX_CONTROLLERS}")
        return flow.DecTtl(tuple(read_int(word, 16) for word in words))

    def ct_clear(self, item: Item) -> Action:
        """`ct_clear`."""
        return flow.CtClear()

    def clone(self, item: Item) -> Action:
        """`clone(ACTIONS)`."""
        if self.depth == MAX_NESTING:
            raise self.context.error(item.key_at, item.key, f"clone lies more than {MAX_NESTING} deep in clone")
        self.depth += 1
        actions = self._nested(item, "clone")
        self.depth -= 1
        return flow.Clone(actions)

    def _nested(self, item: Item, inside: str) -> Actions:
        """The list within an action; whether there is a VLAN tag then is forgotten behind it."""
        tagged = self.fields.tagged
        actions = self.read(item.value_at, item.value_at + len(item.value), inside)
        self.fields.tagged = tagged
        return actions

    def clear_actions(self, item: Item) -> Action:
        """`clear_actions`."""
        return flow.ClearActions()

    def write_actions(self, item: Item) -> Action:
        """`write_actions(ACTIONS)`."""
        return flow.WriteActions(self._nested(item, "write_actions"))

    def push(self, item: Item) -> Action:
        """`push:FIELD[FIRST..LAST]`."""
        return flow.Push(self.fields.source(item.value).subfield())

    def pop(self, item: Item) -> Action:
        """`pop:FIELD[FIRST..LAST]`."""
        return flow.Pop(self.fields.dest(item.value).subfield())

    def check_larger(self, item: Item) -> Action:
        """`check_pkt_larger(SIZE)->FIELD[BIT]`."""
        size, arrow, target = item.value.partition(")->")
        if not arrow:
            raise BadValueError(f"{quote(item.value)} lacks a destination", "write check_pkt_larger(SIZE)->reg0[0]")
        part = self.fields.dest(target)
        if part.width != 1:
            raise BadValueError(f"{target} is not one bit", "write check_pkt_larger(SIZE)->reg0[0]", target)
        return flow.CheckLarger(read_int(size, 16), part.subfield())

    def learned_table(self, text: str) -> int:
        """The table of flows that are learned."""
        table = read_table(text, self.context)
        if table == flow.ALL_TABLES:
            raise BadValueError("255 is not a table", "0 to 254")
        return table

    def note(self, item: Item) -> Action:
        """`note:HEX`: pairs of digits, with dots between them or not."""
        data = bytearray()
        text, at = item.value, 0
        while at < len(text):
            if text[at] == ".":
                at += 1
                if at == len(text):
                    break
                if text[at] == ".":
                    continue
            pair = text[at : at + 2]
            if len(pair) < 2 or not (pair.isascii() and pair.isalnum()):
                raise BadValueError(f"{quote(text)} is not a string of bytes", "write note:00.11.22")
            try:
                data.append(int(pair, 16))
            except ValueError:
                raise BadValueError(f"{quote(text)} is not a string of bytes", "write note:00.11.22") from None
            at += 2
        return flow.Note(bytes(data))

    def ct(self, item: Item) -> Action:
        """`ct(commit,force,zone=ZONE,table=TABLE,nat(NAT),exec(ACTIONS),alg=HELPER)`."""
        commit = force = False
        zone: int | flow.Subfield = 0
        table: int | None = None
        changes: tuple[SetField | Move, ...] = ()
        nat: Nat | None = None
        alg: str | None = None
        context = self.context
        for argument in items(context.text, item.value_at, item.value_at + len(item.value)):
            key, value = argument.key, argument.value
            try:
                if key == "commit":
                    commit = True
                elif key == "force":
                    force = True
                elif key == "table":
                    table = self._ct_table(value)
                elif key == "zone":
                    zone = self._ct_zone(value)
                elif key == "exec":
                    changes = self._exec(argument)
                elif key == "nat":
                    nat = self._nat(argument)
                elif key == "alg":
                    alg = self._ct_alg(value)
                else:
                    _refuse_argument(key)
            except BadValueError as problem:
                blamed = argument if key in _CT_ARGUMENTS else argument._replace(value="")
                raise context.blame(blamed, problem) from None
        if not commit and (force or changes or (nat and nat.kind)):
            word = "force" if force else "exec" if changes else "nat"
            raise BadValueError(f"{word} needs commit", f"write ct(commit,{word}...)")
        if self.facts.eth_type not in (None, ETH_IPV4, ETH_IPV6):
            raise self.context.error(item.key_at, item.key, "only IP packets can be tracked", "match ip or ipv6")
        if commit and self.facts.ct_invalid:
            raise self.context.error(item.key_at, item.key, "what ct_state=+inv matches can't be committed")
        if alg is not None and self.facts.protocol != BY_NAME[alg].protocol:
            word = "tcp" if BY_NAME[alg].protocol == PROTO_TCP else "udp"
            raise self.context.error(item.key_at, item.key, f"alg={alg} needs {word}", f"match {word} or {word}6")
        return flow.Ct(commit, force, zone, table, changes, nat, alg)

    def _nat(self, argument: Item) -> Nat:
        nat = read_nat(argument, self.context)
        eth_type = {4: ETH_IPV4, 6: ETH_IPV6}.get(nat.first.version) if nat.first else self.facts.eth_type
        if eth_type != self.facts.eth_type:
            word = "ip" if eth_type == ETH_IPV4 else "ipv6"
            raise BadValueError(f"{nat.first} is not an address that every packet of the flow can get", f"match {word}")
        return nat

    def _ct_table(self, text: str) -> int:
        table = read_table(text, self.context)
        if table == flow.ALL_TABLES:
            raise BadValueError("255 is not a table", "0 to 254")
        return table

    def _ct_alg(self, text: str) -> str:
        if text not in BY_NAME:
            raise BadValueError(
                f"unknown helper {quote(text)}", nearest(text, [*BY_NAME]) or f"use {', '.join(BY_NAME)}"
            )
        return text

    def _ct_zone(self, text: str) -> int | flow.Subfield:
        if text[:1].isdigit():
            return read_int(text, 16)
        part = self.fields.source(text)
        where = part.subfield()
        if part.width != 16 or where.width != 16:
            raise BadValueError(f"a zone has 16 bits, but {text} has {part.width}", "write zone=reg0[0..15]")
        return where

    def _exec(self, argument: Item) -> tuple[SetField | Move, ...]:
        self.fields.in_exec = True
        actions = self.read(argument.value_at, argument.value_at + len(argument.value), "exec")
        self.fields.in_exec = False
        return tuple(action for action in actions if isinstance(action, SetField | Move))


def _check_order(name: str, last: str) -> None:
    """What may follow an instruction."""
    if name == last:
        raise BadValueError(f"{name} is given twice", "once is enough")
    if name not in _INSTRUCTIONS[_INSTRUCTIONS.index(last) :]:
        raise BadValueError(f"{quote(name)} can't follow {last}", f"put {last} behind it")


def _refuse_argument(key: str) -> None:
    raise BadValueError(f"unknown argument {quote(key)} of ct", nearest(key, [*_CT_ARGUMENTS]))


_FIELD_HANDLERS: MappingProxyType[str, Callable[[FieldActions, Item], Actions]] = MappingProxyType(
    {
        "set_field": FieldActions.set_field,
        "load": FieldActions.load,
        "move": FieldActions.move,
        "mod_dl_src": FieldActions.mod_dl,
        "mod_dl_dst": FieldActions.mod_dl,
        "mod_nw_src": FieldActions.mod_nw,
        "mod_nw_dst": FieldActions.mod_nw,
        "mod_nw_tos": FieldActions.mod_nw_tos,
        "mod_nw_ecn": FieldActions.mod_nw_ecn,
        "mod_nw_ttl": FieldActions.mod_nw_ttl,
        "set_nw_ttl": FieldActions.mod_nw_ttl,
        "mod_tp_src": FieldActions.mod_tp,
        "mod_tp_dst": FieldActions.mod_tp,
        "mod_vlan_vid": FieldActions.mod_vlan_vid,
        "mod_vlan_pcp": FieldActions.mod_vlan_pcp,
        "set_vlan_vid": FieldActions.set_vlan_vid,
        "set_vlan_pcp": FieldActions.set_vlan_pcp,
        "push_vlan": FieldActions.push_vlan,
        "pop_vlan": FieldActions.pop_vlan,
        "strip_vlan": FieldActions.pop_vlan,
        "write_metadata": FieldActions.write_metadata,
    }
)
_HANDLERS: MappingProxyType[str, Callable[[ActionReader, Item], Action]] = MappingProxyType(
    {
        "output": ActionReader.output,
        "output_reg": ActionReader.output_reg,
        "resubmit": ActionReader.resubmit,
        "goto_table": ActionReader.goto_table,
        "dec_ttl": ActionReader.dec_ttl,
        "ct": ActionReader.ct,
        "ct_clear": ActionReader.ct_clear,
        "clone": ActionReader.clone,
        "clear_actions": ActionReader.clear_actions,
        "write_actions": ActionReader.write_actions,
        "note": ActionReader.note,
        "controller": read_controller,
        "group": read_group,
        "meter": read_meter,
        "enqueue": read_enqueue,
        "set_queue": read_set_queue,
        "pop_queue": lambda reader, item: flow.SetQueue(None),
        "exit": lambda reader, item: flow.Exit(),
        "learn": read_learn,
        "fin_timeout": read_fin_timeout,
        "push": ActionReader.push,
        "pop": ActionReader.pop,
        "check_pkt_larger": ActionReader.check_larger,
        "conjunction": read_conjunction,
        "multipath": read_multipath,
        "bundle": read_bundle,
        "bundle_load": read_bundle,
    }
)
