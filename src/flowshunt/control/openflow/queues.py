"""Queues: requests for their statistics and configuration, and the entries of their replies."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import OF10, OF13, OF14, PORT_NONE, port_from_32, port_to_32

QUEUE_ALL = 0xFFFFFFFF
_UNKNOWN = (1 << 64) - 1
_PORT_ALL_10 = 0xFFFC


class QueueStatsRequest(NamedTuple):
    """Asks for the counters of a port's queue; None: of all."""

    port: int | None
    queue: int | None


class QueueConfigRequest(NamedTuple):
    """Asks for the queues of a port; None: of all."""

    port: int | None


class QueueCounters(NamedTuple):
    """What a queue counted; None: not known."""

    port: int
    queue: int
    bytes: int | None = None
    packets: int | None = None
    errors: int | None = None


class QueueStatsReply(NamedTuple):
    """Counters of queues."""

    queues: Sequence[QueueCounters]


def _port(number: int, version: int) -> int | None:
    if version == OF10:
        return None if number in (PORT_NONE, _PORT_ALL_10) else number
    port = port_from_32(number)
    if port is None:
        raise OpenFlowError("OFPQOFC_BAD_PORT", f"{number:#x} is not a port")
    return None if port == PORT_NONE else port


def decode_stats_request(body: bytes, version: int) -> QueueStatsRequest:
    """A request for counters."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request about a queue of the wrong size")
    queue = int.from_bytes(body[4:], "big")
    port = int.from_bytes(body[:2] if version == OF10 else body[:4], "big")
    return QueueStatsRequest(_port(port, version), None if queue == QUEUE_ALL else queue)


def decode_config_request(body: bytes, version: int) -> QueueConfigRequest:
    """OpenFlow 1.0 to 1.3's request for a port's queues."""
    size = 4 if version == OF10 else 8
    if len(body) != size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request about queues of the wrong size")
    return QueueConfigRequest(_port(int.from_bytes(body[:2] if version == OF10 else body[:4], "big"), version))


def decode_description_request(body: bytes, version: int) -> QueueConfigRequest:
    """OpenFlow 1.4's request for queues."""
    return QueueConfigRequest(decode_stats_request(body, version).port)


def encode_counters(queue: QueueCounters, version: int) -> bytes:
    """One queue's counters, in the form of the version. How long it exists is not known."""
    counters = [_UNKNOWN if value is None else value for value in (queue.bytes, queue.packets, queue.errors)]
    if version == OF10:
        return pack("!H2xI3Q", queue.port, queue.queue, *counters)
    body = pack("!II3Q", port_to_32(queue.port), queue.queue, *counters)
    if version >= OF13:
        body += pack("!Q", _UNKNOWN)
    return pack("!H6x", 8 + len(body)) + body if version >= OF14 else body
