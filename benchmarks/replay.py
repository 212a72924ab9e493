"""`flowshunt replay` of a large capture, as a user runs it: a process of its own, reading included.

The capture is the project's demo capture over and over, each time with other addresses, so that it leaves about
100,000 connections. It is replayed whole, by half, and for its first packet only: what the last takes is start-up and
left out of the rate, and the difference in resident memory between the first two shows that memory does not follow the
size of the capture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flowshunt.cli.bench.figures import Record
from flowshunt.packet.schema import Batch
from flowshunt.ports.capture import PcapWriter, open_capture

DEMO = Path(__file__).resolve().parents[1] / "demo" / "demo.pcap"
RULES = Path(__file__).resolve().parents[1] / "examples" / "flows" / "bluefield.flows"
CLIENT = (0x0101, 0x0102)
"""The address 1.1.1.2 of the demo capture, in halves."""
COPIES = 8500
_CHUNK = 50


def _frames() -> Batch:
    """The demo capture's small frames: with all of them the file would measure the disk."""
    (batch,) = open_capture(str(DEMO)).batches(10_000)
    small = batch.packets["length"] <= 200
    return Batch(batch.data.copy(), batch.packets[small].copy())


def make_capture(path: Path, copies: int) -> int:
    """Write `copies` of the demo's frames, the client's address different in each; returns the number of packets.

    The two halves of the new address have the same one's complement sum as those of the old one, so all checksums
    stay right.
    """
    demo = _frames()
    start = int(demo.packets["data"].min())
    span = int((demo.packets["data"] + demo.packets["length"]).max()) - start
    image = demo.data[start : start + span]
    at = demo.packets["data"] - start
    ipv4 = at[(image[at + 12] == 8) & (image[at + 13] == 0)]
    places = np.concatenate([ipv4 + 26, ipv4 + 30])
    words = image[places[:, None] + np.arange(4)].copy().view(">u2").astype(np.int64)
    places = places[(words == CLIENT).all(axis=1)]
    n = 0
    with PcapWriter(str(path)) as writer:
        for first in range(0, copies, _CHUNK):
            data = np.tile(image, (_CHUNK, 1))
            high = 0x0A00 + first + np.arange(_CHUNK)
            low = (sum(CLIENT) - high) % 0xFFFF
            for offset, half in ((0, high), (2, low)):
                data[:, places + offset] = (half >> 8)[:, None]
                data[:, places + offset + 1] = (half & 0xFF)[:, None]
            packets = np.tile(demo.packets, _CHUNK)
            packets["data"] = (np.arange(_CHUNK)[:, None] * span + at[None, :]).reshape(-1)
            packets["time_ns"] = demo.packets["time_ns"][0] + (n + np.arange(len(packets))) * 1000
            writer.write(data.reshape(-1), packets)
            n += len(packets)
    return n


def _replay(path: Path, packets: int) -> tuple[float, float]:
    """Wall seconds and peak resident bytes of a run over the first `packets`."""
    command = [sys.executable, "-m", "flowshunt", "replay", str(path), "--flows", str(RULES)]
    command += ["--limit", str(packets)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"replay ended with status {status}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def measure(record: Record, rounds: int) -> None:
    """All figures named replay.*."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.pcap"
        n = make_capture(path, COPIES)
        half = n // 2
        for _ in range(min(rounds, 3)):
            start, _ = _replay(path, 1)
            _, half_memory = _replay(path, half)
            seconds, memory = _replay(path, n)
            record.add("replay.large", "Mpps", n / (seconds - start) / 1e6)
            record.add("replay.large_whole", "Mpps", n / seconds / 1e6)
            record.add("replay.memory_growth", "MB", (memory - half_memory) / 1e6)
        record.add("replay.packets", "packets", n)
