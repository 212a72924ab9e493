"""The table of expectations, against a plain model."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.connection import Tuple
from flowshunt.conntrack.helpers.inspector import Inspector
from flowshunt.conntrack.kernels import helping
from flowshunt.conntrack.states import ct_state_text
from flowshunt.conntrack.table import Tracker
from tests.builders import Packet, batch_of

ROOM = 8
MOST = 3


def control(client: int) -> Packet:
    return Packet().eth().ipv4(f"10.0.0.{client}", "10.9.0.9").tcp(1000 + client, 21, syn=True)


def data(source: int, port: int) -> Packet:
    return Packet().eth().ipv4(f"10.1.0.{source}", "10.2.0.1").tcp(2000, port, syn=True)


class Table:
    """A tracker with connections that may announce others, and little room."""

    def __init__(self, n_parents: int = 3) -> None:
        self.tracker = Tracker(max_connections=100, seed=1)
        chains = np.zeros(2, np.uint32)  # so that chains are long
        self.tracker.arrays = self.tracker.arrays._replace(expectations=np.zeros(ROOM, C.EXPECTATION), expected=chains)
        self.now_ms = 1000
        self.parents: dict[int, tuple[int, int]] = {}
        for client in range(1, n_parents + 1):
            self.open(client)

    def open(self, client: int) -> None:
        self.track(control(client))
        found = self.tracker.find(self.tuple_of(client), 6)
        assert found is not None
        self.parents[client] = found.id, found.generation

    def tuple_of(self, client: int) -> Tuple:
        return Tuple(ip_address(f"10.0.0.{client}"), ip_address("10.9.0.9"), 1000 + client, 21)

    def track(self, packet: Packet) -> str:
        batch = batch_of([packet], time_ns=self.now_ms * 1_000_000)
        return ct_state_text(int(self.tracker.track(batch, commit=True)[0]))

    def expect(self, client: int, source: int | None, port: int, stays: bool, timeout_ms: int = 1000) -> bool:
        wanted = np.zeros(1, C.EXPECTATION)
        wanted["source"][0] = 0, int(ip_address(f"10.1.0.{source or 0}"))
        wanted["destination"][0] = 0, int(ip_address("10.2.0.1"))
        wanted["tuple"] = port << 32 | 6 << 8
        wanted["parent_row"], wanted["parent_generation"] = self.parents[client]
        wanted["flags"] = (C.EXPECT_STAYS if stays else 0) | (C.EXPECT_ANY_SOURCE if source is None else 0)
        wanted["expires_ms"] = self.now_ms + timeout_ms
        return bool(helping.expect(self.tracker.arrays, wanted, MOST, self.now_ms))

    def close(self, client: int) -> None:
        assert self.tracker.flush(wanted=self.tuple_of(client), protocol=6) == 1
        del self.parents[client]


STEP = st.one_of(
    st.tuples(st.just("expect"), st.integers(1, 4), st.integers(0, 2), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("packet"), st.integers(1, 2), st.integers(1, 4)),
    st.tuples(st.just("close"), st.integers(1, 4)),
    st.tuples(st.just("later"), st.integers(1, 700)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_it_does_what_a_list_would_do(steps: list[tuple[object, ...]]) -> None:
    table = Table(4)
    model: list[tuple[int, int, int, bool, int]] = []  # client, source, port, stays, expires; oldest first
    for what, *rest in steps:
        now = table.now_ms
        if what == "later":
            table.now_ms += rest[0]  # type: ignore[operator]
        elif what == "close":
            client = rest[0]
            if client in table.parents:
                table.close(client)  # type: ignore[arg-type]
                model = [one for one in model if one[0] != client]
        elif what == "packet":
            source, port = rest
            fits = [one for one in model if one[1] in (0, source) and one[2] == port and one[4] > now]
            state = table.track(data(source, port))  # type: ignore[arg-type]
            if state.startswith("new"):
                assert state == ("new|rel|trk" if fits else "new|trk")
                left = {(one.source, one.destination_port) for one in table.tracker.expectations()}
                used = [one for one in fits if not one[3] and not is_left(one, left)]
                assert len(used) <= 1
                model = [one for one in model if one not in used]
            table.tracker.flush(wanted=Tuple(*ends(source, port)), protocol=6)  # type: ignore[arg-type]
        elif rest[0] in table.parents:
            client, source, port, stays = rest
            model = [one for one in model if one[4] > now]
            same = next((one for one in model if one[1:3] == (source, port)), None)
            allowed = len(model) < ROOM and (same is None or same[0] == client)
            done = table.expect(client, source or None, port, stays)  # type: ignore[arg-type]
            assert done == allowed
            if allowed:
                model = [one for one in model if one is not same]
                own = [one for one in model if one[0] == client]
                evicted = own[: max(len(own) - MOST + 1, 0)]
                model = [one for one in model if one not in evicted]
                model.append((client, source, port, stays, now + 1000))  # type: ignore[arg-type]
        expected = [
            (one.parent, 0 if one.source is None else int(one.source) & 0xFF, one.destination_port)
            for one in table.tracker.expectations(table.now_ms)
        ]
        assert expected == [(table.parents[one[0]][0], one[1], one[2]) for one in model if one[4] > table.now_ms]


def is_left(one: tuple[int, int, int, bool, int], left: set[tuple[object, int]]) -> bool:
    source = None if one[1] == 0 else ip_address(f"10.1.0.{one[1]}")
    return (source, one[2]) in left


def ends(source: int, port: int) -> tuple[object, object, int, int]:
    return ip_address(f"10.1.0.{source}"), ip_address("10.2.0.1"), 2000, port


def test_a_new_connection_is_announced_with_its_parents_mark() -> None:
    table = Table(1)
    events: list[np.ndarray] = []
    table.tracker.observe(events.append)
    row, generation = table.parents[1]
    table.tracker.set_mark(row, generation, 77)
    table.expect(1, None, 4000, False)
    assert table.track(data(1, 4000)) == "new|rel|trk"
    assert [(int(e["kind"]), int(e["mark"])) for e in events[-1]] == [(C.EVENT_CREATED, 77)]
    assert table.track(data(2, 4000)) == "new|trk"
    statistics = table.tracker.statistics()
    assert (statistics["expected"], statistics["expectations"]) == (1, 0)


def test_an_expectation_outlived_by_its_parent_is_dropped_with_the_next_one_made() -> None:
    table = Table(1)
    table.expect(1, 1, 4000, True, timeout_ms=10)
    table.now_ms += 10
    assert table.track(data(1, 4000)) == "new|trk"
    table.expect(1, 1, 4001, True)
    assert table.tracker.statistics()["expectations-expired"] == 1
    assert table.tracker.statistics()["expectations"] == 1


def test_extension_records_come_back_with_their_connections() -> None:
    table = Table(3)
    for client in (1, 2, 3):
        table.expect(client, client, 4000 + client, False)
    table.track(data(1, 4001))
    assert int(table.tracker.arrays.state["n_ext_fresh"][0]) == 4
    table.tracker.flush()
    assert int(table.tracker.arrays.state["n_ext_free"][0]) == 4
    assert table.tracker.statistics()["expectations"] == 0
    assert table.tracker.statistics()["expectations-ended"] == 2


def test_an_unknown_helper_by_port_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown helper 'sip'"):
        Inspector(Tracker(max_connections=10), by_port=["sip"])


def test_without_a_private_slot_packets_go_on_uninspected() -> None:
    tracker = Tracker(max_connections=10)
    inspector = Inspector(tracker, by_port=["ftp"])
    for n in range(C.N_SLOTS):
        tracker.allocate_slot(f"module {n}")
    tracker.track(batch_of([control(1)]), commit=True)
    verdict = inspector.inspect(0, 0, 0, 1, b"PORT 10,0,0,1,1,1\r\n", room=100, translated=False)
    assert (verdict.payload, verdict.invalid) == (None, False)
    assert inspector.statistics()["helper.without-slot"] == 1
