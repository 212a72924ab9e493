"""Frames for those that take plain ones only: GSO packets cut, partial checksums completed.

For ports without offloads, for captures, and for copies that go to controllers. Network devices do not need it: what
they cannot do themselves, the kernel does for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from flowshunt.jit import by_reference, kernel
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.schema import (
    CHECKSUM_PARTIAL,
    PACKET,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    PROTO_UDPLITE,
    TX,
    Batch,
)
from flowshunt.ports.live import (
    V_CHECKSUM_OFFSET,
    V_CHECKSUM_START,
    V_FLAGS,
    V_GSO_SIZE,
    VNET_NEEDS_CHECKSUM,
    VNET_WORDS,
    Frames,
    LiveBatch,
    plain,
)
from flowshunt.ports.segments import (
    ICMP_CHECKSUM,
    SCTP_CHECKSUM,
    TCP_CHECKSUM,
    UDP_CHECKSUM,
    complete_checksum,
    find_payload,
    link_size,
    write_segment,
)

ROOM = 1 << 18
"""Bytes that are finished at a time; a longer frame is refused."""
MAX_FINISHED = 512
"""Frames that are finished at a time."""
ALL_PORTS = -1

_CHECKSUM_PLACES = {
    PROTO_TCP: TCP_CHECKSUM,
    PROTO_UDP: UDP_CHECKSUM,
    PROTO_UDPLITE: UDP_CHECKSUM,
    PROTO_SCTP: SCTP_CHECKSUM,
    PROTO_ICMP: ICMP_CHECKSUM,
    PROTO_ICMPV6: ICMP_CHECKSUM,
}

FINISH_STATE = np.dtype(
    [
        ("frame", np.int64),  # where to go on: index in `tx`
        ("segment", np.int64),  # of that frame
        ("n", np.int64),  # frames that are finished, and their bytes
        ("used", np.int64),
        ("refused", np.int64),  # frames that cannot be finished
    ]
)


class FinishArrays(NamedTuple):
    """`out`: uint8, `tx`: TX: what is finished. `state`: FINISH_STATE (1,)."""

    out: np.ndarray
    tx: np.ndarray
    state: np.ndarray


def make_finish_arrays(size: int = ROOM, n: int = MAX_FINISHED) -> FinishArrays:
    """Room for `size` bytes in up to `n` frames."""
    return FinishArrays(np.zeros(size, np.uint8), np.zeros(n, TX), np.zeros(1, FINISH_STATE))


def _example() -> tuple[Any, ...]:
    data = np.zeros(64, np.uint8)
    vnet = np.zeros((1, VNET_WORDS), np.uint16)
    return make_finish_arrays(64, 1), ALL_PORTS, np.zeros(1, TX), data, data, np.zeros(1, PACKET), vnet


@kernel
def _append(z: Any, tx: Any, k: Any, length: Any) -> Any:
    n, used = z.state["n"][0], z.state["used"][0]
    z.tx["data"][n] = used
    z.tx["time_ns"][n] = tx["time_ns"][k]
    z.tx["length"][n] = length
    z.tx["port"][n] = tx["port"][k]
    z.tx["packet"][n] = tx["packet"][k]
    z.tx["source"][n] = 1
    z.state["n"][0] = n + 1
    z.state["used"][0] = used + length


@kernel(inline=False)
def _cut(z: Any, tx: Any, k: Any, frame: Any, kind: Any, size: Any, start: Any) -> Any:
    """Write the segments of frame k that there is room for; whether those were all."""
    at = tx["data"][k]
    end = at + np.int64(tx["length"][k])
    l4, payload = find_payload(frame, at, end, kind, start)
    n = (end - payload + size - 1) // size if l4 != 0 else np.int64(0)
    most = payload - at + min(size, end - payload)
    if n <= 0 or most > len(z.out):
        z.state["refused"][0] += 1
        return True
    while z.state["segment"][0] < n:
        if z.state["n"][0] == len(z.tx) or z.state["used"][0] + most > len(z.out):
            return False
        length = write_segment(frame, at, l4, payload, end, size, z.state["segment"][0], z.out, z.state["used"][0])
        _append(z, tx, k, length)
        z.state["segment"][0] += 1
    z.state["segment"][0] = 0
    return True


@kernel(inline=False)
def _complete(z: Any, tx: Any, k: Any, frame: Any, start: Any, offset: Any) -> Any:
    """Write frame k, its checksum completed (`start` 0: it is whole); whether there was room."""
    at = tx["data"][k]
    length = np.int64(tx["length"][k])
    used = z.state["used"][0]
    if length > len(z.out):
        z.state["refused"][0] += 1
        return True
    if z.state["n"][0] == len(z.tx) or used + length > len(z.out):
        return False
    copy_bytes(frame, at, z.out, used, length)
    if start != 0:
        complete_checksum(z.out, used + start - at, used + length, offset)
    _append(z, tx, k, length)
    return True


@kernel(example=_example)
def finish_frames(z: Any, port: Any, tx: Any, data: Any, own: Any, packets: Any, vnet: Any) -> Any:
    """Finish frames of `tx` for `port` (ALL_PORTS: any), in order, as many as there is room for; returns how many
    finished ones there are. `z.state["frame"]` is len(tx) when those were all; otherwise call again.

    `z`: FinishArrays. `tx`: TX. `data`, `own`: uint8, what source 0 and 1 mean. `packets`: PACKET, `vnet`: uint16
    (n, VNET_WORDS), those of the batch. A frame that cannot be finished is counted as refused.
    """
    z = by_reference(z)
    z.state["n"][0] = 0
    z.state["used"][0] = 0
    while z.state["frame"][0] < len(tx):
        k = z.state["frame"][0]
        if port != ALL_PORTS and np.int64(tx["port"][k]) != port:
            z.state["frame"][0] = k + 1
            continue
        i = np.int64(tx["packet"][k])
        frame = own if tx["source"][k] != 0 else data
        start = np.int64(0)
        if np.int64(vnet[i, V_FLAGS]) & VNET_NEEDS_CHECKSUM:
            growth = link_size(frame, tx["data"][k]) - link_size(data, packets["data"][i])
            start = tx["data"][k] + np.int64(vnet[i, V_CHECKSUM_START]) + growth
        kind = np.int64(vnet[i, V_FLAGS]) >> 8
        size = np.int64(vnet[i, V_GSO_SIZE])
        if kind != 0 and size != 0:
            done = _cut(z, tx, k, frame, kind, size, start)
        else:
            done = _complete(z, tx, k, frame, start, np.int64(vnet[i, V_CHECKSUM_OFFSET]))
        if not done:
            break
        z.state["frame"][0] = k + 1
    return z.state["n"][0]


class Finisher:
    """Finishes the frames of one port. `n_refused`: frames that could not be."""

    def __init__(self) -> None:
        self._arrays: FinishArrays | None = None
        self.n_refused = 0

    def __call__(self, frames: Frames, port: int = ALL_PORTS) -> Iterator[Frames]:
        """The frames that are for `port`, in order; each part is valid until the next one is asked for."""
        chosen = np.flatnonzero(frames.tx["port"] == port) if port != ALL_PORTS else np.arange(len(frames.tx))
        if not len(chosen):
            return
        if frames.tx["cut"][chosen].any():  # those are sent as they are
            tx = frames.tx[chosen]
            for run in np.split(tx, np.flatnonzero(np.diff(tx["cut"])) + 1):
                part = frames._replace(tx=run)
                yield from [part] if run["cut"][0] else self(part)
            return
        headers = frames.received.vnet[frames.tx["packet"][chosen]]
        if not (headers[:, V_FLAGS] & (VNET_NEEDS_CHECKSUM | 0xFF00)).any():
            yield frames._replace(tx=frames.tx[chosen])
            return
        if self._arrays is None:
            self._arrays = make_finish_arrays()
        z = self._arrays
        z.state[:] = 0
        (batch, vnet), received = frames.received, plain(frames.received.batch)
        while z.state["frame"][0] < len(frames.tx):
            n = finish_frames(z, port, frames.tx, batch.data, frames.tx_data, batch.packets, vnet)
            if n:
                yield Frames(received, z.tx[:n], z.out)
        self.n_refused += int(z.state["refused"][0])


def finished_frames(frame: bytes, packet: np.ndarray, protocol: int, source: np.ndarray) -> list[bytes]:
    """What a frame is for those who take plain ones only: itself, or its segments.

    `packet`: PACKET (1,), what it was parsed into before its headers were changed to those of `frame`, from the bytes
    in `source`. `protocol`: of its transport header. Nothing is left of what cannot be cut.
    """
    partial = int(packet["checksum"][0]) == CHECKSUM_PARTIAL and int(packet["l4"][0]) != 0
    if not partial and not int(packet["gso_size"][0]):
        return [frame]
    vnet = np.zeros((1, VNET_WORDS), np.uint16)
    vnet[0, V_FLAGS] = int(packet["gso_type"][0]) << 8
    vnet[0, V_GSO_SIZE] = packet["gso_size"][0]
    if partial and protocol in _CHECKSUM_PLACES:
        vnet[0, V_FLAGS] |= VNET_NEEDS_CHECKSUM
        vnet[0, V_CHECKSUM_START] = packet["l4"][0]
        vnet[0, V_CHECKSUM_OFFSET] = _CHECKSUM_PLACES[protocol]
    tx = np.zeros(1, TX)
    tx["length"], tx["source"] = len(frame), 1
    frames = Frames(LiveBatch(Batch(source, packet), vnet), tx, np.frombuffer(bytearray(frame), np.uint8))
    return [part.bytes_of(n) for part in Finisher()(frames) for n in range(len(part.tx))]
