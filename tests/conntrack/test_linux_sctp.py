"""Profile linux's SCTP: the state table as data, and the kernels against the naive machine, packet by packet."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt import Tracker
from flowshunt.conntrack import sctp_states as L
from flowshunt.conntrack import states as S
from flowshunt.conntrack.connection import Connection
from flowshunt.conntrack.kernels import sctp_linux
from flowshunt.conntrack.linux_states import INVALID
from flowshunt.conntrack.listing import conntrack8, proc
from flowshunt.conntrack.schema import CONNECTION
from flowshunt.conntrack.states import ct_state_text
from flowshunt.jit import kernel
from flowshunt.packet.schema import PACKET
from tests.builders import batch_of
from tests.oracle import nf_sctp
from tests.oracle.conversations import ethernet, l4_packet
from tests.oracle.frames import SCTP
from tests.oracle.nf_sctp import (
    ABORT,
    COOKIE_ACK,
    COOKIE_ECHO,
    DATA,
    HEARTBEAT,
    HEARTBEAT_ACK,
    INIT,
    INIT_ACK,
    SACK,
    SHUTDOWN,
    SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
)
from tests.oracle.sctp_flows import SctpFlow, chunk, init, message

PORTS = (2905, 2906)
A, B = 0xAAAA0001, 0xBBBB0002  # initiate tags of client and server


def _example() -> tuple[Any, ...]:
    return np.zeros(1, np.uint8), np.zeros(1, PACKET), np.zeros(1, CONNECTION), 0


@kernel(example=_example)
def begin(data: Any, packets: Any, conns: Any, row: Any) -> Any:
    draft = conns[1:2]
    if not sctp_linux.valid_new(data, packets, 0, draft):
        return np.int64(-1)
    return np.int64(sctp_linux.create(conns, row, draft))


@kernel(example=_example)
def follow(data: Any, packets: Any, conns: Any, d: Any) -> Any:
    return np.int64(sctp_linux.update(data, packets, 0, conns, np.int64(0), d))


class Kernel:
    """One association under the kernels, with what the tracker around them does: seen reply."""

    def __init__(self) -> None:
        self.conns = np.zeros(2, CONNECTION)

    def _packet(self, l4: bytes) -> tuple[np.ndarray, np.ndarray]:
        packets = np.zeros(1, PACKET)
        packets["l3_end"] = len(l4)  # the packet begins where the frame does
        return np.frombuffer(l4, np.uint8).copy(), packets

    def begin(self, l4: bytes) -> int:
        return int(begin(*self._packet(l4), self.conns, 0))

    def follow(self, d: int, l4: bytes) -> tuple[int, int]:
        verdict = int(follow(*self._packet(l4), self.conns, d))
        result = verdict & S.RESULT_MASK
        if d == 1 and result == S.UPDATE_VALID:
            self.conns["flags"][0] |= S.F_SEEN_REPLY
        return result, verdict >> 8 & 0xFF

    def numbers(self) -> nf_sctp.State:
        row = self.conns[0]
        return nf_sctp.State(
            S.SCTP_NAMES[row["state"]],
            row["lo"].tolist(),
            [bool(flags & sctp_linux.IF_INIT) for flags in row["peer"]],
            int(row["last_index"]) - 1 if row["last_index"] else None,
            bool(row["flags"] & S.F_ASSURED),
        )


def drive(plan: list[tuple[int, bytes]]) -> list[str]:
    """Send a plan through both machines and compare after each packet; returns the outcomes."""
    kernels, state, seen_reply, outcomes = Kernel(), None, False, []
    for d, l4 in plan:
        if state is None:
            state = nf_sctp.start(l4)
            timeout = kernels.begin(l4)
            assert (timeout >= 0) == (state is not None), l4.hex()
            if state is None:
                outcomes.append("refused")
                continue
            assert timeout == S.T_LINUX_SCTP + S.SCTP_NAMES.index(state.state)
            outcomes.append("began")
        else:
            result, timeout = kernels.follow(d, l4)
            outcome, seconds = nf_sctp.follow(state, d, l4)
            seen_reply |= d == 1 and outcome == "accept"
            valid = S.UPDATE_VALID if seen_reply else S.UPDATE_VALID_NEW
            assert result == (valid if outcome == "accept" else S.UPDATE_INVALID), (d, l4.hex(), state)
            renewed = S.T_LINUX_SCTP + S.SCTP_NAMES.index(state.state)
            assert timeout == (S.KEEP_TIMER if seconds is None else renewed), (d, l4.hex(), state)
            outcomes.append(outcome)
        assert kernels.numbers() == state, (d, l4.hex())
    return outcomes


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_the_kernels_and_the_naive_machine_agree(seed: int, n: int) -> None:
    flow = SctpFlow(random.Random(seed), PORTS)
    drive([flow.next() for _ in range(n)])


def test_conversations_reach_every_state_and_outcome() -> None:
    flow = SctpFlow(random.Random(5), PORTS)
    kernels, states, outcomes = Kernel(), set(), set()
    for n in range(3000):
        d, l4 = flow.next()
        if n % 40 == 0 or kernels.conns["state"][0] == L.NONE:
            kernels = Kernel()
            outcomes.add("began" if kernels.begin(l4) >= 0 else "refused")
        else:
            outcomes.add(kernels.follow(d, l4)[0])
        states.add(int(kernels.conns["state"][0]))
    assert states == set(range(L.N_STATES))
    assert outcomes == {"began", "refused", S.UPDATE_INVALID, S.UPDATE_VALID, S.UPDATE_VALID_NEW}


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=80)), max_size=6), st.booleans())
def test_bytes_of_all_kinds_are_judged_alike(rests: list[tuple[int, bytes]], opened: bool) -> None:
    opening = [(0, message(PORTS, 0, init(INIT, A)))] if opened else []
    drive(opening + [(d, message(PORTS if d == 0 else PORTS[::-1], 0, rest)) for d, rest in rests])


def test_every_cell_of_the_table_is_the_kernel_s() -> None:
    for (d, kind, old), new in nf_sctp.TABLE.items():
        row = int(sctp_linux._KINDS[kind])
        cell = L.TRANSITIONS[(d * L.N_CHUNKS + row) * L.N_STATES + S.SCTP_NAMES.index(old)]
        assert cell == (INVALID if new is None else S.SCTP_NAMES.index(new)), (d, L.CHUNK_NAMES[row], old)
    assert len(nf_sctp.TABLE) == L.TRANSITIONS.size
    assert not L.TRANSITIONS.flags.writeable


def test_a_rule_too_many_or_too_few_is_noticed() -> None:
    with pytest.raises(ValueError, match="two rules for ABORT in NONE"):
        L.compile_rules((*L.RULES, L.Rule(0, L.ABORT, (L.NONE,), L.CLOSED, "again")), L.CHUNK_NAMES, S.SCTP_NAMES)
    with pytest.raises(ValueError, match="no rule"):
        L.compile_rules(L.RULES[:-1], L.CHUNK_NAMES, S.SCTP_NAMES)


# --- through the whole tracker ---------------------------------------------------------------------------------------


class Association:
    """A tracker and two hosts; `send` says what ct_state a packet gets."""

    def __init__(self, profile: str = "linux") -> None:
        self.tracker = Tracker(profile, max_connections=100)
        self.now_ms = 1_700_000_000_000
        self.hosts = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))

    def send(self, d: int, tag: int, *chunks: bytes, commit: bool = True, after_ms: int = 1) -> str:
        self.now_ms += after_ms
        l4 = message(PORTS if d == 0 else PORTS[::-1], tag, *chunks)
        batch = batch_of([ethernet(l4_packet(self.hosts[d], self.hosts[1 - d], SCTP, l4))])
        batch.packets["time_ns"] = self.now_ms * 1_000_000
        return ct_state_text(int(self.tracker.track(batch, commit=commit)[0]))

    def open(self) -> Association:
        assert self.send(0, 0, init(INIT, A)) == "new|trk"
        assert self.send(1, A, init(INIT_ACK, B)) == "est|rpl|trk"
        assert self.send(0, B, chunk(COOKIE_ECHO, b"cookie")) == "est|trk"
        assert self.send(1, A, chunk(COOKIE_ACK)) == "est|rpl|trk"
        return self

    @property
    def connection(self) -> Connection:
        (connection,) = self.tracker.connections()
        return connection

    @property
    def state(self) -> tuple[str | None, int]:
        """State and seconds left."""
        return self.connection.state, self.connection.timeout_s


def test_an_association_from_its_first_to_its_last_chunk() -> None:
    association = Association()
    steps = [
        (0, 0, init(INIT, A), "CLOSED", 10),
        (1, A, init(INIT_ACK, B), "COOKIE_WAIT", 3),
        (0, B, chunk(COOKIE_ECHO), "COOKIE_ECHOED", 3),
        (1, A, chunk(COOKIE_ACK), "ESTABLISHED", 210),
        (0, B, chunk(DATA, bytes(20)), "ESTABLISHED", 210),
        (1, A, chunk(SHUTDOWN, bytes(4)), "SHUTDOWN_RECD", 3),
        (0, B, chunk(SHUTDOWN_ACK), "SHUTDOWN_ACK_SENT", 3),
        (1, A, chunk(SHUTDOWN_COMPLETE), "CLOSED", 10),
    ]
    for d, tag, body, state, seconds in steps:
        association.send(d, tag, body)
        assert association.state == (state, seconds)
    assert association.connection.assured
    assert association.connection.packets == (4, 4)


def test_listings_name_the_state_as_conntrack_does() -> None:
    connection = Association().open().connection
    assert conntrack8.line(connection, counters=False) == (
        "sctp     132 210 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=2905 dport=2906 "
        "src=10.0.0.2 dst=10.0.0.1 sport=2906 dport=2905 [ASSURED] mark=0 use=1"
    )
    assert proc.line(connection).startswith("ipv4     2 sctp     132 210 ESTABLISHED src=")


def test_a_wrong_tag_is_invalid_and_changes_nothing() -> None:
    association = Association().open()
    before = association.connection
    assert association.send(0, A, chunk(DATA)) == "inv|trk"
    assert association.send(0, 0, chunk(SHUTDOWN, bytes(4))) == "inv|trk"
    assert association.send(0, A, chunk(ABORT)) == "inv|trk"
    assert association.send(1, A, chunk(ABORT, flags=1)) == "inv|trk"
    assert association.connection.state == "ESTABLISHED"
    assert association.connection.packets == before.packets
    assert association.tracker.statistics()["invalid-sctp-tag"] == 4


@pytest.mark.parametrize(("flags", "tag"), [(0, B), (1, A)], ids=["own tag", "reflected tag"])
def test_an_abort_closes(flags: int, tag: int) -> None:
    association = Association().open()
    assert association.send(0, tag, chunk(ABORT, flags=flags)) == "est|trk"
    assert association.state == ("CLOSED", 10)


def test_data_begins_nothing_but_heartbeats_do() -> None:
    association = Association()
    for kind in (DATA, SACK, ABORT, SHUTDOWN_COMPLETE, COOKIE_ACK):
        assert association.send(0, B, chunk(kind)) == "inv|trk"
    assert association.send(0, B, chunk(HEARTBEAT, bytes(8))) == "new|trk"
    assert association.state == ("HEARTBEAT_SENT", 30)
    assert association.send(0, B, chunk(DATA)) == "new|trk"
    assert association.send(1, A, chunk(DATA)) == "inv|trk"
    assert association.send(1, A, chunk(HEARTBEAT_ACK, bytes(8))) == "est|rpl|trk"
    assert association.state == ("ESTABLISHED", 210)
    assert association.send(1, A, chunk(DATA)) == "est|rpl|trk"


def test_an_init_again_does_not_lengthen_what_is_closed() -> None:
    association = Association()
    association.send(0, 0, init(INIT, A))
    assert association.send(0, 0, after_ms=0) == "inv|trk"
    assert association.tracker.statistics()["invalid-sctp-chunks"] == 1
    for _ in range(4):
        assert association.send(0, 0, init(INIT, A), after_ms=2000) == "new|trk"
    assert association.state == ("CLOSED", 2)


@pytest.mark.parametrize(
    "chunks",
    [
        (),
        (init(INIT, A), chunk(DATA)),
        (chunk(DATA), init(INIT, A)),
        (chunk(INIT, length=0) + bytes(16),),
        (chunk(INIT, bytes(12)),),
        (b"\1\0\0",),
    ],
    ids=["no chunk", "INIT and more", "INIT not first", "length 0", "INIT too short", "half a chunk header"],
)
def test_what_cannot_be_an_init_begins_nothing(chunks: tuple[bytes, ...]) -> None:
    association = Association()
    assert association.send(0, 0, *chunks) == "inv|trk"
    assert association.send(0, 1, init(INIT, A)) == "inv|trk", "an INIT carries no tag"
    counters = association.tracker.statistics()
    assert counters["invalid-sctp-chunks"] + counters["invalid-first-packet"] == 2
    assert list(association.tracker.connections()) == []


def test_a_chunk_that_claims_to_reach_beyond_the_packet_is_its_last() -> None:
    association = Association().open()
    assert association.send(0, B, chunk(DATA, length=65535), chunk(SHUTDOWN, bytes(4))) == "est|trk"
    assert association.state == ("ESTABLISHED", 210)


def test_without_commit_nothing_is_kept() -> None:
    association = Association()
    assert association.send(0, 0, init(INIT, A), commit=False) == "new|trk"
    assert association.send(1, A, init(INIT_ACK, B), commit=False) == "inv|trk"
    assert len(association.tracker) == 0


def test_the_default_profile_takes_sctp_as_any_protocol_with_ports() -> None:
    association = Association("default")
    assert association.send(0, 5, chunk(DATA)) == "new|trk"
    assert association.send(1, 6, chunk(DATA)) == "est|rpl|trk"
    assert association.connection.state is None
