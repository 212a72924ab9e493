"""A fragment at a ct action: it is held, or completes its datagram and goes on as that."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.kernels.rows import advance
from flowshunt.conntrack.kernels.step import forget
from flowshunt.conntrack.states import CS_HELD
from flowshunt.datapath.fields import read_place
from flowshunt.datapath.fragments.receive import HELD, SWITCHED_OFF, receive
from flowshunt.datapath.fragments.rows import destroy
from flowshunt.datapath.fragments.schema import (
    N_COMPLETED,
    N_MALFORMED,
    N_MISALIGNED,
    N_WRONG_CHECKSUM,
)
from flowshunt.datapath.fragments.whole import assemble
from flowshunt.datapath.program import CT_ZONE_FIELD, CT_ZONE_READ
from flowshunt.datapath.schema import F_OWN, F_PC, F_SNAPSHOT, FATE_FRAGMENT, FATE_HELD, N_JOINED, N_PACKETS
from flowshunt.jit import kernel
from flowshunt.packet.parse import parse
from flowshunt.packet.schema import CHECKSUM_UNKNOWN, HEADER_WORDS

MET_AS_IT_IS, MET_ENDS, MET_JOINED = range(3)
"""What becomes of a fragment that meets ct: the tracker gets it as it is (and finds it invalid); its way ends here; it
goes on as the own packet, the whole datagram.
"""


@kernel
def read_zone(w: Any, c: Any, pc: Any) -> Any:
    """The zone of the ct action at `pc`; one that a field says is noted there for listings."""
    zone = c.pool[pc + 1]
    if (c.pool[pc] >> 8) & CT_ZONE_FIELD:
        read = read_place(w.keys, 0, zone) & 0xFFFF
        c.pool[pc + 1] = zone & 0xFFFFFFFF | read << 32 | CT_ZONE_READ
        return read
    return zone


@kernel
def _linux_drops(refused: Any, family: Any) -> Any:
    """Whether Linux drops what its reassembly refuses for this reason, instead of leaving it to the tracker."""
    if refused == SWITCHED_OFF or refused == -N_MALFORMED or refused == -N_WRONG_CHECKSUM:
        return False
    return refused != -N_MISALIGNED or family == 4


@kernel(inline=False)
def meet_fragment(
    w: Any, c: Any, o: Any, t: Any, f: Any, own: Any, b: Any, i: Any, packet: Any, sp: Any, pc: Any
) -> Any:
    """Take packet i of `b`, a fragment with its key in keys[0], to the ct action at `pc`: MET_*.

    MET_JOINED: the caller goes on with the own packet; its key is that of the datagram, with the metadata and registers
    of this fragment. MET_ENDS: fate and ct_state are set. A datagram that is a fragment itself is not put together a
    second time. `sp`: frames on the stack.
    """
    if w.machine["mru"][0] != 0:
        return np.int64(MET_AS_IT_IS)
    zone = np.int64(read_zone(w, c, pc))
    now = advance(t, w.machine["now_ms"][0])
    number = o.counters[N_PACKETS] - 1
    got = receive(f, b, i, w.keys, np.int64(0), zone, t.state["check_checksums"][0], now, number)
    if got > HELD:
        _join(w, o, t, f, own, b, i, got - 1, number, sp)
        return np.int64(MET_JOINED)
    if got == HELD:
        w.machine["fate"][0] = FATE_HELD
    elif t.state["linux"][0] and _linux_drops(got, b.packets["family"][i]):
        w.machine["fate"][0] = FATE_FRAGMENT
    else:
        return np.int64(MET_AS_IT_IS)
    o.ct_state[packet] = CS_HELD
    return np.int64(MET_ENDS)


@kernel(inline=False)
def _join(w: Any, o: Any, t: Any, f: Any, own: Any, b: Any, i: Any, row: Any, number: Any, sp: Any) -> Any:
    """Make the own packet of a complete datagram, and take the datagram out of the store."""
    m = w.machine
    if m["own"][0]:  # the fragment's own bytes will be gone: lists that would go on with them end
        _end_lists_of_own(w, sp)
    own.packets[0] = b.packets[i]
    length = assemble(f, row, own.data, m)
    _list_joined(o, f, row, number)
    destroy(f, row, N_COMPLETED)
    own.packets["data"][0] = 0
    own.packets["length"][0] = length
    own.packets["wire_length"][0] = length
    own.packets["checksum"][0] = CHECKSUM_UNKNOWN
    parse(own.data, own.packets, 0, own.original, 0)
    for word in range(HEADER_WORDS):
        w.keys[0, word] = own.original[0, word]
    m["own"][0] = 1
    m["dirty"][0] = 1  # the hash that was prepared is the fragment's
    m["size"][0] = length
    forget(t, 0)
    o.counters[N_JOINED] += 1


@kernel
def _end_lists_of_own(w: Any, sp: Any) -> Any:
    loses = False  # a frame without a snapshot goes on with what the one above it restored
    for n in range(sp):
        frame = sp - 1 - n
        if w.frames[frame, F_SNAPSHOT] >= 0:
            loses = w.frames[frame, F_OWN] != 0
        if loses:
            w.frames[frame, F_PC] = 0


@kernel
def _list_joined(o: Any, f: Any, row: Any, number: Any) -> Any:
    """Tell which fragments went on as packet `number`; there is room."""
    n = o.sent[2]
    fragment = np.int64(f.datagrams["fragments"][row]) - 1
    while fragment >= 0:
        o.joined["fragment"][n] = f.fragments["packet"][fragment]
        o.joined["packet"][n] = number
        o.joined["is_first"][n] = f.fragments["start"][fragment] == 0
        n += 1
        fragment = np.int64(f.fragments["next"][fragment]) - 1
    o.sent[2] = n
