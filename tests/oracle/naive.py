"""The naive tracker: a dict of connections, frames as bytes in, ct_state flags out. The oracle for the kernels.

Slow and plain on purpose: no numpy, nothing from the package under test. `Naive("default")` behaves as Open vSwitch's
userspace tracker, `Naive("linux")` as Linux's nf_conntrack. Fragments are invalid: reassembly is not part of it.
docs/differences.md lists where both are left on purpose.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.oracle import nf_sctp, nf_tcp, pf_tcp
from tests.oracle.conversations import Step
from tests.oracle.frames import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    Datagram,
    dissect,
    dissect_ipv4,
    dissect_ipv6,
    l4_checksum_is_right,
    ones_complement,
    parse_tcp,
)

# Query types of ICMP and ICMPv6: request -> reply. Linux knows the address mask, too.
QUERIES = {4: {8: 0, 13: 14, 15: 16}, 6: {128: 129}}
LINUX_QUERIES = {4: {8: 0, 13: 14, 15: 16, 17: 18}, 6: {128: 129}}
OPPOSITE = {4: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}, 6: {128: 129, 129: 128}}
ERRORS = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
NO_NEXT_HEADER = 59
# Neighbour discovery and multicast listener messages, which Linux leaves alone.
LINUX_UNTRACKED = (130, 131, 132, 133, 134, 135, 136, 143)

# Seconds: first packet, more packets one way, both ways (Open vSwitch).
OTHER_TIMEOUTS = (60, 60, 30)
ICMP_TIMEOUTS = (60, 30)
LINUX_UDP, LINUX_UDP_STREAM, LINUX_ICMP, LINUX_GENERIC = 30, 120, 30, 600

FLAGS = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")


@dataclass(frozen=True)
class Key:
    """A tuple: for ICMP queries `icmp` is the type and `source_port` the identifier."""

    zone: int
    family: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int = 0
    destination_port: int = 0
    icmp: int | None = None

    def reversed(self) -> Key:
        ends = (self.zone, self.family, self.protocol, self.destination, self.source)
        if self.icmp is not None:
            return Key(*ends, self.source_port, 0, OPPOSITE[self.family][self.icmp])
        return Key(*ends, self.destination_port, self.source_port)


@dataclass
class Connection:
    key: Key
    expires_ms: int
    start_ms: int
    tcp: Any = None  # list of pf peers, or nf_tcp.State
    sctp: nf_sctp.State | None = None  # profile linux
    state: int = 0  # default profile, not TCP: 0 first, 1 multiple or reply, 2 bidirectional
    seen_reply: bool = False
    assured: bool = False
    mark: int = 0
    label: int = 0
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(frozen=True)
class Verdict:
    """`state` as Open vSwitch prints it; `connection` is the one found or made, if any."""

    state: str
    connection: Connection | None = None
    reply: bool = False
    note: str = ""


INVALID = Verdict("inv|trk")


def text(*flags: str) -> str:
    return "|".join(name for name in FLAGS if name in flags or name == "trk")


class Naive:
    """`track` takes packets in order; nothing else moves time."""

    def __init__(
        self,
        profile: str = "default",
        *,
        check_checksums: bool = True,
        check_sequence: bool = True,
        loose: bool = True,
        sack: bool = True,
    ) -> None:
        self.linux = profile == "linux"
        self.check_checksums = check_checksums
        self.check_sequence = check_sequence
        self.loose = loose
        self.sack = sack
        self.table: dict[Key, Connection] = {}
        self.most_tags = 2
        self.now_ms = 0

    def track(
        self, frame: bytes, now_ms: int, *, zone: int = 0, commit: bool = True, force: bool = False,
        mark: tuple[int, int] | None = None, label: tuple[int, int] | None = None,
    ) -> Verdict:  # fmt: skip
        """One packet through ct(); `mark` and `label` are (value, mask), set when it commits.

        An earlier time than one already seen counts as that one.
        """
        self.now_ms = now_ms = max(now_ms, self.now_ms)
        datagram = dissect(frame, self.most_tags)
        if datagram is None or datagram.fragment:
            return INVALID
        if self.linux and datagram.tags > 1:
            return INVALID
        verdict = self._track(datagram, now_ms, zone, commit or force, force)
        connection = verdict.connection
        if connection is not None and ("est" in verdict.state or "new" in verdict.state):
            connection.packets[int(verdict.reply)] += 1
            connection.bytes[int(verdict.reply)] += datagram.size
        if commit or force:
            self.execute(verdict, mark, label)
        return verdict

    def execute(
        self, verdict: Verdict, mark: tuple[int, int] | None = None, label: tuple[int, int] | None = None
    ) -> None:
        """Set mark and label of a valid packet's connection, if that is still there."""
        connection = verdict.connection
        if connection is None or "inv" in verdict.state or self.table.get(connection.key) is not connection:
            return
        if mark is not None:
            connection.mark = (connection.mark & ~mark[1]) | (mark[0] & mark[1])
        if label is not None:
            connection.label = (connection.label & ~label[1]) | (label[0] & label[1])

    def track_in_turn(self, frame: bytes, now_ms: int, steps: Sequence[Step]) -> str:
        """Several ct() actions in a row; in the zone where a packet was tracked last it keeps its state."""
        verdict, last_zone = INVALID, -1
        for step in steps:
            known = verdict.connection
            again = step.zone == last_zone and known is not None and self.table.get(known.key) is known
            if again and "inv" not in verdict.state and not step.force:
                if step.commit:
                    self.execute(verdict, step.mark, step.label)
                continue
            verdict = self.track(
                frame, now_ms, zone=step.zone, commit=step.commit, force=step.force, mark=step.mark, label=step.label
            )
            last_zone = step.zone
        return verdict.state

    def live(self, now_ms: int) -> list[Connection]:
        """Connections that have not expired."""
        return [connection for connection in self.table.values() if now_ms < connection.expires_ms]

    # --- one packet ---

    def _track(self, datagram: Datagram, now: int, zone: int, commit: bool, force: bool) -> Verdict:
        if self.check_checksums and datagram.family == 4 and ones_complement(datagram.header) != 0:
            return INVALID
        if not self._l4_is_sane(datagram):
            return INVALID
        kind = datagram.l4[0] if is_icmp(datagram) else None
        if self.linux and datagram.family == 6 and kind in LINUX_UNTRACKED:
            return Verdict("inv|trk", note="untracked")
        if kind is not None and kind in ERRORS[datagram.family]:
            return self._track_error(datagram, now, zone)
        key = self._key(datagram, zone)
        if key is None:
            return INVALID
        connection, reply = self._find(key, now)
        if connection is not None and force and reply:
            del self.table[connection.key]
            connection = None
        if connection is None:
            return self._create(key, datagram, now, commit or force)
        follow = self._follow_linux if self.linux else self._follow_default
        return follow(connection, reply, key, datagram, now, commit or force)

    def _l4_is_sane(self, datagram: Datagram) -> bool:
        protocol, l4 = datagram.protocol, datagram.l4
        if protocol == TCP:
            if parse_tcp(l4) is None:
                return False
        elif protocol == UDP:
            if len(l4) < 8 or not 8 <= struct.unpack_from("!H", l4, 4)[0] <= len(l4):
                return False
        elif protocol == SCTP:
            if len(l4) < 12:
                return False
        elif protocol in (ICMP, ICMPV6) and not (is_icmp(datagram) and len(l4) >= 8):
            return False
        return not self.check_checksums or l4_checksum_is_right(datagram)

    def _key(self, datagram: Datagram, zone: int, quoted: bool = False) -> Key | None:
        """The tuple of a packet, or of one quoted in an error (then 8 bytes of L4 are enough)."""
        family, protocol, l4 = datagram.family, datagram.protocol, datagram.l4
        ends = (zone, family, protocol, datagram.source, datagram.destination)
        if protocol in (ICMP, ICMPV6):
            if not is_icmp(datagram) or len(l4) < 8:
                return None
            kind, code = l4[0], l4[1]
            lenient = self.linux and not quoted
            queries = (LINUX_QUERIES if lenient else QUERIES)[family]
            if kind not in queries and kind not in queries.values():
                return None
            if code != 0 and not lenient:
                return None
            return Key(*ends, struct.unpack_from("!H", l4, 4)[0], 0, kind)
        if protocol in (TCP, UDP, SCTP):
            if len(l4) < 8:
                return None
            ports = struct.unpack_from("!HH", l4)
            if 0 in ports and not self.linux:
                return None
            return Key(*ends, *ports)
        if self.linux and (family, protocol) == (6, NO_NEXT_HEADER) and not quoted:
            return None
        return Key(*ends)

    def _find(self, key: Key, now: int) -> tuple[Connection | None, bool]:
        for candidate, reply in ((key, False), (key.reversed(), True)):
            connection = self.table.get(candidate)
            if connection is not None and now < connection.expires_ms:
                return connection, reply
        return None, False

    def _track_error(self, datagram: Datagram, now: int, zone: int) -> Verdict:
        quoted = dissect_ipv4(datagram.l4[8:], quoted=True) if datagram.family == 4 else None
        if datagram.family == 6:
            quoted = dissect_ipv6(datagram.l4[8:], quoted=True)
        if quoted is None or quoted.fragment or quoted.source != datagram.destination:
            return INVALID
        key = self._key(quoted, zone, quoted=True)
        if key is None:
            return INVALID
        connection, reply = self._find(key.reversed(), now)
        if connection is None:
            return INVALID
        return Verdict(text("rel", "rpl" if reply else ""), connection, reply)

    # --- a packet without a connection ---

    def _create(self, key: Key, datagram: Datagram, now: int, commit: bool) -> Verdict:
        connection = Connection(key, now, now)
        if key.protocol == TCP:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            if self.linux:
                if not nf_tcp.flags_are_valid(segment.flags):
                    return INVALID
                state = nf_tcp.start(segment)
                if state is None or (state.seen[0].liberal and not self.loose):
                    return INVALID
                connection.tcp = state
                outcome, timeout = nf_tcp.follow(state, 0, segment, sack=self.sack, check=self.check_sequence)
                if outcome in (nf_tcp.INVALID, nf_tcp.KILL):
                    return INVALID
                seconds = nf_tcp.TIMEOUTS_S[timeout]
            else:
                if not pf_tcp.may_start(segment):
                    return INVALID
                connection.tcp, timeout = pf_tcp.start(segment)
                seconds = pf_tcp.TIMEOUTS_S[timeout]
        elif key.icmp is not None:
            if key.icmp not in (LINUX_QUERIES if self.linux else QUERIES)[key.family]:
                return INVALID
            seconds = LINUX_ICMP if self.linux else ICMP_TIMEOUTS[0]
        elif self.linux and key.protocol == SCTP:
            connection.sctp = nf_sctp.start(datagram.l4)
            if connection.sctp is None:
                return INVALID
            seconds = nf_sctp.TIMEOUTS_S[connection.sctp.state]
        elif self.linux:
            seconds = LINUX_UDP if key.protocol == UDP else LINUX_GENERIC
        else:
            seconds = OTHER_TIMEOUTS[0]
        if not commit:
            return Verdict(text("new"))
        connection.expires_ms = now + seconds * 1000
        self.table.pop(key.reversed(), None)
        self.table[key] = connection
        return Verdict(text("new"), connection)

    # --- a packet of a known connection ---

    def _follow_default(
        self, connection: Connection, reply: bool, key: Key, datagram: Datagram, now: int, commit: bool
    ) -> Verdict:
        established = Verdict(text("est", "rpl" if reply else ""), connection, reply)
        if connection.tcp is not None:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            outcome, timeout = pf_tcp.follow(connection.tcp, reply, segment, check_sequence=self.check_sequence)
            if outcome == pf_tcp.NEW:
                del self.table[connection.key]
                return self._create(key, datagram, now, commit)
            if timeout is not None:
                connection.expires_ms = now + pf_tcp.TIMEOUTS_S[timeout] * 1000
            if outcome == pf_tcp.INVALID:
                return Verdict("inv|trk", connection, reply)
            connection.seen_reply |= reply
            if outcome == pf_tcp.VALID_NEW:
                return Verdict(text("new"), connection, reply)
        elif connection.key.icmp is not None:
            if reply:
                connection.state = 1
            connection.expires_ms = now + ICMP_TIMEOUTS[connection.state] * 1000
        else:
            if reply:
                connection.state = 2
            elif connection.state == 0:
                connection.state = 1
            connection.expires_ms = now + OTHER_TIMEOUTS[connection.state] * 1000
        connection.seen_reply |= reply
        if connection.tcp is None and not connection.seen_reply:
            return Verdict(text("new"), connection, False)
        return established

    def _follow_linux(
        self, connection: Connection, reply: bool, key: Key, datagram: Datagram, now: int, commit: bool
    ) -> Verdict:
        if connection.tcp is not None:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            state = connection.tcp
            if not nf_tcp.flags_are_valid(segment.flags):
                return Verdict("inv|trk", connection, reply)
            outcome, timeout = nf_tcp.follow(state, int(reply), segment, sack=self.sack, check=self.check_sequence)
            connection.assured = state.assured
            if outcome == nf_tcp.REPEAT:
                del self.table[connection.key]
                return self._create(key, datagram, now, commit)
            if timeout == "at most unack":
                if connection.expires_ms - now > nf_tcp.TIMEOUTS_S["unack"] * 1000:
                    connection.expires_ms = now + nf_tcp.TIMEOUTS_S["unack"] * 1000
            elif timeout is not None:
                connection.expires_ms = now + nf_tcp.TIMEOUTS_S[timeout] * 1000
            if outcome == nf_tcp.INVALID:
                return Verdict("inv|trk", connection, reply)
            if outcome == nf_tcp.KILL:
                del self.table[connection.key]
        elif connection.sctp is not None:
            outcome, seconds = nf_sctp.follow(connection.sctp, int(reply), datagram.l4)
            connection.assured = connection.sctp.assured
            if outcome == "invalid":
                return Verdict("inv|trk", connection, reply)
            if seconds is not None:
                connection.expires_ms = now + seconds * 1000
        else:
            self._refresh_linux(connection, key, now)
        if reply:
            connection.seen_reply = True
            if connection.tcp is not None:
                connection.tcp.seen_reply = True
            return Verdict(text("est", "rpl"), connection, True)
        return Verdict(text("est" if connection.seen_reply else "new"), connection, False)

    def _refresh_linux(self, connection: Connection, key: Key, now: int) -> None:
        if key.icmp is not None:
            seconds = LINUX_ICMP
        elif key.protocol == UDP:
            seconds = LINUX_UDP
            if connection.seen_reply and now > connection.start_ms + 2000:
                seconds, connection.assured = LINUX_UDP_STREAM, True
        else:
            seconds = LINUX_GENERIC
        connection.expires_ms = now + seconds * 1000


def is_icmp(datagram: Datagram) -> bool:
    """ICMP over IPv4 or ICMPv6 over IPv6; the other two combinations are just protocols."""
    return (datagram.family, datagram.protocol) in ((4, ICMP), (6, ICMPV6))
