"""The structures that the programs (`bpf/flows.h`) share with us, and what paths become in them."""

from __future__ import annotations

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
from flowshunt.packet.schema import VLAN_PRESENT

KEY = np.dtype(
    [
        ("ifindex", "=u4"),
        ("tci", "=u2"),  # with VLAN_PRESENT; 0: no tag
        ("protocol", "u1"),
        ("family", "u1"),  # 4 or 6
        ("source", ">u4", 4),  # IPv4 in the last word
        ("destination", ">u4", 4),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
    ]
)
"""What a packet of a flow looks like."""

VALUE = np.dtype(
    [
        ("index", "=u4"),  # of its STATE
        ("out_ifindex", "=u4"),
        ("flags", "=u2"),  # F_*
        ("mtu", "=u2"),
        ("tos", "u1"),
        ("new_tos", "u1"),
        ("decrements", "u1"),
        ("unused", "u1"),
        ("eth", "u1", 12),  # destination and source
        ("new_eth", "u1", 12),
        ("new_source", ">u4", 4),
        ("new_destination", ">u4", 4),
        ("new_source_port", ">u2"),
        ("new_destination_port", ">u2"),
        ("new_tci", "=u2"),
        ("new_tpid", ">u2"),
        ("address_difference", "=u4"),  # one's complement sums of words as they lie in memory
        ("port_difference", "=u4"),
        ("ip_difference", "=u4"),
        ("pseudo", "=u4"),
    ]
)
"""What becomes of a packet; see `struct flow`."""

F_WRITE, F_ADDRESSES, F_PORTS, F_TOS, F_POP, F_PUSH, F_TPID, F_PEER, F_FRAMES = (1 << n for n in range(9))

STATE = np.dtype(
    [
        ("last_used_ns", "=u8"),  # CLOCK_MONOTONIC_COARSE
        ("packets", "=u8"),
        ("bytes", "=u8"),
        ("extra_bytes", "=u8"),
        ("extra_segments", "=u8"),
        ("max_idle_ns", "=u8"),
        ("epoch", "=u4"),
        ("unused", "=u4", 3),
    ]
)
"""What passed by one direction of a flow. Programs only ever add to the counters; we write the rest."""

REASONS = (
    "absent", "not-fit", "malformed", "fragment", "options", "tcp-flags", "link", "tos", "tags", "ttl", "size", "epoch",
    "idle", "checksum",
)  # fmt: skip
"""Why packets go up, in the order of `enum reason`; see `datapath.shunt.schema.CAUSES`."""

CONTROL = np.dtype([("epoch", "=u4"), ("unused", "=u4")])

PORT = np.dtype([("number", "=u4"), ("up_ifindex", "=u4")])

_KIND_IPV6 = 0x80
_TAG_TYPES = (0, 0x8100, 0x88A8)


def can_say(paths: np.ndarray) -> np.ndarray:
    """Whether the programs can do what paths, PATH (n,), say: bool (n,). Tags have one of the two standard types."""
    tagged = (paths["flags"] & REWRITE_VLAN != 0) & (paths["new_vlan_tci"] & VLAN_PRESENT != 0)
    standard: np.ndarray = ~tagged | np.isin(paths["new_vlan_tpid"], _TAG_TYPES)
    return standard


def keys_of(paths: np.ndarray, ifindexes: np.ndarray) -> np.ndarray:
    """KEY (n,) of paths, PATH (n,), that begin at these devices."""
    keys = np.zeros(len(paths), KEY)
    word = paths["tuple"]
    keys["ifindex"] = ifindexes
    keys["tci"] = paths["vlan_tci"]
    keys["protocol"] = (word >> 8) & 0xFF
    keys["family"] = np.where(word & _KIND_IPV6, 6, 4)
    keys["source"] = _address(paths["source"], word)
    keys["destination"] = _address(paths["destination"], word)
    keys["source_port"] = (word >> 48) & 0xFFFF
    keys["destination_port"] = (word >> 32) & 0xFFFF
    return keys


