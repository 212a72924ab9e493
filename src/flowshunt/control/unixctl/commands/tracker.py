"""`conntrack/*`: connections for `flowshunt conntrack`, which has conntrack(8)'s options.

Each command takes one JSON object. `filter` holds what connections must have, by the names of `Filter`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from ipaddress import ip_network
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.listing import conntrack8, save, xml
from flowshunt.conntrack.listing import json as as_json
from flowshunt.conntrack.listing.read_json import EntryError, connection_of
from flowshunt.conntrack.restore import restore
from flowshunt.control.unixctl.commands.dpctl import in_slices
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, command

OUTPUTS = ("extended", "id", "ktimestamp", "labels", "json", "xml", "save")
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Filter:
    """What a connection must have; None: anything. Addresses are networks, marks and labels values with masks."""

    family: int | None = None
    protocol: int | None = None
    orig_src: str | None = None
    orig_dst: str | None = None
    reply_src: str | None = None
    reply_dst: str | None = None
    orig_port_src: int | None = None
    orig_port_dst: int | None = None
    reply_port_src: int | None = None
    reply_port_dst: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    icmp_id: int | None = None
    state: str | None = None
    status: str | None = None
    """Names of `Connection.status`, joined by commas; `UNREPLIED` is the lack of SEEN_REPLY."""
    mark: list[int] | None = None
    label: list[int] | None = None
    zone: int | None = None
    src_nat: bool | str | None = None
    """Whether there is source NAT, or to which address; likewise destination NAT."""
    dst_nat: bool | str | None = None
    any_nat: bool | str | None = None
    """One of both."""

    @classmethod
    def read(cls, document: Any) -> Filter:
        """From a JSON object. Raises CommandError."""
        known = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or not document.keys() <= known:
            raise CommandError(f"a filter has some of {', '.join(sorted(known))}")
        found = cls(**document)
        for name in ("state", "status", "orig_src", "orig_dst", "reply_src", "reply_dst"):
            if not isinstance(document.get(name, ""), str | None):
                raise CommandError(f"{name} is a text")
        nat = (text for text in (found.src_nat, found.dst_nat, found.any_nat) if isinstance(text, str))
        for text in (found.orig_src, found.orig_dst, found.reply_src, found.reply_dst, *nat):
            _network(text)
        for pair in (found.mark, found.label):
            if pair is not None and not (len(pair) == 2 and all(isinstance(part, int) for part in pair)):
                raise CommandError("marks and labels are a value and a mask")
        return found

    def fits(self, one: Connection) -> bool:
        """Whether a connection is meant."""
        plain = (
            (self.family, one.family),
            (self.protocol, one.protocol),
            (self.orig_port_src, one.original.source_port),
            (self.orig_port_dst, one.original.destination_port),
            (self.reply_port_src, one.reply.source_port),
            (self.reply_port_dst, one.reply.destination_port),
            (self.icmp_type, one.original.icmp_type),
            (self.icmp_code, one.original.icmp_code),
            (self.icmp_id, one.original.icmp_id),
            (self.state, one.state),
            (self.zone, one.zone),
        )
        masked = ((self.mark, one.mark), (self.label, one.label))
        return (
            all(want is None or want == have for want, have in plain)
            and all(want is None or have & want[1] == want[0] & want[1] for want, have in masked)
            and self._fits_addresses(one.original, one.reply)
            and self._fits_nat(one.original, one.reply)
            and self._fits_status(one)
        )

    def _fits_addresses(self, original: Tuple, reply: Tuple) -> bool:
        pairs = (
            (self.orig_src, original.source),
            (self.orig_dst, original.destination),
            (self.reply_src, reply.source),
            (self.reply_dst, reply.destination),
        )
        return all(text is None or address in _network(text) for text, address in pairs)

    def _fits_nat(self, original: Tuple, reply: Tuple) -> bool:
        source = _fits_translation(self.src_nat, original.source, reply.destination)
        destination = _fits_translation(self.dst_nat, original.destination, reply.source)
        either = self.any_nat is None or (
            _fits_translation(self.any_nat, original.source, reply.destination)
            or _fits_translation(self.any_nat, original.destination, reply.source)
        )
        return source and destination and either

    def _fits_status(self, one: Connection) -> bool:
        if self.status is None:
            return True
        held = {*one.status} if one.seen_reply else {*one.status, "UNREPLIED"}
        return held.issuperset(self.status.split(","))


def _fits_translation(wanted: bool | str | None, before: Any, after: Any) -> bool:
    if not wanted:
        return True
    return before != after and (wanted is True or after in _network(wanted))


def _network(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise CommandError(f"{text}: {error}") from None


def document_of(arguments: list[str]) -> dict[str, Any]:
    """The JSON object that a command was given; empty without one. Raises CommandError."""
    try:
        found = json.loads(arguments[0]) if arguments else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CommandError("the argument is a JSON object")
    return found


async def _found(node: Node, document: dict[str, Any]) -> list[Connection]:
    wanted = Filter.read(document.get("filter", {}))
    return await in_slices(node, lambda: _those(node, wanted))


def _those(node: Node, wanted: Filter) -> Iterator[Connection]:
    return (one for one in node.tracker.connections(node.now_ms(), wanted.zone) if wanted.fits(one))


def _text(found: list[Connection], output: list[str], now_ms: int) -> str:
    if "json" in output:
        return json.dumps([as_json.document(one) for one in found]) + "\n"
    if "xml" in output:
        return xml.HEAD + "".join(f"{xml.line(one)}\n" for one in found) + xml.TAIL
    if "save" in output:
        return "".join(f"{save.line(one)}\n" for one in found)
    return "".join(
        conntrack8.line(
            one,
            extended="extended" in output,
            timestamps="ktimestamp" in output,
            ids="id" in output,
            labels="labels" in output,
            now_ms=now_ms if "ktimestamp" in output else None,
        )
        + "\n"
        for one in found
    )


def _output(document: dict[str, Any]) -> list[str]:
    return words_of(document, "output", OUTPUTS)


def words_of(document: dict[str, Any], name: str, known: Sequence[str]) -> list[str]:
    """A list of known words in a request; empty without one. Raises CommandError."""
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise CommandError(f"{name} is a list of words")
    unknown = next((word for word in found if word not in known), None)
    if unknown is not None:
        raise CommandError(f"{name} {unknown!r} is unknown: use {', '.join(known)}")
    return found


async def list_(node: Node, arguments: list[str]) -> str:
    """Connections as conntrack -L lists them, or as JSON; `output` holds words of OUTPUTS.

    With `zero` their counters begin again.
    """
    document = document_of(arguments)
    output = _output(document)
    found = await _found(node, document)
    if document.get("zero"):
        for first in range(0, len(found), _AT_ONCE):
            await node.call(partial(_zero, node, found[first : first + _AT_ONCE]))
    return _text(found, output, node.now_ms())


def _zero(node: Node, part: list[Connection]) -> None:
    for one in part:
        node.tracker.zero_counters(one.id, one.generation)


async def delete(node: Node, arguments: list[str]) -> str:
    """Forget connections; prints them as they were."""
    document = document_of(arguments)
    output = _output(document)
    found = await _found(node, document)
    for first in range(0, len(found), _AT_ONCE):
        await node.call(partial(_forget, node, found[first : first + _AT_ONCE]))
    return _text(found, output, node.now_ms())


def _forget(node: Node, part: list[Connection]) -> None:
    for one in part:
        node.tracker.flush(one.zone, wanted=one.original, protocol=one.protocol)


async def update(node: Node, arguments: list[str]) -> str:
    """Set `set_mark` and `set_label`, [value, mask] each, of connections; prints them as they are then."""
    document = document_of(arguments)
    output = _output(document)
    found = await _found(node, document)
    mark, label = document.get("set_mark"), document.get("set_label")
    for pair in (mark, label):
        if pair is not None and not (isinstance(pair, list) and len(pair) == 2):
            raise CommandError("marks and labels are a value and a mask")
    for first in range(0, len(found), _AT_ONCE):
        await node.call(partial(_change, node, found[first : first + _AT_ONCE], mark, label))
    now = await node.call(lambda: [node.tracker.find(one.original, one.protocol, one.zone) for one in found])
    return _text([one for one in now if one is not None], output, node.now_ms())


def _change(node: Node, part: list[Connection], mark: list[int] | None, label: list[int] | None) -> None:
    for one in part:
        if mark is not None:
            node.tracker.set_mark(one.id, one.generation, *mark)
        if label is not None:
            node.tracker.set_label(one.id, one.generation, *label)


async def insert(node: Node, arguments: list[str]) -> str:
    """Put the connection `entry`, as JSON lists it, into the table."""
    document = document_of(arguments)
    try:
        entry = connection_of(document.get("entry"), node.tracker.profile)
    except EntryError as error:
        raise CommandError(str(error)) from error
    outcomes = await node.call(lambda: list(restore(node.tracker, [(1, entry)], node.now_ms())))
    if outcomes[0].what is not None:
        raise CommandError(f"{outcomes[0].field or 'entry'}: {outcomes[0].what}")
    return ""


async def flush(node: Node, arguments: list[str]) -> str:
    """Forget all connections, or those of `zone`."""
    zone = document_of(arguments).get("zone")
    if zone is not None and not isinstance(zone, int):
        raise UsageError(f"zone {zone!r} is no number")
    await node.call(lambda: node.tracker.flush(zone))
    return ""


async def statistics(node: Node, arguments: list[str]) -> str:
    """Counters of the tracker as conntrack -S prints them, or all of them as JSON with `output`."""
    if "json" in _output(document_of(arguments)):
        return json.dumps(await node.call(node.tracker.zone_statistics)) + "\n"
    total = await node.call(node.tracker.statistics)
    refused = total["full"] + total["zone-limit"] + total["headroom"]
    figures = {
        "found": total["found"],
        "invalid": sum(value for name, value in total.items() if name.startswith("invalid-")),
        "insert": total["inserted"],
        "insert_failed": refused,
        "drop": refused,
        "early_drop": total["removed-early-drop"],
        "error": 0,
        "search_restart": 0,
        "clash_resolve": 0,
        "chaintoolong": 0,
    }
    return "cpu=0   \t" + "".join(f"{name}={value} " for name, value in figures.items()) + "\n"


COMMANDS = (
    command("conntrack/list", "[JSON]", 0, 1, list_),
    command("conntrack/delete", "JSON", 1, 1, delete),
    command("conntrack/update", "JSON", 1, 1, update),
    command("conntrack/insert", "JSON", 1, 1, insert),
    command("conntrack/flush", "[JSON]", 0, 1, flush),
    command("conntrack/stats", "[JSON]", 0, 1, statistics),
)
