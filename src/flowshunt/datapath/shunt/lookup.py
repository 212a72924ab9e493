"""The shunt in the batch loop: find a packet's entry, judge the packet, leave.

`suggest` and `judge` are stages that packets further on go through while others run, so that the memory that the next
stage reads is on its way; what can change until the packet's turn comes (whether the entry lives, its epoch, its age)
is looked at last, in `pass_by`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.protocols import STREAM_AFTER_MS
from flowshunt.conntrack.kernels.step import packet_word
from flowshunt.conntrack.kernels.tuples import hash_packet, turn_word
from flowshunt.conntrack.schema import CLOCK_STEP_MS
from flowshunt.datapath.schema import (
    FATE_OUTPUT,
    HEADER_GROWTH,
    MAX_OUTPUT_SIZE,
    N_CHANGED,
    N_SENT,
    N_SHUNTED,
    SOURCE_BATCH,
    SOURCE_TX_DATA,
)
from flowshunt.datapath.shunt.checking import is_plainly_valid
from flowshunt.datapath.shunt.places import ABSENT, entry_tag, meet_entries, suggest_entry
from flowshunt.datapath.shunt.schema import (
    CAUSE_ABSENT,
    CAUSE_CHECKED,
    CAUSE_DEAD,
    CAUSE_EPOCH,
    CAUSE_IDLE,
    CAUSE_LINK,
    CAUSE_NO_PORT,
    CAUSE_NONE,
    CAUSE_NOT_FIT,
    CAUSE_OPTIONS,
    CAUSE_SIZE,
    CAUSE_STREAM,
    CAUSE_TAGS,
    CAUSE_TCP_FLAGS,
    CAUSE_TOS,
    CAUSE_TTL,
    E_CHANGED,
    E_CHECKED,
    E_DEAD,
    E_MATCH_TOS,
    E_MATCH_TPID,
    E_RETAG,
    E_SET_TOS,
    E_UNASSURED,
    E_UNSETTLED,
)
from flowshunt.datapath.shunt.settle import refresh, settle
from flowshunt.jit import kernel, prefetch
from flowshunt.packet.emit import rewrite
from flowshunt.packet.icmp import ICMP_ERROR
from flowshunt.packet.icmp import classify as classify_icmp
from flowshunt.packet.quoted import parse_quoted
from flowshunt.packet.schema import (
    FRAG_ANY,
    FRAG_LATER,
    HEADER_WORDS,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    VERDICT_OK,
    VLAN_PRESENT,
    W_ARP_SHA,
    W_ETH_DST,
    W_ETH_SRC,
    W_FLAGS,
    W_L4,
    W_NAT,
    W_NW_DST,
    W_NW_SRC,
)

_U32 = 0xFFFFFFFF
_FLAGS = 0x17
"""SYN, FIN, RST, ACK."""
_ACK = 0x10


# --- stages of a chunk -----------------------------------------------------------------------------------------------


@kernel
def suggest(s: Any, t: Any, keys: Any, i: Any) -> Any:
    """The entry that packet i of a chunk may belong to, into `found`; its bucket should be in the cache."""
    word = t.tracked["word"][i]
    proto = (word >> 8) & 0xFF
    if proto != PROTO_TCP and proto != PROTO_UDP:
        s.found[i] = ABSENT
        return
    s.found[i] = suggest_entry(
        s, t.hashes[i], entry_tag(t.hashes[i], keys[i, W_NW_SRC + 1], keys[i, W_NW_DST + 1], word)
    )


@kernel
def _is_line(s: Any, entry: Any, keys: Any, i: Any, word: Any, port_epoch: Any) -> Any:
    """Whether the first line of an entry is the packet's."""
    e = s.entries
    return (
        e["tuple"][entry] ^ word
        | e["source"][entry, 1] ^ keys[i, W_NW_SRC + 1]
        | e["destination"][entry, 1] ^ keys[i, W_NW_DST + 1]
        | e["source"][entry, 0] ^ keys[i, W_NW_SRC]
        | e["destination"][entry, 0] ^ keys[i, W_NW_DST]
        | e["eth_src"][entry] ^ keys[i, W_ETH_SRC]
        | e["eth_dst"][entry] ^ keys[i, W_ETH_DST]
        | e["port_epoch"][entry] ^ port_epoch
    ) == 0


@kernel
def port_epoch(s: Any, packets: Any, i: Any) -> Any:
    """What the first line of an entry ends with if packet i may be a hit of it now."""
    return (s.state["home"][0] | np.int64(packets["in_port"][i])) << 32 | s.state["epoch"][0] & _U32


