"""The interpreter: one packet through tables and programs, to its end.

The machine has a program counter, the table of the running list, a depth, and a stack of frames: what goes on when the
running list ends. A frame may hold a snapshot of the key to go on with (clone, and ct with a table), or not
(resubmit). Nothing is pushed for a list that has nothing left to do.

Limits are those of Open vSwitch: depth counts lookups that lead to the same table or an earlier one; a list of actions
that breaks a limit causes no output at all, and what came through the tracker counts as a list of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.nat import NAT_BITS
from flowshunt.conntrack.kernels.step import (
    COMMIT,
    FORCE,
    HASHED,
    HELPER_SHIFT,
    NAT,
    forget,
    set_label,
    set_mark,
    track,
)
from flowshunt.conntrack.schema import NAT_WORDS
from flowshunt.datapath.action_sets import apply_to_set, copy_set
from flowshunt.datapath.choosing import apply_odd, choose, copy_stack, pass_meter
from flowshunt.datapath.classifier import lookup
from flowshunt.datapath.conjunctions import resolve
from flowshunt.datapath.fields import change, decrement_ttl
from flowshunt.datapath.helping import attend, concerns_helper
from flowshunt.datapath.output import count_sent, output
from flowshunt.datapath.paths.learn import (
    begin_noting,
    note_connection,
    note_end,
    note_label,
    note_lookup,
    note_mark,
    stop_noting,
)
from flowshunt.datapath.program import (
    CLONE_BUCKET,
    COUNT_WORDS,
    CT_COMMIT,
    CT_EXEC,
    CT_NAT,
    CT_WORDS,
    NO_TABLE,
    OP_CLONE,
    OP_COUNT,
    OP_CT,
    OP_CT_CLEAR,
    OP_DEC_TTL,
    OP_END,
    OP_EXIT,
    OP_GOTO,
    OP_GROUP,
    OP_LARGER,
    OP_LAST_CHANGE,
    OP_LINK,
    OP_METER,
    OP_OUTPUT_FIELD,
    OP_POP,
    OP_PUNT,
    OP_RESUBMIT,
    OP_SELECT,
    OP_SKIP,
    RESUBMIT_CT,
    RESUBMIT_PORT,
    RESUBMIT_WORDS,
    SKIP_WORDS,
    W_SCRATCH,
)
from flowshunt.datapath.reassembly import MET_ENDS, MET_JOINED, meet_fragment, read_zone
from flowshunt.datapath.schema import (
    F_BASE,
    F_DEPTH,
    F_OWN,
    F_PC,
    F_SIZE,
    F_SIZE_MARK,
    F_SNAPSHOT,
    F_TABLE,
    F_TOP,
    F_TX_MARK,
    FATE_ACTION,
    FATE_DEPTH,
    FATE_METER,
    FATE_NO_MATCH,
    FATE_OUTPUT,
    FATE_RESUBMITS,
    FATE_SNAPSHOTS,
    FATE_TOO_LONG,
    FATE_TRACKS,
    FATE_TTL,
    MAX_DEPTH,
    MAX_RESUBMITS,
    MAX_SNAPSHOTS,
    MAX_TRACKS,
    N_PUNTED,
    N_RESUBMITS,
    N_TRACKED,
    OF_BUCKET,
    OWN_SIZE,
    PUNT_NONE,
    PUNT_WAITING,
)
from flowshunt.datapath.spreading import after_link, choose_link
from flowshunt.jit import copy_words, kernel
from flowshunt.packet.emit import copy_bytes
from flowshunt.packet.schema import (
    FRAG_ANY,
    HEADER_WORDS,
    KEY_WORDS,
    W_CT,
    W_CT_DST,
    W_CT_L4,
    W_CT_LABEL,
    W_CT_SRC,
    W_L4,
    W_NAT,
    W_NW_DST,
    W_NW_SRC,
    W_PORT,
)

_U32 = 0xFFFFFFFF
_HELPER = 0xFF << HELPER_SHIFT
_NONE = np.int64(-1)
_PROTOCOL = 0xFF << 24
_PORTS = np.int64(-1 << 32)
_HELD = -1
"""In place of a limit that is broken: the packet is a fragment that waits, is refused, or is done by its own wish."""


@kernel
def _begin(w: Any, o: Any, t: Any, b: Any, i: Any, packet: Any) -> Any:
    """Registers and key for packet i, whose key as parsed is in original[i]."""
    packets = b.packets
    m = w.machine
    sent, sent_bytes = o.sent[0], o.sent[1]
    now_ms = packets["time_ns"][i] // 1_000_000
    size = max(np.int64(packets["wire_length"][i]), np.int64(packets["length"][i]))
    m["now_ms"][0] = now_ms
    m["size"][0] = size
    m["resubmits"][0] = 0
    m["snapshots"][0] = 0
    m["tracks"][0] = 0
    m["fate"][0] = FATE_ACTION
    m["dirty"][0] = 0
    m["tx_start"][0] = sent
    m["size_start"][0] = sent_bytes
    m["tx_mark"][0] = sent
    m["size_mark"][0] = sent_bytes
    m["own"][0] = 0
    m["helped"][0] = 0
    m["mru"][0] = 0
    m["base"][0] = 0
    m["top"][0] = 0
    copy_words(w.keys, np.int64(0), b.original, i, np.int64(HEADER_WORDS))
    for word in range(HEADER_WORDS, KEY_WORDS):
        w.keys[0, word] = 0
    w.keys[0, W_PORT] = np.int64(packets["in_port"][i]) << 32
    word = t.tracked["word"][i]  # the tracker keeps what it knows of the packet in the place of its key
    forget(t, 0)
    t.tracked["word"][0] = word
    t.hashes[0] = t.hashes[i]
    t.candidates[0] = t.candidates[i]
    o.ct_state[packet] = 0
    begin_noting(w, t, b, i)


@kernel(inline=False)
def substitute(w: Any, b: Any, i: Any, own: Any) -> Any:
    """Copy packet i to the own one, unless it is that already; False when it does not fit.

    The caller goes on with `b = own` and `i = 0`. The packet's key stays as it is.
    """
    if w.machine["own"][0]:
        return True
    length = np.int64(b.packets["length"][i])
    if length > OWN_SIZE:
        return False
    copy_bytes(b.data, b.packets["data"][i], own.data, np.int64(0), length)
    own.packets[0] = b.packets[i]
    own.packets["data"][0] = 0
    for word in range(HEADER_WORDS):
        own.original[0, word] = b.original[i, word]
    w.machine["own"][0] = 1
    return True


@kernel(inline=False)
def _suspend(w: Any, o: Any, t: Any, pc: Any, table: Any, depth: Any, sp: Any, target: Any) -> Any:
    """Keep where the packet goes on after the punt."""
    m = w.machine
    m["pc"][0] = pc
    m["table"][0] = table
    m["depth"][0] = depth
    m["frames"][0] = sp
    m["target"][0] = target
    m["punt"][0] = PUNT_WAITING
    w.tracked[0] = t.tracked[0]
    o.counters[N_PUNTED] += 1


@kernel
def _resume(w: Any, t: Any) -> Any:
    """What `_suspend` kept: `(pc, table, depth, sp, target)`."""
    m = w.machine
    m["punt"][0] = PUNT_NONE
    t.tracked[0] = w.tracked[0]
    return m["pc"][0], m["table"][0], m["depth"][0], m["frames"][0], m["target"][0]


@kernel
def fetch(c: Any, pc: Any) -> Any:
    """The instruction at `pc`, which runs next."""
    return c.pool[pc]


@kernel(inline=False)
def _miss(w: Any, c: Any, table: Any) -> Any:
    """The program for a packet that a table has no rule for."""
    w.machine["fate"][0] = FATE_NO_MATCH
    pc = c.state["misses"][0, table]
    if pc == 0 and w.machine["resubmits"][0] == 1:
        return c.state["miss"][0]
    return max(pc, np.int64(0))


@kernel
def _find(w: Any, c: Any, table: Any) -> Any:
    """The rule of a table that the key meets, or -1."""
    rule = lookup(c, table, w.keys, 0)
    if np.int64(c.tables["has_clauses"][table]) != 0:
        rule = resolve(c, table, w.keys, np.int64(0), rule)
    return rule


@kernel(inline=False)
def _find_otherwise(w: Any, c: Any, table: Any, port: Any) -> Any:
    """`_find` as if the packet came from `port`, unless that is -1, and without ports if it is a fragment.

    Those of a fragment are found where they are to be seen.
    """
    word, l4 = w.keys[0, W_PORT], w.keys[0, W_L4]
    if port >= 0:
        w.keys[0, W_PORT] = word & _U32 | port << 32
    if l4 & FRAG_ANY != 0 and c.state["frag_ports"][0] == 0:
        w.keys[0, W_L4] = l4 & ~_PORTS
    rule = _find(w, c, table)
    w.keys[0, W_PORT], w.keys[0, W_L4] = word, l4
    return rule


@kernel
def _enter(w: Any, c: Any, table: Any, port: Any) -> Any:
    """Look the key up in a table, as if it came from `port` unless that is -1: the rule's program, or an empty one."""
    as_it_is = port < 0 and w.keys[0, W_L4] & FRAG_ANY == 0
    rule = _find(w, c, table) if as_it_is else _find_otherwise(w, c, table, port)
    note_lookup(w, c, table, rule, port)
    c.tables["lookups"][table] += 1
    if rule < 0:
        return _miss(w, c, table)
    c.tables["matches"][table] += 1
    c.rules["packets"][rule] += 1
    c.rules["bytes"][rule] += w.machine["size"][0]
    c.rules["used_ms"][rule] = w.machine["now_ms"][0]
    return c.rules["program"][rule]


