"""What is known of a path, what is handed out to be forwarded, and what was forwarded: the records.

A *path* is one direction of an established connection: what its packets look like when they come in, where they go,
and what differs between a packet that came and the one that went.
"""

from __future__ import annotations

import numpy as np

N_ZONES = 4
"""Connections (one per zone) that a path may pass."""

HOME_BITS = 16
"""Where the number of a datapath begins in ports of paths and events, above that of the port in OpenFlow.

Several datapaths may share a tracker; the first one has the number 0.
"""

PATH = np.dtype(
    [
        # what must match
        ("source", np.int64, 2),  # addresses as they come in, 128-bit form, high and low
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # ports 48 and 32, zone 0, protocol 8, kind 0 (bit 7: IPv6), as they come in
        ("eth_src", np.int64),  # 48 bits; as they come in, a packet with others is not of this path
        ("eth_dst", np.int64),
        ("in_port", np.uint32),  # with its home, see HOME_BITS
        ("vlan_tci", np.uint16),  # packet.schema.VLAN_PRESENT set when there is a tag; a second tag is never of a path
        ("tos", np.uint8),  # with MATCH_TOS
        # what becomes of it
        ("ttl_decrements", np.uint8),  # a packet that these would take to zero takes the long way
        ("new_source", np.int64, 2),
        ("new_destination", np.int64, 2),
        ("new_eth_src", np.int64),
        ("new_eth_dst", np.int64),
        ("out_port", np.uint32),
        ("new_source_port", np.uint16),
        ("new_destination_port", np.uint16),
        ("new_vlan_tci", np.uint16),  # without VLAN_PRESENT the tag is taken off
        ("new_vlan_tpid", np.uint16),
        ("mtu", np.uint16),  # of the output port, in bytes of layer 3 (0: none); larger packets take the long way
        ("new_tos", np.uint8),
        ("flags", np.uint8),  # MATCH_TOS, and REWRITE_*: which of the new values apply
    ],
    align=True,
)
"""One direction's path, 128 bytes. Fields that do not apply are zero, so that equal paths are equal bytes."""

REWRITE_ETH_SRC = 1
REWRITE_ETH_DST = 2
REWRITE_VLAN = 4
REWRITE_SOURCE = 8
REWRITE_DESTINATION = 16
REWRITE_PORTS = 32
REWRITE_TOS = 64
"""Only together with MATCH_TOS."""
MATCH_TOS = 128

LEARNED = np.dtype(
    [
        ("time_ms", np.int64),
        ("epoch", np.int64),  # of the tables, ports and stations; the path is valid in this one
        ("path", PATH),
        ("rows", np.uint32, N_ZONES),  # connections on the way, in the order of their rows
        ("generations", np.uint32, N_ZONES),
        ("chain", np.uint32),  # the chain of rules that the packet met
        ("ct_state", np.uint16),  # that the tracker gave the packet last
        ("n_zones", np.uint8),  # at least 1
        ("turned", np.uint8),  # bit z: the packet was in the reply direction of connection z
        ("unfit", np.uint8),  # UNFIT: why no later packet may skip the tables; 0: they may
        ("parameter", np.uint8),  # varying-match: place of the field in packet.schema.FIELDS
    ],
    align=True,
)
"""What one packet has shown. An unfit one has no path: of `path`, the part that must match is filled in."""

UNFIT = (
    "none",
    "not-established",
    "no-reply-yet",
    "protocol",
    "helper",
    "fragments",
    "ip-options",
    "multiple-outputs",
    "varying-match",
    "controller",
    "learn",
    "too-many-zones",
    "policer",
    "tunnel",
    "mirror",
    "rewrite",
    "long-chain",
    "group",
    "several-bridges",
)
"""Why a packet's way cannot be taken by others unseen; names are those of `offload.reasons`.

`rewrite`: the packet was changed in a way that a path cannot say. `long-chain`: it met more rules than a chain holds.
`group`: it went through one, which counts its packets and may choose among ports by what varies. `several-bridges`:
other datapaths track it, too.
"""

FLOW = np.dtype(
    [
        ("now_ms", np.int64),
        ("epoch", np.int64),  # that both paths were learned in
        ("paths", PATH, 2),  # original and reply direction of the first connection
        ("rows", np.uint32, N_ZONES),  # connections on the way; the first one names the flow
        ("generations", np.uint32, N_ZONES),
        ("max_idle_ms", np.uint32),  # a packet that comes after a longer silence takes the long way
        ("ct_state", np.uint16, 2),  # by path: what the tracker calls its packets
        ("n_zones", np.uint8),
        # from the provider
        ("reason", np.uint16),  # offload.reasons.number_of(...)
        ("error", np.int32),  # errno; 0: taken
    ],
    align=True,
)
"""One connection with both its paths, as a forwarder gets it."""

USAGE = np.dtype(
    [
        ("last_used_ms", np.int64, 2),  # by path; 0: unknown
        ("packets", np.int64, 2),  # since the last call that told them, also the rest
        ("bytes", np.int64, 2),  # of layer 3, as connections count
        ("frame_bytes", np.int64, 2),  # as they came in, padding included, as ports and rules count
        ("counted_ms", np.int64),  # when these counters were read from wherever they are kept
    ],
    align=True,
)
"""What a forwarder forwarded of one flow."""
