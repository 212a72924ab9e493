"""Verdicts: may packets take a path unseen that met these rules?

They may if no rule could treat differently a later packet that differs only in what may vary between packets of a
path: TTL, TOS, IPv6 label, and the TCP flags beside SYN, FIN, RST and ACK. Everything else is compared before a packet
skips the tables, or is why it does not.

Of the rules that were met, match and actions are read here; of those that were not met, but would have come first,
what could make them match is handed to the kernel, which asks each packet (`tell`). A match on TOS refuses nothing: the
path then holds for one TOS.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.schema import NAT_WORDS
from flowshunt.datapath import program as P
from flowshunt.datapath.freezing import instructions, rest_of
from flowshunt.datapath.paths.records import UNFIT
from flowshunt.datapath.paths.schema import (
    CHAIN_TAGS,
    CHAIN_TOS,
    TOS_ALONE,
    UNFIT_OUTPUTS,
    UNFIT_REWRITE,
    UNFIT_VARYING,
)
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.rules import Rules
from flowshunt.datapath.schema import CLAUSES, PORT_ALL, PORT_FLOOD, PORT_NORMAL, PORT_RESERVED_32
from flowshunt.datapath.spreading import after_link
from flowshunt.packet.schema import FIELDS, W_FLAGS, W_L4

MAX_CANDIDATES = 1024
"""Rules that might match in place of a chain's rules; with more the path is refused unasked."""
MAX_READERS = 4096
"""Rules of one table that match on what varies and come before the one that was met; with more, likewise."""

_U32 = 0xFFFFFFFF
_CONSTANT_FLAGS = 0x17
_TOS = 0xFF << FIELDS["nw_tos"].shift
_VARYING = (
    ("nw_ttl", W_L4, 0xFF << FIELDS["nw_ttl"].shift),
    ("ipv6_label", W_FLAGS, 0xFFFFF << FIELDS["ipv6_label"].shift),
    ("tcp_flags", W_FLAGS, (0xFFF & ~_CONSTANT_FLAGS) << FIELDS["tcp_flags"].shift),
)
_NUMBERS = {name: number for number, name in enumerate(FIELDS)}
_READ = {W_L4: _TOS, W_FLAGS: 0}
for _, _word, _mask in _VARYING:
    _READ[_word] |= _mask


class Verdict(NamedTuple):
    """What a chain means. `unfit`: number in UNFIT, 0: nothing; `parameter`: of varying-match, number of the field.

    `flags`: CHAIN_*. `decrements`: of the TTL. `normals`: actions `normal`. `candidates`: int64 words as
    `schema.C_TRIPLES` describes them, `n_candidates` of them.
    """

    unfit: int = 0
    parameter: int = 0
    flags: int = 0
    decrements: int = 0
    normals: int = 0
    n_candidates: int = 0
    candidates: tuple[int, ...] = ()


def refusal(field: int) -> Verdict:
    """The verdict for too many rules that match on what varies. `field`: of a candidate (`schema.C_FIELD`)."""
    return Verdict(UNFIT_VARYING, _NUMBERS["nw_tos"] if field == TOS_ALONE else field)


class Effects(NamedTuple):
    """What the actions of one rule mean, as in Verdict."""

    unfit: int = 0
    parameter: int = 0
    flags: int = 0
    decrements: int = 0
    normals: int = 0


def _varying_in(word: int, mask: int) -> int | None:
    """Number of the first varying field, other than TOS, of which these bits are a part."""
    return next((_NUMBERS[name] for name, at, bits in _VARYING if at == word and mask & bits), None)


def _has_tos(word: int, mask: int) -> bool:
    return word == W_L4 and bool(mask & _TOS)


# --- actions ---------------------------------------------------------------------------------------------------------


def _instructions(program: Sequence[int], pc: int, end: int) -> Iterator[tuple[int, int]]:
    """(operation, place) of all instructions of a program, those of nested lists too."""
    while pc < end:
        instruction = program[pc]
        op = instruction & 0xFF
        yield op, pc
        if op == P.OP_CT:
            after = pc + P.CT_WORDS + (instruction >> 32)
            start = pc + P.CT_WORDS + (NAT_WORDS if (instruction >> 8) & P.CT_NAT else 0)
            yield from _instructions(program, start, after)
            pc = after
        elif op == P.OP_LINK:
            pc = after_link(program, pc)
        elif op == P.OP_WRITE:
            pc += instruction >> 8  # see `_writes_of`
        elif op == P.OP_DEC_TTL:
            pc += 1 + (instruction >> 8)  # packets whose TTL is used up never skip the tables
        else:
            pc += _WORDS.get(op, 1)


