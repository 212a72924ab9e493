"""A switch and the naive tracker, fed alike, and what to do when they disagree.

A packet's ingress port chooses its ct() actions. Each of them sends a copy to table 1, which outputs it to the port of
its ct_state, so that what the switch made of the packet, bits and bytes, is seen after every action.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import Any

import numpy as np

from flowshunt import Switch, Tracker
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.schema import EVENT_KINDS, REASONS
from flowshunt.conntrack.snapshot import tuples
from flowshunt.conntrack.states import CS_TRACKED, CT_STATE_NAMES, ct_state_text
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.packet.schema import PACKET, Batch
from tests.oracle import naive, nf_tcp, pf_tcp
from tests.oracle.conversations import Conversation, Event
from tests.oracle.frames import SCTP, dissect
from tests.oracle.policies import UNLIMITED, Policies
from tests.oracle.reassembly import assemble, piece_of, whole_frame
from tests.oracle.records import MismatchError, Seen

STATE_PORT = 1000
SWEPT_AFTER_MS = 3000
"""A batch begins with a sweep, which is behind by two slots of the wheel at most."""
LEAP_MS = 4_000_000
BATCHES_PER_LEAP = 12
"""After a pause of nearly a wheel's turn a sweep comes round bit by bit, so that one wild time does little harm."""
CHUNKS = (1, 10, 60, 300)
"""Packets that go through both before the conversation hears what became of them."""


