"""The two formats behind one face: what a reader runs over its window, and what it does with what the kernel leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from flowshunt.ports.capture import pcap, pcapng
from flowshunt.ports.capture.linktypes import KIND_UNKNOWN, KINDS, READABLE, link_type_name
from flowshunt.ports.capture.scan import INTERFACE, SCAN


class InterfaceInfo(NamedTuple):
    """An interface of a capture, for display.

    `name`: "" when the capture has none. `readable`: whether its link type can be read; packets of others are skipped.
    `n_packets`: so far, skipped ones included.
    """

    name: str
    link_type: int
    readable: bool
    snap_length: int
    n_packets: int


class Decoder(Protocol):
    """A format. `scan`: SCAN (1,). `record`: what the format calls its records."""

    format: str
    record: str
    scan: np.ndarray
    link_types: set[int]
    problems: Sequence[tuple[str, str]]

    def run(self, data: np.ndarray, packets: np.ndarray, limit: int) -> int:
        """Scan; see `pcap.scan_pcap`. Returns the number of packets."""

    def take_block(self, block: bytes) -> None:
        """Handle the block that the scan stopped at. Raises ValueError (problem, what was expected)."""

    def interfaces(self) -> tuple[InterfaceInfo, ...]:
        """The interfaces of the capture; for pcapng, those of the present section."""

    def skipped(self) -> dict[int, int]:
        """Packets passed over, by link type."""


class PcapDecoder:
    """Classic pcap. Raises ValueError (problem, what was expected) for a header that can't be read."""

    format = "pcap"
    record = "packet record"
    problems = pcap.PROBLEMS

    def __init__(self, header: bytes) -> None:
        self.header = pcap.parse_header(header)
        link_type = self.header.link_type
        if link_type not in KINDS:
            raise ValueError(f"packets of {link_type_name(link_type)}", READABLE)
        self.link_types = {link_type}
        self.scan = np.zeros(1, SCAN)
        self.scan["little"] = self.header.little
        self._interfaces = pcap.interface_of(self.header, KINDS[link_type])

    def run(self, data: np.ndarray, packets: np.ndarray, limit: int) -> int:
        """See `Decoder.run`."""
        return int(pcap.scan_pcap(data, self.scan, self._interfaces, packets, limit))

    def take_block(self, block: bytes) -> None:
        """Never called: classic pcap has no blocks."""
        raise AssertionError("classic pcap has no blocks")

    def interfaces(self) -> tuple[InterfaceInfo, ...]:
        """See `Decoder.interfaces`."""
        n_packets = int(self._interfaces["n_packets"][0])
        return (InterfaceInfo("", self.header.link_type, True, self.header.snap_length, n_packets),)

    def skipped(self) -> dict[int, int]:
        """See `Decoder.skipped`."""
        return {}


class PcapngDecoder:
    """pcapng; sections and interfaces come as they are met."""

    format = "pcapng"
    record = "block"
    problems = pcapng.PROBLEMS

    def __init__(self) -> None:
        self.link_types: set[int] = set()
        self.scan = np.zeros(1, SCAN)
        self._interfaces = np.zeros(8, INTERFACE)
        self._names: list[str] = []
        self._skipped: dict[int, int] = {}

    def run(self, data: np.ndarray, packets: np.ndarray, limit: int) -> int:
        """See `Decoder.run`."""
        return int(pcapng.scan_pcapng(data, self.scan, self._interfaces, packets, limit))

    def take_block(self, block: bytes) -> None:
        """Begin a section or add an interface."""
        if pcapng.is_pcapng(block):
            pcapng.parse_section(block)
            self._skipped = self.skipped()
            self._names.clear()
            self.scan["n_interfaces"] = 0
            return
        interface = pcapng.parse_interface(block, bool(self.scan["little"][0]))
        n = len(self._names)
        if n == pcapng.LARGEST_INTERFACES:
            raise ValueError(f"interface {n} of a section", f"at most {n} interfaces")
        if n == len(self._interfaces):
            self._interfaces = np.concatenate([self._interfaces, np.zeros(n, INTERFACE)])
        pcapng.fill_interface(self._interfaces, n, interface)
        self._names.append(interface.name)
        self.link_types.add(interface.link_type)
        self.scan["n_interfaces"] = n + 1

    def interfaces(self) -> tuple[InterfaceInfo, ...]:
        """See `Decoder.interfaces`."""
        return tuple(
            InterfaceInfo(name, link_type, kind != KIND_UNKNOWN, snap_length, n_packets)
            for name, (kind, link_type, snap_length, *_, n_packets) in zip(
                self._names, self._interfaces[: len(self._names)].tolist(), strict=True
            )
        )

    def skipped(self) -> dict[int, int]:
        """See `Decoder.skipped`."""
        total = dict(self._skipped)
        for interface in self.interfaces():
            if interface.n_packets and not interface.readable:
                total[interface.link_type] = total.get(interface.link_type, 0) + interface.n_packets
        return total
