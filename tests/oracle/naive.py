"""The naive tracker: a dict of connections, frames as bytes in, ct_state flags out. The oracle for the kernels.

Slow and plain on purpose: no numpy, nothing from the package under test. `Naive("default")` behaves as Open vSwitch's
userspace tracker, `Naive("linux")` as Linux's nf_conntrack. docs/differences.md lists where both are left on purpose.

Where a tracker is free to choose (address and port of a translation, a refusal because memory is short), `seen`, what
the one under test made of the packet, tells its choice; the oracle checks that it was allowed, follows it, or raises
`MismatchError`. Nothing else is taken from there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.oracle import nf_sctp, nf_tcp, pf_tcp
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
from tests.oracle.nat import Nat
from tests.oracle.placing import Placing
from tests.oracle.policies import NF_NAMES, PF_NAMES, Policies
from tests.oracle.reassembly import Reassembly
from tests.oracle.records import INVALID, Connection, Key, MismatchError, Seen, Verdict, kinds_of, text
from tests.oracle.rewrite import rewrite, rewrite_error
from tests.oracle.steps import Step

# Query types of ICMP and ICMPv6: request -> reply. Linux knows the address mask, too.
QUERIES = {4: {8: 0, 13: 14, 15: 16}, 6: {128: 129}}
LINUX_QUERIES = {4: {8: 0, 13: 14, 15: 16, 17: 18}, 6: {128: 129}}
ERRORS = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}
NO_NEXT_HEADER = 59
# Neighbour discovery and multicast listener messages, which Linux leaves alone.
LINUX_UNTRACKED = (130, 131, 132, 133, 134, 135, 136, 143)

# Seconds: first packet, more packets one way, both ways (Open vSwitch).
OTHER_TIMEOUTS = (60, 60, 30)
ICMP_TIMEOUTS = (60, 30)
LINUX_UDP, LINUX_UDP_STREAM, LINUX_ICMP, LINUX_GENERIC = 30, 120, 30, 600


class Naive(Placing):
    """`track` takes packets in order; nothing else moves time."""

    def __init__(
        self,
        profile: str = "default",
        *,
        check_checksums: bool = True,
        check_sequence: bool = True,
        sack: bool = True,
        policies: Policies | None = None,
    ) -> None:
        super().__init__(profile == "linux", policies or Policies())
        self.check_checksums = check_checksums
        self.check_sequence = check_sequence
        self.sack = sack
        self.translates_invalid = not self.linux
        self._times: dict[int, dict[Any, int]] = {}
        self.most_tags = 2
        self.fragments = Reassembly(self.linux)
        self.most = 0  # bytes of the largest fragment of the datagram that was put together last

    def track(
        self, frame: bytes, now_ms: int, *, zone: int = 0, commit: bool = True, force: bool = False,
        mark: tuple[int, int] | None = None, label: tuple[int, int] | None = None,
        nat: tuple[Nat, Nat] | None = None, seen: Seen | None = None,
    ) -> Verdict:  # fmt: skip
        """One packet through ct(); `mark` and `label` are (value, mask), set when it commits; `nat`: IPv4's and IPv6's.

        An earlier time than one already seen counts as that one.
        """
        self.now_ms = now_ms = max(now_ms, self.now_ms)
        datagram = dissect(frame, self.most_tags)
        if datagram is None or datagram.fragment or (self.linux and datagram.tags > 1):
            return replace(INVALID, frame=frame)
        wanted = nat[datagram.family == 6] if nat is not None else None
        verdict = self._track(datagram, now_ms, zone, commit or force, force, wanted, seen)
        connection = verdict.connection
        if connection is not None and ("est" in verdict.state or "new" in verdict.state):
            connection.packets[int(verdict.reply)] += 1
            connection.bytes[int(verdict.reply)] += datagram.size
        if commit or force:
            self.execute(verdict, mark, label)
        verdict = replace(verdict, frame=frame)
        return self.translate(verdict, datagram) if wanted is not None else verdict

    def translate(self, verdict: Verdict, datagram: Datagram) -> Verdict:
        """Apply the translation of the packet's connection, if it has one."""
        connection = verdict.connection
        invalid = "inv" in verdict.state
        if connection is None or not connection.nat or (invalid and not self.translates_invalid):
            return verdict
        kinds = connection.nat
        if verdict.reply:
            kinds = tuple("dst" if kind == "src" else "src" for kind in kinds)
        flags = tuple(verdict.state.split("|")) + tuple("snat" if kind == "src" else "dnat" for kind in kinds)
        target = (connection.key if verdict.reply else connection.reply).reversed()
        if connection.reply == connection.key.reversed():
            frame = verdict.frame
        elif "rel" in verdict.state:
            source = target.source if "src" in kinds else datagram.source
            destination = target.destination if "dst" in kinds else datagram.destination
            frame = rewrite_error(verdict.frame, datagram, source, destination, target.reversed())
        else:
            frame = rewrite(verdict.frame, datagram, target)
        return replace(verdict, state=text(*flags), frame=frame, translated=True)

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

    def track_in_turn(
        self, frame: bytes, now_ms: int, steps: Sequence[Step], seen: Sequence[Seen] | None = None
    ) -> list[Verdict]:
        """Several ct() actions in a row; in the zone where a packet was tracked last it keeps its state."""
        verdicts: list[Verdict] = []
        verdict, last_zone = INVALID, -1
        for number, step in enumerate(steps):
            datagram = dissect(frame, self.most_tags)
            if datagram is not None and datagram.fragment and seen is not None:
                whole = self.defragment(
                    frame, datagram, step.zone, seen[number] if number < len(seen) else None, now_ms
                )
                if whole is None:
                    return verdicts
                frame = whole
            known = verdict.connection
            again = step.zone == last_zone and known is not None and self.table.get(known.key) is known
            if again and step.force and "rpl" in verdict.state:
                again = False
                if known is not None and verdict.translated:  # its tuple no longer leads to its connection
                    self.drop(known)
            if again and ("inv" not in verdict.state or verdict.translated):
                if step.commit:
                    self.execute(verdict, step.mark, step.label)
                if step.nat is not None and not verdict.translated:
                    assert datagram is not None
                    verdict = self.translate(verdict, datagram)
            else:
                verdict = self.track(
                    frame, now_ms, zone=step.zone, commit=step.commit, force=step.force, mark=step.mark,
                    label=step.label, nat=step.nat, seen=seen[number] if seen is not None else None,
                )  # fmt: skip
            verdicts.append(verdict)
            frame, last_zone = verdict.frame, step.zone
        return verdicts

    def defragment(self, frame: bytes, datagram: Datagram, zone: int, seen: Seen | None, now_ms: int) -> bytes | None:
        """What goes on when a fragment comes to ct(): nothing (None), itself (refused), or the whole datagram."""
        now_ms = self.now_ms = max(now_ms, self.now_ms)
        name, waiting = self.fragments.take(frame, datagram, zone, now_ms)
        whole = self.fragments.whole(waiting, datagram)
        if seen is None:
            if whole is not None and waiting.clean:
                raise MismatchError(f"all {len(waiting.pieces)} fragments came, and the datagram did not go on")
            return None
        self.most = waiting.most
        if seen.frame == frame:
            if waiting.clean:
                raise MismatchError("a fragment that nobody could refuse was refused")
            waiting.refuse()
            return frame
        if whole is None:
            raise MismatchError("a datagram went on before it was complete")
        del self.fragments.waiting[name]
        return whole

    # --- one packet ---

    def _track(
        self, datagram: Datagram, now: int, zone: int, commit: bool, force: bool, nat: Nat | None, seen: Seen | None
    ) -> Verdict:
        if self.check_checksums and datagram.family == 4 and ones_complement(datagram.header) != 0:
            return INVALID
        if not self._l4_is_sane(datagram):
            return INVALID
        kind = datagram.l4[0] if is_icmp(datagram) else None
        if self.linux and datagram.family == 6 and kind in LINUX_UNTRACKED:
            return Verdict("inv|trk", note="untracked")
        if kind is not None and kind in ERRORS[datagram.family]:
            return self._track_error(datagram, now, zone)
        key = self.key(datagram, zone)
        if key is None:
            return INVALID
        connection, reply = self.find(key, now)
        if connection is not None and force and reply:
            self.drop(connection)
            connection = None
        if connection is not None:
            follow = self._follow_linux if self.linux else self._follow_default
            verdict = follow(connection, reply, key, datagram, now)
            if verdict is not None:
                return verdict
            self.drop(connection)
        return self._create(key, datagram, now, commit or force, nat, seen)

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

    def key(self, datagram: Datagram, zone: int, quoted: bool = False) -> Key | None:
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

    def _track_error(self, datagram: Datagram, now: int, zone: int) -> Verdict:
        quoted = dissect_ipv4(datagram.l4[8:], quoted=True) if datagram.family == 4 else None
        if datagram.family == 6:
            quoted = dissect_ipv6(datagram.l4[8:], quoted=True)
        if quoted is None or quoted.fragment or quoted.source != datagram.destination:
            return INVALID
        key = self.key(quoted, zone, quoted=True)
        if key is None:
            return INVALID
        connection, reply = self.find(key.reversed(), now)
        if connection is None:
            return INVALID
        return Verdict(text("rel", "rpl" if reply else ""), connection, reply)

    # --- a packet without a connection ---

    def _create(
        self, key: Key, datagram: Datagram, now: int, commit: bool, nat: Nat | None, seen: Seen | None
    ) -> Verdict:
        connection = Connection(key, now, now, key.reversed())
        if key.protocol == TCP:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            if self.linux:
                if not nf_tcp.flags_are_valid(segment.flags):
                    return INVALID
                state = nf_tcp.start(segment)
                if state is None or (state.seen[0].liberal and not self.policies.loose):
                    return INVALID
                connection.tcp = state
                times = self._tcp_timeouts(key.zone)
                outcome, timeout = nf_tcp.follow(
                    state, 0, segment, sack=self.sack, check=self.check_sequence, timeouts=times
                )
                if outcome in (nf_tcp.INVALID, nf_tcp.KILL):
                    return INVALID
                seconds = times[timeout]
            else:
                if not pf_tcp.may_start(segment, self.policies.loose):
                    return INVALID
                connection.tcp, timeout = pf_tcp.start(segment)
                seconds = self._tcp_timeouts(key.zone)[timeout]
        elif key.icmp is not None:
            if key.icmp not in (LINUX_QUERIES if self.linux else QUERIES)[key.family]:
                return INVALID
            seconds = self.policies.seconds(key.zone, "icmp_first", LINUX_ICMP if self.linux else ICMP_TIMEOUTS[0])
        elif self.linux and key.protocol == SCTP:
            connection.sctp = nf_sctp.start(datagram.l4)
            if connection.sctp is None:
                return INVALID
            seconds = nf_sctp.TIMEOUTS_S[connection.sctp.state]
        elif self.linux:
            udp = key.protocol == UDP
            seconds = self.policies.seconds(key.zone, "udp_single", LINUX_UDP) if udp else LINUX_GENERIC
        else:
            seconds = self.policies.seconds(key.zone, "udp_first", OTHER_TIMEOUTS[0])
        if not commit:
            return Verdict(text("new"))
        reply = self.place(key, nat, seen)
        if isinstance(reply, str):
            return Verdict(reply)
        connection.expires_ms = now + seconds * 1000
        connection.reply, connection.nat = reply, kinds_of(nat, key, reply)
        for taken in (key, reply):
            for table in (self.table, self.replies):
                expired = table.get(taken)
                if expired is not None:
                    self.drop(expired)
        self.table[key] = self.replies[reply] = connection
        return Verdict(text("new"), connection)

    def _tcp_timeouts(self, zone: int) -> dict[Any, int]:
        """Seconds by timeout class of TCP."""
        times = self._times.get(zone)
        if times is None:
            names, own = (NF_NAMES, nf_tcp.TIMEOUTS_S) if self.linux else (PF_NAMES, pf_tcp.TIMEOUTS_S)
            times = {name: self.policies.seconds(zone, names[name], value) for name, value in own.items()}
            self._times[zone] = times
        return times

    # --- a packet of a known connection ---

    def _follow_default(
        self, connection: Connection, reply: bool, key: Key, datagram: Datagram, now: int
    ) -> Verdict | None:
        """None: the connection is over, the packet may begin another."""
        established = Verdict(text("est", "rpl" if reply else ""), connection, reply)
        if connection.tcp is not None:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            liberal = key.zone in self.policies.liberal
            outcome, timeout = pf_tcp.follow(
                connection.tcp, reply, segment, check_sequence=self.check_sequence, liberal=liberal
            )
            if outcome == pf_tcp.NEW:
                return None
            if timeout is not None:
                connection.expires_ms = now + self._tcp_timeouts(key.zone)[timeout] * 1000
            if outcome == pf_tcp.INVALID:
                return Verdict("inv|trk", connection, reply)
            connection.seen_reply |= reply
            if outcome == pf_tcp.VALID_NEW:
                return Verdict(text("new"), connection, reply)
        elif connection.key.icmp is not None:
            if reply:
                connection.state = 1
            name = ("icmp_first", "icmp_reply")[connection.state]
            seconds = self.policies.seconds(key.zone, name, ICMP_TIMEOUTS[connection.state])
            connection.expires_ms = now + seconds * 1000
        else:
            if reply:
                connection.state = 2
            elif connection.state == 0:
                connection.state = 1
            name = ("udp_first", "udp_single", "udp_multiple")[connection.state]
            seconds = self.policies.seconds(key.zone, name, OTHER_TIMEOUTS[connection.state])
            connection.expires_ms = now + seconds * 1000
        connection.seen_reply |= reply
        if connection.tcp is None and not connection.seen_reply:
            return Verdict(text("new"), connection, False)
        return established

    def _follow_linux(
        self, connection: Connection, reply: bool, key: Key, datagram: Datagram, now: int
    ) -> Verdict | None:
        if connection.tcp is not None:
            segment = parse_tcp(datagram.l4)
            assert segment is not None
            state = connection.tcp
            if not nf_tcp.flags_are_valid(segment.flags):
                return Verdict("inv|trk", connection, reply)
            check, times = self.check_sequence, self._tcp_timeouts(key.zone)
            check = check and key.zone not in self.policies.liberal
            outcome, timeout = nf_tcp.follow(state, int(reply), segment, sack=self.sack, check=check, timeouts=times)
            connection.assured = state.assured
            if outcome == nf_tcp.REPEAT:
                return None
            if timeout == "at most unack":
                connection.expires_ms = min(connection.expires_ms, now + times["unack"] * 1000)
            elif timeout is not None:
                connection.expires_ms = now + times[timeout] * 1000
            if outcome == nf_tcp.INVALID:
                return Verdict("inv|trk", connection, reply)
            if outcome == nf_tcp.KILL:
                self.drop(connection)
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
            seconds = self.policies.seconds(key.zone, "icmp_first", LINUX_ICMP)
        elif key.protocol == UDP:
            seconds = self.policies.seconds(key.zone, "udp_single", LINUX_UDP)
            if connection.seen_reply and now > connection.start_ms + 2000:
                connection.assured = True
                seconds = self.policies.seconds(key.zone, "udp_multiple", LINUX_UDP_STREAM)
        else:
            seconds = LINUX_GENERIC
        connection.expires_ms = now + seconds * 1000


def without_nat(step: Step) -> Step:
    """The same ct() for packets that cannot be translated."""
    return replace(step, nat=None)


def is_icmp(datagram: Datagram) -> bool:
    """ICMP over IPv4 or ICMPv6 over IPv6; the other two combinations are just protocols."""
    return (datagram.family, datagram.protocol) in ((4, ICMP), (6, ICMPV6))