@kernel
def judge(s: Any, t: Any, packets: Any, keys: Any, i: Any) -> Any:
    """Why packet i of a chunk is not a hit, into `why` (CAUSE_NONE: it may be one), and its entry into `found`."""
    entry = s.found[i]
    if entry == ABSENT:
        s.why[i] = _why_absent(t, keys, i)
        return
    word = t.tracked["word"][i]
    if entry < 0 or not _is_line(s, entry, keys, i, word, port_epoch(s, packets, i)):
        s.why[i] = _find_line(s, t, packets, keys, i, word)
        entry = s.found[i]
        if s.why[i] != CAUSE_NONE:
            return
    s.why[i] = _why_not(s, entry, packets, keys, i)
    if s.entries["flags"][entry] & E_CHANGED:
        prefetch(s.changes, entry, 0)


@kernel
def _why_absent(t: Any, keys: Any, i: Any) -> Any:
    word = t.tracked["word"][i]
    proto = (word >> 8) & 0xFF
    return np.int64(CAUSE_ABSENT if proto == PROTO_TCP or proto == PROTO_UDP else CAUSE_NOT_FIT)


@kernel(inline=False)
def _find_line(s: Any, t: Any, packets: Any, keys: Any, i: Any, word: Any) -> Any:
    """Search for the entry of packet i among all of its tuple: into `found`, when all but the epoch is right.

    Returns CAUSE_NONE when that is right, too.
    """
    s.found[i] = ABSENT
    n = meet_entries(s, t.hashes[i], keys, i, W_NW_SRC, W_NW_DST, word)
    wanted = port_epoch(s, packets, i)
    why = np.int64(CAUSE_ABSENT if n == 0 else CAUSE_LINK)
    for j in range(n):
        entry = s.met[j]
        if s.entries["eth_src"][entry] != keys[i, W_ETH_SRC] or s.entries["eth_dst"][entry] != keys[i, W_ETH_DST]:
            continue
        if s.entries["flags"][entry] & E_DEAD:
            why = np.int64(CAUSE_DEAD)
        elif (s.entries["port_epoch"][entry] ^ wanted) & ~_U32 == 0:
            s.found[i] = entry
            return np.int64(CAUSE_NONE if s.entries["port_epoch"][entry] == wanted else CAUSE_EPOCH)
    return why


@kernel
def _why_not(s: Any, entry: Any, packets: Any, keys: Any, i: Any) -> Any:
    """What about packet i itself keeps it from being a hit of its entry, or CAUSE_NONE."""
    e = s.entries
    flags = np.int64(e["flags"][entry])
    l4 = keys[i, W_L4]
    if (l4 >> 24) & 0xFF == PROTO_TCP:
        tcp_flags = (keys[i, W_FLAGS] >> 48) & 0xFF
        if tcp_flags & _FLAGS != _ACK or tcp_flags & ~np.int64(e["seen"][entry]):
            return np.int64(CAUSE_TCP_FLAGS)
    if packets["options"][i] != 0:
        return np.int64(CAUSE_OPTIONS)
    decrements = np.int64(e["ttl_decrements"][entry])
    if decrements != 0 and (l4 >> 8) & 0xFF <= decrements:
        return np.int64(CAUSE_TTL)
    if not _is_small(packets, i, np.int64(e["max_size"][entry])):
        return np.int64(CAUSE_SIZE)
    if flags & E_MATCH_TOS and (l4 >> 16) & 0xFF != e["tos"][entry]:
        return np.int64(CAUSE_TOS)
    if keys[i, W_ARP_SHA] & VLAN_PRESENT or (flags & E_MATCH_TPID and keys[i, W_FLAGS] & 0xFFFF != e["tpid"][entry]):
        return np.int64(CAUSE_TAGS)
    return np.int64(CAUSE_NONE)


@kernel
def _is_small(packets: Any, i: Any, max_size: Any) -> Any:
    """Whether a packet, or what it will be cut into, is no larger than `max_size`, and can be written anew."""
    l3 = np.int64(packets["l3"][i])
    size = np.int64(packets["l3_end"][i]) - l3
    segment = np.int64(packets["gso_size"][i])
    if segment != 0:
        size = min(size, np.int64(packets["payload"][i]) - l3 + segment)
    return (max_size == 0 or size <= max_size) and np.int64(packets["length"][i]) <= MAX_OUTPUT_SIZE - HEADER_GROWTH


# --- packet by packet ------------------------------------------------------------------------------------------------


@kernel
def _time(t: Any, packets: Any, i: Any) -> Any:
    """The time that the tracker would go by at packet i (`rows.advance`)."""
    now = t.state["now_ms"][0]
    now_ms = packets["time_ns"][i] // 1_000_000
    return now_ms if now_ms > now or now_ms <= now - CLOCK_STEP_MS else now