class Pair:
    """`compare` lets the conversation go on; whatever differs raises MismatchError with all that is known."""

    def __init__(
        self, profile: str, conversation: Conversation, batch_size: int = 256, policies: Policies | None = None,
        **options: bool,
    ) -> None:  # fmt: skip
        self.profile, self.conversation, self.options = profile, conversation, options
        self.batch_size, self.policies = batch_size, policies or Policies()
        self.switch = Switch(profile, max_connections=20_000, batch_size=batch_size, **options)
        key = np.random.default_rng(conversation.seed).integers(-(1 << 63), (1 << 63) - 1, 4, np.int64)
        self.tracker.arrays.state["key"] = key  # repeatable choices; the table is empty yet
        self.oracle = naive.Naive(profile, sack=False, policies=self.policies, **options)
        self.set_policies()
        self.past: list[Event] = []
        self.swept_ms, self.n_leaping = conversation.now_ms, 0
        for n in range(1, len(conversation.manners) + 1):
            self.switch.add_port(f"manner{n}", n)
        self.switch.add_flows(flows(conversation.manners))
        for bits in range(CS_TRACKED, 256):
            if bits & CS_TRACKED:
                self.switch.add_port(f"state{bits}", STATE_PORT + bits)
                wanted = "".join(("+" if bits & bit else "-") + name for bit, name in CT_STATE_NAMES)
                self.switch.add_flows(f"table=1,ct_state={wanted},actions=output:{STATE_PORT + bits}")

    @property
    def tracker(self) -> Tracker:
        return self.switch.tracker

    def set_policies(self) -> None:
        """The oracle's policies for the switch; with limits, its events say what was stored."""
        policies, tracker = self.policies, self.tracker
        if policies.has_limits:
            tracker.observe(self.note)
            self.oracle.ledger = deque()
        if policies.capacity != UNLIMITED:
            tracker.set_max_connections(policies.capacity)
        for zone, limit in policies.limits.items():
            tracker.set_zone_limit(zone, limit)
        for zone, timeouts in policies.timeouts.items():
            tracker.set_timeout_policy(zone, timeouts)
        for zone in policies.liberal:
            tracker.set_zone_liberal(zone, True)
        if not policies.loose:
            tracker.set_loose(False)
        if policies.early_drop:
            tracker.set_early_drop(True)

    def note(self, events: np.ndarray) -> None:
        """Keep what was created and dropped early for the oracle."""
        assert self.oracle.ledger is not None
        for event in events:
            kind = EVENT_KINDS[event["kind"]]
            if kind == "destroyed":
                kind = REASONS[event["reason"]]
            if kind in ("created", "early-drop"):
                self.oracle.ledger.append((kind, key_of_event(event)))

    def compare(self, n: int) -> None:
        """Let the conversation go on for n packets; every packet, and the table after the last, must agree."""
        random = self.conversation.random
        while n > 0:
            events = list(islice(self.conversation, min(random.choice(CHUNKS), n)))
            self.feed(events)
            n -= len(events)
        self.compare_tables()

    def feed(self, events: Sequence[Event]) -> None:
        """Some packets in one batch; one by one where limits are, so that it is clear what was stored for which."""
        if self.oracle.ledger is not None:
            for event in events[:-1]:
                self.feed([event])
            events = events[-1:]
            self.n_leaping = self.n_leaping + 1 if events[0].now_ms - self.swept_ms > LEAP_MS else 0
            if self.n_leaping in (0, BATCHES_PER_LEAP):
                self.swept_ms, self.n_leaping = events[0].now_ms, 0
            self.oracle.sweep(self.swept_ms - SWEPT_AFTER_MS)
        ct_states, seen = self.process(events)
        self.past += events
        for at, event in enumerate(events):
            self.judge(event, ct_state_text(int(ct_states[at])), seen[at])
        if self.oracle.ledger:
            self.fail(None, f"stored for no packet: {self.oracle.ledger}")

    def process(self, events: Sequence[Event]) -> tuple[np.ndarray, list[list[Seen]]]:
        """What the switch makes of packets: each one's last ct_state, and what left it after each ct()."""
        batch = batch_of_events(events)
        result = self.switch.process(batch)
        own, other = (
            batch.data.tobytes(),
            result.tx_data.tobytes() if (result.tx["source"] != SOURCE_BATCH).any() else b"",
        )
        left: list[list[Seen]] = [[] for _ in events]
        for start, length, port, packet, source in result.tx[["data", "length", "port", "packet", "source"]].tolist():
            data = own if source == SOURCE_BATCH else other
            left[packet].append(Seen(ct_state_text(port - STATE_PORT), data[start : start + length]))
        return result.ct_state.copy(), [regroup(frames) for frames in left]

    def judge(self, event: Event, state: str, seen: list[Seen]) -> None:
        """Compare what left the switch with what the oracle expects; the conversation hears of it."""
        steps = self.conversation.manners[event.manner]
        try:
            verdicts = self.oracle.track_in_turn(event.frame, event.now_ms, steps, seen)
        except MismatchError as mismatch:
            self.fail(event, str(mismatch))
        if len(seen) != len(verdicts):
            self.fail(event, f"after {len(seen)} ct() a frame left, not {len(verdicts)}")
        if not seen:
            return
        for number, (verdict, one) in enumerate(zip(verdicts, seen, strict=True), 1):
            if one.parts and max(one.parts) > self.oracle.most:
                self.fail(event, f"fragments of {one.parts} bytes left, the largest that came had {self.oracle.most}")
            if one.state != verdict.state:
                self.fail(event, f"ct() number {number} says {one.state}, not {verdict.state}")
            if one.frame != verdict.frame:
                self.fail(event, f"after ct() number {number}: {one.frame.hex()}, not {verdict.frame.hex()}")
        if len(verdicts) == len(steps) and state != verdicts[-1].state:
            self.fail(event, f"at last {state}, not {verdicts[-1].state}")
        self.conversation.learn(event, seen[-1].frame, self.heard(event, verdicts[-1]))

    def heard(self, event: Event, verdict: naive.Verdict) -> tuple[bytes, bytes, int, int] | None:
        """As whose packet it arrived."""
        if event.flow is None or event.direction or "inv" in verdict.state:
            return None
        if verdict.frame == event.frame:
            return event.flow.ends[0]
        datagram = dissect(verdict.frame)
        key = None if datagram is None else self.oracle.key(datagram, 0)
        if key is None:
            return None
        target_port = key.source_port if key.icmp is not None else key.destination_port
        return key.source, key.destination, key.source_port, target_port

    def compare_tables(self) -> None:
        now_ms = self.oracle.now_ms
        mine = {kernel_entry(connection) for connection in self.tracker.connections(now_ms)}
        other = {naive_entry(connection, self.oracle.linux, now_ms) for connection in self.oracle.live(now_ms)}
        if mine != other:
            lines = [f"only in the switch: {entry}" for entry in sorted(mine - other, key=repr)]
            lines += [f"only in the oracle: {entry}" for entry in sorted(other - mine, key=repr)]
            self.fail(None, "the tables differ\n" + "\n".join(lines))

    def fail(self, event: Event | None, what: str) -> None:
        lines = [f"profile {self.profile}, after {len(self.past)} packets: {what}"]
        if event is not None:
            lines += [f"packet {event.frame.hex()} at {event.now_ms} in manner {event.manner}"]
            lines += [f"  {step}" for step in self.conversation.manners[event.manner]]
            lines += self.neighbours(event)
        raise MismatchError("\n".join(lines))

    def neighbours(self, event: Event) -> list[str]:
        """Connections of either side that share an address with the packet."""
        datagram = dissect(event.frame)
        if datagram is None:
            return []
        ends = {datagram.source, datagram.destination}
        lines = []
        for connection in self.tracker.connections(self.oracle.now_ms):
            if ends & {connection.original.source.packed, connection.original.destination.packed}:
                lines.append(f"  switch: {kernel_entry(connection)}")
        for own in self.oracle.live(self.oracle.now_ms):
            if ends & {own.key.source, own.key.destination}:
                lines.append(f"  oracle: {naive_entry(own, self.oracle.linux, self.oracle.now_ms)}")
        return lines[:60]

    def again(self, events: Sequence[Event]) -> MismatchError | None:
        """What a fresh pair finds wrong with these packets alone, in one batch after the other of one packet each."""
        pair = Pair(self.profile, self.conversation, self.batch_size, self.policies, **self.options)
        try:
            for start in range(0, len(events), self.batch_size):
                pair.feed(events[start : start + self.batch_size])
            pair.compare_tables()
        except MismatchError as mismatch:
            return mismatch
        return None


