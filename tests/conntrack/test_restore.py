"""Connection tables written as JSON and loaded again: the same table, and the same future."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt import Switch, Tracker
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.listing.json import document
from flowshunt.conntrack.listing.read_json import FIELDS, EntryError, connection_of
from flowshunt.conntrack.restore import Outcome
from flowshunt.jit import JIT
from flowshunt.packet.schema import Batch
from flowshunt.ports.capture import open_capture
from tests.builders import batch_of
from tests.oracle.compare import capture_names
from tests.oracle.conversations import Conversation
from tests.oracle.pair import flows

PROFILES = ("default", "linux")
FLOWS = "table=0,actions=ct(commit,table=1)"
T0 = 1_700_000_000_000
KEY = np.arange(1, 5) * 0x123456789ABCDEF


def written(connections: Iterable[Connection]) -> list[Any]:
    """Entries as they come back from a file."""
    ordered = sorted(connections, key=lambda connection: connection.sort_key)
    return json.loads(json.dumps([document(connection) for connection in ordered]))


def load(tracker: Tracker, entries: Iterable[Any], now_ms: int) -> list[Outcome]:
    def read(entry: Any) -> Connection | EntryError:
        try:
            return connection_of(entry, tracker.profile)
        except EntryError as error:
            return error

    return list(tracker.restore(((n, read(entry)) for n, entry in enumerate(entries, 1)), now_ms))


def table(tracker: Tracker) -> list[Connection]:
    """The living connections without what says where they are kept."""
    plain = (replace(connection, id=0, generation=0, parent=None) for connection in tracker.connections())
    return sorted(plain, key=lambda connection: connection.sort_key)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch.packets) // 2
    return Batch(batch.data, batch.packets[:middle]), Batch(batch.data, batch.packets[middle:])


def check_round_trip(whole: list[Batch], parts: tuple[list[Batch], list[Batch]], **options: Any) -> list[Any]:
    """One run over `whole` ends as one over the first part, and one over the second that begins with its table.

    Returns the entries of that table. When fragments wait at the seam, which no table has, nothing is compared.
    """
    flows = options.pop("flows", FLOWS)

    def run(batches: list[Batch], entries: list[Any] | None = None, now_ms: int = 0) -> tuple[Switch, list[int]]:
        switch = Switch(max_connections=10_000, **options)
        switch.tracker.arrays.state["key"] = KEY  # NAT chooses by hash
        switch.add_flows(flows)
        if entries is not None:
            outcomes = load(switch.tracker, entries, now_ms)
            assert [outcome for outcome in outcomes if outcome.field] == []
            assert len(outcomes) == len(entries)
        states: list[int] = []
        for batch in batches:
            states += switch.process(Batch(batch.data, batch.packets.copy())).ct_state.tolist()
        return switch, states

    one, states = run(whole)
    first, first_states = run(parts[0])
    if len(first.fragments):
        return []
    first.tracker.sweep(first.tracker.now_ms)
    now_ms = first.tracker.now_ms
    entries = written(first.tracker.connections(now_ms))
    second, second_states = run(parts[1], entries, now_ms)
    assert first_states + second_states == states
    one.tracker.sweep(one.tracker.now_ms)
    second.tracker.sweep(one.tracker.now_ms)
    assert table(second.tracker) == table(one.tracker)
    return entries


@pytest.mark.parametrize("profile", PROFILES)
def test_a_capture_in_two_halves_is_a_capture_in_one(captures: Path, profile: str) -> None:
    for name in capture_names(captures)[:: 1 if JIT else 8]:
        with open_capture(captures / f"{name}.pcap") as capture:
            (batch,) = list(capture.batches(1 << 16)) or [batch_of([])]
        if len(batch.packets) > 1:
            first, second = halves(batch)
            check_round_trip([batch], ([first], [second]), profile=profile)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(4 if JIT else 1))
def test_a_conversation_in_two_halves_is_a_conversation_in_one(profile: str, seed: int) -> None:
    """Zones, marks and labels included; a packet that stands at the seam may have been in two zones already."""
    conversation = Conversation(random.Random(seed), flows=30, nat=False, fragments=False)
    events = list(islice(conversation, 3000 if JIT else 400))
    batch = batch_of([event.frame for event in events])
    batch.packets["time_ns"] = np.maximum.accumulate([event.now_ms for event in events]) * 1_000_000
    batch.packets["in_port"] = [event.manner + 1 for event in events]
    first, second = halves(batch)
    check_round_trip([batch], ([first], [second]), profile=profile, flows=flows(conversation.manners))


@pytest.mark.parametrize("profile", PROFILES)
def test_translated_conversations_go_on_too(profile: str) -> None:
    conversation = Conversation(random.Random(3), flows=40, fragments=False)
    events = list(islice(conversation, 3000 if JIT else 500))
    batch = batch_of([event.frame for event in events])
    batch.packets["time_ns"] = np.maximum.accumulate([event.now_ms for event in events]) * 1_000_000
    batch.packets["in_port"] = [1 + event.manner % 3 for event in events]
    flows = """
    table=0,in_port=1,ip,actions=ct(commit,zone=1,nat(src=192.0.2.1-192.0.2.2:2000-2040),table=1)
    table=0,in_port=1,ipv6,actions=ct(commit,zone=1,nat(dst=[2001:db8:9::1]),table=1)
    table=0,in_port=2,actions=ct(commit,zone=2,nat,table=1)
    table=0,in_port=3,actions=ct(zone=1,nat,table=1)
    """
    first, second = halves(batch)
    entries = check_round_trip([batch], ([first], [second]), profile=profile, flows=flows)
    assert {entry["nat"] for entry in entries} >= {"src", "dst"}


# --- entries ---------------------------------------------------------------------------------------------------------


def entry(**changes: Any) -> dict[str, Any]:
    """A UDP flow as someone would write it by hand."""
    way = {"source": "10.0.0.1", "destination": "10.0.0.2", "source_port": 1000, "destination_port": 53}
    return {"protocol": 17, "original": way, "timeout_ms": 5000, **changes}


def tcp_entry(**changes: Any) -> dict[str, Any]:
    ways = {
        "original": {**entry()["original"], "state": "ESTABLISHED"},
        "reply": {"state": "ESTABLISHED"},
    }
    return entry(protocol=6, state="ESTABLISHED", status=["SEEN_REPLY"], **{**ways, **changes})


def test_the_least_that_an_entry_must_say() -> None:
    tracker = Tracker(max_connections=10)
    assert load(tracker, [entry()], T0) == [Outcome(1)]
    (connection,) = tracker.connections()
    assert (connection.timeout_ms, connection.zone, connection.mark, connection.state) == (5000, 0, 0, None)
    assert connection.reply == Tuple(ip_address("10.0.0.2"), ip_address("10.0.0.1"), 53, 1000)
    assert tracker.statistics()["inserted"] == len(tracker) == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_a_tcp_entry_without_its_windows_is_not_judged_by_them(profile: str) -> None:
    from tests.builders import Packet

    tracker = Tracker(profile, max_connections=10)
    assert load(tracker, [tcp_entry()], T0) == [Outcome(1)]
    there = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1000, 53, seq=123456, ack=99, psh=True)
    back = Packet().eth().ipv4("10.0.0.2", "10.0.0.1").tcp(53, 1000, seq=1 << 31, ack=5)
    batch = batch_of([there.bytes(), back.bytes()])
    batch.packets["time_ns"] = (T0 + 1) * 1_000_000
    assert tracker.track(batch).tolist() == [0x22, 0x2A]
    (connection,) = tracker.connections()
    assert connection.state == "ESTABLISHED"
    assert load(Tracker(profile, max_connections=10), written([connection]), T0) == [Outcome(1)]


BAD = [
    ({"zone": 65536}, "zone", "65536 is out of range: 0 to 65535"),
    ({"zone": -1}, "zone", "-1 is out of range"),
    ({"zone": True}, "zone", "true is no whole number"),
    ({"zone": 1.5}, "zone", "1.5 is no whole number"),
    ({"mark": 1 << 32}, "mark", "out of range"),
    ({"mark": 10**5000}, "mark", "out of range"),
    ({"label": "0x" + "f" * 33}, "label", "is no hexadecimal number"),
    ({"label": "12"}, "label", "is no hexadecimal number"),
    ({"label": 5}, "label", "5 is no text"),
    ({"colour": 1}, "colour", "no such field"),
    ({"mrak": 1}, "mrak", "did you mean mark?"),
    ({"protocol": 256}, "protocol", "out of range"),
    ({"protocol": None}, "protocol", "missing"),
    ({"protocol": 58}, "protocol", "58 is not tracked over IPv4"),
    ({"protocol": 47}, "original.source_port", "protocol 47 has none"),
    ({"original": None}, "original", "null is not an object"),
    ({"original": {"source": "10.0.0.1"}}, "original.destination", "missing"),
    ({"original": {"source": "10.0.0.1", "destination": "::1"}}, "original.destination", "not of the same family"),
    ({"original": {"source": "ten", "destination": "::1"}}, "original.source", "'ten' is no address"),
    ({"original": {**entry()["original"], "source_port": None}}, "original.source_port", "missing"),
    ({"original": {**entry()["original"], "port": 1}}, "original.port", "no such field"),
    ({"family": 6}, "family", "6, but the addresses are IPv4"),
    ({"profile": "linux"}, "profile", "made by profile linux, but this tracker's is default"),
    ({"status": "SEEN_REPLY"}, "status", "is no list"),
    ({"status": ["SEEN"]}, "status", "'SEEN' is none of"),
    ({"offload": "OFFLOAD"}, "offload", "only others can be loaded"),
    ({"timeout_ms": 0}, "timeout_ms", "it has expired"),
    ({"timeout_ms": None}, "timeout_ms", "missing"),
    ({"timeout_ms": 1 << 60}, "timeout_ms", "out of range"),
    ({"start_ms": 1 << 60}, "start_ms", "out of range"),
    ({"helper": "irc"}, "helper", "there is no helper 'irc'"),
    ({"parent": 7}, "parent", "no connection 7 with a helper was loaded before"),
    ({"nat": "both"}, "nat", "'both' is neither src nor dst"),
    ({"reply": {**entry()["original"]}}, "reply.source", "not where the original goes to"),
    ({"reply": {"source": "10.0.0.2"}}, "reply.destination", "missing"),
    ({"machine": [1]}, "machine", "is no object"),
    ({"machine": {"state": 1}}, "machine.state", "is no list"),
    ({"machine": {"state": [3]}}, "machine.state", "needs 1 of 0 to 2"),
    ({"machine": {"state": [1, 1]}}, "machine.state", "needs 1 of"),
    ({"machine": {"lo": [1, 1]}}, "machine.lo", "no such field here"),
]


@pytest.mark.parametrize(("change", "field", "what"), BAD, ids=[f"{field}-{n}" for n, (_, field, _) in enumerate(BAD)])
def test_a_bad_entry_is_refused_by_itself_with_field_and_reason(change: dict[str, Any], field: str, what: str) -> None:
    tracker = Tracker(max_connections=10)
    good = entry(zone=9)
    outcomes = load(tracker, [good, entry(**change), entry(zone=10)], T0)
    assert [outcome.field for outcome in outcomes] == [None, field, None]
    assert what in (outcomes[1].what or "")
    assert len(tracker) == 2


TCP_BAD = [
    ("default", {"state": None, "reply": {"state": "OPEN"}}, "reply.state"),
    ("default", {"reply": {}}, "original.state"),
    ("default", {"machine": {"lo": [1, 2]}}, "machine.flags"),
    ("default", {"wscale": [15, 0]}, "machine.wscale"),
    ("default", {"wscale": [0x20, 0]}, "machine.wscale"),
    ("default", {"lo": [1 << 32, 0]}, "machine.lo"),
    ("default", {"flags": [64]}, "machine.flags"),
    ("linux", {"state": "NONE"}, "state"),
    ("linux", {"wscale": [15, 0]}, "machine.wscale"),
    ("linux", {"last_index": [256]}, "machine.last_index"),
]


@pytest.mark.parametrize(("profile", "change", "field"), TCP_BAD, ids=str)
def test_numbers_of_tcp_that_the_machine_cannot_have_are_refused(
    profile: str, change: dict[str, Any], field: str
) -> None:
    tracker = Tracker(profile, max_connections=10)
    load(tracker, [tcp_entry()], T0)
    (good,) = written(tracker.connections())
    bad = {**good, "zone": 1}
    if change.keys() & good["machine"].keys():
        bad["machine"] = {**good["machine"], **change}
    else:
        bad |= {key: {**good[key], **value} if key == "reply" and value else value for key, value in change.items()}
    (outcome,) = load(tracker, [bad], T0)
    assert outcome.field == field


def test_duplicates_are_refused_in_either_direction_but_not_in_another_zone() -> None:
    tracker = Tracker(max_connections=10)
    turned = {"source": "10.0.0.2", "destination": "10.0.0.1", "source_port": 53, "destination_port": 1000}
    outcomes = load(tracker, [entry(), entry(mark=1), entry(original=turned), entry(zone=1)], T0)
    assert [outcome.what is None for outcome in outcomes] == [True, False, False, True]
    assert "is there already" in (outcomes[1].what or "")


def test_an_expired_connection_gives_its_place_to_a_loaded_one() -> None:
    tracker = Tracker(max_connections=10)
    load(tracker, [entry(timeout_ms=10)], T0)
    assert load(tracker, [entry(mark=2)], T0 + 10) == [Outcome(1)]
    assert [connection.mark for connection in tracker.connections(T0 + 10)] == [2]


def test_limits_hold_for_loaded_connections_and_nobody_is_dropped_for_them() -> None:
    tracker = Tracker(max_connections=4)
    tracker.set_zone_limit(1, 1)
    tracker.set_early_drop(True)
    many = [entry(zone=zone) for zone in (0, 1)] + [
        entry(zone=zone, original={**entry()["original"], "source_port": n}) for zone in (1, 2) for n in range(1, 4)
    ]
    outcomes = load(tracker, many, T0)
    whys = [outcome.what for outcome in outcomes]
    assert whys == [None, None, *["its zone is at its limit"] * 3, None, None, "the table is full"]
    assert tracker.early_drop
    assert tracker.statistics()["removed-early-drop"] == 0


def nat_entry(**changes: Any) -> dict[str, Any]:
    """A source translated to 192.0.2.1:5000."""
    reply = {"source": "10.0.0.2", "destination": "192.0.2.1", "source_port": 53, "destination_port": 5000}
    return entry(reply=reply, nat="src", **changes)


def test_translated_connections_come_back_with_their_reply_tuple() -> None:
    tracker = Tracker(max_connections=10)
    assert load(tracker, [nat_entry(status=["SEEN_REPLY"], zone=7)], T0) == [Outcome(1)]
    (connection,) = tracker.connections()
    assert connection.nat == "src"
    for way in (connection.original, connection.reply):
        assert tracker.find(way, 17, zone=7) == connection
        assert tracker.find(way, 17) is None
    assert {str(address): usage.used for address, usage in tracker.nat_usage().items()} == {"192.0.2.1": 1}
    other = Tracker(max_connections=10)
    assert load(other, written([connection]), T0) == [Outcome(1)]
    assert table(other) == table(tracker)
    tracker.flush()
    assert tracker.find(connection.reply, 17, zone=7) is None
    assert tracker.nat_usage() == {}


def test_a_reply_tuple_that_is_taken_is_refused() -> None:
    tracker = Tracker(max_connections=10)
    twin = nat_entry(original={**entry()["original"], "source_port": 7})
    replies = {"source": "192.0.2.1", "destination": "10.0.0.2", "source_port": 5000, "destination_port": 53}
    outcomes = load(tracker, [nat_entry(), twin, entry(original=replies)], T0)
    assert outcomes[0].what is None
    assert outcomes[1].what == "its reply tuple belongs to another connection of the zone"
    assert outcomes[2].what == "its reply tuple belongs to another connection of the zone"


def test_parents_are_found_by_their_number_in_the_file() -> None:
    tracker = Tracker(max_connections=10)
    control = tcp_entry(id=41, helper="ftp")
    data = entry(id=42, parent=41, original={**entry()["original"], "source_port": 20})
    orphan = entry(id=43, parent=42, original={**entry()["original"], "source_port": 21})
    outcomes = load(tracker, [control, data, orphan], T0)
    assert [outcome.field for outcome in outcomes] == [None, None, "parent"]
    rows = {connection.protocol: connection for connection in tracker.connections()}
    exts = {number: tracker.arrays.exts[tracker.arrays.conns["ext"][row.id] - 1] for number, row in rows.items()}
    assert (exts[6]["helper"], exts[17]["helper"]) == (1, 0)
    assert (exts[17]["parent_row"], exts[17]["parent_generation"]) == (rows[6].id, rows[6].generation)


def test_observers_hear_of_loaded_connections() -> None:
    tracker = Tracker(max_connections=2000)
    heard: list[int] = []
    tracker.observe(lambda events: heard.extend(events["kind"].tolist()))
    entries = [entry(original={**entry()["original"], "source_port": n}) for n in range(1, 1001)]
    assert all(outcome.field is None for outcome in load(tracker, entries, T0))
    assert heard == [0] * 1000


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(FIELDS)), values)
def test_no_value_of_a_field_does_worse_than_be_refused(field: str, value: Any) -> None:
    tracker = Tracker(max_connections=4)
    for bad in ({**tcp_entry(), field: value}, {**entry(), "original": value}, value):
        (outcome,) = load(tracker, [bad], T0)
        assert outcome.field is None or outcome.what
