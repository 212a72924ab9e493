"""Sends 60-byte UDP frames on eth0: `flood SOURCE_MAC TARGET_MAC NET HOST FLOWS SECONDS`, and prints how long it took.

The frames go from host HOST of 10.NET.0.0/24 to the other one. With 0 seconds each flow sends one frame, slowly enough
that all arrive; otherwise as many as the time allows.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from flowshunt.packet.schema import PACKET, TX, Batch
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.live import VNET_WORDS, Frames, LiveBatch

SIZE = 60
CHUNK = 256
_SLOW_CHUNK = 64
_PAUSE_S = 0.002


def frames(source: str, target: str, net: int, host: int, n_flows: int) -> np.ndarray:
    """uint8 (n_flows, SIZE); flow k of one direction is flow k of the other, reversed."""
    made = np.zeros((n_flows, SIZE), np.uint8)
    header = bytes.fromhex(target.replace(":", "") + source.replace(":", "") + "0800450000280000400040110000")
    made[:, : len(header)] = np.frombuffer(header, np.uint8)
    made[:, 26:30] = 10, net, 0, host
    made[:, 30:34] = 10, net, 0, 3 - host
    made[:, 16:18] = 0, SIZE - 14
    words = made[0, 14:34].astype(np.int64)
    total = int((words[0::2] << 8 | words[1::2]).sum())
    total = (total & 0xFFFF) + (total >> 16)
    made[:, 24:26] = divmod((total & 0xFFFF) + (total >> 16) ^ 0xFFFF, 256)
    index = np.arange(n_flows)
    ports = [1000 + index % 50_000, 2000 + index // 50_000]
    for at, values in zip((34, 36), ports if host == 1 else ports[::-1], strict=True):
        made[:, at] = values >> 8
        made[:, at + 1] = values & 0xFF
    made[:, 38:40] = 0, SIZE - 34
    return made


def main() -> None:
    """Send."""
    source, target, *numbers = sys.argv[1:]
    net, host, n_flows, seconds = map(int, numbers)
    made = frames(source, target, net, host, n_flows)
    chunk = _SLOW_CHUNK if seconds == 0 else CHUNK
    n = max(n_flows, chunk)
    tx = np.zeros(n, TX)
    tx["data"], tx["length"], tx["port"] = np.arange(n) % n_flows * SIZE, SIZE, 1
    data = made.reshape(-1)
    received = LiveBatch(Batch(data, np.zeros(1, PACKET)), np.zeros((1, VNET_WORDS), np.uint16))
    port = AfPacketPort("eth0", 1)
    port.send(Frames(received, tx[:0], data))  # the kernel is loaded before the time runs
    start = time.monotonic()
    if seconds == 0:
        for at in range(0, n_flows, chunk):
            port.send(Frames(received, tx[at : min(at + chunk, n_flows)], data))
            time.sleep(_PAUSE_S)
    while time.monotonic() - start < seconds:
        for at in range(0, n, chunk):
            port.send(Frames(received, tx[at : at + chunk], data))
    print(time.monotonic() - start)


if __name__ == "__main__":
    main()