@kernel
def _why_not_now(s: Any, p: Any, t: Any, b: Any, i: Any, entry: Any, now: Any) -> Any:
    e = s.entries
    if e["port_epoch"][entry] != port_epoch(s, b.packets, i):
        return np.int64(CAUSE_DEAD if e["flags"][entry] & E_DEAD else CAUSE_EPOCH)
    if now - e["used_ms"][entry] >= np.int64(e["max_idle_ms"][entry]):
        return np.int64(CAUSE_IDLE)
    if p.index[np.int64(e["out_port"][entry])] < 0:
        return np.int64(CAUSE_NO_PORT)
    flags = np.int64(e["flags"][entry])
    if flags & (E_UNASSURED | E_CHECKED) == 0:
        return np.int64(CAUSE_NONE)
    return _why_not_plain(s, t, b, i, entry, now)


@kernel(inline=False)
def _why_not_plain(s: Any, t: Any, b: Any, i: Any, entry: Any, now: Any) -> Any:
    """For entries that want the tracker's opinion."""
    flags = np.int64(s.entries["flags"][entry])
    if flags & E_UNASSURED and now - t.conns["start_ms"][np.int64(s.entries["row"][entry])] > STREAM_AFTER_MS:
        return np.int64(CAUSE_STREAM)
    if flags & E_CHECKED and not is_plainly_valid(s, t, b, i, entry, now):
        return np.int64(CAUSE_CHECKED)
    return np.int64(CAUSE_NONE)


@kernel
def pass_by(w: Any, p: Any, o: Any, t: Any, s: Any, b: Any, i: Any, packet: Any) -> Any:
    """Take packet i of the chunk, judged, past the tables: True when it has left. Otherwise, call `send_up`."""
    if s.why[i] != CAUSE_NONE:
        return False
    entry = s.found[i]
    now = _time(t, b.packets, i)
    why = _why_not_now(s, p, t, b, i, entry, now)
    if why != CAUSE_NONE:
        s.why[i] = why
        return False
    t.state["now_ms"][0] = now
    _leave(w, o, s, b, i, packet, entry, now)
    return True


@kernel
def send_up(s: Any, t: Any, b: Any, i: Any) -> Any:
    """Packet i of the chunk takes the long way, where the tracker may see it: timers of its connections are settled.

    When it has, call `come_back`.
    """
    why = s.why[i]
    s.causes[why] += 1
    if why != CAUSE_ABSENT:
        _settle_all(s, t, b, i, why)


@kernel
def come_back(s: Any, t: Any, i: Any) -> Any:
    """Packet i of the chunk took the long way, to its end."""
    if s.found[i] >= 0:
        refresh(s, t, s.found[i])


@kernel(inline=False)
def _settle_all(s: Any, t: Any, b: Any, i: Any, why: Any) -> Any:
    """Settle the flows of all entries of packet i's tuple; for an ICMP error, of the tuple that it quotes."""
    keys = b.original
    n = np.int64(0)
    if why != CAUSE_NOT_FIT:
        n = meet_entries(s, t.hashes[i], keys, i, W_NW_SRC, W_NW_DST, t.tracked["word"][i])
    else:
        n = _meet_others(s, t, b, i)
    now = _time(t, b.packets, i)
    for j in range(n):
        settle(s, t, s.met[j] >> 1, now)


@kernel
def _meet_others(s: Any, t: Any, b: Any, i: Any) -> Any:
    """The entries that a fragment or an ICMP error is about, into `met`."""
    keys = b.original
    l4 = keys[i, W_L4]
    proto = (l4 >> 24) & 0xFF
    if b.packets["family"][i] == 0:
        return np.int64(0)
    if proto == PROTO_TCP or proto == PROTO_UDP:
        if l4 & FRAG_ANY == 0 or l4 & FRAG_LATER:
            return np.int64(0)
        word = packet_word(b.packets, i, keys, i)
        return meet_entries(s, hash_packet(t.state, keys, i, word), keys, i, W_NW_SRC, W_NW_DST, word)
    if b.packets["verdict"][i] != VERDICT_OK or (proto != PROTO_ICMP and proto != PROTO_ICMPV6):
        return np.int64(0)
    if classify_icmp(proto, (l4 >> 48) & 0xFFFF) != ICMP_ERROR:
        return np.int64(0)
    if not parse_quoted(b.data, b.packets, i, t.inner_key, 0, i):
        return np.int64(0)
    word = packet_word(b.packets, i, t.inner_key, 0)
    hashed = hash_packet(t.state, t.inner_key, 0, word)  # the same for an answer to the quoted packet, which is wanted
    return meet_entries(s, hashed, t.inner_key, 0, W_NW_DST, W_NW_SRC, turn_word(word))


# --- leaving ---------------------------------------------------------------------------------------------------------


