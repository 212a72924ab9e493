"""The packet inside an ICMP error."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from tests.builders import Packet
from tests.packet.kernels import Parsed, keys_of, parsed, quoted

ERROR4 = Packet().eth().ipv4("192.0.2.9", "10.0.0.1").icmp(3, 1)
ERROR6 = Packet().eth().ipv6("2001:db8::9", "2001:db8::1").icmpv6(1)
SENT4 = Packet().ipv4("10.0.0.1", "10.0.0.2", ttl=3, tos=8)
SENT6 = Packet().ipv6("2001:db8::1", "2001:db8::2", hop_limit=3, traffic_class=8)


def quote_of(frame: Packet) -> tuple[bool, Parsed]:
    packet = parsed(frame)
    keys = keys_of(1)
    found = bool(quoted(packet.data, packet.packets, 0, keys, 0, 0))
    return found, Parsed(packet.data, packet.packets, keys)


@pytest.mark.parametrize("error", [(3, 1), (4, 0), (5, 1), (11, 0), (12, 0)])
def test_quoted_udp(error: tuple[int, int]) -> None:
    frame = Packet().eth().ipv4("192.0.2.9", "10.0.0.1").icmp(*error).quote(SENT4.udp(1000, 53).payload(4))
    found, inner = quote_of(frame)
    assert found
    assert inner["nw_src"] == 0x0A000001 and inner["nw_dst"] == 0x0A000002
    assert (inner["nw_proto"], inner["tp_src"], inner["tp_dst"], inner["nw_ttl"], inner["nw_tos"]) == (
        17,
        1000,
        53,
        3,
        8,
    )
    assert inner.record("icmp_id") == 0


def test_eight_bytes_of_tcp_are_enough_and_seven_are_not() -> None:
    quote = SENT4.tcp(1000, 80, ack=True).bytes()
    found, inner = quote_of(ERROR4.quote(quote[:28]))
    assert found and inner["tp_dst"] == 80
    assert not quote_of(ERROR4.quote(quote[:27]))[0]


def test_quoted_ping_gives_its_id() -> None:
    found, inner = quote_of(ERROR4.quote(SENT4.icmp(8, id=0x1234)))
    assert found and inner.record("icmp_id") == 0x1234 and (inner["tp_src"], inner["tp_dst"]) == (8, 0)
    found, inner = quote_of(ERROR6.quote(SENT6.icmpv6(128, id=0x4321)))
    assert found and inner.record("icmp_id") == 0x4321 and inner["nw_proto"] == 58


@pytest.mark.parametrize("type", [1, 2, 3, 4])
def test_quoted_ipv6_with_extension_headers(type: int) -> None:
    frame = Packet().eth().ipv6("2001:db8::9", "2001:db8::1").icmpv6(type)
    found, inner = quote_of(frame.quote(SENT6.hop_by_hop().fragment().sctp(7, 8)))
    assert found and (inner["tp_src"], inner["tp_dst"], inner["nw_proto"]) == (7, 8, 132)
    assert inner["ipv6_dst"] == int(IPv6Address("2001:db8::2"))
    assert (inner["nw_ttl"], inner["nw_tos"]) == (3, 8)


def test_error_behind_extension_headers() -> None:
    frame = Packet().eth().ipv6("2001:db8::9", "2001:db8::1").hop_by_hop().icmpv6(1).quote(SENT6.udp(1, 2))
    assert quote_of(frame)[0]


def test_other_protocols_need_no_bytes() -> None:
    found, inner = quote_of(ERROR4.quote(SENT4.protocol(47)))
    assert found and inner["nw_proto"] == 47 and inner["tp_src"] == 0


@pytest.mark.parametrize(
    "frame",
    [
        Packet().eth().ipv4("192.0.2.9", "10.0.0.1").icmp(8).quote(SENT4.udp(1, 2)),
        Packet().eth().ipv4("192.0.2.9", "10.0.0.7").icmp(3).quote(SENT4.udp(1, 2)),
        Packet().eth().ipv4("192.0.2.9", "10.0.0.1").udp(3, 3).quote(SENT4.udp(1, 2)),
        Packet().eth().ipv4("192.0.2.9", "10.0.0.1", mf=True).icmp(3).quote(SENT4.udp(1, 2)),
        ERROR4.quote(Packet().ipv4("10.0.0.1", "10.0.0.2", mf=True).udp(1, 2)),
        ERROR4.quote(Packet().ipv4("10.0.0.1", "10.0.0.2", offset=1).udp(1, 2)),
        ERROR4.quote(Packet().ipv4("10.0.0.1", "10.0.0.2", ihl=4).udp(1, 2)),
        ERROR4.quote(Packet().ipv4("10.0.0.1", "10.0.0.2", ihl=15).udp(1, 2)),
        ERROR4.quote(SENT4.bytes()[:19]),
        ERROR4,
        ERROR4.quote(SENT4.icmp(3)),
        ERROR4.quote(SENT4.icmp(8, 1)),
        ERROR4.quote(SENT4.icmpv6(128)),
        ERROR6.quote(SENT6.fragment(more=True).udp(1, 2)),
        ERROR6.quote(SENT6.hop_by_hop(length=99).udp(1, 2)),
        ERROR6.quote(SENT6.icmp(8)),
        ERROR6.quote(SENT6.bytes()[:39]),
        Packet().eth().ipv6("2001:db8::9", "2001:db8::3").icmpv6(1).quote(SENT6.udp(1, 2)),
        Packet().eth().ipv6("2001:db8::9", "2001:dc8::1").icmpv6(1).quote(SENT6.udp(1, 2)),
        Packet().eth().arp("10.0.0.1", "10.0.0.2"),
        ERROR4.quote(SENT4.udp(1, 2)).cut(60),
    ],
)
def test_refused(frame: Packet) -> None:
    assert not quote_of(frame)[0]