_WORDS = {P.OP_SET: P.SET_WORDS, P.OP_RESUBMIT: P.RESUBMIT_WORDS}
_HARMLESS = frozenset(
    (
        P.OP_END,
        P.OP_FIX_VLAN,
        P.OP_POP_VLAN,
        P.OP_RESUBMIT,
        P.OP_GOTO,
        P.OP_CT_CLEAR,
        P.OP_CLONE,
        P.OP_EXIT,
        P.OP_WRITE,
        P.OP_CLEAR,
        P.OP_LINK,  # chooses by what packets of a path have in common; a port that goes up or down begins an epoch
    )
)
_REFUSED = {
    P.OP_PUNT: UNFIT.index("controller"),
    P.OP_GROUP: UNFIT.index("group"),
    P.OP_METER: UNFIT.index("policer"),
}


@functools.lru_cache(maxsize=4096)
def effects_of(program: tuple[int, ...]) -> Effects:
    """What a list of actions does to packets that differ in what varies. What is not known is refused."""
    found = Effects()
    for op, pc in _instructions(program, 0, len(program)):
        found = _add_effect(found, program, op, pc)
        if found.unfit:
            return found
    return found


_Written = tuple[tuple[tuple[int, ...], ...], int]
"""A write to the action set: its parts as programs, and the rank of the last."""


@functools.lru_cache(maxsize=4096)
def _writes_of(program: tuple[int, ...]) -> tuple[_Written | None, ...]:
    """What a list of actions does to the action set: writes; None: it is emptied."""
    found: list[_Written | None] = []
    for op, pc in _instructions(program, 0, len(program)):
        if op == P.OP_CLEAR:
            found.append(None)
        elif op == P.OP_WRITE:
            starts = [program[pc + part] for part in range(1, 1 + P.WRITE_PARTS)]
            ends = [*starts[1:], program[pc] >> 8]
            for part in reversed(range(P.WRITE_PARTS)):
                ends[part] = ends[part] or ends[part + 1]
            parts = tuple(program[pc + at : pc + end] if at else () for at, end in zip(starts, ends, strict=True))
            found.append((parts, program[pc + P.WRITE_RANK]))
    return tuple(found)


def _leads_on(program: Sequence[int], op: int, pc: int) -> bool:
    """Whether an instruction leads to a table."""
    return op == P.OP_RESUBMIT or (op == P.OP_CT and (program[pc] >> 16) & 0xFF != P.NO_TABLE)


@functools.lru_cache(maxsize=4096)
def _strays(program: tuple[int, ...], *, has_set: bool) -> bool:
    """Whether sets may be several, or be written to in another order than that in which tables are met.

    So it is with copies, and where a list goes on behind the tables that it leads to. `has_set`: a packet that comes
    here may have a set, which then is that of what comes from the tracker, too.
    """
    found = list(instructions(program, 0))
    leading = [place for place, (op, pc) in enumerate(found) if _leads_on(program, op, pc)]
    has_copies = any(op == P.OP_CLONE for op, _ in found) or (has_set and any(found[n][0] == P.OP_CT for n in leading))
    return has_copies or any(found[place + 1][0] != P.OP_END for place in leading)


def _set_leads_on(writes: Sequence[_Written | None]) -> bool:
    """Whether the action set may lead to tables, which see packets as it has changed them."""
    lasts = [parts[-1] for parts, _ in (each for each in writes if each is not None)]
    return any(_leads_on(last, op, pc) for last in lasts for op, pc in _instructions(last, 0, len(last)))


def _effects_of_set(writes: Sequence[_Written | None], *, strays: bool) -> Effects:
    """What the action set does to packets that were there for these writes, in order.

    Decrements and `normal` are counted as if there were one set. Where there may be several, or the order of writes may
    be another one (`strays`), all that could be carried out decides what is refused: a `normal` that sends nothing for
    now would not be missed, and decrements show in what leaves.
    """
    written = [each for each in writes if each is not None]
    anything = effects_of(tuple(word for parts, _ in written for part in parts for word in part))
    if anything.unfit:
        return anything
    if strays and anything.normals:
        return anything._replace(unfit=UNFIT_OUTPUTS)
    cleared = max((place for place, each in enumerate(writes) if each is None), default=-1)
    left = [each for each in writes[cleared + 1 :] if each is not None]
    _, place = max(((rank, place) for place, (parts, rank) in enumerate(left) if parts[-1]), default=(-1, -1))
    if place < 0:
        return anything._replace(decrements=0, normals=0)
    last = effects_of(left[place][0][-1])
    decrements = int(any(parts[P.WRITE_TTL - 1] for parts, _ in left)) + last.decrements
    return anything._replace(decrements=decrements, normals=last.normals)


