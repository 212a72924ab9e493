from __future__ import annotations

import pytest

from flowshunt.datapath import schema as D
from flowshunt.datapath.loop import MAX_EVENTS
from flowshunt.rules.openflow import flow as F
from tests.builders import Packet, batch_of
from tests.datapath.switches import (
    IP,
    TRK,
    Sent,
    ct_state,
    fate,
    flow,
    ports_of,
    send,
    send_batch,
    set_field,
    switch,
    udp,
)


def test_a_loop_ends_at_the_depth_limit_and_takes_its_outputs_back() -> None:
    datapath = switch(flow(F.Output(2), F.Resubmit(table=0), F.Output(3)))
    assert fate(datapath, udp()) == "drop.resubmit-depth"
    assert datapath.statistics()["frames-sent"] == 0
    assert datapath.statistics()["resubmits"] == D.MAX_DEPTH
    assert datapath.ports.statistics()[2]["tx_packets"] == 0


def test_a_loop_of_tail_resubmits_ends_too() -> None:
    assert fate(switch(flow(F.Output(2), F.Resubmit(table=0))), udp()) == "drop.resubmit-depth"
    assert fate(switch(flow(F.Output(2), F.Clone((F.Resubmit(table=0),)))), udp()) == "drop.resubmit-depth"


def test_depth_does_not_count_later_tables() -> None:
    chain = [flow(F.Resubmit(table=n + 1), F.Note(b""), F.Output(2 if n == 99 else 77), table=n) for n in range(100)]
    assert ports_of(send(switch(*chain), udp())) == [2]
    chain = [flow(F.GotoTable(n + 1), table=n) for n in range(254)]
    assert ports_of(send(switch(*chain, flow(F.Output(3), table=254)), udp())) == [3]


def test_a_tree_of_resubmits_ends_at_the_total_limit() -> None:
    levels = [flow(*[F.Resubmit(table=n + 1)] * 8, table=n) for n in range(5)]
    datapath = switch(*levels, flow(F.Output(2), table=5))
    assert fate(datapath, udp()) == "drop.resubmit-limit"
    assert datapath.statistics()["resubmits"] == D.MAX_RESUBMITS
    assert datapath.statistics()["frames-sent"] == 0
    assert ports_of(send(switch(*levels[:3], flow(F.Output(2), table=3)), udp())) == [2] * 512


def nested_clones(depth: int) -> F.Action:
    action: F.Action = F.Output(2)
    for n in range(depth):
        action = F.Clone((set_field("reg0", n, 32), action, F.Note(b"")))
    return action


def test_deep_clones() -> None:
    assert ports_of(send(switch(flow(nested_clones(D.MAX_SNAPSHOTS // 4), F.Output(3))), udp())) == [2, 3]


def test_clones_across_tables_end_at_the_snapshot_limit() -> None:
    wide = [
        flow(
            F.Clone((F.Clone((F.Clone((F.Resubmit(table=n + 1), F.Note(b""))), F.Note(b""))), F.Note(b""))),
            F.Output(3),
            table=n,
        )
        for n in range(200)
    ]
    datapath = switch(*wide)
    assert fate(datapath, udp()) == "drop.snapshot-limit"
    assert datapath.statistics()["frames-sent"] == 0
    assert fate(datapath, udp()) == "drop.snapshot-limit"


def test_a_loop_through_ct_ends_at_the_depth_limit() -> None:
    datapath = switch(flow(F.Ct(table=0)))
    assert fate(datapath, udp()) == "drop.resubmit-depth"
    assert datapath.statistics()["tracked"] == D.MAX_DEPTH


def test_a_limit_behind_ct_spares_what_the_original_outputs() -> None:
    datapath = switch(
        flow(F.Output(3), F.Ct(table=1), F.Output(2), match=[ct_state(0, TRK)]),
        flow(F.Output(3), F.Resubmit(table=1), table=1),
    )
    frame = udp().bytes()
    assert send(datapath, frame) == [Sent(3, frame), Sent(2, frame)]


def test_a_limit_in_the_original_takes_back_what_its_copies_did() -> None:
    datapath = switch(
        flow(F.Output(3), F.Ct(table=1), F.Resubmit(table=0), match=[ct_state(0, TRK)]),
        flow(F.Output(2), table=1),
    )
    assert fate(datapath, udp()) == "drop.resubmit-depth"
    assert datapath.statistics()["frames-sent"] == 0


def test_too_many_passes_through_the_tracker() -> None:
    datapath = switch(flow(*[F.Ct()] * (D.MAX_TRACKS + 1), F.Output(2)))
    assert fate(datapath, udp()) == "drop.ct-limit"
    assert datapath.statistics()["tracked"] == D.MAX_TRACKS


def test_more_frames_than_one_packet_may_cause_are_left_out_and_counted() -> None:
    datapath = switch(flow(*[F.Flood()] * 50), ports=range(1, 102))
    sent = send(datapath, udp())
    assert len(sent) == D.MAX_OUTPUTS
    assert datapath.statistics()["skipped.output-limit"] == 5000 - D.MAX_OUTPUTS


def test_more_changed_bytes_than_one_packet_may_cause_are_left_out_and_counted() -> None:
    actions = [a for n in range(20) for a in (set_field("eth_src", n + 9, 48), F.Output(2))]
    datapath = switch(flow(*actions))
    big = udp().payload(60_000 - 47)
    sent = send(datapath, big)
    n = D.MAX_OUTPUT_SIZE // 60_000
    assert len(sent) in (n, n - 1)
    assert datapath.statistics()["skipped.output-limit"] == 20 - len(sent)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_output_space_grows_until_a_batch_fits(batch_size: int) -> None:
    datapath = switch(flow(*[F.Flood()] * 30), ports=range(1, 102), batch_size=batch_size)
    datapath._output = D.make_output(0)
    frames = [udp(sport=n) for n in range(3)]
    sent = send_batch(datapath, batch_of(frames))
    assert [len(part) for part in sent] == [3000] * 3
    assert [part[-1].frame for part in sent] == [frame.bytes() for frame in frames]
    changed = switch(flow(*[set_field("eth_src", 9, 48), F.Output(2), set_field("eth_src", 8, 48), F.Output(3)] * 2))
    changed._output = D.make_output(0)
    big = [Packet().eth().ipv4("1.1.1.1", "2.2.2.2").udp(n, 2).payload(30_000) for n in range(3)]
    sent = send_batch(changed, batch_of(big))
    assert [len(part) for part in sent] == [4] * 3
    assert [part[1].frame[6:12] for part in sent] == [bytes.fromhex("000000000008")] * 3
    assert [part[1].frame[12:] for part in sent] == [packet.bytes()[12:] for packet in big]


def test_events_that_fill_up_are_drained_in_mid_batch() -> None:
    datapath = switch(flow(F.Ct(commit=True), F.Output(2), match=[IP]))
    datapath.tracker.arrays.state["capacity"] = 1000
    seen: list[int] = []
    datapath.tracker.observe(lambda events: seen.append(len(events)))
    arrays = datapath.tracker.arrays
    datapath.tracker.arrays = arrays._replace(events=arrays.events[: MAX_EVENTS + 60].copy())
    batch = batch_of([udp(sport=n) for n in range(1, 301)])
    assert all(ports_of(sent) == [2] for sent in send_batch(datapath, batch))
    assert sum(seen) == 300
    assert len(seen) > 1