def batch_of_events(events: Sequence[Event]) -> Batch:
    frames = [event.frame for event in events]
    packets = np.zeros(len(events), PACKET)
    lengths = np.array([len(frame) for frame in frames])
    packets["length"] = packets["wire_length"] = lengths
    packets["data"] = np.cumsum(lengths) - lengths
    packets["time_ns"] = [event.now_ms * 1_000_000 + 999_999 for event in events]
    packets["in_port"] = [event.manner + 1 for event in events]
    return Batch(np.frombuffer(bytearray().join(frames), np.uint8), packets)


def flows(manners: Sequence[Sequence[naive.Step]]) -> str:
    """Table 0: what comes in by port n goes through the n-th manner."""
    return "\n".join(
        f"table=0,priority={priority},{match}in_port={n},actions={actions(steps, family)}"
        for n, steps in enumerate(manners, 1)
        for priority, match, family in ((2, "ip,", 4), (2, "ipv6,", 6), (1, "", 0))
    )


def actions(steps: Sequence[naive.Step], family: int) -> str:
    """What table 0 does with a packet; what is not IP is not translated."""
    if family == 0:
        steps = [naive.without_nat(step) for step in steps]
    return ",".join(step.action(1, family) for step in steps)


def shrink(pair: Pair, *, seconds: float = 60.0) -> list[Event]:
    """The fewest packets found within the time that still make a pair disagree, in their order; delta debugging."""
    deadline = time.monotonic() + seconds
    events, parts = list(pair.past), 2
    if pair.again(events) is None:
        return events
    while len(events) > 1 and time.monotonic() < deadline:
        size = -(-len(events) // parts)
        for start in range(0, len(events), size):
            fewer = events[:start] + events[start + size :]
            if time.monotonic() > deadline:
                break
            if fewer and pair.again(fewer) is not None:
                events, parts = fewer, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(events))
    return events


def shrunk(pair: Pair, run: Callable[[], None]) -> None:
    """Run a comparison; a disagreement is raised anew with the packets that are enough to make it."""
    try:
        run()
    except MismatchError as mismatch:
        events = shrink(pair)
        lines = [f"  {event.now_ms} manner {event.manner} {event.frame.hex()}" for event in events]
        lines = [f"{mismatch}\n{len(events)} packets are enough: {pair.again(events)}", *lines]
        raise MismatchError("\n".join(lines)) from None


