"""What a path becomes in the map: one key and one value, field by field."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.paths.records import (
    MATCH_TOS,
    REWRITE_DESTINATION,
    REWRITE_ETH_DST,
    REWRITE_ETH_SRC,
    REWRITE_PORTS,
    REWRITE_SOURCE,
    REWRITE_TOS,
    REWRITE_VLAN,
)
from flowshunt.jit import kernel
from flowshunt.offload.providers.kernel.records import (
    F_ADDRESSES,
    F_PEER,
    F_POP,
    F_PORTS,
    F_PUSH,
    F_TOS,
    F_TPID,
    F_WRITE,
)
from flowshunt.packet.schema import VLAN_PRESENT

_KIND_IPV6 = 0x80
_CTAG, _STAG = 0x8100, 0x88A8
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


@kernel
def _swapped(word: Any) -> Any:
    """16 bits of the network's byte order as they lie in memory."""
    return (word & 0xFF) << 8 | word >> 8 & 0xFF


@kernel
def _swapped_32(word: Any) -> Any:
    return _swapped(word & _U16) << 16 | _swapped(word >> 16 & _U16)


@kernel
def _high(half: Any, word: Any) -> Any:
    """The upper 64 bits of an address; nothing for IPv4, whose address stands in the last word."""
    return half if word & _KIND_IPV6 else np.int64(0)


@kernel
def _low(half: Any, word: Any) -> Any:
    return half if word & _KIND_IPV6 else half & _U32


@kernel
def _sum(high: Any, low: Any) -> Any:
    """The 16-bit words of an address, as they lie in memory, added up."""
    total = np.int64(0)
    for n in range(4):
        shift = np.int64(16 * n)
        total += _swapped(high >> shift & _U16) + _swapped(low >> shift & _U16)
    return total


@kernel
def _put_address(column: Any, at: Any, high: Any, low: Any) -> Any:
    column[at, 0] = _swapped_32(high >> 32 & _U32)
    column[at, 1] = _swapped_32(high & _U32)
    column[at, 2] = _swapped_32(low >> 32 & _U32)
    column[at, 3] = _swapped_32(low & _U32)


@kernel
def _put_macs(column: Any, at: Any, destination: Any, source: Any) -> Any:
    for n in range(6):
        shift = np.int64(40 - 8 * n)
        column[at, n] = destination >> shift & 0xFF
        column[at, 6 + n] = source >> shift & 0xFF


@kernel
def can_say(paths: Any, i: Any, d: Any) -> Any:
    """Whether the programs can do what paths[i, d] says: a tag that is put on has one of the two standard types."""
    tagged = paths["flags"][i, d] & REWRITE_VLAN and paths["new_vlan_tci"][i, d] & VLAN_PRESENT
    tpid = np.int64(paths["new_vlan_tpid"][i, d])
    return not tagged or tpid == 0 or tpid == _CTAG or tpid == _STAG


@kernel(inline=False)
def fill_key(keys: Any, at: Any, paths: Any, i: Any, d: Any, ifindex: Any) -> Any:
    """Write keys[at], NATIVE_KEY, of paths[i, d], which begins at this device."""
    word = paths["tuple"][i, d]
    keys["ifindex"][at] = ifindex
    keys["tci"][at] = paths["vlan_tci"][i, d]
    keys["protocol"][at] = word >> 8 & 0xFF
    keys["family"][at] = 6 if word & _KIND_IPV6 else 4
    for_source, for_destination = paths["source"], paths["destination"]
    _put_address(keys["source"], at, _high(for_source[i, d, 0], word), _low(for_source[i, d, 1], word))
    _put_address(keys["destination"], at, _high(for_destination[i, d, 0], word), _low(for_destination[i, d, 1], word))
    keys["source_port"][at] = _swapped(word >> 48 & _U16)
    keys["destination_port"][at] = _swapped(word >> 32 & _U16)


@kernel(inline=False)
def fill_value(values: Any, at: Any, paths: Any, i: Any, d: Any, out_ifindex: Any, mtu: Any, peer: Any) -> Any:
    """Write values[at], NATIVE_VALUE, of paths[i, d], all but its `index`.

    `mtu`: of the device that packets leave by, 0: any size. `peer`: see `peers.peer_address`.
    """
    rewrites = np.int64(paths["flags"][i, d])
    flags = np.int64(F_TOS if rewrites & MATCH_TOS else 0)
    values["out_ifindex"][at] = out_ifindex
    own = np.int64(paths["mtu"][i, d])
    values["mtu"][at] = mtu if own == 0 else own if mtu == 0 else min(own, mtu)
    values["unused"][at] = 0
    flags |= _fill_link(values, at, paths, i, d, rewrites, peer)
    flags |= _fill_network(values, at, paths, i, d, rewrites)
    values["flags"][at] = flags


