"""VLAN settings of ports, for `normal`: which VLAN a packet comes in, and which ports carry it with or without a tag.

As ovs-vswitchd.conf.db(5) has it (Port: vlan_mode, tag, trunks, cvlans). A port without settings carries all VLANs as
they are. A dot1q-tunnel port is in one service VLAN: the tags of what comes in there belong to customers, and lie below
the service tag elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fields import pop_vlan, push_vlan
from flowshunt.datapath.vlan_modes import MODES
from flowshunt.jit import kernel
from flowshunt.packet.schema import (
    ETH_VLAN,
    HEADER_WORDS,
    VERDICT_OK,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ARP_THA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_NW_SRC,
)

ALL, ACCESS, TRUNK, NATIVE_TAGGED, NATIVE_UNTAGGED, TUNNEL = range(len(MODES))
"""Values of `vlan_mode` in a PORT."""
TRUNK_WORDS = 4096 // 64

_VID = 0xFFF
_U16 = 0xFFFF
_ONE_TAG = 18
"""Size of an Ethernet header with a tag."""


@kernel
def _carries_tagged(p: Any, index: Any, vlan: Any) -> Any:
    return (p.trunks[index, vlan >> 6] >> (vlan & 63)) & 1 != 0


@kernel
def vid_of(tci: Any) -> Any:
    """The VLAN that a tag names; 0: there is no tag."""
    return tci & _VID if tci & VLAN_PRESENT else np.int64(0)


@kernel
def vlan_behind(p: Any, index: Any, vid: Any) -> Any:
    """The VLAN of packets that come in tagged with `vid` (0: not) on the port in place `index`; -1: they may not.

    A place of -1 is no port at all, and carries all VLANs.
    """
    if index < 0:
        return vid
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ALL:
        return vid
    tag = np.int64(p.ports["vlan_tag"][index])
    if mode == ACCESS:
        return tag if vid == 0 else np.int64(-1)
    if mode == TUNNEL:
        return tag if _carries_tagged(p, index, vid) else np.int64(-1)
    if mode != TRUNK and vid == 0:
        return tag
    return vid if _carries_tagged(p, index, vid) else np.int64(-1)


@kernel
def vlan_of(p: Any, keys: Any, k: Any, index: Any) -> Any:
    """The VLAN that the packet of keys[k] is in, which came in on the port in place `index`; -1: it is not admitted.

    0 is that of packets without a tag. `p`: PortArrays.
    """
    return vlan_behind(p, index, vid_of(keys[k, W_ETH_SRC]))


@kernel
def is_tunnel(p: Any, index: Any) -> Any:
    """Whether the port in place `index` puts a service tag on what comes in."""
    return index >= 0 and p.ports["vlan_mode"][index] == TUNNEL


@kernel
def customer_of(p: Any, keys: Any, k: Any, index: Any) -> Any:
    """The VLAN below that of the packet of keys[k], which came in on the port in place `index`; 0: there is none."""
    return vid_of(keys[k, W_ETH_SRC] if is_tunnel(p, index) else keys[k, W_ARP_SHA])


@kernel
def is_carried(p: Any, index: Any, vlan: Any, customer: Any) -> Any:
    """Whether the port in place `index` carries a VLAN, and the VLAN `customer` below it (0: there is none)."""
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ALL:
        return True
    if mode == ACCESS or mode == TUNNEL:
        if np.int64(p.ports["vlan_tag"][index]) != vlan:
            return False
        return customer == 0 if mode == ACCESS else _carries_tagged(p, index, customer)
    return _carries_tagged(p, index, vlan)


@kernel
def has_tag(p: Any, index: Any, vlan: Any) -> Any:
    """Whether packets of a VLAN leave the port in place `index`, which carries it, with its tag."""
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ACCESS or mode == TUNNEL:
        return False
    if mode == NATIVE_UNTAGGED and np.int64(p.ports["vlan_tag"][index]) == vlan:
        return False
    return vlan != 0


@kernel
def retag(p: Any, keys: Any, k: Any, index: Any, vlan: Any, tagged: Any) -> Any:
    """Give keys[k], which came in on the port in place `index`, the tag of a VLAN, or take its tag away.

    A tag that is there keeps its priority, unless it belongs to a customer.
    """
    tci = keys[k, W_ETH_SRC] & _U16
    if is_tunnel(p, index):
        if tagged:
            push_vlan(keys, k, np.int64(p.ports["vlan_tpid"][index]))
            keys[k, W_ETH_SRC] |= vlan
    elif not tagged:
        if tci & VLAN_PRESENT:
            pop_vlan(keys, k)
    elif tci & VLAN_PRESENT:
        keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_VID | vlan
    else:
        keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_U16 | VLAN_PRESENT | vlan
        keys[k, W_FLAGS] = keys[k, W_FLAGS] & ~_U16 | ETH_VLAN


@kernel
def has_tag_too_many(p: Any, keys: Any, k: Any) -> Any:
    """Whether the packet of keys[k] has a second tag that is not to be read."""
    return keys[k, W_ARP_SHA] & VLAN_PRESENT != 0 and p.state["vlan_limit"][0] == 1


@kernel(inline=False)
def hide_inner_tag(packets: Any, i: Any, keys: Any, k: Any) -> Any:
    """Have packet i, which has two tags, be one whose type is that of the second tag, and all behind it payload."""
    keys[k, W_ETH_DST] = keys[k, W_ETH_DST] & ~_U16 | keys[k, W_ARP_THA] & _U16
    keys[k, W_FLAGS] &= _U16
    for word in range(W_NW_SRC, HEADER_WORDS):
        if word != W_FLAGS:
            keys[k, word] = 0
    packets["l3"][i] = _ONE_TAG
    packets["l4"][i] = 0
    packets["l3_end"][i] = packets["length"][i]
    packets["payload"][i] = 0
    packets["family"][i] = 0
    packets["options"][i] = 0
    packets["verdict"][i] = VERDICT_OK
