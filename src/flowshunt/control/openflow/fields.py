"""The table of fields on the wire: what NXM and OXM call them, and which of the switch's fields they are.

A field is named on the wire by a class and a number; a header adds whether a mask follows, and how many bytes. What
the field is (its place, its bits, what it needs) stands in `flowshunt.rules.openflow.fields`; this table joins the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from flowshunt.control.openflow.wire import OF10, OF12, OF15, ONF
from flowshunt.rules.openflow.fields import USER_FIELDS, UserField

NXM_OF = 0x0000
NXM_NX = 0x0001
OXM = 0x8000
OXM_REGISTERS = 0x8001
EXPERIMENTER = 0xFFFF

IN_PORT_32 = "in_port_oxm"
"""OpenFlow 1.1's port of 32 bits: the same place as in_port, with other numbers for the reserved ports."""

# Name, bytes, class and number in NXM, in OXM; OXM names are used from 1.2 on, those of the last column from 1.5 on.
_ROWS: tuple[tuple[str, int, tuple[int, int] | None, tuple[int, int] | None, bool], ...] = (
    ("in_port", 2, (NXM_OF, 0), None, False),
    (IN_PORT_32, 4, None, (OXM, 0), False),
    ("eth_dst", 6, (NXM_OF, 1), (OXM, 3), False),
    ("eth_src", 6, (NXM_OF, 2), (OXM, 4), False),
    ("eth_type", 2, (NXM_OF, 3), (OXM, 5), False),
    ("vlan_tci", 2, (NXM_OF, 4), None, False),
    ("vlan_vid", 2, None, (OXM, 6), False),
    ("vlan_pcp", 1, None, (OXM, 7), False),
    ("nw_tos", 1, (NXM_OF, 5), None, False),
    ("ip_dscp", 1, None, (OXM, 8), False),
    ("nw_ecn", 1, (NXM_NX, 28), (OXM, 9), False),
    ("nw_ttl", 1, (NXM_NX, 29), None, False),
    ("ip_frag", 1, (NXM_NX, 26), None, False),
    ("nw_proto", 1, (NXM_OF, 6), (OXM, 10), False),
    ("nw_src", 4, (NXM_OF, 7), (OXM, 11), False),
    ("nw_dst", 4, (NXM_OF, 8), (OXM, 12), False),
    ("ipv6_src", 16, (NXM_NX, 19), (OXM, 26), False),
    ("ipv6_dst", 16, (NXM_NX, 20), (OXM, 27), False),
    ("ipv6_label", 4, (NXM_NX, 27), (OXM, 28), False),
    ("arp_op", 2, (NXM_OF, 15), (OXM, 21), False),
    ("arp_spa", 4, (NXM_OF, 16), (OXM, 22), False),
    ("arp_tpa", 4, (NXM_OF, 17), (OXM, 23), False),
    ("arp_sha", 6, (NXM_NX, 17), (OXM, 24), False),
    ("arp_tha", 6, (NXM_NX, 18), (OXM, 25), False),
    ("tcp_src", 2, (NXM_OF, 9), (OXM, 13), False),
    ("tcp_dst", 2, (NXM_OF, 10), (OXM, 14), False),
    ("tcp_flags", 2, (NXM_NX, 34), (OXM, 42), True),
    ("udp_src", 2, (NXM_OF, 11), (OXM, 15), False),
    ("udp_dst", 2, (NXM_OF, 12), (OXM, 16), False),
    ("sctp_src", 2, None, (OXM, 17), False),
    ("sctp_dst", 2, None, (OXM, 18), False),
    ("icmp_type", 1, (NXM_OF, 13), (OXM, 19), False),
    ("icmp_code", 1, (NXM_OF, 14), (OXM, 20), False),
    ("icmpv6_type", 1, (NXM_NX, 21), (OXM, 29), False),
    ("icmpv6_code", 1, (NXM_NX, 22), (OXM, 30), False),
    ("nd_target", 16, (NXM_NX, 23), (OXM, 31), False),
    ("nd_sll", 6, (NXM_NX, 24), (OXM, 32), False),
    ("nd_tll", 6, (NXM_NX, 25), (OXM, 33), False),
    ("metadata", 8, None, (OXM, 2), False),
    *((f"reg{n}", 4, (NXM_NX, n), None, False) for n in range(16)),
    *((f"xreg{n}", 8, None, (OXM_REGISTERS, n), False) for n in range(8)),
    *((f"xxreg{n}", 16, (NXM_NX, 111 + n), None, False) for n in range(4)),
    ("conj_id", 4, (NXM_NX, 37), None, False),
    ("ct_state", 4, (NXM_NX, 105), None, False),
    ("ct_zone", 2, (NXM_NX, 106), None, False),
    ("ct_mark", 4, (NXM_NX, 107), None, False),
    ("ct_label", 16, (NXM_NX, 108), None, False),
    ("ct_nw_proto", 1, (NXM_NX, 119), None, False),
    ("ct_nw_src", 4, (NXM_NX, 120), None, False),
    ("ct_nw_dst", 4, (NXM_NX, 121), None, False),
    ("ct_ipv6_src", 16, (NXM_NX, 122), None, False),
    ("ct_ipv6_dst", 16, (NXM_NX, 123), None, False),
    ("ct_tp_src", 2, (NXM_NX, 124), None, False),
    ("ct_tp_dst", 2, (NXM_NX, 125), None, False),
)  # fmt: skip

