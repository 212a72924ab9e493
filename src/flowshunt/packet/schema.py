"""The flow key and the packet record: what the parser fills, tables match and the tracker reads.

The *flow key* is `KEY_WORDS` int64 words per packet; every field lies in one word, 128-bit fields in two adjacent
ones (high, low). A field is named by its place, so that matching, masking, loading and moving are the same few
instructions for all of them. Words `[0, HEADER_WORDS)` come from the packet, the others belong to the pipeline.

ARP uses the IPv4 places: its addresses are nw_src and nw_dst, its operation nw_proto. ICMP type and code are tp_src
and tp_dst, as in Open vSwitch. IPv4 addresses are the low 32 bits of the 128-bit form, the rest is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

KEY_WORDS = 32
HEADER_WORDS = 12
MAX_TAGS = 2
"""VLAN tags that have a place in the key."""

W_ETH_DST = 0
W_ETH_SRC = 1
W_NW_SRC = 2
W_NW_DST = 4
W_L4 = 6
W_FLAGS = 7
W_ND_TARGET = 8
W_ARP_SHA = 10
W_ARP_THA = 11
W_PORT = 12
W_CT = 13
W_METADATA = 14
W_CT_LABEL = 15
W_REG = 17
W_CT_SRC = 25
W_CT_DST = 27
W_CT_L4 = 29
W_NAT = 30
"""What NAT did to ICMP beyond the header words; belongs to no field. NAT_HAS_ID and the new id of a query; from
NAT_QUOTE_SHIFT on, where the new quote of an error is written down (0: nowhere).
"""

NAT_HAS_ID = 1 << 16
NAT_QUOTE_SHIFT = 32


class Field(NamedTuple):
    """A field's place in the flow key: first word, bits to the right of it in that word, width in bits.

    Fields wider than 64 bits start at shift 0 and cover `word` (high half) and `word + 1` (low half).
    """

    word: int
    shift: int
    width: int


FIELDS: dict[str, Field] = {
    "eth_dst": Field(W_ETH_DST, 16, 48),
    "eth_type": Field(W_ETH_DST, 0, 16),
    "eth_src": Field(W_ETH_SRC, 16, 48),
    "vlan_tci": Field(W_ETH_SRC, 0, 16),  # VLAN_PRESENT set when there is a tag
    "nw_src": Field(W_NW_SRC + 1, 0, 32),
    "nw_dst": Field(W_NW_DST + 1, 0, 32),
    "ipv6_src": Field(W_NW_SRC, 0, 128),
    "ipv6_dst": Field(W_NW_DST, 0, 128),
    "tp_src": Field(W_L4, 48, 16),
    "tp_dst": Field(W_L4, 32, 16),
    "nw_proto": Field(W_L4, 24, 8),
    "nw_tos": Field(W_L4, 16, 8),
    "nw_ttl": Field(W_L4, 8, 8),
    "nw_frag": Field(W_L4, 0, 8),
    "tcp_flags": Field(W_FLAGS, 48, 12),
    "ipv6_label": Field(W_FLAGS, 16, 20),
    "vlan_tpid": Field(W_FLAGS, 0, 16),  # not matchable: kept for output
    "nd_target": Field(W_ND_TARGET, 0, 128),
    "arp_sha": Field(W_ARP_SHA, 16, 48),  # also nd_sll
    "arp_tha": Field(W_ARP_THA, 16, 48),  # also nd_tll
    "vlan2_tci": Field(W_ARP_SHA, 0, 16),  # the inner tag of two, kept for output
    "vlan2_tpid": Field(W_ARP_THA, 0, 16),
    "in_port": Field(W_PORT, 32, 32),
    "ct_mark": Field(W_PORT, 0, 32),
    "ct_zone": Field(W_CT, 48, 16),
    "ct_state": Field(W_CT, 32, 16),
    "ct_nw_proto": Field(W_CT, 24, 8),
    "metadata": Field(W_METADATA, 0, 64),
    "ct_label": Field(W_CT_LABEL, 0, 128),
    "ct_nw_src": Field(W_CT_SRC + 1, 0, 32),
    "ct_nw_dst": Field(W_CT_DST + 1, 0, 32),
    "ct_ipv6_src": Field(W_CT_SRC, 0, 128),
    "ct_ipv6_dst": Field(W_CT_DST, 0, 128),
    "ct_tp_src": Field(W_CT_L4, 48, 16),
    "ct_tp_dst": Field(W_CT_L4, 32, 16),
    **{f"reg{n}": Field(W_REG + n // 2, 32 - 32 * (n % 2), 32) for n in range(16)},
    **{f"xreg{n}": Field(W_REG + n, 0, 64) for n in range(8)},
    **{f"xxreg{n}": Field(W_REG + 2 * n, 0, 128) for n in range(4)},
    "conj_id": Field(W_CT_L4, 0, 32),  # not 0 only while a table is looked up for a conjunction that was met
}

VLAN_PRESENT = 0x1000
"""The bit of vlan_tci (its CFI place, as in Open vSwitch) that tells a tag of zero from no tag."""

FRAG_ANY = 1
"""Bit of nw_frag: the packet is a fragment."""
FRAG_LATER = 2
"""Bit of nw_frag: it is not the first one, so it has no L4 header."""

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_VLAN = 0x8100
ETH_IPV6 = 0x86DD
ETH_QINQ = 0x88A8

ETH_RARP = 0x8035
ETH_QINQ_OLD = 0x9100
"""A tag type of the time before 802.1ad."""
ETH_NONE = 0x05FF
"""eth_type of a frame that has none (802.3 with a length, unless SNAP names a type), as in Open vSwitch."""

PROTO_HOP_BY_HOP = 0
PROTO_ICMP = 1
PROTO_TCP = 6
PROTO_UDP = 17
PROTO_ROUTING = 43
PROTO_FRAGMENT = 44
PROTO_AH = 51
PROTO_ICMPV6 = 58
PROTO_DESTINATION = 60
PROTO_SCTP = 132
PROTO_UDPLITE = 136

CHECKSUM_UNKNOWN = 0
CHECKSUM_VERIFIED = 1
CHECKSUM_PARTIAL = 2

PACKET = np.dtype(
    [
        # from the port
        ("data", np.int64),  # byte offset of the frame in the batch's buffer
        ("time_ns", np.int64),
        ("length", np.uint32),  # bytes of the frame that are there
        ("wire_length", np.uint32),  # bytes that were on the wire
        ("in_port", np.uint32),
        ("gso_size", np.uint16),
        ("gso_type", np.uint8),
        ("checksum", np.uint8),  # CHECKSUM_*
        # from the parser; offsets from the frame's first byte
        ("l3", np.uint32),  # 0: none
        ("l4", np.uint32),  # 0: none (not IP, later fragment, or cut off)
        ("l3_end", np.uint32),  # end of the IP packet; what follows is padding
        ("payload", np.uint32),  # after the TCP, UDP, ICMP or SCTP header; 0: none
        ("seq", np.uint32),  # TCP, also ack, window, wscale
        ("ack", np.uint32),
        ("window", np.uint16),
        ("icmp_id", np.uint16),  # query types only
        ("wscale", np.uint8),  # 0xff: option absent
        ("verdict", np.uint8),  # VERDICT_*
        ("family", np.uint8),  # 4, 6, or 0: not IP
        ("options", np.uint8),  # IPv4 options or IPv6 extension headers seen
    ],
    align=True,
)
"""One packet of a batch; 64 bytes."""

WSCALE_ABSENT = 0xFF

VERDICTS = (
    "ok",
    "short-ethernet",
    "short-vlan",
    "short-arp",
    "short-ipv4",
    "bad-ipv4",
    "short-ipv6",
    "bad-ipv6",
    "bad-extension",
    "short-l4",
    "bad-tcp",
    "bad-udp",
)
"""Why a packet could not be parsed to its end; what was read before that stays in the key."""

(
    VERDICT_OK,
    VERDICT_SHORT_ETHERNET,
    VERDICT_SHORT_VLAN,
    VERDICT_SHORT_ARP,
    VERDICT_SHORT_IPV4,
    VERDICT_BAD_IPV4,
    VERDICT_SHORT_IPV6,
    VERDICT_BAD_IPV6,
    VERDICT_BAD_EXTENSION,
    VERDICT_SHORT_L4,
    VERDICT_BAD_TCP,
    VERDICT_BAD_UDP,
) = range(len(VERDICTS))

TX = np.dtype(
    [
        ("data", np.int64),  # byte offset in the source
        ("time_ns", np.int64),  # of the packet that it comes from
        ("length", np.uint32),
        ("port", np.uint32),
        ("packet", np.int32),  # index in the batch
        ("source", np.uint8),  # 0: that of the batch; 1: the switch's own
        ("cut", np.uint8),  # 1: bytes were cut off its end, so that nothing can be left to a device to compute
    ],
    align=True,
)
"""One frame to send; 32 bytes."""


class Batch(NamedTuple):
    """Packets from a port.

    `data`: uint8 buffer, 1-D, C-contiguous. `packets`: `PACKET` records of shape (n,), the port's part filled in; each
    `[data, data + length)` lies within the buffer.
    """

    data: np.ndarray
    packets: np.ndarray