@kernel
def _exchange(keys: Any, word: Any, other: Any, mask: Any) -> Any:
    different = (keys[0, word] ^ keys[0, other]) & mask
    keys[0, word] ^= different
    keys[0, other] ^= different


@kernel
def _exchange_tuples(keys: Any) -> Any:
    """Exchange the packet's addresses, ports and protocol for those that its connection began with."""
    for half in range(2):
        _exchange(keys, W_NW_SRC + half, W_CT_SRC + half, np.int64(-1))
        _exchange(keys, W_NW_DST + half, W_CT_DST + half, np.int64(-1))
    _exchange(keys, W_L4, W_CT_L4, _PORTS)
    _exchange(keys, W_L4, W_CT, _PROTOCOL)


@kernel(inline=False)
def _enter_original(w: Any, c: Any, table: Any, port: Any) -> Any:
    """`_enter`, for a lookup that sees the original tuple; a packet that has none passes over it (Open vSwitch).

    A path could not say of which packets that holds.
    """
    if w.keys[0, W_CT] & _PROTOCOL == 0:
        return np.int64(0)
    stop_noting(w)
    _exchange_tuples(w.keys)
    pc = _enter(w, c, table, port)
    _exchange_tuples(w.keys)
    return pc


@kernel
def _push(w: Any, sp: Any, pc: Any, table: Any, depth: Any, snapshot: Any) -> Any:
    frames = w.frames
    frames[sp, F_PC] = pc
    frames[sp, F_TABLE] = table
    frames[sp, F_DEPTH] = depth
    frames[sp, F_SNAPSHOT] = snapshot
    frames[sp, F_TX_MARK] = -1
    if snapshot >= 0:
        frames[sp, F_OWN] = w.machine["own"][0]
        frames[sp, F_SIZE] = w.machine["size"][0]
        frames[sp, F_BASE] = w.machine["base"][0]
        frames[sp, F_TOP] = w.machine["top"][0]
        if w.machine["top"][0] != 0:
            copy_stack(w)
    return sp + 1


