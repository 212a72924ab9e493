"""Hypothesis strategies for flows in the form that the reader gives them."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from flowshunt.conntrack.nat import Nat
from flowshunt.packet.schema import ETH_ARP, ETH_IPV4, ETH_IPV6, FIELDS, VLAN_PRESENT
from flowshunt.rules.openflow import flow as flows
from flowshunt.rules.openflow.action_set import has_place
from flowshunt.rules.openflow.flow import Flow, SetField, Subfield
from flowshunt.rules.openflow.links import ALGORITHMS, HASH_FIELDS, MAX_LINKS, MEMBER_ALGORITHMS

FAMILIES = {
    "any": (None, None),
    "ip": (ETH_IPV4, None),
    "tcp": (ETH_IPV4, 6),
    "udp": (ETH_IPV4, 17),
    "sctp": (ETH_IPV4, 132),
    "icmp": (ETH_IPV4, 1),
    "igmp": (ETH_IPV4, 2),
    "ipv6": (ETH_IPV6, None),
    "tcp6": (ETH_IPV6, 6),
    "udp6": (ETH_IPV6, 17),
    "icmp6": (ETH_IPV6, 58),
    "solicit": (ETH_IPV6, 58),
    "advert": (ETH_IPV6, 58),
    "arp": (ETH_ARP, None),
    "rarp": (0x8035, None),
    "lldp": (0x88CC, None),
}
WITH_PORTS = ("tcp", "udp", "sctp", "tcp6", "udp6")
PAIRS_OF_FRAGMENTS = ((0, 3), (1, 1), (1, 3), (2, 2), (0, 2))


@cache
def masked(width: int) -> st.SearchStrategy[tuple[int, int]]:
    """Value and mask, often exact or a prefix."""
    full = (1 << width) - 1
    prefixes = st.integers(1, width).map(lambda n: full ^ full >> n)
    masks = st.one_of(st.just(full), prefixes, st.integers(1, full))
    return st.tuples(st.integers(0, full), masks).map(lambda pair: (pair[0] & pair[1], pair[1]))


@cache
def exact(width: int, limit: int = 0) -> st.SearchStrategy[tuple[int, int]]:
    """A value and the full mask."""
    full = (1 << width) - 1
    return st.tuples(st.integers(0, limit or full), st.just(full))


@st.composite
def matches(draw: st.DrawFn, family: str) -> tuple[tuple[str, int, int], ...]:
    """A match of the family."""
    eth_type, protocol = FAMILIES[family]
    choices = {f"reg{n}": masked(32) for n in range(16)}
    choices |= {"metadata": masked(64), "ct_mark": masked(32), "ct_label": masked(128), "ct_zone": exact(16)}
    choices |= {"eth_src": masked(48), "eth_dst": masked(48), "vlan_tci": masked(16)}
    choices["in_port"] = exact(32, 0xFFFF)
    choices["ct_state"] = masked(8)
    fixed: dict[str, tuple[int, int]] = {}
    if eth_type is not None:
        fixed["eth_type"] = (eth_type, 0xFFFF)
    if protocol is not None:
        fixed["nw_proto"] = (protocol, 0xFF)
    if eth_type in (ETH_IPV4, ETH_IPV6):
        tos = st.sampled_from((0xFC, 3, 0xFF)).flatmap(lambda m: st.integers(0, 255).map(lambda v: (v & m, m)))
        choices |= {"nw_ttl": exact(8), "nw_tos": tos, "nw_frag": st.sampled_from(PAIRS_OF_FRAGMENTS)}
        if protocol is None:
            choices["nw_proto"] = exact(8).filter(lambda pair: pair[0] not in (1, 6, 17, 58, 132))
        addresses = ("nw_src", "nw_dst") if eth_type == ETH_IPV4 else ("ipv6_src", "ipv6_dst")
        choices |= {name: masked(FIELDS[name].width) for name in addresses}
        if draw(st.booleans()):
            fixed["ct_state"] = (0x22, draw(st.integers(0, 255)) | 0x22)
            fixed["ct_nw_proto"] = (draw(st.integers(1, 255)), 0xFF)
            choices |= {f"ct_{name}": masked(FIELDS[name].width) for name in addresses}
            choices |= {"ct_tp_src": masked(16), "ct_tp_dst": masked(16)}
    if eth_type == ETH_IPV6:
        choices["ipv6_label"] = masked(20)
    if family in WITH_PORTS:
        choices |= {"tp_src": masked(16), "tp_dst": masked(16)}
    if family in ("tcp", "tcp6"):
        choices["tcp_flags"] = masked(12)
    if family in ("icmp", "icmp6"):
        choices |= {"tp_src": exact(16, 134), "tp_dst": exact(16, 255)}
    if family in ("solicit", "advert"):
        fixed["tp_src"] = (135 if family == "solicit" else 136, 0xFFFF)
        choices |= {"tp_dst": exact(16, 0).map(lambda pair: (0, pair[1])), "nd_target": masked(128)}
        choices["arp_sha" if family == "solicit" else "arp_tha"] = masked(48)
    if family in ("arp", "rarp"):
        choices |= {"nw_src": masked(32), "nw_dst": masked(32), "nw_proto": exact(8)}
        choices |= {"arp_sha": masked(48), "arp_tha": masked(48)}
    names = draw(st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=8))
    drawn = {name: draw(choices[name]) for name in names} | fixed
    if {"tp_src", "tp_dst", "tcp_flags"} & drawn.keys() and drawn.get("nw_frag") == (2, 2):
        del drawn["nw_frag"]
    return tuple((name, *drawn[name]) for name in sorted(drawn))


@cache
def parts(name: str, low: int = 0, high: int = 0) -> st.SearchStrategy[Subfield]:
    """Some of the bits `[low, high)` of a field, often all of them."""
    high = high or FIELDS[name].width
    some = st.tuples(st.integers(low, high - 1), st.integers(low + 1, high)).filter(lambda p: p[0] < p[1])
    return st.one_of(st.just((low, high)), some).map(lambda p: Subfield(name, p[0], p[1] - p[0]))


def settable(family: str) -> list[st.SearchStrategy[Subfield]]:
    """Parts that a flow of the family may set, by a name that stands in any of its texts."""
    eth_type, _ = FAMILIES[family]
    found = [parts(name) for name in ("reg0", "reg15", "xreg3", "xxreg1", "metadata", "eth_src", "eth_dst", "vlan_tci")]
    found.append(parts("in_port", 0, 16))
    if eth_type == ETH_IPV4:
        found += [parts("nw_src"), parts("nw_dst")]
    if eth_type == ETH_IPV6:
        found += [parts("ipv6_src"), parts("ipv6_dst"), parts("ipv6_label")]
    if eth_type in (ETH_IPV4, ETH_IPV6):
        found += [parts("nw_tos", 2, 8), parts("nw_tos", 0, 2), parts("nw_ttl")]
    if family in WITH_PORTS:
        found += [parts("tp_src"), parts("tp_dst")]
    if family in ("icmp", "icmp6", "solicit", "advert"):
        found += [parts("tp_src", 0, 8), parts("tp_dst", 0, 8)]
    if family == "solicit":
        found += [parts("nd_target"), parts("arp_sha")]
    if family == "advert":
        found += [parts("nd_target"), parts("arp_tha")]
    if family in ("arp", "rarp"):
        found += [parts("nw_src"), parts("nw_dst"), parts("nw_proto"), parts("arp_sha"), parts("arp_tha")]
    return found


@st.composite
def set_fields(draw: st.DrawFn, dests: st.SearchStrategy[Subfield]) -> SetField:
    """All of a part is set."""
    dest = draw(dests)
    full = (1 << dest.width) - 1
    return SetField(dest, draw(st.integers(0, full)), full)


@st.composite
def moves(draw: st.DrawFn, sources: st.SearchStrategy[Subfield], dests: st.SearchStrategy[Subfield]) -> flows.Move:
    """As many bits as both parts have."""
    source, dest = draw(sources), draw(dests)
    width = min(source.width, dest.width)
    return flows.Move(Subfield(source.field, source.start, width), Subfield(dest.field, dest.start, width))


@st.composite
def nats(draw: st.DrawFn, eth_type: int | None) -> Nat:
    """What a nat argument may ask of packets of this type."""
    kind = draw(st.sampled_from((None, "src", "dst")))
    if kind is None or eth_type not in (ETH_IPV4, ETH_IPV6) or draw(st.booleans()):
        return Nat(kind)
    of, width = (IPv4Address, 32) if eth_type == ETH_IPV4 else (IPv6Address, 128)
    first, *rest = sorted(draw(st.lists(st.integers(1, (1 << width) - 1), min_size=1, max_size=2, unique=True)))
    ports = st.tuples(st.integers(1, 0xFFFF), st.integers(1, 0xFFFF)).map(lambda pair: (min(pair), max(pair)))
    order = draw(st.sampled_from(("", "random", "hash")))
    return Nat(
        kind, of(first), of(rest[0]) if rest else None, draw(st.none() | ports), order == "random", order == "hash",
        draw(st.booleans()),
    )  # fmt: skip


@st.composite
def links(draw: st.DrawFn, dests: st.SearchStrategy[Subfield]) -> flows.Action:
    """A multipath or a bundle."""
    fields, basis = draw(st.sampled_from(HASH_FIELDS)), draw(st.integers(0, 0xFFFF))
    members = st.lists(st.one_of(st.integers(0, 0xFEFF), st.integers(0xFFF8, 0xFFFF)), max_size=5).map(tuple)
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return flows.Bundle(fields, basis, draw(st.sampled_from(MEMBER_ALGORITHMS)), draw(members))
    dest = draw(dests.filter(lambda part: part.width <= 64))
    if kind == 1 and dest.width >= 16:
        return flows.Bundle(fields, basis, draw(st.sampled_from(MEMBER_ALGORITHMS)), draw(members), dest)
    n_links = draw(st.integers(1, min(1 << dest.width, MAX_LINKS)))
    argument = draw(st.integers(0, 0xFFFFFFFF))
    return flows.Multipath(fields, basis, draw(st.sampled_from(ALGORITHMS)), n_links, argument, dest)


def conjunctions() -> st.SearchStrategy[tuple[flows.Action, ...]]:
    """A list of actions that makes a flow a clause."""
    sizes = st.integers(2, 64).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
    one = st.builds(lambda number, size: flows.Conjunction(number, *size), st.integers(0, 0xFFFFFFFF), sizes)
    return st.lists(one, min_size=1, max_size=5).map(tuple)


@cache
def actions(family: str) -> st.SearchStrategy[flows.Action]:
    """Any action that may stand anywhere in the list of a flow of the family."""
    dests = st.one_of(settable(family))
    sources = st.one_of([*settable(family), parts("ct_mark"), parts("ct_label"), parts("ct_zone"), parts("eth_type")])
    ports, tables = st.integers(0, 0xFEFF), st.integers(0, 254)
    in_exec = st.one_of(parts("ct_mark"), parts("ct_label"))
    zones = st.one_of(st.integers(0, 0xFFFF), st.just(Subfield("reg3", 8, 16)), st.just(Subfield("ct_zone", 0, 16)))
    changes = st.lists(st.one_of(set_fields(in_exec), moves(sources, in_exec)), max_size=3).map(tuple)
    tag = st.one_of(
        st.integers(0, 0xFFF).map(lambda v: SetField(Subfield("vlan_tci", 0, 13), v | VLAN_PRESENT, 0x1FFF)),
        st.integers(0, 7).map(lambda v: SetField(Subfield("vlan_tci", 12, 4), v << 1 | 1, 0xF)),
    )
    simple = st.sampled_from(
        [
            flows.Normal(),
            flows.Flood(),
            flows.All(),
            flows.ToTable(),
            flows.InPort(),
            flows.Local(),
            flows.PopVlan(),
            flows.DecTtl(),
        ]
    )
    found = [
        simple,
        tag,
        st.just(flows.CtClear()),
        st.builds(flows.Output, st.one_of(ports, sources)),
        set_fields(dests),
        moves(sources, dests),
        st.builds(flows.Resubmit, ports, st.none() | tables),
        st.builds(flows.Resubmit, st.none(), tables, st.booleans()),
        st.sampled_from((0x8100, 0x88A8)).map(flows.PushVlan),
        st.binary(max_size=20).map(flows.Note),
        st.builds(flows.OutputTruncated, st.one_of(ports, st.sampled_from((0xFFF8, 0xFFFE))), st.integers(14, 1 << 31)),
        st.builds(flows.SetQueue, st.none() | st.integers(0, 0xFFFFFFFF)),
        links(dests),
        st.lists(st.integers(0, 0xFFFF), max_size=5).map(lambda found: flows.DecTtl(tuple(found))),
    ]
    if family not in ("arp", "rarp", "lldp"):
        nat = st.none() | nats(FAMILIES[family][0])
        found.append(st.builds(flows.Ct, st.just(True), st.booleans(), zones, st.none() | tables, changes, nat))
        found.append(st.builds(flows.Ct, zone=zones, table=st.none() | tables, nat=st.none() | st.just(Nat())))
        helper = {"tcp": "ftp", "tcp6": "ftp", "udp": "tftp", "udp6": "tftp"}.get(family)
        if helper:
            found.append(
                st.builds(flows.Ct, st.booleans(), zone=zones, nat=st.none() | st.just(Nat()), alg=st.just(helper))
            )
    return st.recursive(
        st.one_of(found),
        lambda inner: st.lists(inner, max_size=3).map(tuple).map(flows.Clone),
        max_leaves=6,
    )


@st.composite
def whole_flows(draw: st.DrawFn) -> Flow:
    """A flow with anything that a new flow may have."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    match = draw(matches(family))
    lost = {name: (value, mask) for name, value, mask in match}.get("ct_state", (0, 0))
    invalid = lost[0] & lost[1] & 0x10
    some = draw(st.lists(actions(family).filter(lambda a: not (invalid and "commit=True" in repr(a))), max_size=5))
    if draw(st.integers(0, 3)) == 0:
        some.append(flows.ClearActions())
    if draw(st.integers(0, 3)) == 0:
        written = st.lists(actions(family).filter(has_place).filter(lambda a: not invalid), max_size=5)
        some.append(flows.WriteActions(tuple(draw(written))))
    table = draw(st.integers(0, 254))
    if table < 254 and draw(st.booleans()):
        some.append(flows.GotoTable(draw(st.integers(table + 1, 254))))
    numbers = st.integers(0, 0xFFFF)
    flags = st.frozensets(st.sampled_from(("send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts")))
    if draw(st.integers(0, 9)) == 0:
        some = list(draw(conjunctions()))
    return Flow(
        match=match,
        actions=tuple(some),
        table=table,
        priority=draw(numbers),
        cookie=draw(st.integers(0, (1 << 64) - 1)),
        idle_timeout=draw(numbers),
        hard_timeout=draw(numbers),
        importance=draw(numbers),
        flags=draw(flags),
    )
