"""VLAN settings of ports, for `normal`: which VLAN a packet comes in, and which ports carry it with or without a tag.

As ovs-vswitchd.conf.db(5) has it (Port: vlan_mode, tag, trunks). A port without settings carries all VLANs as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fields import pop_vlan
from flowshunt.jit import kernel
from flowshunt.packet.schema import ETH_VLAN, VLAN_PRESENT, W_ETH_SRC, W_FLAGS

MODES = ("all", "access", "trunk", "native-tagged", "native-untagged")
ALL, ACCESS, TRUNK, NATIVE_TAGGED, NATIVE_UNTAGGED = range(len(MODES))
"""Values of `vlan_mode` in a PORT."""
TRUNK_WORDS = 4096 // 64

_VID = 0xFFF
_U16 = 0xFFFF


@kernel
def _carries_tagged(p: Any, index: Any, vlan: Any) -> Any:
    return (p.trunks[index, vlan >> 6] >> (vlan & 63)) & 1 != 0


@kernel
def vlan_of(p: Any, keys: Any, k: Any, index: Any) -> Any:
    """The VLAN that the packet of keys[k] is in, which came in on the port in place `index`; -1: it is not admitted.

    0 is that of packets without a tag. `p`: PortArrays.
    """
    tci = keys[k, W_ETH_SRC] & _U16
    vid = tci & _VID if tci & VLAN_PRESENT else np.int64(0)
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ALL:
        return vid
    tag = np.int64(p.ports["vlan_tag"][index])
    if mode == ACCESS:
        return tag if vid == 0 else np.int64(-1)
    if mode != TRUNK and vid == 0:
        return tag
    return vid if _carries_tagged(p, index, vid) else np.int64(-1)


@kernel
def is_carried(p: Any, index: Any, vlan: Any) -> Any:
    """Whether the port in place `index` carries a VLAN."""
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ALL:
        return True
    if mode == ACCESS:
        return np.int64(p.ports["vlan_tag"][index]) == vlan
    return _carries_tagged(p, index, vlan)


@kernel
def has_tag(p: Any, index: Any, vlan: Any) -> Any:
    """Whether packets of a VLAN leave the port in place `index`, which carries it, with a tag."""
    mode = np.int64(p.ports["vlan_mode"][index])
    if mode == ACCESS or (mode == NATIVE_UNTAGGED and np.int64(p.ports["vlan_tag"][index]) == vlan):
        return False
    return vlan != 0


@kernel
def retag(keys: Any, k: Any, vlan: Any, tagged: Any) -> Any:
    """Give keys[k] the tag of a VLAN, keeping the priority of one that is there, or take its tag away."""
    tci = keys[k, W_ETH_SRC] & _U16
    if not tagged:
        if tci & VLAN_PRESENT:
            pop_vlan(keys, k)
    elif tci & VLAN_PRESENT:
        keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_VID | vlan
    else:
        keys[k, W_ETH_SRC] = keys[k, W_ETH_SRC] & ~_U16 | VLAN_PRESENT | vlan
        keys[k, W_FLAGS] = keys[k, W_FLAGS] & ~_U16 | ETH_VLAN
