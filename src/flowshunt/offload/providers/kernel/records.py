"""The structures that the programs (`bpf/flows.h`) share with us."""

from __future__ import annotations

import numpy as np

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

DEVICE = np.dtype(
    [("number", np.int64), ("ifindex", np.int64), ("mtu", np.int64), ("peer", np.int64), ("frames", np.int64)]
)
"""A port that is attached: its number in paths, its device, that one's MTU (0: any), and see `peers.peer_address`.

`frames`: 0, or which it does without packets of, as `frames` has it.
"""

SMALL_FRAMES, LARGE_FRAMES = 1, 2
"""Those of one buffer, all of them."""
ONE_BUFFER = 2048
"""MTU up to which a frame is in one buffer, whatever room drivers leave in it."""

NATIVE_KEY, NATIVE_VALUE = KEY.newbyteorder("="), VALUE.newbyteorder("=")
"""The same as kernels get them: what the network's byte order has in memory they put there themselves."""
