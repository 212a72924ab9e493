"""A complete datagram as one frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fragments.receive import FRAGMENT_HEADER_SIZE, find_fragment_header
from flowshunt.datapath.fragments.rows import copy_out, family_of
from flowshunt.jit import kernel, load_be32, store_be16
from flowshunt.packet.checksum import checksum
from flowshunt.packet.network import IPV6_SIZE

_DONT_FRAGMENT = 0x4000


@kernel(inline=False)
def assemble(f: Any, row: Any, out: Any, m: Any) -> Any:
    """Write a complete datagram to `out` as one frame, with the headers of its first fragment; returns its length.

    `out`: uint8, with room for the longest packet. `m`: a record array with what `split` needs to know: `mru`, and for
    IPv6 `frag_id` and where the fragment header was, `frag_place` and `frag_named` from the IP header's first byte. The
    header stays away (as in Linux; the fragments get one again). IPv4's "don't fragment" is set when the largest
    fragment had it (Linux). "Congestion experienced" on any fragment counts for the whole (RFC 3168 section 5.3).
    """
    d = f.datagrams
    total = np.int64(d["total"][row])
    first = np.int64(d["first"][row]) - 1
    l3 = np.int64(f.fragments["l3"][first])
    payload = np.int64(f.fragments["header"][first])
    copy_out(f, first, np.int64(0), payload, out, np.int64(0))
    m["mru"][0] = d["mru"][row]
    if family_of(f, row) == 0:
        _copy_payloads(f, row, out, payload)
        _finish_ipv4(out, l3, payload, total, d["mru_df"][row] == d["mru"][row], d["congested"][row])
        return payload + total
    header, named = find_fragment_header(out, l3, payload)
    m["frag_id"][0] = load_be32(out, header + 4)
    m["frag_place"][0] = header - l3
    m["frag_named"][0] = named - l3
    out[named] = out[header]
    payload -= FRAGMENT_HEADER_SIZE
    _copy_payloads(f, row, out, payload)
    store_be16(out, l3 + 4, payload - l3 - IPV6_SIZE + total)
    if d["congested"][row] and np.int64(out[l3 + 1]) & 0x30:
        out[l3 + 1] = np.int64(out[l3 + 1]) | 0x30
    return payload + total


@kernel
def _copy_payloads(f: Any, row: Any, out: Any, to: Any) -> Any:
    fragment = np.int64(f.datagrams["fragments"][row]) - 1
    while fragment >= 0:
        header = np.int64(f.fragments["header"][fragment])
        size = np.int64(f.fragments["size"][fragment])
        copy_out(f, fragment, header, size, out, to + np.int64(f.fragments["start"][fragment]))
        fragment = np.int64(f.fragments["next"][fragment]) - 1


@kernel
def _finish_ipv4(out: Any, l3: Any, payload: Any, total: Any, keeps_df: Any, congested: Any) -> Any:
    store_be16(out, l3 + 2, payload - l3 + total)
    store_be16(out, l3 + 6, np.int64(_DONT_FRAGMENT if keeps_df else 0))
    if congested and np.int64(out[l3 + 1]) & 3:
        out[l3 + 1] = np.int64(out[l3 + 1]) | 3
    store_be16(out, l3 + 10, np.int64(0))
    store_be16(out, l3 + 10, checksum(out, l3, payload, np.int64(0)))
