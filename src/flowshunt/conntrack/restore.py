"""Snapshots back into a tracker: every number checked, each connection taken or refused by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack import states as S
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.kernels.restore import DUPLICATE, REPLY_TAKEN, restore_rows
from flowshunt.conntrack.kernels.tcp import MAX_WSCALE, WSCALE_KNOWN, WSCALE_SHIFT, WSCALE_UNKNOWN
from flowshunt.conntrack.listing.read_json import EntryError, turned
from flowshunt.conntrack.snapshot import FLAGS, KEPT_FLAGS, NAT_NAMES, key_of, machine_fields
from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, W_NW_DST, W_NW_SRC

if TYPE_CHECKING:
    from flowshunt.conntrack.table import Tracker

BATCH = 256
"""Connections that go to the kernel at a time."""
IS_THERE = "a connection of this tuple and zone is there already, in one direction or the other"
_WHY = {
    DUPLICATE: IS_THERE,
    REPLY_TAKEN: "its reply tuple belongs to another connection of the zone",
    -C.C_FULL: "the table is full",
    -C.C_ZONE_LIMIT: "its zone is at its limit",
    -C.C_HEADROOM: "the rest of the table is headroom",
}


class Outcome(NamedTuple):
    """What became of one snapshot: `field` and `what` say why it was refused, None when it is in the table."""

    number: int
    field: str | None = None
    what: str | None = None


Entry = tuple[int, Connection | EntryError]
"""A number, and a snapshot or what is wrong with it."""


def restore(tracker: Tracker, entries: Iterable[Entry], now_ms: int) -> Iterator[Outcome]:
    """Put numbered snapshots into a tracker whose time is `now_ms` or before it, while the outcomes are asked for.

    There is one outcome for each, in order; what is wrong already is refused as it is. Their time left counts from
    `now_ms`. A connection counts as inserted, and observers are told that it was created. Parents are found by the `id`
    of a snapshot that has a helper and was taken before. Private slots, offload, expectations and adjusted sequence
    numbers are not part of a snapshot. Nobody is dropped early to make room.
    """
    tracker.sweep(now_ms)
    waiting: list[Entry] = []
    restorer = _Restorer(tracker, now_ms)
    for entry in entries:
        waiting.append(entry)
        if len(waiting) == BATCH:
            yield from restorer.take(waiting)
            waiting.clear()
    yield from restorer.take(waiting)


def restore_records(tracker: Tracker, records: np.ndarray, exts: np.ndarray, now_ms: int) -> np.ndarray:
    """Put CONNECTION (n,) with EXT (n,) into a tracker, as `Holding.records` gave them, with their expiry absolute.

    Returns the row of each, int64 (n,), negative: it was refused (DUPLICATE, …). Otherwise like `restore`, but for
    parents: nobody has announced them.
    """
    tracker.sweep(now_ms)
    results = np.zeros(len(records), np.int64)
    exts["parent_row"] = C.NO_PARENT
    for first in range(0, len(records), BATCH):
        part = slice(first, min(first + BATCH, len(records)))
        _insert(tracker, records[part], exts[part], results[part], part.stop - first, now_ms)
    return results


def _insert(tracker: Tracker, records: np.ndarray, exts: np.ndarray, results: np.ndarray, n: int, now_ms: int) -> None:
    early_drop = tracker.early_drop
    tracker.set_early_drop(False)
    tracker.drain()
    restore_rows(tracker.arrays, records, exts, results, n, now_ms)
    tracker.drain()
    tracker.set_early_drop(early_drop)


class _Restorer:
    def __init__(self, tracker: Tracker, now_ms: int) -> None:
        self.tracker, self.now_ms = tracker, now_ms
        self.records = np.zeros(BATCH, C.CONNECTION)
        self.exts = np.zeros(BATCH, C.EXT)
        self.results = np.zeros(BATCH, np.int64)
        self.parents: dict[int, tuple[int, int]] = {}

    def take(self, entries: list[Entry]) -> list[Outcome]:
        """Outcomes of up to BATCH entries. Before one with a parent, all others go into the table."""
        outcomes: dict[int, Outcome] = {}
        rows: list[tuple[int, Connection]] = []
        for number, connection in entries:
            try:
                if isinstance(connection, EntryError):
                    raise connection
                if connection.parent is not None:
                    self._insert(rows, outcomes)
                    rows.clear()
                self._fill(len(rows), connection)
            except EntryError as error:
                outcomes[number] = Outcome(number, error.field, error.what)
            else:
                rows.append((number, connection))
        self._insert(rows, outcomes)
        return [outcomes[number] for number, _ in entries]

    def _insert(self, rows: list[tuple[int, Connection]], outcomes: dict[int, Outcome]) -> None:
        tracker = self.tracker
        _insert(tracker, self.records, self.exts, self.results, len(rows), self.now_ms)
        for (number, connection), row in zip(rows, self.results.tolist(), strict=False):
            outcomes[number] = Outcome(number) if row >= 0 else Outcome(number, "entry", _WHY[row])
            if row >= 0 and connection.helper is not None:
                self.parents[connection.id] = row, int(tracker.arrays.conns["generation"][row])

    def _fill(self, n: int, connection: Connection) -> None:
        self.records[n] = np.zeros((), C.CONNECTION)
        self.exts[n] = np.zeros((), C.EXT)
        record: Any = self.records[n]
        _fill_identity(record, connection, self.now_ms)
        if connection.protocol == PROTO_TCP:
            _fill_tcp(record, connection)
        else:
            _fill_state(record, connection)
        self._fill_extension(record, self.exts[n], connection)

    def _fill_extension(self, record: Any, ext: Any, connection: Connection) -> None:
        kind = _nat_kind(connection)
        parent = (C.NO_PARENT, 0)
        if connection.parent is not None:
            if connection.parent not in self.parents:
                raise EntryError("parent", f"no connection {connection.parent} with a helper was loaded before")
            parent = self.parents[connection.parent]
        if connection.helper is not None and connection.helper not in S.HELPER_NAMES[1:]:
            raise EntryError("helper", f"there is no helper {connection.helper[:40]!r}")
        if not (kind or connection.helper or connection.parent is not None):
            return
        _fill_tuple(ext, connection.reply, connection.protocol, connection.zone)
        ext["parent_row"], ext["parent_generation"] = parent
        ext["nat"] = kind
        ext["helper"] = S.HELPER_NAMES.index(connection.helper or "")
        record["ext"] = 1
        if connection.reply != turned(connection.original):
            record["flags"] |= S.F_NAT


def _nat_kind(connection: Connection) -> int:
    """Number of the kind of NAT, after a check that original and reply tuple fit to it."""
    plain, reply = turned(connection.original), connection.reply
    if connection.nat not in NAT_NAMES:
        raise EntryError("nat", f"{connection.nat!r} is neither src nor dst")
    kind = NAT_NAMES.index(connection.nat)
    if plain.icmp_type != reply.icmp_type:
        raise EntryError("reply.icmp_type", f"the answer would be of type {plain.icmp_type}")
    own, other = (plain.source, plain.source_port), (reply.source, reply.source_port)
    if kind != C.NAT_DST and own != other:
        raise EntryError("reply.source", "not where the original goes to, and nat is not dst")
    own, other = (plain.destination, plain.destination_port), (reply.destination, reply.destination_port)
    if kind == C.NAT_DST:  # the client may have got another port, when there was no other way
        own, other = (plain.destination, 0), (reply.destination, 0)
    if kind != C.NAT_SRC and own != other:
        raise EntryError("reply.destination", "not where the original comes from, and nat is not src")
    if kind == 0 and plain.icmp_id != reply.icmp_id:
        raise EntryError("reply.icmp_id", "not that of the original, and nat is null")
    return kind


def _fill_tuple(record: Any, way: Tuple, protocol: int, zone: int) -> None:
    keys, word = key_of(way, protocol, zone)
    record["source"] = keys[0, W_NW_SRC : W_NW_SRC + 2]
    record["destination"] = keys[0, W_NW_DST : W_NW_DST + 2]
    record["tuple"] = word


def _fill_identity(record: Any, connection: Connection, now_ms: int) -> None:
    if connection.timeout_ms <= 0:
        raise EntryError("timeout_ms", "it has expired")
    _fill_tuple(record, connection.original, connection.protocol, connection.zone)
    record["mark"] = connection.mark
    halves = connection.label >> 64, connection.label & ((1 << 64) - 1)
    record["label"] = np.array(halves, np.uint64).view(np.int64)
    record["expires_ms"] = now_ms + connection.timeout_ms
    record["start_ms"] = connection.start_ms
    record["packets"] = connection.packets
    record["bytes"] = connection.bytes
    record["tcp_flags"] = connection.tcp_flags
    record["in_port"] = connection.in_port
    record["flags"] = (
        S.F_LIVE
        | (S.F_SEEN_REPLY if connection.seen_reply else 0)
        | (S.F_ASSURED if connection.assured else 0)
        | (S.F_HAS_LABEL if connection.label else 0)
    )


def _fill_machine(record: Any, connection: Connection) -> bool:
    """The machine's numbers; False when the snapshot has none at all."""
    wanted = machine_fields(connection.profile == "linux", connection.protocol)
    if connection.protocol == PROTO_TCP:
        wanted = (*wanted, FLAGS)
    given = dict(connection.machine)
    if not given and wanted:
        return False
    if given.keys() != set(wanted):
        odd = sorted(given.keys() ^ set(wanted))[0]
        raise EntryError(f"machine.{odd}", "missing" if odd in wanted else "no such field here")
    for name, values in given.items():
        dtype, shape = C.CONNECTION[name].base, C.CONNECTION[name].shape or (1,)
        most = KEPT_FLAGS if name == FLAGS else int(np.iinfo(dtype).max)
        if len(values) != shape[0] or not all(0 <= value <= most for value in values):
            raise EntryError(f"machine.{name}", f"needs {shape[0]} of 0 to {most}")
        if name != FLAGS:
            record[name] = values if C.CONNECTION[name].shape else values[0]
    record["flags"] |= given.get(FLAGS, (0,))[0] & KEPT_FLAGS
    return True


