"""The port in memory: what goes in comes out, with what the port knows about it."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.packet.schema import CHECKSUM_PARTIAL, PACKET
from flowshunt.ports import MemoryPort, Port, PortError


def test_queued_frames_are_received_in_order_up_to_the_limit() -> None:
    port = MemoryPort(in_port=7)
    port.queue_all([b"first frame", b"", b"third"], time_ns=1000, interval_ns=5)
    batch = port.receive(2)
    assert batch is not None
    assert batch.packets["length"].tolist() == [11, 0]
    assert batch.packets["time_ns"].tolist() == [1000, 1005]
    assert batch.packets["in_port"].tolist() == [7, 7]
    assert batch.data[:11].tobytes() == b"first frame"
    assert len(port) == 1


def test_metadata_of_a_device_reaches_the_record() -> None:
    port = MemoryPort()
    port.queue(bytes(60), wire_length=1514, gso_size=1448, gso_type=1, checksum=CHECKSUM_PARTIAL)
    batch = port.receive(8)
    assert batch is not None
    record = batch.packets[0]
    names = ("wire_length", "gso_size", "gso_type", "checksum")
    assert [int(record[name]) for name in names] == [1514, 1448, 1, CHECKSUM_PARTIAL]


def test_a_field_that_no_port_fills_is_refused() -> None:
    with pytest.raises(ValueError, match="ack, seq"):
        MemoryPort().queue(bytes(60), seq=1, ack=2)


def test_a_live_port_has_an_empty_batch_and_an_ending_one_none() -> None:
    batch = MemoryPort().receive(4)
    assert batch is not None
    assert len(batch.packets) == 0
    assert MemoryPort(ends=True).receive(4) is None


def test_a_received_frame_can_be_changed_without_touching_what_was_queued() -> None:
    frame = bytes(14)
    port = MemoryPort()
    port.queue(frame)
    batch = port.receive(1)
    assert batch is not None
    batch.data[0] = 0xFF
    assert frame == bytes(14)


def test_transmitted_frames_are_copies_with_their_times() -> None:
    port = MemoryPort()
    data = np.arange(20, dtype=np.uint8)
    frames = np.zeros(2, PACKET)
    frames["data"], frames["length"], frames["time_ns"] = [4, 0], [3, 2], [11, 12]
    assert port.transmit(data, frames) == 2
    data[:] = 0
    assert [(sent.frame, sent.time_ns) for sent in port.transmitted] == [(b"\4\5\6", 11), (b"\0\1", 12)]


def test_a_closed_port_takes_and_gives_nothing() -> None:
    port = MemoryPort()
    port.queue(b"x")
    port.close()
    assert port.receive(1) is None
    with pytest.raises(PortError):
        port.queue(b"x")
    with pytest.raises(PortError):
        port.transmit(np.zeros(1, np.uint8), np.zeros(1, PACKET))


def test_it_is_a_port() -> None:
    assert isinstance(MemoryPort(), Port)