@kernel
def _pop(w: Any, t: Any, sp: Any) -> Any:
    """Go on with frame sp: `(pc, table, depth)`.

    A fragment whose clone was put together is a fragment again, and behind a clone are the bytes of before.
    """
    frames = w.frames
    snapshot = frames[sp, F_SNAPSHOT]
    if snapshot >= 0:
        if w.machine["own"][0] != 0 and frames[sp, F_OWN] == 0:
            is_clone = frames[sp, F_TX_MARK] < 0  # behind ct, what its action did to the packet stays
            if is_clone:
                w.machine["helped"][0] = 0
            if is_clone or w.machine["mru"][0] != 0:
                w.machine["own"][0] = 0
                w.machine["mru"][0] = 0
                w.machine["size"][0] = frames[sp, F_SIZE]
        w.machine["snapshots"][0] = snapshot
        w.machine["base"][0] = frames[sp, F_BASE]
        w.machine["top"][0] = frames[sp, F_TOP]
        t.tracked[0] = w.kept[snapshot]
        for word in range(KEY_WORDS):
            w.keys[0, word] = w.snapshots[snapshot, word]
    if frames[sp, F_TX_MARK] >= 0:
        w.machine["tx_mark"][0] = frames[sp, F_TX_MARK]
        w.machine["size_mark"][0] = frames[sp, F_SIZE_MARK]
    return frames[sp, F_PC], frames[sp, F_TABLE], frames[sp, F_DEPTH]


