"""Packets that stop for Python, and go on."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.program import PUNT_ACTION, Assembler, CompiledRule
from flowshunt.datapath.punts import Punt
from flowshunt.datapath.schema import OWN_SIZE
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import FIELDS, W_ETH_DST, W_L4
from tests.builders import Packet, batch_of
from tests.datapath.switches import Sent, send, send_batch, udp


def datapath_of(*programs: tuple[int, ...], batch_size: int = 256) -> Datapath:
    """A datapath with one rule for all packets in each table."""
    datapath = Datapath(Tracker(max_connections=100, seed=1), batch_size)
    for port in (1, 2, 3):
        datapath.ports.add(port)
    datapath.add_flows([CompiledRule(table, 1, (), program) for table, program in enumerate(programs)])
    return datapath


def program(write: object) -> tuple[int, ...]:
    assembler = Assembler()
    write(assembler)  # type: ignore[operator]
    return assembler.finish()


def punt_and_output(a: Assembler) -> None:
    a.punt(7)
    a.output(2)


def test_a_punted_packet_goes_on_unchanged_without_a_handler() -> None:
    datapath = datapath_of(program(punt_and_output))
    packet = udp()
    assert send(datapath, packet) == [Sent(2, packet.bytes())]
    statistics = datapath.statistics()
    assert statistics["punted"] == 1
    assert statistics["packets"] == 1
    assert datapath.flows()[0].packets == 1


def test_the_handler_gets_reason_argument_frame_and_key() -> None:
    datapath = datapath_of(program(punt_and_output))
    seen: list[tuple[int, int, bytes, int]] = []

    def handler(punt: Punt) -> None:
        seen.append((punt.reason, punt.argument, punt.frame, int(punt.key[W_L4]) >> 32 & 0xFFFF))

    datapath.handle_punts(PUNT_ACTION, handler)
    packet = udp(dport=2000)
    send(datapath, packet)
    assert seen == [(PUNT_ACTION, 7, packet.bytes(), 2000)]


def test_other_bytes_leave_with_what_actions_wrote_into_the_headers() -> None:
    place = FIELDS["tp_dst"]

    def write(a: Assembler) -> None:
        a.set(place.word, 0xFFFF << place.shift, 4000 << place.shift)
        a.punt(0)
        a.output(2)
        a.output(3)

    datapath = datapath_of(program(write))
    longer = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 2000).payload(b"quite another text")
    datapath.handle_punts(PUNT_ACTION, lambda punt: punt.replace(longer.bytes()))
    expected = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000, 4000).payload(b"quite another text").bytes()
    assert send(datapath, udp(dport=2000)) == [Sent(2, expected), Sent(3, expected)]


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_a_punt_in_the_middle_of_a_batch_keeps_order_tables_clones_and_connections(batch_size: int) -> None:
    def first(a: Assembler) -> None:
        a.clone(program(lambda inner: (inner.punt(1), inner.output(3))))
        a.ct(1, 1, 5)  # commit, then table 1
        a.output(1)

    def second(a: Assembler) -> None:
        a.punt(2)
        a.output(2)

    datapath = datapath_of(program(first), program(second), batch_size=batch_size)
    arguments: list[int] = []
    datapath.handle_punts(PUNT_ACTION, lambda punt: arguments.append(punt.argument))
    packets = [udp(sport=1000 + n % 3) for n in range(7)]
    batch = batch_of(packets, in_port=9, time_ns=1_000_000_000_000)
    sent = send_batch(datapath, batch)
    assert sent == [[Sent(3, p.bytes()), Sent(2, p.bytes()), Sent(1, p.bytes())] for p in packets]
    assert arguments == [1, 2] * 7
    assert len(datapath.tracker) == 3
    assert sum(sum(c.packets) for c in datapath.tracker.connections()) == 7
    assert datapath.statistics()["packets"] == 7


def test_a_handler_that_raises_is_counted_and_the_packet_goes_on() -> None:
    datapath = datapath_of(program(punt_and_output))

    def handler(punt: Punt) -> None:
        raise RuntimeError("no")

    datapath.handle_punts(PUNT_ACTION, handler)
    assert len(send(datapath, udp())) == 1
    assert datapath.statistics()["handler-errors"] == 1


def test_a_handler_may_change_the_key() -> None:
    datapath = datapath_of(program(punt_and_output))
    mac = 0x0200000000AB

    def handler(punt: Punt) -> None:
        punt.key[W_ETH_DST] = mac << 16 | int(punt.key[W_ETH_DST]) & 0xFFFF

    datapath.handle_punts(PUNT_ACTION, handler)
    (sent,) = send(datapath, udp())
    assert sent.frame[:6] == mac.to_bytes(6, "big")


def test_a_packet_too_long_to_be_punted_is_dropped_for_that_reason() -> None:
    datapath = datapath_of(program(punt_and_output))
    frame = udp().bytes() + bytes(OWN_SIZE)
    assert send(datapath, frame) == []
    assert datapath.statistics()["drop.too-long"] == 1
    assert datapath.statistics()["punted"] == 0


def test_bytes_too_long_for_the_own_packet_are_refused() -> None:
    datapath = datapath_of(program(punt_and_output))
    datapath.handle_punts(PUNT_ACTION, lambda punt: punt.replace(bytes(OWN_SIZE + 1)))
    packet = udp()
    assert send(datapath, packet) == [Sent(2, packet.bytes())]
    assert datapath.statistics()["handler-errors"] == 1


def test_a_batch_larger_than_the_chunk_resumes_in_its_place() -> None:
    datapath = datapath_of(program(punt_and_output), batch_size=4)
    seen: list[bytes] = []
    datapath.handle_punts(PUNT_ACTION, lambda punt: seen.append(punt.frame))
    packets = [udp(sport=n + 1) for n in range(11)]
    batch = batch_of(packets, in_port=1, time_ns=0)
    sent = send_batch(datapath, batch)
    assert seen == [p.bytes() for p in packets]
    assert [len(frames) for frames in sent] == [1] * 11
    assert np.all(datapath.process(batch).fate == 0)


def test_an_exception_while_a_packet_waits_leaves_nothing_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(packet: int) -> None:
        raise RuntimeError(f"packet {packet} waits for ever")

    datapath = datapath_of(program(punt_and_output))
    asked: list[bytes] = []
    datapath.handle_punts(PUNT_ACTION, lambda punt: asked.append(punt.frame))
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(datapath, "_answer", broken)
        send(datapath, udp(dport=1))
    short = batch_of([udp()], in_port=9, time_ns=1_000_000_000_000)
    short.packets["length"] = short.packets["wire_length"] = 9
    assert send_batch(datapath, short) == [[]]
    assert asked == []
    assert send(datapath, udp(dport=2)) == [Sent(2, udp(dport=2).bytes())]
    assert asked == [udp(dport=2).bytes()]
