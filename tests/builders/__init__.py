"""Builders that tests share: packets and batches of them."""

from tests.builders.hosts import Host, Segment, read_segment
from tests.builders.packets import CLIENT_MAC, SERVER_MAC, Packet, batch_of, crc32c, internet_checksum, mac

__all__ = [
    "CLIENT_MAC",
    "SERVER_MAC",
    "Host",
    "Packet",
    "Segment",
    "batch_of",
    "crc32c",
    "internet_checksum",
    "mac",
    "read_segment",
]
