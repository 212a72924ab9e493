"""The names of fields: what users write, where it lies in the flow key, and what it needs to be there.

Names, widths, formats and prerequisites are those of Open vSwitch 3.1 (ovs-fields(7)). Several names may share a place
in `flowshunt.packet.schema.FIELDS`: all protocols' ports are tp_src and tp_dst, ARP's addresses nw_src and nw_dst.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from flowshunt.packet.schema import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FIELDS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
)
from flowshunt.rules.openflow import values
from flowshunt.rules.openflow.values import Reader

ETH_RARP = 0x8035
ETH_MPLS = 0x8847
ETH_MPLS_MULTICAST = 0x8848

PROTOCOLS: MappingProxyType[str, tuple[int, int | None]] = MappingProxyType(
    {
        "ip": (ETH_IPV4, None),
        "ipv4": (ETH_IPV4, None),
        "ip4": (ETH_IPV4, None),
        "arp": (ETH_ARP, None),
        "icmp": (ETH_IPV4, PROTO_ICMP),
        "tcp": (ETH_IPV4, PROTO_TCP),
        "udp": (ETH_IPV4, PROTO_UDP),
        "sctp": (ETH_IPV4, PROTO_SCTP),
        "ipv6": (ETH_IPV6, None),
        "ip6": (ETH_IPV6, None),
        "icmp6": (ETH_IPV6, PROTO_ICMPV6),
        "tcp6": (ETH_IPV6, PROTO_TCP),
        "udp6": (ETH_IPV6, PROTO_UDP),
        "sctp6": (ETH_IPV6, PROTO_SCTP),
        "rarp": (ETH_RARP, None),
        "mpls": (ETH_MPLS, None),
        "mplsm": (ETH_MPLS_MULTICAST, None),
    }
)
"""Protocol words: the eth_type and nw_proto that they stand for."""

PREREQUISITES: MappingProxyType[str, str] = MappingProxyType(
    {
        "ipv4": "ip",
        "ipv6": "ipv6",
        "ip": "ip or ipv6",
        "arp": "arp or rarp",
        "tcp": "tcp or tcp6",
        "udp": "udp or udp6",
        "sctp": "sctp or sctp6",
        "icmp": "icmp",
        "icmp6": "icmp6",
        "nd": "icmp6,icmp_type=135 or icmp6,icmp_type=136",
        "nd_solicit": "icmp6,icmp_type=135",
        "nd_advert": "icmp6,icmp_type=136",
        "vlan": "dl_vlan=N, or push_vlan before it",
    }
)
"""Prerequisites of fields, and how a flow's match fulfils them."""


@dataclass(frozen=True, slots=True)
class UserField:
    """A field as users name it.

    Its bits `[low, high)` lie at the same bits of `place`, moved left by `shift`; the others are not held anywhere:
    they read as zero and can't be set. An exact match has the mask `exact` in the place, and `preset` in its value.
    """

    name: str
    place: str
    width: int
    read: Reader
    shift: int
    low: int
    high: int
    exact: int
    preset: int
    maskable: bool
    settable: bool
    needs: str  # a key of PREREQUISITES, or empty
    nxm: str  # the name that action texts show, empty: `name`


_NAMES: dict[str, UserField] = {}


def _add(
    names: str,
    nxm: str,
    read: Reader,
    *,
    place: str = "",
    width: int = 0,
    shift: int = 0,
    low: int = 0,
    high: int = 0,
    exact: int = 0,
    preset: int = 0,
    mask: bool = True,
    set: bool = True,
    needs: str = "",
) -> None:
    """Register a field under its `names` and the names in `nxm`, of which the first is shown in actions."""
    known = names.split()
    extensible = nxm.split()
    place = place or known[0]
    width = width or FIELDS[place].width
    high = high or width
    field = UserField(
        name=known[0],
        place=place,
        width=width,
        read=read,
        shift=shift,
        low=low,
        high=high,
        exact=exact or ((1 << high) - (1 << low)) << shift,
        preset=preset,
        maskable=mask,
        settable=set,
        needs=needs,
        nxm=extensible[0] if extensible else "",
    )
    for name in known + extensible:
        _NAMES[name] = field