@kernel
def _fill_link(values: Any, at: Any, paths: Any, i: Any, d: Any, rewrites: Any, peer: Any) -> Any:
    """The link layer; returns the flags of it."""
    source, destination = paths["eth_src"][i, d], paths["eth_dst"][i, d]
    new_source = paths["new_eth_src"][i, d] if rewrites & REWRITE_ETH_SRC else source
    new_destination = paths["new_eth_dst"][i, d] if rewrites & REWRITE_ETH_DST else destination
    _put_macs(values["eth"], at, destination, source)
    _put_macs(values["new_eth"], at, new_destination, new_source)
    flags = np.int64(0)
    if source != new_source or destination != new_destination:
        flags |= F_WRITE
    if peer != 0 and peer == new_destination:
        flags |= F_PEER
    new_tci, new_tpid = np.int64(paths["new_vlan_tci"][i, d]), np.int64(paths["new_vlan_tpid"][i, d])
    values["new_tci"][at] = new_tci & _U16 & ~VLAN_PRESENT
    values["new_tpid"][at] = _swapped(new_tpid if new_tpid else np.int64(_CTAG))
    if rewrites & REWRITE_VLAN:
        was, becomes = paths["vlan_tci"][i, d] & VLAN_PRESENT, new_tci & VLAN_PRESENT
        flags |= (F_POP if was else 0) | (F_PUSH if becomes else 0) | (F_TPID if was and becomes else 0)
    return flags


@kernel
def _fill_network(values: Any, at: Any, paths: Any, i: Any, d: Any, rewrites: Any) -> Any:
    """Addresses, ports, TOS, TTL, and what they change of checksums (RFC 1624); returns the flags of it."""
    word = paths["tuple"][i, d]
    source_high, source_low = _high(paths["source"][i, d, 0], word), _low(paths["source"][i, d, 1], word)
    to_high, to_low = _high(paths["destination"][i, d, 0], word), _low(paths["destination"][i, d, 1], word)
    before = _sum(source_high, source_low) + _sum(to_high, to_low)
    values["pseudo"][at] = before + _swapped(word >> 8 & 0xFF)
    changed = False
    if rewrites & REWRITE_SOURCE:
        high, low = _high(paths["new_source"][i, d, 0], word), _low(paths["new_source"][i, d, 1], word)
        changed = high != source_high or low != source_low
        source_high, source_low = high, low
    if rewrites & REWRITE_DESTINATION:
        high, low = _high(paths["new_destination"][i, d, 0], word), _low(paths["new_destination"][i, d, 1], word)
        changed = changed or high != to_high or low != to_low
        to_high, to_low = high, low
    _put_address(values["new_source"], at, source_high, source_low)
    _put_address(values["new_destination"], at, to_high, to_low)
    addresses = np.int64(0)
    if changed:
        addresses = 16 * _U16 - before + _sum(source_high, source_low) + _sum(to_high, to_low)
    values["address_difference"][at] = addresses
    ports = _fill_ports(values, at, paths, i, d, rewrites)
    headers = _fill_header(values, at, paths, i, d, rewrites) + (0 if word & _KIND_IPV6 else addresses)
    values["ip_difference"][at] = headers
    flags = np.int64(F_WRITE if addresses or ports or headers else 0)
    return flags | (F_ADDRESSES if addresses else 0) | (F_PORTS if ports else 0)


@kernel
def _fill_ports(values: Any, at: Any, paths: Any, i: Any, d: Any, rewrites: Any) -> Any:
    """Returns the difference that they make to a checksum."""
    word = paths["tuple"][i, d]
    source, destination = _swapped(word >> 48 & _U16), _swapped(word >> 32 & _U16)
    new_source, new_destination = source, destination
    if rewrites & REWRITE_PORTS:
        new_source = _swapped(np.int64(paths["new_source_port"][i, d]))
        new_destination = _swapped(np.int64(paths["new_destination_port"][i, d]))
    values["new_source_port"][at] = new_source
    values["new_destination_port"][at] = new_destination
    difference = np.int64(0)
    if source != new_source or destination != new_destination:
        difference = 2 * _U16 - source - destination + new_source + new_destination
    values["port_difference"][at] = difference
    return difference


@kernel
def _fill_header(values: Any, at: Any, paths: Any, i: Any, d: Any, rewrites: Any) -> Any:
    """TOS or class, and hops; returns the difference that they make to a checksum over the header."""
    is_ipv6 = paths["tuple"][i, d] & _KIND_IPV6 != 0
    tos, hops = np.int64(paths["tos"][i, d]), np.int64(paths["ttl_decrements"][i, d])
    new_tos = np.int64(paths["new_tos"][i, d]) if rewrites & REWRITE_TOS else tos
    values["tos"][at] = tos
    values["new_tos"][at] = new_tos
    values["decrements"][at] = hops
    difference = np.int64(0)
    if hops != 0:
        difference += _U16 - _swapped(hops if is_ipv6 else hops << 8)
    if tos != new_tos:  # in the first word of the header, beside nothing else that changes
        shift = 4 if is_ipv6 else 0
        difference += _U16 - _swapped(tos << shift) + _swapped(new_tos << shift)
    return difference
