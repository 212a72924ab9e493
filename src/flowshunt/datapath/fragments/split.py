"""A whole frame as fragments."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flowshunt.datapath.fragments.receive import FRAGMENT_HEADER_SIZE
from flowshunt.datapath.fragments.schema import UNIT
from flowshunt.jit import kernel, load_be16, store_be16, store_be32
from flowshunt.packet.checksum import checksum
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.network import IPV4_SIZE, IPV6_SIZE
from flowshunt.packet.schema import PROTO_FRAGMENT

_DONT_FRAGMENT = 0x4000
_MORE_IPV4 = 0x2000
_OPTION_END = 0
_OPTION_NOP = 1
_OPTION_COPIED = 0x80
_UNITS = ~(UNIT - 1)


class Plan(NamedTuple):
    """How a frame is cut: `n` fragments with headers of `header` bytes (link layer included) and `chunk` bytes of
    payload, but for the last, which has `rest`.
    """

    n: Any
    header: Any
    chunk: Any
    rest: Any


@kernel
def plan(m: Any, family: Any, data: Any, l3: Any, at: Any, end: Any) -> Any:
    """How to cut the frame data[at:end], whose IP header is at byte l3 of `data`, so that no fragment is longer than
    `m["mru"]` at L3: a Plan. `n` is 1 when it need not be cut.
    """
    mru = m["mru"][0]
    if end - l3 <= mru:
        return Plan(np.int64(1), np.int64(0), np.int64(0), end - at)
    if family == 4:
        header = (np.int64(data[l3]) & 0xF) * 4
        payload = end - l3 - header
    else:
        header = m["frag_place"][0] + FRAGMENT_HEADER_SIZE
        payload = end - l3 - m["frag_place"][0]
    chunk = max((mru - header) & _UNITS, UNIT)
    n = (payload + chunk - 1) // chunk
    return Plan(n, l3 - at + header, chunk, payload - (n - 1) * chunk)


@kernel(inline=False)
def split(m: Any, family: Any, data: Any, l3: Any, at: Any, cut: Any, out: Any, to: Any) -> Any:
    """Write the fragments of `plan` to out[to:], one behind the other, each with its link-layer header.

    There is room. IPv4: identification and "don't fragment" are the packet's; options that are not to be copied
    (RFC 791) become no-operations in all fragments but the first, as in Linux. IPv6: the fragment header goes where it
    was, with the identification that it had.
    """
    for n in range(cut.n):
        size = cut.chunk if n < cut.n - 1 else cut.rest
        copy_bytes(data, at, out, to, cut.header)
        base = to + l3 - at
        if family == 4:
            copy_bytes(data, at + cut.header + n * cut.chunk, out, to + cut.header, size)
            _finish_ipv4(out, base, to + cut.header, size, n * cut.chunk, n < cut.n - 1)
        else:
            source = at + cut.header - FRAGMENT_HEADER_SIZE + n * cut.chunk
            copy_bytes(data, source, out, to + cut.header, size)
            _finish_ipv6(m, out, base, to + cut.header, size, n * cut.chunk, n < cut.n - 1)
        to += cut.header + size


@kernel
def _finish_ipv4(out: Any, l3: Any, payload: Any, size: Any, start: Any, more: Any) -> Any:
    store_be16(out, l3 + 2, payload - l3 + size)
    flags = load_be16(out, l3 + 6) & _DONT_FRAGMENT
    store_be16(out, l3 + 6, flags | (_MORE_IPV4 if more else 0) | start // UNIT)
    if start != 0 and payload - l3 > IPV4_SIZE:
        _blank_options(out, l3 + IPV4_SIZE, payload)
    store_be16(out, l3 + 10, np.int64(0))
    store_be16(out, l3 + 10, checksum(out, l3, payload, np.int64(0)))


@kernel(inline=False)
def _blank_options(out: Any, at: Any, end: Any) -> Any:
    """Make no-operations of the options that belong into the first fragment only; a damaged one ends the search."""
    while at < end:
        kind = np.int64(out[at])
        if kind == _OPTION_END:
            return
        size = np.int64(1)
        if kind != _OPTION_NOP:
            if at + 1 >= end or out[at + 1] < 2 or at + np.int64(out[at + 1]) > end:
                return
            size = np.int64(out[at + 1])
        if kind & _OPTION_COPIED == 0:
            for n in range(size):
                out[at + n] = _OPTION_NOP
        at += size


@kernel
def _finish_ipv6(m: Any, out: Any, l3: Any, payload: Any, size: Any, start: Any, more: Any) -> Any:
    header = payload - FRAGMENT_HEADER_SIZE
    named = l3 + m["frag_named"][0]
    following = np.int64(out[named])
    out[named] = PROTO_FRAGMENT
    out[header] = following
    out[header + 1] = 0
    store_be16(out, header + 2, start | (1 if more else 0))
    store_be32(out, header + 4, m["frag_id"][0])
    store_be16(out, l3 + 4, payload - l3 - IPV6_SIZE + size)