def values_of(
    paths: np.ndarray, keys: np.ndarray, out_ifindexes: np.ndarray, mtus: np.ndarray, peers: np.ndarray
) -> np.ndarray:
    """VALUE (n,) of paths, PATH (n,), with their KEY (n,).

    `mtus`: of the devices that they leave by, 0: any size. `peers`: see `peers.peer_address`.
    """
    values = np.zeros(len(paths), VALUE)
    rewrites, word = paths["flags"], paths["tuple"]
    values["out_ifindex"] = out_ifindexes
    own = paths["mtu"].astype(np.int64)
    values["mtu"] = np.where(own == 0, mtus, np.where(mtus == 0, own, np.minimum(own, mtus)))
    values["decrements"] = paths["ttl_decrements"]
    values["tos"] = paths["tos"]
    values["new_tos"] = np.where(rewrites & REWRITE_TOS, paths["new_tos"], paths["tos"])
    for name, bit, place in (("eth_dst", REWRITE_ETH_DST, 0), ("eth_src", REWRITE_ETH_SRC, 6)):
        values["eth"][:, place : place + 6] = _mac(paths[name])
        values["new_eth"][:, place : place + 6] = _mac(np.where(rewrites & bit, paths[f"new_{name}"], paths[name]))
    for name, bit in (("source", REWRITE_SOURCE), ("destination", REWRITE_DESTINATION)):
        changed = (rewrites & bit != 0)[:, None]
        values[f"new_{name}"] = np.where(changed, _address(paths[f"new_{name}"], word), keys[name])
        own_port, new_port = keys[f"{name}_port"], paths[f"new_{name}_port"]
        values[f"new_{name}_port"] = np.where(rewrites & REWRITE_PORTS, new_port, own_port)
    values["new_tci"] = paths["new_vlan_tci"] & (0xFFFF & ~VLAN_PRESENT)
    values["new_tpid"] = np.where(paths["new_vlan_tpid"], paths["new_vlan_tpid"], _TAG_TYPES[1])
    _fill_in_sums(values, keys)
    to = np.where(rewrites & REWRITE_ETH_DST, paths["new_eth_dst"], paths["eth_dst"])
    values["flags"] = _flags(values, paths) | np.where((peers != 0) & (to == peers), F_PEER, 0)
    return values


def _address(halves: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Four words of addresses, int64 (n, 2)."""
    words = np.stack([halves[:, 0] >> 32, halves[:, 0], halves[:, 1] >> 32, halves[:, 1]], axis=1) & 0xFFFFFFFF
    words[word & _KIND_IPV6 == 0, :3] = 0
    return words


def _mac(addresses: np.ndarray) -> np.ndarray:
    octets: np.ndarray = (addresses[:, None] >> np.arange(40, -8, -8)) & 0xFF
    return octets


def _words(column: np.ndarray) -> np.ndarray:
    """16-bit words as they lie in memory, int64 (n, m)."""
    n = len(column)
    return np.ascontiguousarray(column).view(np.uint8).reshape(n, -1).view("=u2").astype(np.int64)


def _difference(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """What replacing words adds to a one's complement sum (RFC 1624); 0 when nothing changes."""
    changed = (old != new).any(axis=1)
    return np.where(changed, (0xFFFF - old + new).sum(axis=1), 0)


def _fill_in_sums(values: np.ndarray, keys: np.ndarray) -> None:
    before = np.concatenate([_words(keys["source"]), _words(keys["destination"])], axis=1)
    after = np.concatenate([_words(values["new_source"]), _words(values["new_destination"])], axis=1)
    addresses = _difference(before, after)
    ports = [
        _words(np.stack([records[f"{new}source_port"], records[f"{new}destination_port"]], axis=1).astype(">u2"))
        for records, new in ((keys, ""), (values, "new_"))
    ]
    values["address_difference"] = addresses
    values["port_difference"] = _difference(*ports)
    values["pseudo"] = before.sum(axis=1) + _swapped(keys["protocol"].astype(np.int64))
    is_ipv6 = keys["family"] == 6
    hops = values["decrements"].astype(np.int64)
    ttl = np.where(hops == 0, 0, 0xFFFF - _swapped(np.where(is_ipv6, hops, hops << 8)))
    old, new = (_first_word(values[name].astype(np.int64), is_ipv6) for name in ("tos", "new_tos"))
    tos = np.where(old == new, 0, 0xFFFF - _swapped(old) + _swapped(new))
    values["ip_difference"] = np.where(is_ipv6, 0, addresses) + ttl + tos


def _first_word(tos: np.ndarray, is_ipv6: np.ndarray) -> np.ndarray:
    """The first word of an IP header with this TOS or class, and nothing else in it."""
    return np.where(is_ipv6, tos << 4, tos)


def _swapped(words: np.ndarray) -> np.ndarray:
    """Words of the network's byte order as they lie in memory, int64."""
    return words.astype(">u2").view("=u2").astype(np.int64)


def _flags(values: np.ndarray, paths: np.ndarray) -> np.ndarray:
    retag = paths["flags"] & REWRITE_VLAN != 0
    was = retag & (paths["vlan_tci"] & VLAN_PRESENT != 0)
    becomes = retag & (paths["new_vlan_tci"] & VLAN_PRESENT != 0)
    addresses, ports = values["address_difference"] != 0, values["port_difference"] != 0
    written = addresses | ports | (values["ip_difference"] != 0) | (values["eth"] != values["new_eth"]).any(axis=1)
    flags = np.zeros(len(paths), np.int64)
    for bit, applies in (
        (F_WRITE, written),
        (F_ADDRESSES, addresses),
        (F_PORTS, ports),
        (F_TOS, paths["flags"] & MATCH_TOS != 0),
        (F_POP, was),
        (F_PUSH, becomes),
        (F_TPID, was & becomes),
    ):
        flags |= np.where(applies, bit, 0)
    return flags