@kernel
def _leave(w: Any, o: Any, s: Any, b: Any, i: Any, packet: Any, entry: Any, now: Any) -> Any:
    """Send packet i as its entry says; there is room. `count_hits` counts it for all but its flow."""
    e = s.entries
    size = max(np.int64(b.packets["wire_length"][i]), np.int64(b.packets["length"][i]))
    e["used_ms"][entry] = now
    e["packets"][entry] += 1
    e["bytes"][entry] += np.int64(b.packets["l3_end"][i]) - np.int64(b.packets["l3"][i])
    e["frame_bytes"][entry] += size
    flags = np.int64(e["flags"][entry])
    if flags & E_UNSETTLED == 0:
        e["flags"][entry] = flags | E_UNSETTLED
    at = b.packets["data"][i]
    length = np.int64(b.packets["length"][i])
    source = np.int64(SOURCE_BATCH)
    if flags & E_CHANGED:
        at = o.sent[1]
        source = np.int64(SOURCE_TX_DATA)
        length = _write_changed(w, s, b, i, entry, o.tx_data, at)
        o.sent[1] = at + length
        o.counters[N_CHANGED] += 1
    port = np.int64(e["out_port"][entry])
    n = o.sent[0]
    o.tx["data"][n] = at
    o.tx["time_ns"][n] = b.packets["time_ns"][i]
    o.tx["length"][n] = length
    o.tx["port"][n] = port
    o.tx["packet"][n] = packet
    o.tx["source"][n] = source
    o.tx["cut"][n] = 0
    o.sent[0] = n + 1
    o.fate[packet] = FATE_OUTPUT
    o.ct_state[packet] = e["ct_state"][entry]
    s.left[i] = length


@kernel
def count_hits(p: Any, o: Any, s: Any, packets: Any, start: Any, stop: Any) -> Any:
    """Count those of packets `[start, stop)` of a chunk that left by their entries, for ports, owners and all."""
    e = s.entries
    total = np.int64(0)
    port = owner = np.int64(-1)
    n = unchecked = came = left = np.int64(0)
    for i in range(start, stop):
        if s.why[i] != CAUSE_NONE:
            continue
        entry = s.found[i]
        if e["out_port"][entry] != port or e["owner"][entry] != owner:
            _count_run(p, s, port, owner, n, unchecked, came, left)
            port, owner = np.int64(e["out_port"][entry]), np.int64(e["owner"][entry])
            n = unchecked = came = left = np.int64(0)
        total += 1
        n += 1
        unchecked += 0 if e["flags"][entry] & E_CHECKED else 1
        came += max(np.int64(packets["wire_length"][i]), np.int64(packets["length"][i]))
        left += s.left[i]
    _count_run(p, s, port, owner, n, unchecked, came, left)
    o.counters[N_SENT] += total
    o.counters[N_SHUNTED] += total
    o.fates[FATE_OUTPUT] += total


@kernel
def _count_run(p: Any, s: Any, port: Any, owner: Any, n: Any, unchecked: Any, came: Any, left: Any) -> Any:
    """Count n hits of one owner that left by one port."""
    if n == 0:
        return
    index = np.int64(p.index[port])
    p.ports["tx_packets"][index] += n
    p.ports["tx_bytes"][index] += left
    s.owners["hits"][owner] += n
    s.owners["hit_bytes"][owner] += came
    s.owners["unchecked"][owner] += unchecked


@kernel(inline=False)
def _write_changed(w: Any, s: Any, b: Any, i: Any, entry: Any, out: Any, at: Any) -> Any:
    """Packet i as its entry changes it, to out[at:]; returns its length."""
    e, c, keys, original = s.entries, s.changes, w.keys, b.original
    flags = np.int64(e["flags"][entry])
    for word in range(HEADER_WORDS):
        keys[0, word] = original[i, word]
    keys[0, W_NAT] = 0
    for half in range(2):
        keys[0, W_NW_SRC + half] = c["source"][entry, half]
        keys[0, W_NW_DST + half] = c["destination"][entry, half]
    keys[0, W_ETH_SRC] = c["eth_src"][entry]
    keys[0, W_ETH_DST] = c["eth_dst"][entry]
    l4 = original[i, W_L4] - (np.int64(e["ttl_decrements"][entry]) << 8)
    if flags & E_SET_TOS:
        l4 = l4 & ~(0xFF << 16) | np.int64(e["new_tos"][entry]) << 16
    keys[0, W_L4] = c["ports"][entry] | l4 & _U32
    if flags & E_RETAG:
        keys[0, W_FLAGS] = original[i, W_FLAGS] & ~0xFFFF | np.int64(e["tpid"][entry])
    return rewrite(b.data, b.packets, i, keys, 0, original, out, at)
