"""NAT: new connections bound to a reply tuple, packets of bound ones translated.

A packet of one direction looks, when it is translated, like the other direction's tuple turned round. That is written
to its key, which the frame follows when it leaves. An ICMP error changes at the end that NAT is about, and the packet
it quotes, which went the other way, changes to that way's tuple; the frame learns of it from `quotes`. Which ct_state
bits that gives, and that only an action with `nat` translates, is as in Open vSwitch (lib/conntrack.c, nat_packet).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.kernels.buckets import insert_reply
from flowshunt.conntrack.kernels.extensions import new_ext
from flowshunt.conntrack.kernels.gauges import find_gauge
from flowshunt.conntrack.kernels.nat_choice import EXHAUSTED, UNCHANGED, choose
from flowshunt.conntrack.kernels.tuples import KIND_ICMP, KIND_IPV6, has_ports, turn_word
from flowshunt.conntrack.states import CS_DNAT, CS_SNAT, F_NAT
from flowshunt.jit import kernel
from flowshunt.packet.schema import NAT_HAS_ID, NAT_QUOTE_SHIFT, W_L4, W_NAT, W_NW_DST, W_NW_SRC

NAT_BITS = CS_SNAT | CS_DNAT

_U32 = 0xFFFFFFFF


@kernel
def _translated_end(kind: Any, d: Any) -> Any:
    """Which end of a packet of direction `d` is translated: NAT_SRC or NAT_DST."""
    return kind if d == 0 else kind ^ C.NAT_KIND


@kernel
def _gauge_of(t: Any, kind: Any, word: Any) -> Any:
    place = np.int64(W_NW_SRC if kind == C.NAT_DST else W_NW_DST)
    family = np.int64(6 if word & KIND_IPV6 else 4)
    return find_gauge(t, family, t.nat_key[0, place], t.nat_key[0, place + 1])


@kernel(inline=False)
def choose_reply(t: Any, keys: Any, k: Any, word: Any, hashed: Any, now: Any) -> Any:
    """`nat_choice.choose` for a packet that is about to be committed; a refusal is counted at the address."""
    kind = choose(t, keys, k, word, hashed, now)
    if kind == EXHAUSTED:
        t.gauges["exhausted"][_gauge_of(t, t.nat_spec[0] & C.NAT_KIND, word)] += 1
    return kind


@kernel(inline=False)
def bind(t: Any, row: Any, kind: Any) -> Any:
    """Give a new connection, which is in the table, the reply tuple that was chosen."""
    if kind == UNCHANGED:
        return
    c, e = t.conns, t.exts
    ext = np.int64(c["ext"][row]) - 1
    if ext < 0:
        ext = new_ext(t, row)
    word = t.state["nat_word"][0]
    difference = turn_word(word) ^ c["tuple"][row]
    for half in range(2):
        source, destination = t.nat_key[0, W_NW_SRC + half], t.nat_key[0, W_NW_DST + half]
        difference |= source ^ c["destination"][row, half] | destination ^ c["source"][row, half]
        e["source"][ext, half] = source
        e["destination"][ext, half] = destination
    e["tuple"][ext] = word
    e["nat"][ext] = kind
    gauge = _gauge_of(t, kind, word)
    t.gauges["used"][gauge] += 1
    e["gauge"][ext] = gauge + 1
    if difference != 0:
        c["flags"][row] = np.int64(c["flags"][row]) | F_NAT
        insert_reply(t, t.state["nat_hash"][0], row)


@kernel
def _bits(kind: Any, d: Any) -> Any:
    return np.int64(CS_SNAT if _translated_end(kind, d) == C.NAT_SRC else CS_DNAT)


@kernel
def _write_ports(keys: Any, k: Any, word: Any) -> Any:
    """Give the key the ports of a tuple word, or its ICMP id."""
    if word & KIND_ICMP:
        keys[k, W_NAT] = NAT_HAS_ID | (word >> 48) & 0xFFFF
    elif has_ports((word >> 8) & 0xFF):
        keys[k, W_L4] = word & ~_U32 | keys[k, W_L4] & _U32


@kernel(inline=False)
def translate(t: Any, keys: Any, k: Any, row: Any, d: Any) -> Any:
    """Translate a packet of direction `d` of connection `row`. Returns the ct_state bits that it gets for it."""
    c, e = t.conns, t.exts
    ext = np.int64(c["ext"][row]) - 1
    if ext < 0 or e["nat"][ext] == 0:
        return np.int64(0)
    if c["flags"][row] & F_NAT:
        word = e["tuple"][ext] if d == 0 else c["tuple"][row]
        for half in range(2):
            if d == 0:
                keys[k, W_NW_SRC + half] = e["destination"][ext, half]
                keys[k, W_NW_DST + half] = e["source"][ext, half]
            else:
                keys[k, W_NW_SRC + half] = c["destination"][row, half]
                keys[k, W_NW_DST + half] = c["source"][row, half]
        _write_ports(keys, k, turn_word(word))
    return _bits(np.int64(e["nat"][ext]), d)


@kernel
def _next_quote(t: Any) -> Any:
    """A place in `quotes`, which go round; never 0, which means none."""
    n = t.state["quote"][0] + 1
    if n == C.N_QUOTES:
        n = np.int64(1)
    t.state["quote"][0] = n
    return n


@kernel(inline=False)
def translate_error(t: Any, keys: Any, k: Any, row: Any, d: Any) -> Any:
    """Translate an ICMP error of direction `d` of connection `row`, and its quote. Returns its ct_state bits."""
    c, e = t.conns, t.exts
    ext = np.int64(c["ext"][row]) - 1
    if ext < 0 or e["nat"][ext] == 0:
        return np.int64(0)
    kind = np.int64(e["nat"][ext])
    if c["flags"][row] & F_NAT:
        if d == 0:
            _translate_error(t, keys, k, e, ext, _translated_end(kind, d))
        else:
            _translate_error(t, keys, k, c, row, _translated_end(kind, d))
    return _bits(kind, d)


@kernel
def _translate_error(t: Any, keys: Any, k: Any, records: Any, at: Any, end: Any) -> Any:
    """Write outer address and quote: the quoted packet becomes the tuple of records[at], of EXT or CONNECTION."""
    n = _next_quote(t)
    for half in range(2):
        source, destination = records["source"][at, half], records["destination"][at, half]
        t.quotes[n, half] = source
        t.quotes[n, 2 + half] = destination
        if end == C.NAT_SRC:
            keys[k, W_NW_SRC + half] = destination
        else:
            keys[k, W_NW_DST + half] = source
    t.quotes[n, 4] = records["tuple"][at]
    keys[k, W_NAT] = n << NAT_QUOTE_SHIFT


@kernel
def load_quote(t: Any, keys: Any, k: Any) -> Any:
    """The packet that the ICMP error in keys[k] quotes, when NAT has changed it, to `inner_key`; its tuple word or 0.

    The word's zone is 0.
    """
    n = keys[k, W_NAT] >> NAT_QUOTE_SHIFT
    if n == 0:
        return np.int64(0)
    for half in range(4):
        t.inner_key[0, W_NW_SRC + half] = t.quotes[n, half]
    return t.quotes[n, 4] & ~np.int64(0xFFFF0000)