@kernel
def _save(w: Any, t: Any) -> Any:
    """Keep a snapshot of the key, and what the tracker remembers of the packet; its number."""
    snapshot = w.machine["snapshots"][0]
    w.kept[snapshot] = t.tracked[0]
    for word in range(KEY_WORDS):
        w.snapshots[snapshot, word] = w.keys[0, word]
    w.machine["snapshots"][0] = snapshot + 1
    return snapshot


@kernel(inline=False)
def _abandon(w: Any, o: Any, sp: Any, fate: Any) -> Any:
    """Take back what the running list caused, with those that it came from up to the tracker.

    Returns the number of frames left; the topmost goes on after the ct action.
    """
    o.sent[0] = w.machine["tx_mark"][0]
    o.sent[1] = w.machine["size_mark"][0]
    w.machine["fate"][0] = fate
    while sp > 0 and w.frames[sp - 1, F_TX_MARK] < 0:
        sp -= 1
    return sp


@kernel
def _leave(w: Any, sp: Any) -> Any:
    """End the running list with those that it came from, up to the last copy; what they caused stays.

    Returns the number of frames left; the topmost goes on with a copy.
    """
    while sp > 0 and w.frames[sp - 1, F_SNAPSHOT] < 0:
        sp -= 1
    return sp


@kernel
def _clear_ct(keys: Any, k: Any) -> Any:
    """Make the ct fields of a key those of a packet that was never tracked."""
    keys[k, W_PORT] &= ~_U32
    keys[k, W_CT] = 0
    for word in range(W_CT_LABEL, W_CT_LABEL + 2):
        keys[k, word] = 0
    for word in range(W_CT_SRC, W_CT_L4 + 1):
        keys[k, word] = 0


@kernel(inline=False)
def _run_exec(w: Any, pool: Any, pc: Any, end: Any) -> Any:
    """Mark and label that the exec list of a ct action makes of the key's own, which stays: `(mark, high, low)`."""
    spare = w.machine["snapshots"][0]
    for word in range(KEY_WORDS):
        w.snapshots[spare, word] = w.keys[0, word]
    while pc < end:
        pc = change(pool, pc, w.snapshots, spare)
    return w.snapshots[spare, W_PORT] & _U32, w.snapshots[spare, W_CT_LABEL], w.snapshots[spare, W_CT_LABEL + 1]


@kernel(inline=False)
def _commit_fields(w: Any, c: Any, t: Any, pc: Any, row: Any, mark: Any, high: Any, low: Any) -> Any:
    """Store mark and label of exec in a connection, and show them in the key."""
    keys = w.keys
    now = t.state["now_ms"][0]
    mask = c.pool[pc + 2]
    if mask:
        note_mark(w, t, row, mark, mask)
        set_mark(t, row, mark, mask, now)
        keys[0, W_PORT] = keys[0, W_PORT] & ~mask | mark & mask
    mask = c.pool[pc + 3]
    mask_low = c.pool[pc + 4]
    if mask | mask_low:
        note_label(w, t, row, high, low, mask, mask_low)
        set_label(t, row, high, low, mask, mask_low, now)
        keys[0, W_CT_LABEL] = keys[0, W_CT_LABEL] & ~mask | high & mask
        keys[0, W_CT_LABEL + 1] = keys[0, W_CT_LABEL + 1] & ~mask_low | low & mask_low