def _add_pipeline() -> None:
    number = values.read_masked_int
    _add("in_port", "NXM_OF_IN_PORT", number, width=16, exact=(1 << 32) - 1, mask=False)
    for n in range(16):
        _add(f"reg{n}", f"NXM_NX_REG{n}", number)
    for n in range(8):
        _add(f"xreg{n}", f"OXM_OF_PKT_REG{n}", number)
    for n in range(4):
        _add(f"xxreg{n}", f"NXM_NX_XXREG{n}", number)
    _add("conj_id", "NXM_NX_CONJ_ID", number, mask=False, set=False)
    _add("metadata", "OXM_OF_METADATA", number)
    _add("ct_state", "NXM_NX_CT_STATE", values.read_ct_state, width=32, high=16, exact=0xFF, set=False)
    _add("ct_zone", "NXM_NX_CT_ZONE", number, mask=False, set=False)
    _add("ct_mark", "NXM_NX_CT_MARK", number)
    _add("ct_label", "NXM_NX_CT_LABEL", number)
    for end in ("src", "dst"):
        upper = end.upper()
        _add(f"ct_nw_{end}", f"NXM_NX_CT_NW_{upper}", values.read_ipv4, set=False, needs="ipv4")
        _add(f"ct_ipv6_{end}", f"NXM_NX_CT_IPV6_{upper}", values.read_ipv6, set=False, needs="ipv6")
        _add(f"ct_tp_{end}", f"NXM_NX_CT_TP_{upper}", number, set=False)
    _add("ct_nw_proto", "NXM_NX_CT_NW_PROTO", number, mask=False, set=False)


def _add_link() -> None:
    number = values.read_masked_int
    for end in ("src", "dst"):
        upper = end.upper()
        _add(f"eth_{end} dl_{end}", f"NXM_OF_ETH_{upper} OXM_OF_ETH_{upper}", values.read_mac)
    _add("eth_type dl_type", "NXM_OF_ETH_TYPE OXM_OF_ETH_TYPE", number, mask=False, set=False)
    _add("vlan_tci", "NXM_OF_VLAN_TCI", number)
    vid = partial(_add, read=number, place="vlan_tci", width=12, exact=0x1FFF, needs="vlan")
    vid("vlan_vid", "OXM_OF_VLAN_VID")
    vid("dl_vlan", "", preset=VLAN_PRESENT, mask=False)
    pcp = partial(_add, read=number, place="vlan_tci", width=3, shift=13, exact=0xF000, needs="vlan")
    pcp("vlan_pcp dl_vlan_pcp", "OXM_OF_VLAN_PCP", preset=VLAN_PRESENT, mask=False)


def _add_network() -> None:
    number = values.read_masked_int
    for end in ("src", "dst"):
        upper = end.upper()
        _add(f"nw_{end} ip_{end}", f"NXM_OF_IP_{upper} OXM_OF_IPV4_{upper}", values.read_ipv4, needs="ipv4")
        _add(f"ipv6_{end}", f"NXM_NX_IPV6_{upper} OXM_OF_IPV6_{upper}", values.read_ipv6, needs="ipv6")
    _add("ipv6_label", "NXM_NX_IPV6_LABEL OXM_OF_IPV6_FLABEL", number, needs="ipv6")
    _add("nw_proto ip_proto", "NXM_OF_IP_PROTO OXM_OF_IP_PROTO", number, mask=False, set=False, needs="ip")
    _add("nw_tos", "NXM_OF_IP_TOS", number, low=2, mask=False, needs="ip")
    _add("ip_dscp nw_tos_shifted", "OXM_OF_IP_DSCP", number, place="nw_tos", width=6, shift=2, mask=False, needs="ip")
    _add("nw_ecn ip_ecn", "NXM_NX_IP_ECN OXM_OF_IP_ECN", number, place="nw_tos", width=2, mask=False, needs="ip")
    _add("nw_ttl", "NXM_NX_IP_TTL", number, mask=False, needs="ip")
    _add("ip_frag nw_frag", "NXM_NX_IP_FRAG", values.read_fragment, place="nw_frag", width=2, set=False, needs="ip")
    arp = "arp"
    _add("arp_op", "NXM_OF_ARP_OP OXM_OF_ARP_OP", number, place="nw_proto", width=16, high=8, mask=False, needs=arp)
    _add("arp_spa", "NXM_OF_ARP_SPA OXM_OF_ARP_SPA", values.read_ipv4, place="nw_src", needs=arp)
    _add("arp_tpa", "NXM_OF_ARP_TPA OXM_OF_ARP_TPA", values.read_ipv4, place="nw_dst", needs=arp)
    _add("arp_sha", "NXM_NX_ARP_SHA OXM_OF_ARP_SHA", values.read_mac, needs=arp)
    _add("arp_tha", "NXM_NX_ARP_THA OXM_OF_ARP_THA", values.read_mac, needs=arp)