# Also read, never written: how the ONF named a field of 1.5 in 1.3 and 1.4.
_ONF_TCP_FLAGS = (EXPERIMENTER << 7 | 42, ONF)

COOKIE = NXM_NX << 7 | 30
"""The cookie, which stands in NXM matches like a field."""
PACKET_TYPE = OXM << 7 | 44
"""The type of the outermost header: Ethernet for every packet here."""

HAS_MASK = 0x100


class WireField(NamedTuple):
    """A field on the wire: its bytes, and its names (class and number, as in bits 9 to 31 of a header) or -1."""

    field: UserField
    size: int
    nxm: int
    oxm: int
    oxm_late: bool
    is_port: bool  # its reserved ports have numbers of 32 bits

    def name(self, version: int) -> int:
        """Class and number by which `version` knows it."""
        if self.nxm < 0 or (self.oxm >= 0 and version >= (OF15 if self.oxm_late else OF12)):
            return self.oxm
        return self.nxm

    def header(self, version: int, *, masked: bool = False) -> bytes:
        """The header of a value in `version`, with its mask where `masked`."""
        return (self.name(version) << 9 | (HAS_MASK | 2 * self.size if masked else self.size)).to_bytes(4, "big")

    def old_header(self) -> bytes:
        """The header by which Nicira's actions name it."""
        return self.header(OF10 if self.nxm >= 0 else OF15)


def _number(name: tuple[int, int] | None) -> int:
    return -1 if name is None else name[0] << 7 | name[1]


_PORT_32 = replace(
    USER_FIELDS["in_port"], name=IN_PORT_32, width=32, high=32, settable=False, nxm="OXM_OF_IN_PORT"
)  # fmt: skip


def _read_rows() -> dict[str, WireField]:
    return {
        name: WireField(
            _PORT_32 if name == IN_PORT_32 else USER_FIELDS[name],
            size,
            _number(nxm),
            _number(oxm),
            late,
            name == IN_PORT_32,
        )
        for name, size, nxm, oxm, late in _ROWS
    }


WIRE_FIELDS: Mapping[str, WireField] = MappingProxyType(_read_rows())
"""The fields by the switch's names for them."""

BY_NUMBER: Mapping[int, WireField] = MappingProxyType(
    {number: wire for wire in WIRE_FIELDS.values() for number in (wire.nxm, wire.oxm) if number >= 0}
)
"""The fields by class and number."""

BY_EXPERIMENTER: Mapping[tuple[int, int], WireField] = MappingProxyType({_ONF_TCP_FLAGS: WIRE_FIELDS["tcp_flags"]})
"""The fields of class 0xffff: number, experimenter."""
