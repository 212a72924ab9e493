from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowshunt.cli import layout, numbers
from flowshunt.cli.replay import document, render
from flowshunt.cli.replay.options import DEFAULT_FLOWS
from flowshunt.cli.replay.outputs import PortWriters, StatesWriter
from flowshunt.cli.replay.report import Report, ZoneReport, count_connections, make_report
from flowshunt.cli.replay.run import Ending, Outcome
from flowshunt.cli.replay.tally import Tally
from flowshunt.datapath.fragments.schema import JOINED
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture import reader
from tests.cli.fakes import FakeSwitch, FakeTracker, cross_over, make_batch
from tests.cli.test_listings import established, ping

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "replay.schema.json"


def check_schema(text: str) -> dict[str, Any]:
    import jsonschema

    document = json.loads(text)
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    return document  # type: ignore[no-any-return]


def tallied(n: int, pieces: int = 1) -> Tally:
    tally = Tally()
    for first in range(0, n, n // pieces):
        batch = make_batch([b"x" * 60] * (n // pieces), first_ns=1000 * first, cut=4)
        tally.add(batch, cross_over(batch, [0x21, 0x22] * (n // pieces // 2), drop_every=2))
    return tally


def report(**changes: Any) -> Report:
    tracker = FakeTracker(
        [established(), ping(id=8), established(id=9, start_ms=5, state="SYN_SENT")], {"invalid-checksum": 3}
    )
    tracker.zones = {0: {"udp": counters(invalid={"checksum": 2})}, 7: {"tcp": counters(invalid={"checksum": 1})}}
    switch = FakeSwitch(tracker=tracker)
    switch.counters = {"verdict.ok": 6, "verdict.short-ipv4": 2, "packets": 8}
    given = {"profile": "default", "default_rules": True, "sources": {"p0": "a.pcap"}, **changes}
    return make_report(switch, tallied(8), given.pop("outcome", Outcome(Ending.END)), **given)


def counters(**counted: Any) -> dict[str, Any]:
    """Of one zone and protocol, none but `counted` above zero."""
    numbers = dict.fromkeys(("found", "new", "related", "again", "inserted", "dropped", "early_dropped"), 0)
    groups: dict[str, Any] = {name: {} for name in ("insert_failed", "invalid", "removed", "expired")}
    return {**numbers, **groups, **counted}


def summary(report: Report) -> str:
    out = io.StringIO()
    layout.write_plain(render.sections(report), out)
    return out.getvalue()


def test_tally_counts_packets_bytes_time_states_fates_and_ports() -> None:
    tally = tallied(8)
    tally.flush()
    assert (tally.packets, tally.bytes, tally.n_cut) == (8, 8 * 64, 8)
    assert (tally.first_ns, tally.last_ns) == (0, 7000)
    assert (tally.ct_states[0x21], tally.ct_states[0x22], tally.ct_states.sum()) == (4, 4, 8)
    assert (tally.fates[0], tally.fates[1]) == (4, 4)
    assert (tally.ports[1].rx_packets, tally.ports[1].rx_bytes, tally.ports[1].tx_packets) == (8, 512, 0)
    assert (tally.ports[2].rx_packets, tally.ports[2].tx_packets, tally.ports[2].tx_bytes) == (0, 4, 240)


def test_tally_does_not_depend_on_the_size_of_batches() -> None:
    whole, pieces = tallied(100_000), tallied(100_000, pieces=1000)
    whole.flush()
    pieces.flush()
    for name in ("packets", "bytes", "n_cut", "first_ns", "last_ns", "ports"):
        assert getattr(whole, name) == getattr(pieces, name)
    assert np.array_equal(whole.ct_states, pieces.ct_states)
    assert np.array_equal(whole.fates, pieces.fates)


def test_tally_takes_the_earliest_and_latest_time_of_a_capture_out_of_order() -> None:
    tally = Tally()
    for first_ns in (5_000_000, 1_000_000):
        batch = make_batch([b"x"], first_ns=first_ns)
        tally.add(batch, cross_over(batch, [0]))
    tally.flush()
    assert (tally.first_ns, tally.last_ns) == (1_000_000, 5_000_000)


def test_a_flood_of_copies_is_counted_even_beyond_the_room_for_one_count() -> None:
    batch = make_batch([b"x" * 10])
    result = cross_over(batch, [0])
    flood = result._replace(tx=np.repeat(result.tx, 100_000))
    tally = Tally()
    tally.add(batch, flood)
    tally.add(batch, flood)
    tally.flush()
    assert (tally.ports[2].tx_packets, tally.ports[2].tx_bytes) == (200_000, 2_000_000)


def test_a_replay_without_packets_has_a_report() -> None:
    empty = make_report(FakeSwitch(), Tally(), Outcome(Ending.END), profile="linux", default_rules=False, sources={})
    assert (empty.packets, empty.first_ns, empty.now_ms) == (0, None, 0)
    assert "packets      0 (0 B)" in summary(empty)
    out = io.StringIO()
    document.write(empty, out)
    found = check_schema(out.getvalue())
    assert found["summary"]["duration_ns"] is None
    assert found["connections"] == []


def test_connections_are_counted_by_protocol_and_state_largest_first() -> None:
    unanswered = established(protocol=17, state=None, states=None, seen_reply=False)
    counts = count_connections(
        [(ping(), 1), (unanswered, 1), (unanswered, 1), (established(state="SYN_SENT"), 1), (established(), 2)]
    )
    assert list(counts.items()) == [
        (("tcp", "ESTABLISHED"), 2),
        (("tcp", "SYN_SENT"), 1),
        (("udp", "unanswered"), 2),
        (("icmp", "answered"), 1),
    ]


def test_summary_says_what_was_there_and_why_packets_were_lost() -> None:
    text = summary(report())
    assert "packets      8 (512 B)" in text
    assert "to           1970-01-01 00:00:00.000007 UTC (7.0 µs)" in text
    assert "dropped      4 packets (50.0 %)" in text
    assert "No rules given" in text
    assert "\n  tcp       ESTABLISHED            1  33.3 %\n" in text
    assert "\n  est|trk         4  50.0 %\n" in text
    assert "Not tracked or invalid, by reason\n" in text
    assert "\n  checksum        3  udp 2, tcp 1  wrong checksum\n" in text
    assert "use --no-checksum" in text
    assert "\n  short-ipv4        2  frame ends within the IPv4 packet\n" in text
    assert "\n  no-match        4  no rule matched\n" in text
    assert "no-match: add a rule with priority=0 for the rest" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_summary_explains_how_the_replay_ended() -> None:
    damage = CaptureError("a.pcap", 40, "packet of 3 GB", "at most 256 kB")
    assert "A capture is damaged" in summary(report(outcome=Outcome(Ending.DAMAGED, (damage,))))
    assert "Interrupted" in summary(report(outcome=Outcome(Ending.INTERRUPTED)))
    assert "Stopped at --limit" in summary(report(outcome=Outcome(Ending.LIMIT)))


def test_rich_output_holds_the_same_words() -> None:
    from rich.console import Console

    out = io.StringIO()
    layout.write_rich(render.sections(report()), Console(file=out, width=120, force_terminal=True))
    for word in ("Replay", "ESTABLISHED", "est|trk", "wrong checksum", "no rule matched"):
        assert word in out.getvalue()


def test_json_follows_its_schema() -> None:
    damage = CaptureError("a.pcap", 40, "packet of 3 GB", "at most 256 kB")
    out = io.StringIO()
    document.write(report(outcome=Outcome(Ending.DAMAGED, (damage,)), with_listing=True), out)
    found = check_schema(out.getvalue())
    assert found["damages"] == [
        {"path": "a.pcap", "offset": 40, "problem": "packet of 3 GB", "expected": "at most 256 kB"}
    ]
    assert found["ports"][0]["source"] == "a.pcap"
    assert found["summary"]["invalid"] == [{"reason": "checksum", "packets": 3, "protocols": {"udp": 2, "tcp": 1}}]
    assert [(zone["zone"], zone["connections"], list(zone["protocols"])) for zone in found["zones"]] == [
        (0, 3, ["udp"]),
        (7, 3, ["tcp"]),
    ]
    assert [connection["protocol_name"] for connection in found["connections"]] == ["tcp", "icmp", "tcp"]
    assert [connection["id"] for connection in found["connections"]] == [1, 2, 3]


def test_states_are_numbered_across_batches() -> None:
    out = io.StringIO()
    writer = StatesWriter(out)
    for states in ([0x21, 0x2A], [0, 0x30]):
        batch = make_batch([b"x"] * len(states))
        writer.take(batch, cross_over(batch, states))
    assert out.getvalue() == "1: new|trk\n2: est|rpl|trk\n3: -\n4: inv|trk\n"


HELD = 0x100
FRAGMENTS = [(2, 4, 0), (1, 4, 1), (4, 4, 0)]
"""Packets 1, 2 and 4, from 0, are one datagram; 1 is its beginning."""


@pytest.mark.parametrize(
    ("first_only", "lines"),
    [
        (False, ["new|trk", "est|trk @5", "est|trk @5", "held", "est|trk", "inv|trk", "-"]),
        (True, ["new|trk", "est|trk @5", "held", "held", "held", "inv|trk", "-"]),
    ],
)
def test_the_state_of_a_datagram_is_that_of_its_fragments(first_only: bool, lines: list[str]) -> None:
    out = io.StringIO()
    written = []
    held: list[int | None] = [1, 1, 3, None]
    joined = [[], [], FRAGMENTS, []]
    with StatesWriter(out, lambda: held[0], first_only=first_only) as writer:
        for states, records in zip([[0x21, HELD], [HELD, HELD], [0x22, 0x30], [0]], joined, strict=True):
            batch = make_batch([b"x"] * len(states))
            writer.take(batch, cross_over(batch, states)._replace(joined=np.array(records, JOINED)))
            written.append(out.getvalue().count("\n"))
            held.pop(0)
    assert written == [1, 1, 3, 7]
    assert out.getvalue() == "".join(f"{n}: {line}\n" for n, line in enumerate(lines, 1))


def test_a_datagram_whose_beginning_comes_last_has_its_state_there() -> None:
    out = io.StringIO()
    with StatesWriter(out, lambda: None, first_only=True) as writer:
        batch = make_batch([b"x"] * 2)
        writer.take(batch, cross_over(batch, [HELD, 0x21])._replace(joined=np.array([(0, 1, 0), (1, 1, 1)], JOINED)))
    assert out.getvalue() == "1: held\n2: new|trk\n"


def test_what_is_still_held_at_the_end_is_written_as_such() -> None:
    out = io.StringIO()
    with StatesWriter(out, lambda: 0) as writer:
        batch = make_batch([b"x"] * 2)
        writer.take(batch, cross_over(batch, [HELD, 0x21]))
        assert out.getvalue() == ""
    assert out.getvalue() == "1: held\n2: new|trk\n"


@pytest.mark.parametrize("name", ["out.pcap", "out.pcapng", "out.pcap.gz", "out.pcapng.zst"])
def test_what_leaves_a_port_is_written_in_order_from_both_buffers(tmp_path: Path, name: str) -> None:
    batch = make_batch([b"first!", b"second", b"third!"], first_ns=1000, cut=10)
    result = cross_over(batch, [0, 0, 0])
    result.tx["source"][1], result.tx["data"][1], result.tx["length"][1] = 1, 2, 8
    changed = result._replace(tx_data=np.frombuffer(bytearray(b"..CHANGED!.."), np.uint8))
    path = str(tmp_path / name)
    with PortWriters({2: path}, {2: "p1"}) as writers:
        writers.take(batch, changed)
    with reader.open_capture(path) as written:
        found = written.receive(10)
        assert found is not None
        frames = [bytes(found.data[p["data"] :][: p["length"]]) for p in found.packets]
        assert frames == [b"first!", b"CHANGED!", b"third!"]
        assert found.packets["time_ns"].tolist() == [1000, 2000, 3000]
        assert found.packets["wire_length"].tolist() == [16, 18, 16]
        assert written.format == name.split(".")[1]


def test_numbers_for_people() -> None:
    assert numbers.count(1234567) == "1,234,567"
    assert [numbers.size(n) for n in (0, 999, 1000, 999_949, 999_950, 3_200_000_000)] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "3.2 GB",
    ]  # fmt: skip
    durations = [0, 1_500, 2_500_000, 12_340_000_000, 62 * 10**9, 7_265 * 10**9, 200_000 * 10**9]
    assert [numbers.duration(ns) for ns in durations] == [
        "0 ns", "1.5 µs", "2.5 ms", "12.3 s", "1 min 2 s", "2 h 1 min", "2 d 7 h",
    ]  # fmt: skip
    assert numbers.moment(1_795_175_105_358_293_999) == "2026-11-20 11:45:05.358293 UTC"
    assert (numbers.share(1, 3), numbers.share(0, 0)) == ("33.3 %", "")


def test_default_rules_track_in_one_table_and_forward_in_the_next() -> None:
    assert DEFAULT_FLOWS.splitlines() == [
        "table=0,priority=0,actions=ct(commit,table=1)",
        "table=1,priority=0,actions=normal",
    ]


def test_zones_are_set_side_by_side_when_there_are_several() -> None:
    busy = counters(inserted=9, early_dropped=1, insert_failed={"full": 2, "zone-limit": 3}, invalid={"state": 4})
    zones = (
        ZoneReport(0, 5, {"tcp": busy, "udp": counters(inserted=1, expired={"unanswered": 1000})}),
        ZoneReport(9, 0, {"icmp": counters()}),
    )
    text = summary(replace(report(), zones=zones))
    assert "  zone  connections  stored  expired  dropped early  no room  invalid packets\n" in text
    assert "     0            5      10    1,000              1        5                4\n" in text
    assert "     9            0       0        0              0        0                0\n" in text
    assert "\nZones\n" not in summary(replace(report(), zones=zones[:1]))


@pytest.mark.parametrize("reason", ["full", "zone-limit", "headroom"])
def test_connections_that_were_not_stored_are_remarked_upon(reason: str) -> None:
    remark = "1,234 packets found no room for their connection: "
    assert remark not in summary(report())
    assert remark in summary(replace(report(), counters={f"tracker.{reason}": 1234}))