@kernel
def _track(w: Any, c: Any, o: Any, t: Any, b: Any, i: Any, packet: Any, pc: Any) -> Any:
    """The ct action at `pc`: key, connection and ct_state are as it left them."""
    instruction = c.pool[pc]
    flags = (instruction >> 8) & 0xFF
    zone = read_zone(w, c, pc)
    mark = high = low = np.int64(0)
    start = pc + CT_WORDS
    if flags & CT_NAT:
        if flags & CT_COMMIT:
            for n in range(NAT_WORDS):
                t.nat_spec[n] = c.pool[start + n]
        start += NAT_WORDS
    if flags & CT_EXEC:
        mark, high, low = _run_exec(w, c.pool, start, pc + CT_WORDS + (instruction >> 32))
    how = flags & (COMMIT | FORCE | NAT) | instruction & _HELPER
    if w.machine["dirty"][0] == 0:
        how |= HASHED
    row = track(t, b.data, b.packets, i, w.keys, 0, zone, np.int64(how), w.machine["now_ms"][0])
    if flags & CT_NAT and (w.keys[0, W_CT] >> 32) & NAT_BITS:
        w.machine["dirty"][0] = 1
    if flags & CT_EXEC and flags & CT_COMMIT and row >= 0:
        _commit_fields(w, c, t, pc, row, mark, high, low)
    w.machine["row"][0] = row
    o.ct_state[packet] = (w.keys[0, W_CT] >> 32) & 0xFFFF
    o.counters[N_TRACKED] += 1


@kernel(inline=False)
def _help(w: Any, t: Any, b: Any, i: Any, own: Any, row: Any, instruction: Any) -> Any:
    """After a ct action took the packet into connection `row`: whether to punt it to a helper."""
    translated = (instruction >> 8) & CT_NAT != 0
    if concerns_helper(w, t, b, i, row, translated) and substitute(w, b, i, own):
        return attend(w, t, own, row, translated)
    return False


@kernel
def _ct_fate(w: Any, depth: Any) -> Any:
    """The limit that one more pass through the tracker would break, or 0."""
    if w.machine["tracks"][0] >= MAX_TRACKS:
        return np.int64(FATE_TRACKS)
    if w.machine["snapshots"][0] >= MAX_SNAPSHOTS:
        return np.int64(FATE_SNAPSHOTS)
    return np.int64(FATE_DEPTH if depth > MAX_DEPTH else 0)


@kernel
def _lookup_fate(w: Any, depth: Any) -> Any:
    """The limit that one more lookup would break, or 0."""
    if depth > MAX_DEPTH:
        return np.int64(FATE_DEPTH)
    return np.int64(FATE_RESUBMITS if w.machine["resubmits"][0] > MAX_RESUBMITS else 0)


@kernel(inline=False)
def _enter_group(w: Any, c: Any, t: Any, pc: Any, table: Any, depth: Any, sp: Any) -> Any:
    """The group action at `pc`: `(limit that is broken or 0, sp)`; what follows waits in a frame with a copy.

    It counts as a lookup, so that groups that lead to groups end like tables that lead to tables.
    """
    failed = _lookup_fate(w, depth + 1)
    if failed == 0 and (sp > 0 or c.pool[pc + 1] != OP_END):
        if w.machine["snapshots"][0] >= MAX_SNAPSHOTS:
            return np.int64(FATE_SNAPSHOTS), sp
        sp = _push(w, sp, pc + 1, table, depth, _save(w, t))
        w.frames[sp - 1, F_TX_MARK] = OF_BUCKET
    w.machine["resubmits"][0] += 1
    return failed, sp


