"""Packets that read like prose: `Packet().eth().ipv4("10.0.0.1", "10.0.0.2").tcp(1000, 80, syn=True).bytes()`.

Every method returns a new packet with one more layer, so a common beginning can be shared. Lengths, next-protocol
fields and checksums come out right; any of them given explicitly stays as given. The checksums here are written from
the RFCs, not shared with the code under test.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import numpy as np

from flowshunt.packet.schema import PACKET, Batch

CLIENT_MAC = "02:00:00:00:00:01"
SERVER_MAC = "02:00:00:00:00:02"
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns")

Emit = Callable[[bytes, "Packet"], bytes]


def internet_checksum(data: bytes) -> int:
    """RFC 1071, as plainly as it can be said."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def mac(text: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(text.replace(":", ""))


class Packet:
    """A frame under construction: layers from the outside in."""

    def __init__(self) -> None:
        self._layers: list[tuple[str, int, Emit]] = []  # kind, protocol number or type, emitter
        self._addresses: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address] | None = None
        self._cut: int | None = None
        self._pad = 0

    def _with(self, kind: str, number: int, emit: Emit) -> Packet:
        copy = self._copy()
        copy._layers.append((kind, number, emit))
        return copy

    def _copy(self) -> Packet:
        copy = Packet()
        copy._layers = list(self._layers)
        copy._addresses, copy._cut, copy._pad = self._addresses, self._cut, self._pad
        return copy

    def cut(self, size: int) -> Packet:
        """Keep only the first `size` bytes (from the end when negative)."""
        copy = self._copy()
        copy._cut = size
        return copy

    def pad(self, n: int) -> Packet:
        """Add `n` bytes behind the IP packet."""
        copy = self._copy()
        copy._pad = n
        return copy

    def _first(self, default: int) -> int:
        return self._layers[0][1] if self._layers else default

    # --- link layer ---

    def eth(self, source: str = CLIENT_MAC, destination: str = SERVER_MAC, eth_type: int | None = None) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            following = rest._first(0x88B5) if eth_type is None else eth_type
            return mac(destination) + mac(source) + struct.pack(">H", following) + body

        return self._with("eth", 0, emit)

    def vlan(self, vid: int, pcp: int = 0, dei: int = 0, tpid: int = 0x8100, eth_type: int | None = None) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            following = rest._first(0x88B5) if eth_type is None else eth_type
            return struct.pack(">HH", pcp << 13 | dei << 12 | vid, following) + body

        return self._with("vlan", tpid, emit)

    def llc(self, header: bytes = b"\x42\x42\x03", length: int = 100) -> Packet:
        """An 802.3 frame: its length in place of a type, and an LLC header."""
        return self._with("llc", length, lambda body, rest: header + body)

    def snap(self, oui: bytes = b"\0\0\0", eth_type: int | None = None, length: int = 100) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            following = rest._first(0x88B5) if eth_type is None else eth_type
            return b"\xaa\xaa\x03" + oui + struct.pack(">H", following) + body

        return self._with("snap", length, emit)

    def arp(
        self,
        sender: str,
        target: str,
        operation: int = 1,
        sha: str = CLIENT_MAC,
        tha: str = "00:00:00:00:00:00",
        rarp: bool = False,
    ) -> Packet:
        body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
        body += mac(sha) + IPv4Address(sender).packed + mac(tha) + IPv4Address(target).packed
        return self._with("arp", 0x8035 if rarp else 0x0806, lambda inner, rest: body + inner)

    # --- network layer ---

    def ipv4(
        self, source: str, destination: str, *, ttl: int = 64, tos: int = 0, id: int = 1, df: bool = False,
        mf: bool = False, offset: int = 0, options: bytes = b"", protocol: int | None = None, total: int | None = None,
        ihl: int | None = None, version: int = 4, checksum: int | None = None,
    ) -> Packet:  # fmt: skip
        """`offset` in units of 8 bytes; `options` padded to a multiple of 4 by the caller."""

        def emit(body: bytes, rest: Packet) -> bytes:
            words = 5 + len(options) // 4 if ihl is None else ihl
            size = 20 + len(options) + len(body) if total is None else total
            following = rest._first(253) if protocol is None else protocol
            place = df << 14 | mf << 13 | offset
            addresses = IPv4Address(source).packed + IPv4Address(destination).packed
            header = struct.pack(">BBHHHBB", version << 4 | words, tos, size, id, place, ttl, following)
            value = internet_checksum(header + b"\0\0" + addresses + options) if checksum is None else checksum
            return header + struct.pack(">H", value) + addresses + options + body

        packet = self._with("ipv4", 0x0800, emit)
        packet._addresses = ip_address(source), ip_address(destination)
        return packet

    def ipv6(
        self, source: str, destination: str, *, hop_limit: int = 64, traffic_class: int = 0, label: int = 0,
        protocol: int | None = None, length: int | None = None, version: int = 6,
    ) -> Packet:  # fmt: skip
        def emit(body: bytes, rest: Packet) -> bytes:
            following = rest._first(59) if protocol is None else protocol
            size = len(body) if length is None else length
            header = struct.pack(">IHBB", version << 28 | traffic_class << 20 | label, size, following, hop_limit)
            return header + IPv6Address(source).packed + IPv6Address(destination).packed + body

        packet = self._with("ipv6", 0x86DD, emit)
        packet._addresses = ip_address(source), ip_address(destination)
        return packet

    def _option_header(self, number: int, content: bytes, length: int | None) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            units = (len(content) + 2) // 8 - 1 if length is None else length
            return bytes([rest._first(59), units]) + content + body

        return self._with("extension", number, emit)

    def hop_by_hop(self, content: bytes = b"\1\4\0\0\0\0", length: int | None = None) -> Packet:
        """`content`: what follows the first two bytes; 6 bytes, or 8 n + 6."""
        return self._option_header(0, content, length)

    def destination_options(self, content: bytes = b"\1\4\0\0\0\0", length: int | None = None) -> Packet:
        return self._option_header(60, content, length)

    def routing(self, segments_left: int = 0, final: str | None = None) -> Packet:
        """Type 2 with one address; the checksum is taken to `final` when it is given."""
        address = IPv6Address(final or "::1").packed
        packet = self._option_header(43, bytes([2, segments_left, 0, 0, 0, 0]) + address, None)
        if final is not None and packet._addresses is not None:
            packet._addresses = packet._addresses[0], ip_address(final)
        return packet

    def fragment(self, offset: int = 0, more: bool = False, id: int = 1, reserved: int = 0) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            return struct.pack(">BBHI", rest._first(59), 0, offset << 3 | reserved << 1 | more, id) + body

        return self._with("extension", 44, emit)

    def authentication(self, icv: bytes = bytes(12), length: int | None = None) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            units = (12 + len(icv)) // 4 - 2 if length is None else length
            return struct.pack(">BBHII", rest._first(59), units, 0, 1, 1) + icv + body

        return self._with("extension", 51, emit)

    def esp(self, body: bytes = bytes(24)) -> Packet:
        return self._with("esp", 50, lambda inner, rest: struct.pack(">II", 0x1234, 1) + body + inner)

    def mobility(self) -> Packet:
        return self._with("mobility", 135, lambda inner, rest: bytes([59, 0, 1, 0, 0, 0, 0, 0]) + inner)

    def protocol(self, number: int, body: bytes = b"") -> Packet:
        """Any other protocol."""
        return self._with("other", number, lambda inner, rest: body + inner)

    # --- transport layer ---

    def _pseudo(self, protocol: int, size: int) -> bytes:
        if self._addresses is None:
            return b""
        source, destination = self._addresses
        if source.version == 4:
            return source.packed + destination.packed + struct.pack(">BBH", 0, protocol, size)
        return source.packed + destination.packed + struct.pack(">IHBB", size, 0, 0, protocol)

    def _transport(
        self, kind: str, number: int, header: Callable[[bytes], bytes], place: int, checksum: int | None, pseudo: bool
    ) -> Packet:
        below = self

        def emit(body: bytes, rest: Packet) -> bytes:
            whole = header(body) + body
            value = checksum
            if value is None:
                value = internet_checksum((below._pseudo(number, len(whole)) if pseudo else b"") + whole)
                if kind == "udp":
                    value = value or 0xFFFF
            return whole[:place] + struct.pack(">H", value) + whole[place + 2 :]

        return self._with(kind, number, emit)

    def tcp(
        self, source: int, destination: int, *, seq: int = 0, ack_number: int = 0, window: int = 65535,
        options: bytes = b"", window_scale: int | None = None, data_offset: int | None = None,
        checksum: int | None = None, **flags: bool,
    ) -> Packet:  # fmt: skip
        """Flags by name: fin, syn, rst, psh, ack, urg, ece, cwr, ns."""
        bits = sum(1 << _FLAGS.index(name) for name, on in flags.items() if on)
        if window_scale is not None:
            options += bytes([3, 3, window_scale])
        options += b"\1" * (-len(options) % 4)
        words = 5 + len(options) // 4 if data_offset is None else data_offset

        def header(body: bytes) -> bytes:
            return (
                struct.pack(">HHIIHHHH", source, destination, seq, ack_number, words << 12 | bits, window, 0, 0)
                + options
            )

        return self._transport("tcp", 6, header, 16, checksum, True)

    def udp(self, source: int, destination: int, *, length: int | None = None, checksum: int | None = None) -> Packet:
        def header(body: bytes) -> bytes:
            return struct.pack(">HHHH", source, destination, 8 + len(body) if length is None else length, 0)

        return self._transport("udp", 17, header, 6, checksum, True)

    def icmp(self, type: int = 8, code: int = 0, *, id: int = 0, seq: int = 0, checksum: int | None = None) -> Packet:
        return self._transport(
            "icmp", 1, lambda body: struct.pack(">BBHHH", type, code, 0, id, seq), 2, checksum, False
        )

    def icmpv6(
        self, type: int = 128, code: int = 0, *, id: int = 0, seq: int = 0, checksum: int | None = None
    ) -> Packet:
        return self._transport(
            "icmpv6", 58, lambda body: struct.pack(">BBHHH", type, code, 0, id, seq), 2, checksum, True
        )

    def neighbour_solicit(self, target: str, source_address: str | None = None, **rest: Any) -> Packet:
        return self._neighbour(135, target, [(1, source_address)], **rest)

    def neighbour_advertise(self, target: str, target_address: str | None = None, **rest: Any) -> Packet:
        return self._neighbour(136, target, [(2, target_address)], **rest)

    def _neighbour(self, type: int, target: str, options: Iterable[tuple[int, str | None]], **rest: Any) -> Packet:
        body = IPv6Address(target).packed
        body += b"".join(bytes([kind, 1]) + mac(address) for kind, address in options if address)
        return self.icmpv6(type, **rest).payload(body)

    def sctp(self, source: int, destination: int, *, tag: int = 1, checksum: int | None = None) -> Packet:
        def emit(body: bytes, rest: Packet) -> bytes:
            header = struct.pack(">HHI", source, destination, tag)
            value = (
                struct.pack("<I", crc32c(header + bytes(4) + body)) if checksum is None else struct.pack(">I", checksum)
            )
            return header + value + body

        return self._with("sctp", 132, emit)

    def payload(self, body: bytes | int) -> Packet:
        """Bytes, or so many of them."""
        content = bytes(n & 0xFF for n in range(body)) if isinstance(body, int) else body
        return self._with("payload", 59, lambda inner, rest: content + inner)

    def quote(self, packet: Packet | bytes) -> Packet:
        """What an ICMP error quotes: a packet that starts with its IP header."""
        return self.payload(packet if isinstance(packet, bytes) else packet.bytes())

    # --- the end; last in the class, since it hides the builtin's name ---

    def bytes(self) -> bytes:
        """The frame."""
        frame = b""
        for index in reversed(range(len(self._layers))):
            rest = Packet()
            rest._layers = self._layers[index + 1 :]
            frame = self._layers[index][2](frame, rest)
        frame += bytes(self._pad)
        return frame if self._cut is None else frame[: self._cut]


def batch_of(frames: Iterable[bytes | Packet], in_port: int = 1, time_ns: int = 0, step_ns: int = 1000) -> Batch:
    """A batch of frames that lie one behind the other in one buffer, `step_ns` apart in time."""
    contents = [frame.bytes() if isinstance(frame, Packet) else frame for frame in frames]
    data = np.frombuffer(b"".join(contents), np.uint8).copy()
    packets = np.zeros(len(contents), PACKET)
    at = 0
    for n, content in enumerate(contents):
        packets["data"][n] = at
        packets["length"][n] = packets["wire_length"][n] = len(content)
        packets["in_port"][n] = in_port
        packets["time_ns"][n] = time_ns + n * step_ns
        at += len(content)
    return Batch(data, packets)
