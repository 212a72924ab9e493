"""Actions that choose among links, or make a match together: multipath, bundle, conjunction; from text and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow import values
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.scanner import Item
from flowshunt.rules.openflow.setters import FieldPart
from flowshunt.rules.openflow.values import nearest, read_int, read_port

if TYPE_CHECKING:
    from flowshunt.rules.openflow.actions import ActionReader

HASH_FIELDS = ("eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst", "symmetric_l3")
ALGORITHMS = ("modulo_n", "hash_threshold", "hrw", "iter_hash")
MEMBER_ALGORITHMS = ("active_backup", "hrw")
"""What multipath and bundle hash, and how they choose, in the order of their numbers on the wire."""

MAX_LINKS = 1 << 16
MIN_CLAUSES, MAX_CLAUSES = 2, 64
MAX_MEMBERS = 2048
"""As many as Open vSwitch takes."""
PORT_BITS = 16
_CLAUSE = re.compile(r"\s*([^\s,]+)\s*,\s*([0-9]+)\s*/\s*([0-9]+)\s*")
_SEPARATORS = re.compile(r"[,\s]+")
_MULTIPATH = "write multipath(FIELDS,BASIS,ALGORITHM,LINKS,ARGUMENT,FIELD[FIRST..LAST])"


def _one_of(text: str, known: tuple[str, ...], what: str) -> str:
    if text not in known:
        raise BadValueError(f"unknown {what} {quote(text)}", nearest(text, [*known]) or ", ".join(known), text)
    return text


def read_conjunction(reader: ActionReader, item: Item) -> F.Action:
    """`conjunction(ID,CLAUSE/CLAUSES)`."""
    found = _CLAUSE.fullmatch(item.value)
    if found is None:
        raise BadValueError(f"{quote(item.value)} is not a conjunction", "write conjunction(ID,1/2)")
    clause, n_clauses = read_int(found[2], 32), read_int(found[3], 32)
    if not MIN_CLAUSES <= n_clauses <= MAX_CLAUSES:
        raise BadValueError(f"a conjunction can't have {n_clauses} clauses", f"{MIN_CLAUSES} to {MAX_CLAUSES}")
    if not 1 <= clause <= n_clauses:
        raise BadValueError(f"there is no clause {clause} of {n_clauses}", f"1 to {n_clauses}")
    return F.Conjunction(read_int(found[1], 32), clause, n_clauses)


def check_conjunctions(actions: tuple[F.Action, ...]) -> str:
    """What is wrong with a list that has conjunctions; nothing when all is right."""
    others = any(not isinstance(action, F.Conjunction | F.Note) for action in actions)
    if others and any(isinstance(action, F.Conjunction) for action in actions):
        return "conjunction goes with no other action than note"
    return ""


def _link_dest(reader: ActionReader, text: str, n_links: int) -> F.Subfield:
    part: FieldPart = reader.fields.dest(text)
    if part.width > 64:
        raise BadValueError(f"{quote(text)} has more than 64 bits", "name a part of the field", text)
    if n_links > 1 << part.width:
        raise BadValueError(
            f"{quote(text)} holds {1 << part.width} values, less than {n_links} links", "name more bits", text
        )
    return part.subfield()


def read_multipath(reader: ActionReader, item: Item) -> F.Action:
    """`multipath(FIELDS,BASIS,ALGORITHM,LINKS,ARGUMENT,FIELD[FIRST..LAST])`."""
    words = [word for word in _SEPARATORS.split(item.value.strip()) if word]
    if len(words) != 6:
        raise BadValueError(f"multipath takes 6 arguments, not {len(words)}", _MULTIPATH)
    fields, basis, algorithm, links, argument, dest = words
    _one_of(fields, HASH_FIELDS, "fields")
    _one_of(algorithm, ALGORITHMS, "algorithm")
    n_links = read_int(links, 32)
    if not 1 <= n_links <= MAX_LINKS:
        raise BadValueError(f"there can't be {n_links} links", f"1 to {MAX_LINKS}", links)
    where = _link_dest(reader, dest, n_links)
    return F.Multipath(fields, read_int(basis, 32) & 0xFFFF, algorithm, n_links, read_int(argument, 32), where)


def read_bundle(reader: ActionReader, item: Item) -> F.Action:
    """`bundle(FIELDS,BASIS,ALGORITHM,ofport,members:PORT,PORT...)`; bundle_load has a field before the members."""
    loads = item.key.lower() == "bundle_load"
    words = _SEPARATORS.split(item.value.strip())
    n_words = 5 if loads else 4
    head, members = words[:n_words], words[n_words:]
    first = members[0] if members else ""
    name, colon, port = first.partition(":")
    if not colon or name not in ("members", "slaves"):
        hint = "FIELDS,BASIS,ALGORITHM,ofport," + ("FIELD[]," if loads else "") + "members:1,2"
        raise BadValueError(f"{quote(item.value)} lacks its members", f"write {item.key}({hint})")
    _one_of(head[0], HASH_FIELDS, "fields")
    _one_of(head[2], MEMBER_ALGORITHMS, "algorithm")
    _one_of(head[3], ("ofport",), "type of member")
    ports = tuple(_member(reader, word) for word in (port, *members[1:]) if word)
    if len(ports) > MAX_MEMBERS:
        raise BadValueError(f"{len(ports)} members are too many", f"at most {MAX_MEMBERS}")
    dest = None
    if loads:
        dest = _link_dest(reader, head[4], 1)
        if dest.width < PORT_BITS:
            raise BadValueError(f"{quote(head[4])} has less than {PORT_BITS} bits", "name more bits", head[4])
    return F.Bundle(head[0], read_int(head[1], 32) & 0xFFFF, head[2], ports, dest)


def _member(reader: ActionReader, text: str) -> int:
    port = read_port(text, reader.context.ports)
    if values.PORT_MAX < port < values.PORT_UNSET:
        raise BadValueError(f"{quote(text)} is not a port", f"0 to {values.PORT_MAX}", text)
    return port


def write_multipath(action: F.Multipath, part: Callable[[F.Subfield], str]) -> str:
    """The text of a multipath action; `part` names bits of a field."""
    return (
        f"multipath({action.fields},{action.basis},{action.algorithm},{action.n_links},{action.argument},"
        f"{part(action.dest)})"
    )


def write_bundle(action: F.Bundle, part: Callable[[F.Subfield], str], port: Callable[[int], str]) -> str:
    """The text of a bundle action; `part` names bits of a field, `port` a port."""
    word, dest = ("bundle", "") if action.dest is None else ("bundle_load", part(action.dest) + ",")
    members = ",".join(map(port, action.members))
    return f"{word}({action.fields},{action.basis},{action.algorithm},ofport,{dest}members:{members})"
