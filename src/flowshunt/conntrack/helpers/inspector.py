"""What packets of connections with a helper say, made into expectations and, through NAT, into other payloads.

The tuple of a connection has two sides. What the sender of a message calls itself is the source of its own direction;
what its peer calls it is the destination of the other direction. Without NAT both are the same. An announcement names
the former, the peer must be told the latter, and the connection that then comes goes from one to the other:
nf_nat_ftp.c of Linux and `expectation_create` of Open vSwitch do the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Address
from flowshunt.conntrack.helpers import BY_NUMBER, HELPERS
from flowshunt.conntrack.helpers.api import NOTHING, Announcement, Helper, Session
from flowshunt.conntrack.kernels import helping
from flowshunt.conntrack.snapshot import address_of
from flowshunt.conntrack.states import F_NAT
from flowshunt.conntrack.table import Tracker
from flowshunt.packet.schema import PROTO_TCP

"""How long an announced connection is awaited (Linux: 5 minutes; Open vSwitch: as long as its parent lives)."""
MOST_PER_PARENT = 8
"""Profile default. Open vSwitch has no bound, Linux allows one."""
MAX_SESSIONS = 1 << 14
_FOREIGN = -1
_REFUSED = -2
_IGNORED = -3
"""What `_expect` says of an address that is somebody else's, of an expectation that the tracker would not take, and of
an IPv4 address on an IPv6 connection: servers that know no better send such, and clients take the port alone.
"""
_PORT_TRIES = 128
_CHOICES = 8
_KIND_IPV6 = 0x80
_TCP_SYN = 0x02
_OPENING_PACKETS = 4
"""A handshake, and the first packet with payload."""
_U32 = 0xFFFFFFFF
_MASK64 = (1 << 64) - 1

COUNTERS = (
    "helper.inspected",
    "helper.announcements",
    "helper.malformed",
    "helper.foreign-address",
    "helper.rewritten",
    "helper.not-rewritten",
    "helper.sessions-evicted",
    "helper.without-slot",
)


class Verdict(NamedTuple):
    """`payload`: what goes on in the place of the packet's; None: its own. `invalid`: the packet is not to be trusted.

    That is said of announcements that can't be read, name somebody else's address, or can't be translated.
    """

    payload: bytes | None = None
    invalid: bool = False


_PASS = Verdict()


class _Side(NamedTuple):
    """Who sends to whom in one direction."""

    source: Address
    source_port: int
    destination: Address
    destination_port: int


class _Watched:
    """A session, and the ports that it was given for what may be sent again."""

    __slots__ = ("choices", "helper", "session")

    def __init__(self, helper: Helper, synchronized: tuple[bool, bool]) -> None:
        self.helper = helper
        self.session: Session = helper.open(synchronized)
        self.choices: OrderedDict[int, int] = OrderedDict()


class Inspector:
    """Watches the connections of one tracker that have helpers. One thread uses it, the tracker's.

    It holds at most MAX_SESSIONS sessions; beyond that, the one that was silent longest is forgotten.
    """

    def __init__(self, tracker: Tracker, *, by_port: Iterable[str] = ()) -> None:
        """`by_port`: names of helpers that new connections to their well-known ports get without being told.

        Raises UsageError for an unknown helper. The private slot is taken with the first connection that needs it.
        """
        self._tracker = tracker
        self._slot: int | None = None
        self._sessions: OrderedDict[int, _Watched] = OrderedDict()
        self._last = 0
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._wanted = np.zeros(1, C.EXPECTATION)
        linux = tracker.profile == "linux"
        self._most = 1 if linux else MOST_PER_PARENT
        self._flags = 0 if linux else C.EXPECT_STAYS
        ports = tracker.arrays.state["helper_ports"][0]
        for name in by_port:
            helper = next((helper for helper in HELPERS if helper.name == name), None)
            if helper is None:
                raise UsageError(f"unknown helper {name!r}", hint=", ".join(helper.name for helper in HELPERS))
            ports[helper.number] = helper.protocol << 16 | helper.port
            ports[0] = 1

    def __len__(self) -> int:
        """Sessions that are held."""
        return len(self._sessions)

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return {**self._counts, "helper.sessions": len(self._sessions)}

    def inspect(
        self, row: int, generation: int, direction: int, seq: int, payload: bytes, *, room: int, translated: bool
    ) -> Verdict:
        """Look at the payload of a packet that the tracker has just taken into the connection (row, generation).

        `seq`: TCP sequence number of its first byte, as the sender counts. `translated`: its ct action applies NAT.
        `room`: bytes by which the payload may grow. Never raises for what peers send.
        """
        arrays = self._tracker.arrays
        if int(arrays.conns["generation"][row]) != generation or int(arrays.conns["ext"][row]) == 0:
            return _PASS
        watched = self._watch(row)
        if watched is None:
            return _PASS
        self._counts["helper.inspected"] += 1
        findings = watched.session.inspect(direction, seq, payload)
        if findings is NOTHING:
            return _PASS
        mangles = translated and bool(int(arrays.conns["flags"][row]) & F_NAT)
        invalid = findings.malformed > 0 or (findings.unfinished and mangles)
        self._counts["helper.malformed"] += findings.malformed
        edits: list[tuple[int, int, bytes]] = []
        for found in findings.announcements:
            self._counts["helper.announcements"] += 1
            place = (seq + found.start) & _U32 if found.start >= 0 else None
            port = self._expect(row, generation, direction, found, watched.choices, place)
            if port < 0:
                invalid = invalid or port == _FOREIGN or (mangles and port == _REFUSED)
                continue
            if mangles and found.spell is not None and not self._edit(row, direction, found, port, edits):
                invalid = True
        if not edits:
            return Verdict(None, invalid)
        return self._rewrite(row, direction, seq, payload, edits, room, invalid)

    # --- sessions --------------------------------------------------------------------------------------------------

    def _watch(self, row: int) -> _Watched | None:
        """The session of a connection, a new one if it has none; None when it has no helper that fits."""
        arrays = self._tracker.arrays
        helper = BY_NUMBER.get(int(arrays.exts["helper"][int(arrays.conns["ext"][row]) - 1]))
        if helper is None or (int(arrays.conns["tuple"][row]) >> 8) & 0xFF != helper.protocol:
            return None
        if self._slot is None:
            try:
                self._slot = self._tracker.allocate_slot("helpers", self._forget)
            except UsageError:
                self._counts["helper.without-slot"] += 1
                return None
        number = int(arrays.slots[row, self._slot])
        watched = self._sessions.get(number)
        if watched is not None:
            self._sessions.move_to_end(number)
            return watched
        flags = arrays.conns["tcp_flags"][row]
        # one that was forgotten, or loaded into the table, begins in the middle
        seen = number == 0 and int(arrays.conns["packets"][row].sum()) <= _OPENING_PACKETS
        synchronized = [seen and (helper.protocol != PROTO_TCP or bool(int(flags[d]) & _TCP_SYN)) for d in (0, 1)]
        watched = _Watched(helper, (synchronized[0], synchronized[1]))
        self._last += 1
        arrays.slots[row, self._slot] = self._last
        self._sessions[self._last] = watched
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
            self._counts["helper.sessions-evicted"] += 1
        return watched

    def _forget(self, number: int) -> None:
        self._sessions.pop(number, None)

    # --- expectations ----------------------------------------------------------------------------------------------

    def _side(self, row: int, direction: int) -> _Side:
        arrays = self._tracker.arrays
        record = arrays.exts[int(arrays.conns["ext"][row]) - 1] if direction else arrays.conns[row]
        word = int(record["tuple"])
        is_ipv6 = bool(word & _KIND_IPV6)
        return _Side(
            address_of(record["source"], is_ipv6),
            (word >> 48) & 0xFFFF,
            address_of(record["destination"], is_ipv6),
            (word >> 32) & 0xFFFF,
        )

    def _expect(
        self,
        row: int,
        generation: int,
        direction: int,
        found: Announcement,
        choices: OrderedDict[int, int],
        place: int | None,
    ) -> int:
        """Expect what was announced. Returns the port that the peer is to be told, _FOREIGN, _REFUSED or _IGNORED.

        Through NAT the sender's port is kept where that is free, and the next ones are tried; what is sent again gets
        what it got.
        """
        own, seen = self._side(row, direction), self._side(row, 1 - direction)
        if found.address is not None and found.address.version < own.source.version:
            return _IGNORED
        if found.address is not None and found.address not in (own.source, seen.destination):
            self._counts["helper.foreign-address"] += 1
            return _FOREIGN
        port = found.port or own.source_port
        first = found.port or seen.destination_port
        ports: Iterable[int] = (first,)
        if found.spell is not None and seen.destination != own.source:
            before = choices.get(place) if place is not None else None
            ports = (before, *_ports_from(first)) if before else _ports_from(first)
        self._describe(row, generation, own, seen, port)
        for candidate in ports:
            self._aim(row, candidate, port, own, seen)
            if helping.expect(self._tracker.arrays, self._wanted, self._most, self._tracker.now_ms):
                if place is not None:
                    choices[place] = candidate
                    if len(choices) > _CHOICES:
                        choices.popitem(last=False)
                return candidate
        return _REFUSED

    def _describe(self, row: int, generation: int, own: _Side, seen: _Side, port: int) -> None:
        wanted = self._wanted
        wanted["source"][0] = _halves(seen.source)
        wanted["destination"][0] = _halves(seen.destination)
        wanted["nat_source"][0] = _halves(own.destination)
        wanted["nat_destination"][0] = _halves(own.source)
        wanted["nat_port"] = port
        wanted["expires_ms"] = self._tracker.now_ms + C.EXPECTATION_MS
        wanted["parent_row"] = row
        wanted["parent_generation"] = generation

    def _aim(self, row: int, candidate: int, port: int, own: _Side, seen: _Side) -> None:
        kept = int(self._tracker.arrays.conns["tuple"][row]) & 0xFFFFFF80  # zone, protocol, family
        is_same = (candidate, seen.source, seen.destination) == (port, own.destination, own.source)
        self._wanted["tuple"] = candidate << 32 | kept
        self._wanted["flags"] = self._flags | (0 if is_same else C.EXPECT_NAT)

    # --- payloads --------------------------------------------------------------------------------------------------

    def _edit(
        self, row: int, direction: int, found: Announcement, port: int, edits: list[tuple[int, int, bytes]]
    ) -> bool:
        """Note what an announcement must say instead, if anything. False when it can't be written here."""
        told = self._side(row, 1 - direction).destination
        if port == found.port and found.address in (None, told):
            return True
        if found.start < 0 or found.spell is None:
            self._counts["helper.not-rewritten"] += 1
            return False
        edits.append((found.start, found.end, found.spell(told, port)))
        return True

    def _rewrite(
        self, row: int, direction: int, seq: int, payload: bytes, edits: list[tuple[int, int, bytes]], room: int,
        invalid: bool,
    ) -> Verdict:  # fmt: skip
        changed = payload
        for start, end, text in reversed(edits):
            changed = changed[:start] + text + changed[end:]
        by = len(changed) - len(payload)
        if by > room or (by and not helping.change_sequence(self._tracker.arrays, row, direction, seq, by)):
            self._counts["helper.not-rewritten"] += len(edits)
            return Verdict(None, True)
        self._counts["helper.rewritten"] += len(edits)
        return Verdict(changed, invalid)


def _ports_from(first: int) -> Iterable[int]:
    """`first` and those that follow, round from the top to 1024; a bounded number of them."""
    for step in range(_PORT_TRIES):
        port = first + step
        yield port if port <= 0xFFFF else port - 0x10000 + 1024


def _halves(address: Address) -> tuple[int, int]:
    """The 128-bit form as two int64."""
    value = int(address)
    return tuple(half - (1 << 64) if half >> 63 else half for half in (value >> 64, value & _MASK64))  # type: ignore[return-value]
