"""The actions learn and fin_timeout: their texts, and what they make of a packet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from flowshunt.packet.schema import FIELDS
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.fields import field_named
from flowshunt.rules.openflow.scanner import Item, items
from flowshunt.rules.openflow.setters import FieldPart, full_mask, read_part
from flowshunt.rules.openflow.values import read_int

if TYPE_CHECKING:
    from flowshunt.rules.openflow.actions import ActionReader

_MAX_WIDTH = (1 << 11) - 1
_NUMBERS = {
    "idle_timeout": 16,
    "hard_timeout": 16,
    "fin_idle_timeout": 16,
    "fin_hard_timeout": 16,
    "priority": 16,
    "cookie": 64,
    "limit": 32,
}
_FLAGS = ("send_flow_rem", "delete_learned")


# --- text -------------------------------------------------------------------------------------------------------------


def read_learn(reader: ActionReader, item: Item) -> F.Action:
    """`learn(table=N,...,FIELD[]=FIELD[],FIELD=VALUE,load:SOURCE->FIELD[],output:FIELD[],...)`."""
    learn = F.Learn()
    specs: list[F.LearnSpec] = []
    numbers: dict[str, int] = {}
    for argument in items(reader.context.text, item.value_at, item.value_at + len(item.value)):
        key, value = argument.key, argument.value
        try:
            if key in _NUMBERS:
                numbers[key] = read_int(value, _NUMBERS[key])
            elif key == "table":
                numbers[key] = reader.learned_table(value)
            elif key in _FLAGS:
                learn = replace(learn, send_flow_rem=True) if key == _FLAGS[0] else replace(learn, delete_learned=True)
            elif key == "result_dst":
                learn = replace(learn, result=_one_bit(value))
            else:
                specs.append(_read_spec(key, value))
        except BadValueError as problem:
            raise reader.context.blame(argument, problem) from None
    return replace(learn, specs=tuple(specs), **numbers)  # type: ignore[arg-type]


def _one_bit(text: str) -> F.Subfield:
    part = read_part(text)
    if part.width != 1 or not part.field.settable:
        raise BadValueError(f"{quote(text)} is not one bit that can be set", "write result_dst=NXM_NX_REG0[8]")
    return part.subfield()


def _read_spec(key: str, value: str) -> F.LearnSpec:
    if key == "load":
        source, arrow, target = value.partition("->")
        if not arrow:
            raise BadValueError(f"{quote(value)} lacks a destination", "write load:SOURCE->FIELD[]")
        part = read_part(target)
        if not part.field.settable:
            raise BadValueError(f"{part.field.name} is read-only", word=target)
        return _spec("load", source, part)
    if key == "output":
        part = read_part(value)
        return F.LearnSpec("output", part.subfield(), None, part.width)
    field = field_named(key.partition("[")[0])
    if field is None:
        raise BadValueError(f"unknown argument {quote(key)} of learn", "a field, load, output, table or the like", key)
    part = read_part(key)
    if value and "[" not in key and "[" not in value and field_named(value) is None:
        number, mask = field.read(value, field.width)
        if mask != full_mask(field.width):
            raise BadValueError(f"{key} can't be masked in learn", "leave out the mask")
        return _match_number(part, number)
    return _spec("match", value or key, part)


def _match_number(part: FieldPart, number: int) -> F.LearnSpec:
    dest = part.subfield()
    low, _ = part.held
    return F.LearnSpec("match", number >> (low - part.start), dest, dest.width)


def _spec(kind: str, source: str, dest: FieldPart) -> F.LearnSpec:
    """A source that is a number or a part of a field, for a destination of the same width."""
    if "[" in source or field_named(source) is not None:
        part = read_part(source)
        if part.width != dest.width:
            raise BadValueError(f"{source} has {part.width} bits, not {dest.width}", "name parts of the same width")
        return F.LearnSpec(kind, part.subfield(), dest.subfield(), dest.subfield().width)
    number = read_int(source, dest.width)
    low, _ = dest.held
    return F.LearnSpec(kind, number >> (low - dest.start), dest.subfield(), dest.subfield().width)


def read_fin_timeout(reader: ActionReader, item: Item) -> F.Action:
    """`fin_timeout(idle_timeout=N,hard_timeout=N)`."""
    if reader.facts.protocol != 6:
        raise reader.context.error(item.key_at, item.key, "fin_timeout is about TCP", "match tcp or tcp6")
    numbers: dict[str, int] = {}
    for argument in items(reader.context.text, item.value_at, item.value_at + len(item.value)):
        try:
            if argument.key not in ("idle_timeout", "hard_timeout"):
                raise BadValueError(f"unknown argument {quote(argument.key)} of fin_timeout", "", argument.key)
            numbers[argument.key] = read_int(argument.value, 16)
        except BadValueError as problem:
            raise reader.context.blame(argument, problem) from None
    return F.FinTimeout(**numbers)


def write_learn(learn: F.Learn, part: Callable[[F.Subfield], str]) -> str:
    """The text of a learn action; `part` names bits of a field."""
    said = [f"table={learn.table}"]
    for name in ("idle_timeout", "hard_timeout", "fin_idle_timeout", "fin_hard_timeout"):
        if number := getattr(learn, name):
            said.append(f"{name}={number}")
    if learn.priority != F.DEFAULT_PRIORITY:
        said.append(f"priority={learn.priority}")
    said += [name for name in _FLAGS if getattr(learn, name)]
    if learn.cookie:
        said.append(f"cookie={learn.cookie:#x}")
    if learn.limit:
        said.append(f"limit={learn.limit}")
    if learn.result is not None:
        said.append(f"result_dst={part(learn.result)}")
    said += [_write_spec(spec, part) for spec in learn.specs]
    return f"learn({','.join(said)})"


def _write_spec(spec: F.LearnSpec, part: Callable[[F.Subfield], str]) -> str:
    source = f"{spec.source:#x}" if isinstance(spec.source, int) else part(spec.source)
    if spec.dest is None:
        return f"output:{source}"
    dest = part(spec.dest)
    if spec.kind == "load":
        return f"load:{source}->{dest}"
    return dest if source == dest else f"{dest}={source}"


# --- behaviour --------------------------------------------------------------------------------------------------------


def learned_flow(learn: F.Learn, read: Callable[[F.Subfield], int]) -> F.Flow:
    """The flow that a packet teaches; `read` gives the packet's bits."""
    match: dict[str, tuple[int, int]] = {}
    actions: list[F.Action] = []
    if learn.fin_idle_timeout or learn.fin_hard_timeout:
        actions.append(F.FinTimeout(learn.fin_idle_timeout, learn.fin_hard_timeout))
    for spec in learn.specs:
        value = spec.source if isinstance(spec.source, int) else read(spec.source)
        if spec.dest is None:
            actions.append(F.Output(value & 0xFFFF))
        elif spec.kind == "load":
            actions.append(F.SetField(spec.dest, value & full_mask(spec.dest.width), full_mask(spec.dest.width)))
        else:
            mask = full_mask(spec.dest.width) << spec.dest.start
            old_value, old_mask = match.get(spec.dest.field, (0, 0))
            value = value << spec.dest.start & mask
            match[spec.dest.field] = old_value & ~mask | value, old_mask | mask
    flags = frozenset(("send_flow_rem",)) if learn.send_flow_rem else frozenset()
    return F.Flow(
        match=tuple(sorted((place, value, mask) for place, (value, mask) in match.items() if place in FIELDS)),
        actions=tuple(actions),
        table=learn.table,
        priority=learn.priority,
        cookie=learn.cookie,
        idle_timeout=learn.idle_timeout,
        hard_timeout=learn.hard_timeout,
        flags=flags,
    )