def _fill_tcp(record: Any, connection: Connection) -> None:
    """Without the machine's numbers the windows are unknown, so that the connection is judged liberally."""
    known = _fill_machine(record, connection)
    if not known:
        record["flags"] |= S.F_LIBERAL | S.F_SEQ_CHECK_OFF
    if connection.profile == "linux":
        record["state"] = _number("state", connection.state, S.LINUX_NAMES[1:]) + 1
        if max(record["wscale"]) > MAX_WSCALE:
            raise EntryError("machine.wscale", f"needs 2 of 0 to {MAX_WSCALE}")
        return
    if not known:
        record["wscale"] = WSCALE_UNKNOWN, WSCALE_UNKNOWN
        record["window"] = 1, 1
    if any(scale & WSCALE_SHIFT > MAX_WSCALE or scale & ~_WSCALE_BITS for scale in record["wscale"].tolist()):
        raise EntryError("machine.wscale", f"needs 2 of 0 to {MAX_WSCALE}, with {WSCALE_KNOWN} or {WSCALE_UNKNOWN}")
    states = connection.states or (None, None)
    for d, way in enumerate(("original", "reply")):
        record["peer"][d] = _number(f"{way}.state", states[d], S.PEER_NAMES)


_WSCALE_BITS = WSCALE_KNOWN | WSCALE_UNKNOWN | WSCALE_SHIFT


def _fill_state(record: Any, connection: Connection) -> None:
    known = _fill_machine(record, connection)
    if connection.profile == "linux":
        if connection.protocol == PROTO_SCTP:
            if not known:
                raise EntryError("machine", "an association needs its verification tags")
            record["state"] = _number("state", connection.state, S.SCTP_NAMES[1:]) + 1
        return
    is_icmp = connection.protocol in (PROTO_ICMP, PROTO_ICMPV6)
    most = S.ICMP_REPLY if is_icmp else S.OTHER_BIDIRECTIONAL
    if not known:
        record["state"] = most if connection.seen_reply else 0
    if record["state"] > most:
        raise EntryError("machine.state", f"needs 1 of 0 to {most}")


def _number(field: str, name: str | None, names: tuple[str, ...]) -> int:
    if name not in names:
        shown = "missing" if name is None else f"{name[:40]!r} is none"
        raise EntryError(field, f"{shown}: one of {', '.join(names)} is needed")
    return names.index(name)