def key_of_event(event: np.void) -> naive.Key:
    """The original tuple of an event's connection."""
    word = int(event["tuple"])
    one = tuples(event["source"], event["destination"], word)[0]
    ports = (one.source_port, one.destination_port) if one.icmp_type is None else (one.icmp_id or 0, 0)
    ends = one.source.packed, one.destination.packed
    return naive.Key((word >> 16) & 0xFFFF, one.source.version, (word >> 8) & 0xFF, *ends, *ports, one.icmp_type)


def is_fragment(frame: bytes) -> bool:
    """Whether a frame is a fragment."""
    if frame[12:14] == b"\x08\0" and frame[20:22] in (b"\0\0", b"\x40\0"):
        return False
    datagram = dissect(frame)
    return datagram is not None and datagram.fragment


def regroup(left: list[Seen]) -> list[Seen]:
    """What left of a packet, one for each ct(): fragments put together, unless one that came is passed on."""
    if not any(is_fragment(one.frame) for one in left):
        return left
    groups: list[Seen] = []
    while left:
        n = length_of_group(left)
        groups.append(joined(left[:n]) if n > 1 else left[0])
        left = left[n:]
    return groups


def length_of_group(left: list[Seen]) -> int:
    """How many of the first frames are the fragments of one datagram, beginning to end; else 1."""
    expected = 0
    for n, one in enumerate(left, 1):
        datagram = dissect(one.frame)
        if datagram is None or not datagram.fragment or datagram.offset != expected:
            return 1
        if not datagram.more:
            return n
        expected += len(piece_of(one.frame, datagram)[0].data)
    return 1


def joined(parts: Sequence[Seen]) -> Seen:
    """Fragments that left, put together, with the sizes that they had."""
    datagrams = [dissect(part.frame) for part in parts]
    pieces = [piece_of(part.frame, one) for part, one in zip(parts, datagrams, strict=True) if one is not None]
    data = assemble([piece for piece, _, _ in pieces])
    first = datagrams[0]
    if data is None or first is None or first.offset or len({part.state for part in parts}) != 1:
        raise MismatchError(f"what left is no datagram: {[part.frame.hex() for part in parts]}")
    whole = whole_frame(pieces[0][1], first.at, first.family, data)
    return Seen(parts[0].state, whole, tuple(one.size for one in datagrams if one is not None))


def kernel_tuple(one: Tuple) -> tuple[Any, ...]:
    return (one.source, one.destination, one.source_port, one.destination_port, one.icmp_type, one.icmp_id)


def naive_tuple(key: naive.Key) -> tuple[Any, ...]:
    query = key.icmp is not None
    return (
        ip_address(key.source), ip_address(key.destination), 0 if query else key.source_port, key.destination_port,
        key.icmp, key.source_port if query else None,
    )  # fmt: skip


def kernel_entry(connection: Connection) -> tuple[Any, ...]:
    states = (connection.state,) * 2 if connection.protocol == SCTP and connection.state else connection.states
    return (
        connection.zone, connection.protocol, kernel_tuple(connection.original), kernel_tuple(connection.reply),
        states, connection.seen_reply, connection.assured, connection.timeout_ms,
        connection.start_ms, connection.packets, connection.bytes, connection.mark, connection.label,
    )  # fmt: skip


def naive_entry(connection: naive.Connection, linux: bool, now_ms: int) -> tuple[Any, ...]:
    key = connection.key
    states = None
    if linux and connection.tcp is not None:
        states = (nf_tcp.NAMES[connection.tcp.state],) * 2
    elif connection.tcp is not None:
        states = tuple(pf_tcp.NAMES[peer.state] for peer in connection.tcp)
    elif connection.sctp is not None:
        states = (connection.sctp.state,) * 2
    return (
        key.zone, key.protocol, naive_tuple(key), naive_tuple(connection.reply),
        states, connection.seen_reply, connection.assured, connection.expires_ms - now_ms,
        connection.start_ms, tuple(connection.packets), tuple(connection.bytes), connection.mark, connection.label,
    )  # fmt: skip