def _add_effect(found: Effects, program: Sequence[int], op: int, pc: int) -> Effects:
    instruction = program[pc]
    if op in _HARMLESS:
        return found
    if op == P.OP_OUTPUT:
        number = (instruction >> 8) & _U32
        if instruction >> P.OUTPUT_LIMIT:
            return found._replace(unfit=UNFIT_REWRITE)
        return _output(found, number & 0xFFFF if number >= PORT_RESERVED_32 else number)
    if op == P.OP_OUTPUT_FIELD:
        return _read(found, instruction >> 8)
    if op == P.OP_SET:
        return _write(found, (instruction >> 8) & 0xFF, program[pc + 1])
    if op == P.OP_MOVE:
        width = (instruction >> 40) & 0xFF
        found = _read(found, (instruction >> 8) & 0xFFFF | width << 16)
        return _write(found, (instruction >> 24) & 0xFF, _bits((instruction >> 32) & 0xFF, width))
    if op == P.OP_CT:
        return _read(found, program[pc + 1]) if (instruction >> 8) & P.CT_ZONE_FIELD else found
    if op == P.OP_PUSH_VLAN:
        return found._replace(flags=found.flags | CHAIN_TAGS)
    if op == P.OP_DEC_TTL:
        return found._replace(decrements=found.decrements + 1)
    return found._replace(unfit=_REFUSED.get(op, UNFIT_REWRITE))


def _output(found: Effects, number: int) -> Effects:
    if number in (PORT_FLOOD, PORT_ALL):
        return found._replace(unfit=UNFIT_OUTPUTS)
    return found._replace(normals=found.normals + 1) if number == PORT_NORMAL else found


def _bits(shift: int, width: int) -> int:
    return ((1 << width) - 1) << shift


def _read(found: Effects, place: int) -> Effects:
    """An action reads a place (packed as in instructions)."""
    word, mask = place & 0xFF, _bits((place >> 8) & 0xFF, (place >> 16) & 0xFF)
    field = _varying_in(word, mask)
    if field is not None:
        return found._replace(unfit=UNFIT_VARYING, parameter=field)
    return found._replace(flags=found.flags | CHAIN_TOS) if _has_tos(word, mask) else found


def _write(found: Effects, word: int, mask: int) -> Effects:
    """An action writes bits: a constant in the place of what varies is no difference that a path can say, but TOS."""
    if _varying_in(word, mask) is not None:
        return found._replace(unfit=UNFIT_REWRITE)
    return found._replace(flags=found.flags | CHAIN_TOS) if _has_tos(word, mask) else found


# --- matches ---------------------------------------------------------------------------------------------------------


_Rival = tuple[int | None, tuple[int, ...]]
"""Another rule: the TTL that it asks for, and what it is as a candidate, without its position."""