@kernel
def _ct(w: Any, c: Any, o: Any, t: Any, b: Any, i: Any, packet: Any, pc: Any, table: Any, depth: Any, sp: Any) -> Any:
    """The ct action at `pc`, with what it means for the list that it is in: `(table to look up next or -1, sp)`.

    With a table, the packet goes on there, and the rest of the list, if there is any, waits in a frame with the headers
    as the tracker left them. That rest, as the list after a ct without a table, sees an untracked packet: the ct fields
    are cleared (ovs-actions(7), "The ct action"). The tracker still remembers where the packet was.
    """
    instruction = c.pool[pc]
    target = (instruction >> 16) & 0xFF
    following = pc + CT_WORDS + (instruction >> 32)
    alone = target != NO_TABLE and sp == 0 and c.pool[following] == OP_END
    snapshot = _NONE if alone or target == NO_TABLE else _save(w, t)
    w.machine["tracks"][0] += 1
    _track(w, c, o, t, b, i, packet, pc)
    note_connection(w, t)
    if target == NO_TABLE:
        _clear_ct(w.keys, np.int64(0))
        return _NONE, sp
    if not alone:
        for word in range(HEADER_WORDS):
            w.snapshots[snapshot, word] = w.keys[0, word]
        w.snapshots[snapshot, W_NAT] = w.keys[0, W_NAT]
        w.kept[snapshot] = t.tracked[0]
        _clear_ct(w.snapshots, snapshot)
        w.frames[sp, F_SIZE_MARK] = w.machine["size_mark"][0]
        sp = _push(w, sp, following, table, depth, snapshot)
        w.frames[sp - 1, F_TX_MARK] = w.machine["tx_mark"][0]
        if w.sets[0, 0] != 0:
            sp = copy_set(w, c, sp, np.int64(0))
    w.machine["tx_mark"][0] = o.sent[0]
    w.machine["size_mark"][0] = o.sent[1]
    return target, sp


@kernel
def _finish(w: Any, p: Any, o: Any, packet: Any) -> Any:
    """Count and note what became of a packet that has ended."""
    o.counters[N_RESUBMITS] += w.machine["resubmits"][0] - 1
    fate = w.machine["fate"][0]
    if count_sent(w, p, o) > 0:
        fate = np.int64(FATE_OUTPUT)
    o.fate[packet] = fate
    o.fates[fate] += 1