def _add_transport() -> None:
    number = values.read_masked_int
    for end, code in (("src", "type"), ("dst", "code")):
        upper, place = end.upper(), f"tp_{end}"
        _add(f"tcp_{end} tp_{end}", f"NXM_OF_TCP_{upper} OXM_OF_TCP_{upper}", number, place=place, needs="tcp")
        _add(f"udp_{end}", f"NXM_OF_UDP_{upper} OXM_OF_UDP_{upper}", number, place=place, needs="udp")
        _add(f"sctp_{end}", f"OXM_OF_SCTP_{upper}", number, place=place, needs="sctp")
        names = f"NXM_OF_ICMP_{code.upper()} OXM_OF_ICMPV4_{code.upper()}"
        _add(f"icmp_{code}", names, number, place=place, width=8, exact=0xFFFF, mask=False, needs="icmp")
        names = f"NXM_NX_ICMPV6_{code.upper()} OXM_OF_ICMPV6_{code.upper()}"
        _add(f"icmpv6_{code}", names, number, place=place, width=8, exact=0xFFFF, mask=False, needs="icmp6")
    _add("tcp_flags", "NXM_NX_TCP_FLAGS ONFOXM_ET_TCP_FLAGS", values.read_tcp_flags, set=False, needs="tcp")
    _add("nd_target", "NXM_NX_ND_TARGET OXM_OF_IPV6_ND_TARGET", values.read_ipv6, needs="nd")
    _add("nd_sll", "NXM_NX_ND_SLL OXM_OF_IPV6_ND_SLL", values.read_mac, place="arp_sha", needs="nd_solicit")
    _add("nd_tll", "NXM_NX_ND_TLL OXM_OF_IPV6_ND_TLL", values.read_mac, place="arp_tha", needs="nd_advert")


_add_pipeline()
_add_link()
_add_network()
_add_transport()

USER_FIELDS: MappingProxyType[str, UserField] = MappingProxyType(_NAMES)
"""Every name of a field: the users' ones, and those of NXM and OXM."""

PLAIN_NAMES = frozenset(name for name in _NAMES if "XM_" not in name)
"""The names that may stand alone in a match; the NXM and OXM ones need brackets."""

UNSUPPORTED = frozenset(
    (
        "tun_id", "tunnel_id", "tun_src", "tun_dst", "tun_ipv6_src", "tun_ipv6_dst", "tun_gbp_id",
        "tun_gbp_flags", "tun_erspan_ver", "tun_erspan_idx", "tun_erspan_dir", "tun_erspan_hwid", "tun_gtpu_flags",
        "tun_gtpu_msgtype", "tun_flags", "in_port_oxm", "skb_priority", "pkt_mark", "actset_output", "packet_type",
        "mpls_label", "mpls_tc", "mpls_bos", "mpls_ttl", "nsh_flags", "nsh_ttl", "nsh_mdtype", "nsh_np", "nsh_spi",
        "nsp", "nsh_si", "nsi", "nsh_c1", "nshc1", "nsh_c2", "nshc2", "nsh_c3", "nshc3", "nsh_c4", "nshc4",
        "nd_reserved", "nd_options_type", "recirc_id", "dp_hash",
    )
) | frozenset(f"tun_metadata{n}" for n in range(64))  # fmt: skip
"""Fields that Open vSwitch has and Flowshunt has not."""


def field_named(name: str) -> UserField | None:
    """The field of any name, with the _W that marks a masked NXM field left out."""
    return _NAMES.get(name) or (_NAMES.get(name[:-2]) if name.endswith("_W") and "XM_" in name else None)