class Judge:
    """Judges chains of one switch's rules; what it finds out about a rule holds until the rules change."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._version = -1
        self._readers: dict[int, list[int]] = {}
        self._rivals: dict[tuple[int, int | None], list[_Rival] | None] = {}
        self._beside_clauses: dict[int, int | None] = {}

    def judge(self, entries: Sequence[tuple[int, int | None]]) -> Verdict:
        """The verdict of a chain: tables and rules (None: no rule matched) that a packet met, in order.

        A packet whose TTL would come to nothing on the way never skips the tables, so a rule on a TTL as low as that
        does no harm.
        """
        self._renew()
        verdict = Verdict()
        before: list[int] = []
        writes: list[_Written | None] = []
        strays = False
        for table, number in entries:
            before.append(verdict.decrements)
            if number is not None:
                rule = self._rules.rule(number)
                verdict = _join(verdict, rule)
                strays = strays or _strays(rule.program, has_set=bool(writes))
                writes += _writes_of(rule.program)
            elif (at := int(self._rules.arrays.state["misses"][0, table])) > 0:
                verdict = _add(verdict, effects_of(rest_of(self._rules.arrays.pool, at)))
            if verdict.unfit:
                return verdict
        from_set = 0
        if writes:
            leads_on = _set_leads_on(writes)
            effects = _effects_of_set(writes, strays=strays or leads_on)
            verdict = _add(verdict, effects)
            if verdict.unfit:
                return verdict
            from_set = effects.decrements if leads_on else 0
        words: list[int] = []
        for position, (table, number) in enumerate(entries):
            varying = self._varying_beside_clauses(table)
            if varying is not None:
                return Verdict(UNFIT_VARYING, varying)
            rivals = self._rivals_of(table, number)
            if rivals is None:
                return refusal(TOS_ALONE)
            too_low = verdict.decrements - before[position] - from_set
            for ttl, rival in rivals:
                if ttl is not None and ttl <= too_low:
                    continue
                words += (position, *rival)
                verdict = verdict._replace(n_candidates=verdict.n_candidates + 1)
                if verdict.n_candidates > MAX_CANDIDATES:
                    return refusal(rival[0])
        return verdict._replace(candidates=tuple(words))

    def _renew(self) -> None:
        """Forget what is no longer so."""
        if self._version != self._rules.version:
            self._version = self._rules.version
            self._readers = self._rules.looking_at(_READ)
            self._rivals = {}
            self._beside_clauses = {}

    def _varying_beside_clauses(self, table: int) -> int | None:
        """What some rule of a table with conjunctions matches on that varies; None: nothing, or there are none.

        Which rule is met depends there on more than the rules that might match in its place.
        """
        if not self._rules.arrays.tables["has_clauses"][table]:
            return None
        if table not in self._beside_clauses:
            self._beside_clauses[table] = self._first_varying(table)
        return self._beside_clauses[table]

    def _first_varying(self, table: int) -> int | None:
        readers = [*self._readers.get(table, ()), *self._readers.get(table + CLAUSES, ())]
        matched = [(word, mask) for reader in readers for word, mask, _ in self._rules.rule(reader).match]
        found = (_NUMBERS["nw_tos"] if _has_tos(*pair) else _varying_in(*pair) for pair in matched)
        return next((field for field in found if field is not None), None)

    def _rivals_of(self, table: int, number: int | None) -> list[_Rival] | None:
        """Rules that might match in place of a rule, or where none did. None: there are too many to say."""
        if (table, number) not in self._rivals:
            self._rivals[table, number] = self._find_rivals(table, number)
        return self._rivals[table, number]

    def _find_rivals(self, table: int, number: int | None) -> list[_Rival] | None:
        readers = np.array(self._readers.get(table, ()), np.int64)
        met = None
        if number is not None:
            met = self._rules.rule(number)
            readers = readers[self._rules.arrays.rules["priority"][readers] >= met.priority]
            readers = readers[readers != number]
        if len(readers) > MAX_READERS:
            return None
        rules = (self._rules.rule(reader) for reader in readers.tolist())
        return [(_ttl_of(rule), _candidate(rule)) for rule in rules if met is None or _may_match(rule, met)]


def _join(verdict: Verdict, rule: CompiledRule) -> Verdict:
    """The verdict of a chain with one more rule."""
    for word, mask, _ in rule.match:
        field = _varying_in(word, mask)
        if field is not None:
            return Verdict(UNFIT_VARYING, field)
        if _has_tos(word, mask):
            verdict = verdict._replace(flags=verdict.flags | CHAIN_TOS)
    return _add(verdict, effects_of(rule.program))


def _add(verdict: Verdict, effects: Effects) -> Verdict:
    """The verdict with what actions do."""
    return verdict._replace(
        unfit=effects.unfit,
        parameter=effects.parameter,
        flags=verdict.flags | effects.flags,
        decrements=verdict.decrements + effects.decrements,
        normals=verdict.normals + effects.normals,
    )


def _may_match(rule: CompiledRule, met: CompiledRule) -> bool:
    """Whether some packet that `met` matches could match another rule, whatever it is in what varies."""
    constant = {word: (mask & ~_READ.get(word, 0), value) for word, mask, value in met.match}
    return not any(
        (value ^ constant[word][1]) & mask & constant[word][0] for word, mask, value in rule.match if word in constant
    )


def _ttl_of(rule: CompiledRule) -> int | None:
    """The TTL that packets of a rule have; None: it does not say, or names several."""
    shift = FIELDS["nw_ttl"].shift
    for word, mask, value in rule.match:
        if word == W_L4 and (mask >> shift) & 0xFF == 0xFF:
            return (value >> shift) & 0xFF
    return None


def _candidate(rule: CompiledRule) -> tuple[int, ...]:
    field = TOS_ALONE
    tos = (0, 0)
    triples: list[int] = []
    for word, mask, value in rule.match:
        varying = _varying_in(word, mask)
        if varying is not None and field == TOS_ALONE:
            field = varying
        if _has_tos(word, mask):
            tos = (mask & _TOS, value & _TOS)
        constant = mask & ~_READ.get(word, 0)
        if constant:
            triples += (word, constant, value & constant)
    return (field, len(triples) // 3, *tos, *triples)
