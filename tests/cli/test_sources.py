from __future__ import annotations

import os
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowshunt.cli.replay import sources
from flowshunt.cli.replay.options import PortFile
from flowshunt.cli.replay.sources import MergedSource, SidedSource, open_merged, open_sided
from flowshunt.packet.schema import PACKET, Batch
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture.sides import SideInference
from flowshunt.ports.capture.writer import PcapWriter
from tests.cli.fakes import make_batch

INSIDE_MAC, OUTSIDE_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def ip_checksum(addresses: bytes) -> bytes:
    """Of the header that `frame` makes."""
    total = 0x4500 + 0x1C + 0x4011 + sum(int.from_bytes(addresses[i : i + 2], "big") for i in range(0, 8, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")


def frame(n: int, from_inside: bool) -> bytes:
    """A UDP packet between 10.0.0.1 (inside) and 192.0.2.1, told apart by n."""
    macs = (OUTSIDE_MAC, INSIDE_MAC) if from_inside else (INSIDE_MAC, OUTSIDE_MAC)
    hosts = (bytes([10, 0, 0, 1]), bytes([192, 0, 2, 1]))
    ports = (n.to_bytes(2, "big"), (53).to_bytes(2, "big"))
    if not from_inside:
        hosts, ports = hosts[::-1], ports[::-1]
    ip = bytes.fromhex("4500001c000000004011") + ip_checksum(hosts[0] + hosts[1]) + hosts[0] + hosts[1]
    return macs[0] + macs[1] + b"\x08\x00" + ip + ports[0] + ports[1] + bytes.fromhex("00080000")


def write(path: Path, frames: list[bytes], first_ns: int = 0) -> str:
    batch = make_batch(frames, first_ns)
    with PcapWriter(path) as writer:
        writer.write(batch.data, batch.packets)
    return str(path)


def read(source: SidedSource | MergedSource, limit: int) -> tuple[np.ndarray, list[bytes]]:
    """All packets and their frames."""
    records, frames = [np.zeros(0, PACKET)], []
    while (batch := source.receive(limit)) is not None:
        assert 1 <= len(batch.packets) <= limit
        records.append(batch.packets.copy())
        frames += [bytes(batch.data[p["data"] :][: p["length"]]) for p in batch.packets]
    return np.concatenate(records), frames


TALK = [frame(1000 + n // 2, from_inside=n % 2 == 0) for n in range(200)]


@pytest.mark.parametrize("limit", [1, 7, 256])
def test_sides_of_one_capture_become_ports_one_and_two(tmp_path: Path, limit: int) -> None:
    with ExitStack() as closing:
        source = open_sided(write(tmp_path / "a.pcap", TALK), (), None, closing)
        packets, frames = read(source, limit)
    assert frames == TALK
    assert packets["in_port"].tolist() == [1, 2] * 100
    assert source.sides is not None
    assert source.sides.by == "mac"


def test_the_network_given_as_inside_decides(tmp_path: Path) -> None:
    with ExitStack() as closing:
        source = open_sided(write(tmp_path / "a.pcap", TALK), [ip_network("192.0.2.0/24")], None, closing)
        packets, _ = read(source, 256)
    assert packets["in_port"].tolist() == [2, 1] * 100


def test_packets_behind_the_look_get_their_ports_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LOOK_PACKETS", 50)
    monkeypatch.setattr(sources, "_BLOCK", 16)
    with ExitStack() as closing:
        packets, frames = read(open_sided(write(tmp_path / "a.pcap", TALK), (), None, closing), 256)
    assert frames == TALK
    assert packets["in_port"].tolist() == [1, 2] * 100


def test_the_look_ends_at_a_number_of_bytes_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LOOK_BYTES", 10 * len(TALK[0]))
    seen: list[int] = []
    observe = SideInference.observe

    def count(self: Any, batch: Batch) -> None:
        seen.append(len(batch.packets))
        observe(self, batch)

    monkeypatch.setattr(SideInference, "observe", count)
    for block in (3, 4096):
        monkeypatch.setattr(sources, "_BLOCK", block)
        with ExitStack() as closing:
            _, frames = read(open_sided(write(tmp_path / "a.pcap", TALK), (), None, closing), 256)
        assert frames == TALK
    assert seen == [3, 3, 3, 1, 10]


def test_a_limit_keeps_the_reader_from_what_lies_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcap", TALK)
    with open(path, "ab") as file:
        file.write(b"\xff" * 40)
    with ExitStack() as closing:
        source = open_sided(path, (), 200, closing)
        assert len(read(source, 64)[1]) == 200
        assert source.errors == []


def test_a_damage_comes_after_the_packets_before_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pcap", TALK)
    os.truncate(path, os.path.getsize(path) - 5)
    with ExitStack() as closing:
        source = open_sided(path, (), None, closing)
        _, frames = read(source, 64)
    assert frames == TALK[:-1]
    assert [type(error) for error in source.errors] == [CaptureError]


def test_an_interrupted_look_hands_out_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BLOCK", 20)
    with ExitStack() as closing:
        source = open_sided(write(tmp_path / "a.pcap", TALK), (), None, closing)
        receive = source._reader.receive

        def interrupted(limit: int) -> Batch | None:
            if source._reader.n_packets >= 40:
                raise KeyboardInterrupt
            return receive(limit)

        monkeypatch.setattr(source._reader, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source.receive(64)
        assert source.is_holding
        assert read(source, 64)[1] == TALK[:40]
        assert not source.is_holding


@pytest.mark.parametrize("limit", [1, 7, 256])
def test_captures_of_several_ports_are_merged_by_time(tmp_path: Path, limit: int) -> None:
    inner, outer = TALK[0::2], TALK[1::2]
    files = [
        PortFile("in", write(tmp_path / "in.pcap", inner)),
        PortFile("out", write(tmp_path / "out.pcap", outer, first_ns=500)),
    ]
    with ExitStack() as closing:
        source = open_merged(files, [1, 2], closing)
        packets, frames = read(source, limit)
        assert source.size == sum(os.path.getsize(file.path) for file in files)
    assert frames == TALK
    assert packets["in_port"].tolist() == [1, 2] * 100
    assert list(source.errors) == []


def test_one_damaged_capture_does_not_end_the_others(tmp_path: Path) -> None:
    damaged = write(tmp_path / "in.pcap", TALK[0::2])
    os.truncate(damaged, os.path.getsize(damaged) - 5)
    files = [PortFile("in", damaged), PortFile("out", write(tmp_path / "out.pcap", TALK[1::2], first_ns=500))]
    with ExitStack() as closing:
        source = open_merged(files, [1, 2], closing)
        assert len(read(source, 64)[1]) == 199
        assert [error.path for error in source.errors] == [damaged]
