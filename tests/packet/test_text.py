"""The one-line text of a packet, and field access by name."""

from __future__ import annotations

import pytest

from flowshunt.packet.schema import FIELDS, KEY_WORDS, VERDICT_BAD_UDP
from flowshunt.packet.text import describe, field, set_field
from tests.builders import Packet
from tests.packet.kernels import keys_of, parsed
from tests.packet.samples import SAMPLES, V4, V6

MACS = "eth_src=02:00:00:00:00:01,eth_dst=02:00:00:00:00:02"
IP4 = "nw_src=10.0.0.1,nw_dst=10.0.0.2"
IP6 = "ipv6_src=2001:db8::1,ipv6_dst=2001:db8::2,ipv6_label=0x12345"


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (
            V4.tcp(1000, 80, syn=True, ack=True),
            f"tcp,{MACS},{IP4},nw_tos=0,nw_ttl=64,tp_src=1000,tp_dst=80,tcp_flags=syn|ack",
        ),
        (V4.tcp(1000, 80), f"tcp,{MACS},{IP4},nw_tos=0,nw_ttl=64,tp_src=1000,tp_dst=80,tcp_flags=0"),
        (V6.udp(5, 6), f"udp6,{MACS},{IP6},nw_tos=46,nw_ttl=64,tp_src=5,tp_dst=6"),
        (V4.icmp(3, 1), f"icmp,{MACS},{IP4},nw_tos=0,nw_ttl=64,icmp_type=3,icmp_code=1"),
        (V4.protocol(47), f"ip,{MACS},{IP4},nw_proto=47,nw_tos=0,nw_ttl=64"),
        (SAMPLES["later fragment"], f"udp,{MACS},{IP4},nw_tos=0,nw_ttl=64,nw_frag=later"),
        (Packet().eth().llc().payload(9), f"{MACS},eth_type=0x05ff"),
        (
            SAMPLES["solicit"],
            f"icmpv6,{MACS},{IP6},nw_tos=46,nw_ttl=64,icmp_type=135,icmp_code=0,nd_target=fe80::7,nd_sll=02:00:00:00:00:07",
        ),
        (
            Packet().eth().vlan(5).arp("10.0.0.1", "10.0.0.2"),
            f"arp,{MACS},vlan_tci=0x1005,arp_op=1,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,"
            "arp_sha=02:00:00:00:00:01,arp_tha=00:00:00:00:00:00",
        ),
    ],
)
def test_text(frame: Packet, text: str) -> None:
    assert describe(parsed(frame).keys, 0) == text


def test_text_names_the_verdict() -> None:
    assert describe(parsed(V4.udp(1, 2)).keys, 0, VERDICT_BAD_UDP).endswith(",verdict=bad-udp")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields_are_set_alone(name: str) -> None:
    keys = keys_of(1)
    biggest = (1 << FIELDS[name].width) - 1
    set_field(keys, 0, name, biggest)
    assert field(keys, 0, name) == biggest
    assert sum(bin(int(word) & (2**64 - 1)).count("1") for word in keys[0]) == FIELDS[name].width
    keys[:] = -1
    set_field(keys, 0, name, 0)
    assert field(keys, 0, name) == 0
    assert sum(bin(int(word) & (2**64 - 1)).count("1") for word in keys[0]) == 64 * KEY_WORDS - FIELDS[name].width
    with pytest.raises(ValueError, match=name):
        set_field(keys, 0, name, biggest + 1)
