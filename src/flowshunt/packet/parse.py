"""Parse: from bytes to the flow key and the packet record, in one pass.

Every length is checked before its bytes are read, and no bytes outside the packet's own have a say. A malformed
packet gets a verdict: it means that the packet can't be tracked, for the reasons that Open vSwitch's userspace has
(flow extraction, and its tracker's checks of the transport header):

- the frame is shorter than its Ethernet header, tag, ARP, IP or transport header (`short-…`; TCP 20 bytes, UDP, ICMP
  and ICMPv6 8, SCTP 12);
- the IPv4 header length is below 20 or beyond the frame, the total length below the header or beyond the bytes that are
  there (`bad-ipv4`); the IPv6 payload is (`bad-ipv6`), or an extension header leaves it (`bad-extension`);
- the TCP data offset is below 20 or beyond the IP packet (`bad-tcp`), the UDP length below 8 or beyond it (`bad-udp`).

Snapped packets are refused like those cut off on the wire: their bytes are not there. What is *not* a verdict:
checksums (`flowshunt.packet.checksum`), the IP version, the lengths and checksums of a fragment's transport header
(the datagram is judged), ICMP types that belong to no connection (`flowshunt.packet.icmp`), and frames that aren't
IP.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.jit import kernel, load_be16, load_be64
from flowshunt.packet.network import arp, ipv4, ipv6
from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_NONE,
    ETH_QINQ,
    ETH_QINQ_OLD,
    ETH_RARP,
    ETH_VLAN,
    HEADER_WORDS,
    KEY_WORDS,
    MAX_TAGS,
    PACKET,
    VERDICT_OK,
    VERDICT_SHORT_ETHERNET,
    VERDICT_SHORT_VLAN,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ARP_THA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    WSCALE_ABSENT,
)
from flowshunt.packet.transport import transport

ETHERNET_SIZE = 14

_MIN_ETH_TYPE = 0x0600
_SNAP_ETHERNET = 0xAAAA03000000
_LOW48 = 0xFFFFFFFFFFFF


@kernel
def parse(data: Any, packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Parse packet i into keys[k, 0:HEADER_WORDS] and the parser's part of packets[i].

    `data`: uint8[m]. `packets`: PACKET[n], the port's part filled in, `[data, data + length)` within the buffer.
    `keys`: int64[m, KEY_WORDS]. Words from HEADER_WORDS on are left alone. Guarantees, whatever the verdict: offsets
    are at most `length`; family 4 or 6 means that the fixed IP header (20 or 40 bytes) is there, a non-zero l4 that
    the fixed header of TCP, UDP, SCTP, ICMP or ICMPv6 is there too, `l4 <= l3_end`.
    """
    for word in range(HEADER_WORDS):
        keys[k, word] = 0
    length = np.int64(packets["length"][i])
    l3, eth_type, verdict = _link(data, packets, i, keys, k, length)
    l4 = np.int64(0)
    l3_end = length
    payload = np.int64(0)
    packets["family"][i] = 0
    packets["options"][i] = 0
    packets["seq"][i] = 0
    packets["ack"][i] = 0
    packets["window"][i] = 0
    packets["icmp_id"][i] = 0
    packets["wscale"][i] = WSCALE_ABSENT
    if eth_type == ETH_IPV4 or eth_type == ETH_IPV6:
        if eth_type == ETH_IPV4:
            l4, l3_end, word, verdict = ipv4(data, packets, i, keys, k, l3, length)
        else:
            l4, l3_end, word, verdict = ipv6(data, packets, i, keys, k, l3, length)
        if l4 != 0:
            l4, payload, l4_verdict = transport(data, packets, i, keys, k, l4, l3_end, word)
            verdict = l4_verdict if verdict == VERDICT_OK else verdict
        else:
            keys[k, W_L4] = word
    elif eth_type == ETH_ARP or eth_type == ETH_RARP:
        verdict = arp(data, packets, i, keys, k, l3, length)
    packets["l3"][i] = l3
    packets["l4"][i] = l4
    packets["l3_end"][i] = l3_end
    packets["payload"][i] = payload
    packets["verdict"][i] = verdict


@kernel
def _link(data: Any, packets: Any, i: Any, keys: Any, k: Any, length: Any) -> Any:
    """Read the link-layer header; returns `(l3, eth_type, verdict)`."""
    if length < ETHERNET_SIZE:
        return np.int64(0), np.int64(0), VERDICT_SHORT_ETHERNET
    frame = packets["data"][i]
    first = load_be64(data, frame)
    second = load_be64(data, frame + 6)
    eth_type = second & 0xFFFF
    l3 = np.int64(ETHERNET_SIZE)
    verdict = VERDICT_OK
    keys[k, W_ETH_SRC] = second & ~0xFFFF
    if eth_type != ETH_IPV4 and (is_tag(eth_type) or eth_type < _MIN_ETH_TYPE):
        l3, eth_type, verdict = _tags(data, frame, keys, k, length, eth_type)
    keys[k, W_ETH_DST] = (first & ~0xFFFF) | eth_type
    return l3, eth_type, verdict


@kernel
def is_tag(eth_type: Any) -> Any:
    """Whether this type opens a VLAN tag."""
    return eth_type == ETH_VLAN or eth_type == ETH_QINQ or eth_type == ETH_QINQ_OLD


@kernel(inline=False)
def _tags(data: Any, frame: Any, keys: Any, k: Any, length: Any, eth_type: Any) -> Any:
    """Read up to MAX_TAGS tags and an LLC/SNAP header; a tag that is cut off or one too many remains the eth_type."""
    l3 = np.int64(ETHERNET_SIZE)
    for n in range(MAX_TAGS):
        if not is_tag(eth_type):
            break
        if length - l3 < 4:
            return l3, eth_type, VERDICT_SHORT_VLAN
        tci = load_be16(data, frame + l3) | VLAN_PRESENT
        if n == 0:
            keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] | tci
            keys[k, W_FLAGS] = keys[k, W_FLAGS] | eth_type
        else:
            keys[k, W_ARP_SHA] = keys[k, W_ARP_SHA] | tci
            keys[k, W_ARP_THA] = keys[k, W_ARP_THA] | eth_type
        eth_type = load_be16(data, frame + l3 + 2)
        l3 += 4
    if eth_type >= _MIN_ETH_TYPE:
        return l3, eth_type, VERDICT_OK
    if length - l3 >= 8 and (load_be64(data, frame + l3) >> 16) & _LOW48 == _SNAP_ETHERNET:
        inner = load_be16(data, frame + l3 + 6)
        if inner >= _MIN_ETH_TYPE:
            return l3 + 8, inner, VERDICT_OK
    return l3, np.int64(ETH_NONE), VERDICT_OK


def _example() -> tuple[Any, ...]:
    return np.zeros(64, np.uint8), np.zeros(1, PACKET), np.zeros((1, KEY_WORDS), np.int64), 0


@kernel(example=_example)
def parse_batch(data: Any, packets: Any, keys: Any, n: Any) -> Any:
    """`parse` of the packets `[0, n)`, packet i into keys[i]."""
    for i in range(n):
        parse(data, packets, i, keys, i)