@kernel
def run_packet(
    w: Any, c: Any, p: Any, o: Any, t: Any, f: Any, own: Any, batch: Any, place: Any, packet: Any, resumes: Any
) -> Any:
    """Take packet `place` of `batch`, a parsed chunk, from table 0 to its end, or to where it is punted.

    `packet`: its index in the batch. `resumes`: it was punted and goes on. There must be room for the most that one
    packet may cause: MAX_OUTPUTS, MAX_OUTPUT_SIZE, and MAX_TRACKS times the events of a pass and a mark change. Writes
    fate, ct_state and tx records.
    """
    sp = np.int64(0)
    depth = np.int64(0)
    table = np.int64(0)
    pc = np.int64(0)
    target = np.int64(0)  # table to look up next, or -1
    port = _NONE
    original = np.int64(0)  # whether that lookup sees the original tuple
    b = batch  # where the packet is now: in the batch, or the own one
    i = place
    if resumes:
        pc, table, depth, sp, target = _resume(w, t)
        b = own
        i = np.int64(0)
    else:
        _begin(w, o, t, b, i, packet)
    while True:
        failed = np.int64(0)
        if target >= 0:
            failed = _lookup_fate(w, depth)
            if failed == 0:
                w.machine["resubmits"][0] += 1
                table = target
                pc = _enter_original(w, c, table, port) if original else _enter(w, c, table, port)
                target = _NONE
                port = _NONE
                original = np.int64(0)
        if failed == 0:
            instruction = fetch(c, pc)
            op = instruction & 0xFF
            if op == OP_END:
                if sp == 0:
                    break
                sp -= 1
                pc, table, depth = _pop(w, t, sp)
                if w.machine["own"][0] == 0:
                    b = batch
                    i = place
            elif op <= OP_OUTPUT_FIELD:
                output(w, c, p, o, f, b, i, packet, pc)
                pc += 1
            elif op <= OP_LAST_CHANGE:
                pc = change(c.pool, pc, w.keys, np.int64(0))
                w.machine["dirty"][0] = 1
            elif op == OP_RESUBMIT:
                target = (instruction >> 8) & 0xFF
                if instruction & RESUBMIT_PORT:
                    port = c.pool[pc + 1]
                original = instruction & RESUBMIT_CT
                if target == NO_TABLE:
                    target = table
                pc += RESUBMIT_WORDS
                if c.pool[pc] != OP_END:
                    sp = _push(w, sp, pc, table, depth, _NONE)
                depth += 1 if target <= table else 0
            elif op == OP_GOTO:
                target = (instruction >> 8) & 0xFF
            elif op == OP_CT:
                failed = _ct_fate(w, depth + 1)
                if failed == 0 and w.keys[0, W_L4] & FRAG_ANY:
                    met = meet_fragment(w, c, o, t, f, own, b, i, packet, sp, pc)
                    if met == MET_JOINED:
                        b = own
                        i = np.int64(0)
                    failed = np.int64(_HELD if met == MET_ENDS else 0)
                if failed == 0:
                    target, sp = _ct(w, c, o, t, b, i, packet, pc, table, depth, sp)
                    depth += 1 if target >= 0 else 0
                    pc += CT_WORDS + (instruction >> 32)
                    row = w.machine["row"][0]
                    if row >= 0 and t.conns["ext"][row]:
                        if _help(w, t, b, i, own, row, instruction):
                            _suspend(w, o, t, pc, table, depth, sp, target)
                            return
                        if w.machine["own"][0]:
                            b = own
                            i = np.int64(0)
            elif op == OP_CT_CLEAR:
                _clear_ct(w.keys, np.int64(0))
                forget(t, 0)
                pc += 1
            elif op == OP_CLONE:
                following = pc + 1 + ((instruction >> 8) & _U32)
                if sp > 0 or c.pool[following] != OP_END:
                    if w.machine["snapshots"][0] < MAX_SNAPSHOTS:
                        sp = _push(w, sp, following, table, depth, _save(w, t))
                        if w.sets[0, 0] != 0 or instruction >> CLONE_BUCKET != 0:
                            sp = copy_set(w, c, sp, instruction >> CLONE_BUCKET)
                    else:
                        failed = np.int64(FATE_SNAPSHOTS)
                pc += 1
            elif op == OP_DEC_TTL:
                w.machine["dirty"][0] = 1
                if decrement_ttl(w.keys, 0):
                    pc += 1 + (instruction >> 8)
                else:
                    w.machine["fate"][0] = FATE_TTL
                    pc = pc + 1 if instruction >> 8 else c.state["ttl_over"][0]
            elif op == OP_PUNT:
                w.machine["reason"][0] = (instruction >> 8) & 0xFF
                w.machine["argument"][0] = instruction >> 16
                if substitute(w, b, i, own):
                    _suspend(w, o, t, pc + 1, table, depth, sp, target)
                    return
                w.machine["fate"][0] = FATE_TOO_LONG
                pc = np.int64(0)
            elif op == OP_EXIT:
                failed = np.int64(_HELD)
            elif op == OP_GROUP:
                failed, sp = _enter_group(w, c, t, pc, table, depth, sp)
                depth += 1
                pc = c.pool[instruction >> 8]
            elif op == OP_COUNT:
                c.pool[pc + 1] += 1
                c.pool[pc + 2] += w.machine["size"][0]
                pc += COUNT_WORDS
            elif op == OP_SELECT:
                pc = choose(c.pool, pc, w.keys)
            elif op == OP_SKIP:
                skips = w.keys[0, c.pool[pc + 1]] & c.pool[pc + 2] == 0
                pc += SKIP_WORDS + ((instruction >> 8) & _U32 if skips else 0)
            elif OP_LARGER <= op <= OP_POP:
                if not apply_odd(w, b, i, instruction):
                    failed = np.int64(FATE_SNAPSHOTS)
                pc += 1
            elif op == OP_LINK:
                w.keys[0, W_SCRATCH] = choose_link(c.pool, p, w.keys, pc)
                pc = after_link(c.pool, pc)
            elif op == OP_METER:
                pc += 1
                if not pass_meter(c.pool, c.pool[instruction >> 8], w.machine["size"][0], w.machine["now_ms"][0]):
                    w.machine["fate"][0] = FATE_METER
                    failed = np.int64(_HELD)
            else:
                pc, sp = apply_to_set(w, c, pc, sp)
        if failed != 0:
            target = _NONE
            port = _NONE
            sp = _abandon(w, o, sp, failed) if failed > 0 else _leave(w, sp)
            if sp == 0:
                break
            sp -= 1
            pc, table, depth = _pop(w, t, sp)
            if w.machine["own"][0] == 0:
                b = batch
                i = place
    note_end(w, p, o, t, packet)
    _finish(w, p, o, packet)
