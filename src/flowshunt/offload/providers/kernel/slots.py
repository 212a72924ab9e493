"""Entry points: flows get and give back slots, with their keys and values made for the map, and tell what passed.

Rows, generations and slots are int64 (n,). The map is changed by whoever calls.
"""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from flowshunt.datapath.paths.records import FLOW, REWRITE_VLAN, USAGE
from flowshunt.jit import by_reference, kernel, mix, prefetch
from flowshunt.offload import reasons as R
from flowshunt.offload.providers.kernel.entries import can_say, fill_key, fill_value
from flowshunt.offload.providers.kernel.records import DEVICE, F_FRAMES, LARGE_FRAMES, ONE_BUFFER, SMALL_FRAMES
from flowshunt.offload.providers.kernel.schema import AT_ONCE, PORT_SUM, PORT_SUMS, make_slots
from flowshunt.packet.schema import PROTO_TCP, PROTO_UDP, VLAN_PRESENT

ANY_PORT = -1
"""The number of a lone DEVICE that stands for every port; its `ifindex` 0: the port's own number."""
NEEDS_ROWS = -1
"""`admit`: the array of rows is too short for the next flow."""

_NS_PER_MS = 1_000_000
_ETHERNET_SIZE, _TAG_SIZE = 14, 4
_U32 = 0xFFFFFFFF
_AHEAD = 8
_TURN = 32
"""Where the turn begins in a word of `slot_of`, whose low half is slot + 1."""
_PROTOCOL = R.number_of("protocol")
_NO_DEVICE = R.number_of("no-device")
_REWRITE = R.number_of("rewrite")


def _example_rows() -> np.ndarray:
    return np.zeros(0, np.int64)


# --- keys ------------------------------------------------------------------------------------------------------------


@kernel
def _hash(s: Any, keys: Any, at: Any) -> Any:
    """The place of a key's chain."""
    link = np.int64(keys["ifindex"][at]) << 32 | np.int64(keys["tci"][at]) << 16
    hashed = mix(link | np.int64(keys["protocol"][at]) << 8 | np.int64(keys["family"][at]), s.secrets[0])
    source, destination = keys["source"], keys["destination"]
    for n in range(2):
        word = np.int64(source[at, 2 * n]) << 32 | np.int64(source[at, 2 * n + 1])
        hashed = mix(hashed ^ word, s.secrets[1 + n])
        word = np.int64(destination[at, 2 * n]) << 32 | np.int64(destination[at, 2 * n + 1])
        hashed = mix(hashed ^ word, s.secrets[3 + n])
    word = np.int64(keys["source_port"][at]) << 16 | np.int64(keys["destination_port"][at])
    return mix(hashed ^ word, s.secrets[5]) & (len(s.heads) - 1)


@kernel
def _is_key(s: Any, entry: Any, keys: Any, at: Any) -> Any:
    own = s.keys
    for n in range(4):
        if (
            own["source"][entry, n] != keys["source"][at, n]
            or own["destination"][entry, n] != keys["destination"][at, n]
        ):
            return False
    return (
        own["source_port"][entry] == keys["source_port"][at]
        and own["destination_port"][entry] == keys["destination_port"][at]
        and own["ifindex"][entry] == keys["ifindex"][at]
        and own["tci"][entry] == keys["tci"][at]
        and own["protocol"][entry] == keys["protocol"][at]
        and own["family"][entry] == keys["family"][at]
    )


@kernel(inline=False)
def _copy_key(target: Any, to: Any, source: Any, at: Any) -> Any:
    target[to] = source[at]


@kernel(inline=False)
def _is_there(s: Any, keys: Any, at: Any, place: Any) -> Any:
    """Whether keys[at] is some flow's."""
    entry = np.int64(s.heads[place]) - 1
    while entry >= 0:
        if _is_key(s, entry, keys, at):
            return True
        entry = np.int64(s.nexts[entry]) - 1
    return False


@kernel
def _link(s: Any, entry: Any, keys: Any, at: Any, place: Any) -> Any:
    _copy_key(s.keys, entry, keys, at)
    s.nexts[entry] = s.heads[place]
    s.heads[place] = entry + 1


@kernel(inline=False)
def _unlink(s: Any, entry: Any) -> Any:
    place = _hash(s, s.keys, entry)
    at = np.int64(s.heads[place]) - 1
    if at == entry:
        s.heads[place] = s.nexts[entry]
        return
    while at >= 0:
        after = np.int64(s.nexts[at]) - 1
        if after == entry:
            s.nexts[at] = s.nexts[entry]
            return
        at = after


# --- installing ------------------------------------------------------------------------------------------------------


@kernel
def _device_of(devices: Any, number: Any) -> Any:
    """Where a port's DEVICE is, -1: it is not attached. They are in the order of their numbers."""
    first, last = np.int64(0), np.int64(len(devices))
    if last == 1 and devices["number"][0] == ANY_PORT:
        return np.int64(0)
    while first < last:
        middle = (first + last) >> 1
        if devices["number"][middle] < number:
            first = middle + 1
        else:
            last = middle
    return first if first < len(devices) and devices["number"][first] == number else np.int64(-1)


@kernel
def _ifindex_of(devices: Any, place: Any, number: Any) -> Any:
    ifindex = devices["ifindex"][place]
    return ifindex if ifindex else number


@kernel
def _has_frames(devices: Any, entry: Any, leave: Any, mtu: Any) -> Any:
    """Whether packets of at most this size go from device to device as frames."""
    least = SMALL_FRAMES if 0 < mtu <= ONE_BUFFER else LARGE_FRAMES
    return devices["frames"][entry] > 0 and devices["frames"][leave] >= least


@kernel
def _refuse(flows: Any, i: Any, error: Any, reason: Any) -> Any:
    flows["error"][i] = error
    flows["reason"][i] = reason


@kernel(inline=False)
def _judge(flows: Any, i: Any, devices: Any) -> Any:
    """Write why flow i cannot be taken, apart from want of room, or no error."""
    _refuse(flows, i, np.int64(0), np.int64(R.NONE))
    paths = flows["paths"]
    for d in range(2):
        protocol = paths["tuple"][i, d] >> 8 & 0xFF
        if protocol != PROTO_TCP and protocol != PROTO_UDP:
            _refuse(flows, i, np.int64(errno.EOPNOTSUPP), np.int64(_PROTOCOL))
            return
    for d in range(2):
        if _device_of(devices, np.int64(paths["in_port"][i, d])) < 0:
            _refuse(flows, i, np.int64(errno.ENODEV), np.int64(_NO_DEVICE))
            return
        if _device_of(devices, np.int64(paths["out_port"][i, d])) < 0:
            _refuse(flows, i, np.int64(errno.ENODEV), np.int64(_NO_DEVICE))
            return
    if not can_say(paths, i, 0) or not can_say(paths, i, 1):
        _refuse(flows, i, np.int64(errno.EOPNOTSUPP), np.int64(_REWRITE))


@kernel(example=lambda: (make_slots(1), _example_rows(), np.zeros(0, FLOW), np.zeros(0, DEVICE), 0))
def admit(s: Any, slot_of: Any, flows: Any, devices: Any, first: Any) -> Any:
    """Judge flows, FLOW (n,), from `first` on, AT_ONCE at most, until a connection comes again.

    Returns where it ended, or NEEDS_ROWS. `stale` gets slots of connections that were in these rows before, and of
    those that are refused now.
    """
    s = by_reference(s)
    state = s.state
    state["turn"][0] = (state["turn"][0] + 1) & 0x7FFFFFFF
    state["n_stale"][0] = 0
    n = np.int64(min(len(flows), first + AT_ONCE))
    for i in range(first, n):
        row = np.int64(flows["rows"][i, 0])
        if row >= len(slot_of):
            return np.int64(NEEDS_ROWS) if i == first else np.int64(i)
        word = slot_of[row]
        if i > first and word >> _TURN == state["turn"][0]:
            return np.int64(i)
        slot_of[row] = state["turn"][0] << _TURN | word & _U32
        _judge(flows, i, devices)
        slot = (word & _U32) - 1
        if slot >= 0 and (s.generations[slot] != flows["generations"][i, 0] or flows["error"][i] != 0):
            s.stale[state["n_stale"][0]] = slot
            state["n_stale"][0] += 1
    return n


@kernel
def _give_back(s: Any, slot_of: Any, slot: Any) -> Any:
    row = np.int64(s.rows[slot])
    slot_of[row] = slot_of[row] & ~_U32
    s.is_used[slot] = 0
    s.free[s.state["n_free"][0]] = slot
    s.state["n_free"][0] += 1


@kernel
def _slot_for(s: Any, slot_of: Any, flows: Any, i: Any) -> Any:
    """The slot that the flow's connection has, else a free one, else -1."""
    row = np.int64(flows["rows"][i, 0])
    slot = (slot_of[row] & _U32) - 1
    if slot >= 0 or s.state["n_free"][0] == 0:
        return slot
    s.state["n_free"][0] -= 1
    slot = np.int64(s.free[s.state["n_free"][0]])
    slot_of[row] = slot_of[row] & ~_U32 | slot + 1
    s.rows[slot] = row
    s.generations[slot] = flows["generations"][i, 0]
    s.is_used[slot] = 1
    for entry in range(2 * slot, 2 * slot + 2):
        s.told["packets"][entry] = s.states["packets"][entry]
        s.told["bytes"][entry] = s.states["bytes"][entry]
        s.told["extra_bytes"][entry] = s.states["extra_bytes"][entry]
    return slot


@kernel
def _write_path(s: Any, entry: Any, flows: Any, i: Any, d: Any, now_ns: Any) -> Any:
    """What is kept of a path, and what the programs ask about it."""
    paths, told, states = flows["paths"], s.told, s.states
    told["ports"][entry, 0] = paths["in_port"][i, d]
    told["ports"][entry, 1] = paths["out_port"][i, d]
    tci = np.int64(paths["vlan_tci"][i, d])
    new_tci = np.int64(paths["new_vlan_tci"][i, d]) if paths["flags"][i, d] & REWRITE_VLAN else tci
    told["link_sizes"][entry, 0] = _ETHERNET_SIZE + (_TAG_SIZE if tci & VLAN_PRESENT else 0)
    told["link_sizes"][entry, 1] = _ETHERNET_SIZE + (_TAG_SIZE if new_tci & VLAN_PRESENT else 0)
    states["last_used_ns"][entry] = now_ns
    states["max_idle_ns"][entry] = np.int64(flows["max_idle_ms"][i]) * _NS_PER_MS
    states["epoch"][entry] = flows["epoch"][i] & _U32


@kernel(inline=False)
def _place_one(s: Any, slot_of: Any, flows: Any, i: Any, devices: Any, m: Any, now_ns: Any) -> Any:
    """Place flow i, whose keys and values are the m-th to be added; False, with its error written: it is not."""
    slot = _slot_for(s, slot_of, flows, i)
    if slot < 0:
        _refuse(flows, i, np.int64(errno.ENOSPC), np.int64(R.TABLE_FULL))
        return False
    paths = flows["paths"]
    for d in range(2):
        at = 2 * m + d
        number = np.int64(paths["in_port"][i, d])
        fill_key(s.new_keys, at, paths, i, np.int64(d), _ifindex_of(devices, _device_of(devices, number), number))
    places = _hash(s, s.new_keys, 2 * m), _hash(s, s.new_keys, 2 * m + 1)
    taken = _is_there(s, s.new_keys, 2 * m, places[0])
    if not taken:
        _link(s, 2 * slot, s.new_keys, 2 * m, places[0])
        taken = _is_there(s, s.new_keys, 2 * m + 1, places[1])
        if taken:
            _unlink(s, 2 * slot)
    if taken:
        _refuse(flows, i, np.int64(errno.EEXIST), np.int64(R.HELD_ELSEWHERE))
        _give_back(s, slot_of, slot)
        return False
    _link(s, 2 * slot + 1, s.new_keys, 2 * m + 1, places[1])
    for d in range(2):
        at = 2 * m + d
        number = np.int64(paths["out_port"][i, d])
        place = _device_of(devices, number)
        ifindex = _ifindex_of(devices, place, number)
        mtu, peer = devices["mtu"][place], devices["peer"][place]
        fill_value(s.new_values, at, paths, i, np.int64(d), ifindex, mtu, peer)
        enters = _device_of(devices, np.int64(paths["in_port"][i, d]))
        if _has_frames(devices, enters, place, np.int64(s.new_values["mtu"][at])):
            s.new_values["flags"][at] |= F_FRAMES
        s.new_values["index"][at] = 2 * slot + d
        _write_path(s, 2 * slot + d, flows, i, np.int64(d), now_ns)
    return True


def _example_place() -> tuple[Any, ...]:
    return make_slots(1), _example_rows(), np.zeros(0, FLOW), np.zeros(0, DEVICE), 0, 0, 0


@kernel(example=_example_place)
def place(s: Any, slot_of: Any, flows: Any, devices: Any, first: Any, last: Any, now_ns: Any) -> Any:
    """Give slots to admitted flows in `[first, last)` that have no error, or write one.

    Returns how many are to be added: `which` flows, their `new_keys` and `new_values`. Keys that they had before are
    to be removed first, `n_gone` of `gone_keys`.
    """
    s = by_reference(s)
    n_gone = np.int64(0)
    for i in range(first, last):
        slot = (slot_of[np.int64(flows["rows"][i, 0])] & _U32) - 1
        if flows["error"][i] == 0 and slot >= 0:
            for entry in range(2 * slot, 2 * slot + 2):
                _copy_key(s.gone_keys, n_gone, s.keys, entry)
                _unlink(s, np.int64(entry))
                n_gone += 1
    s.state["n_gone"][0] = n_gone
    m = np.int64(0)
    for i in range(first, last):
        if i + _AHEAD < last and s.state["n_free"][0] > _AHEAD:
            ahead = np.int64(s.free[s.state["n_free"][0] - _AHEAD])
            prefetch(s.states, 2 * ahead, 0)
            prefetch(s.states, 2 * ahead + 1, 0)
        if flows["error"][i] == 0 and _place_one(s, slot_of, flows, np.int64(i), devices, m, now_ns):
            s.which[m] = i
            m += 1
    return m


# --- asking and removing ---------------------------------------------------------------------------------------------


@kernel(
    example=lambda: (make_slots(1), _example_rows(), _example_rows(), _example_rows(), _example_rows(), _example_rows())
)
def find(s: Any, slot_of: Any, rows: Any, generations: Any, which: Any, slots: Any) -> Any:
    """Write which of the connections are here, and their slots; returns how many."""
    s = by_reference(s)
    m = np.int64(0)
    for i in range(len(rows)):
        row = rows[i]
        if i + _AHEAD < len(rows) and 0 <= rows[i + _AHEAD] < len(slot_of):
            prefetch(slot_of, rows[i + _AHEAD], 0)
        if row < 0 or row >= len(slot_of):
            continue
        slot = (slot_of[row] & _U32) - 1
        if slot >= 0 and np.int64(s.generations[slot]) == generations[i]:
            which[m] = i
            slots[m] = slot
            m += 1
    return m


@kernel(example=lambda: (make_slots(1), _example_rows(), 0))
def unlink(s: Any, slots: Any, epoch: Any) -> Any:
    """Flows in slots, AT_ONCE at most, stop passing: their keys are to be removed from the map, `gone_keys`.

    `epoch`: one that is not.
    """
    s = by_reference(s)
    for i in range(len(slots)):
        for d in range(2):
            entry = 2 * slots[i] + d
            s.states["epoch"][entry] = epoch
            _copy_key(s.gone_keys, np.int64(2 * i + d), s.keys, entry)
            _unlink(s, entry)


@kernel(example=lambda: (make_slots(1), _example_rows(), _example_rows()))
def release(s: Any, slot_of: Any, slots: Any) -> Any:
    """Slots that are not in the map any more are free."""
    s = by_reference(s)
    for i in range(len(slots)):
        _give_back(s, slot_of, slots[i])


@kernel(example=lambda: (make_slots(1), _example_rows(), 0, 0))
def renew(s: Any, slots: Any, epoch: Any, now_ns: Any) -> Any:
    """Flows in slots go on in this epoch, and were just used."""
    s = by_reference(s)
    for i in range(len(slots)):
        for entry in range(2 * slots[i], 2 * slots[i] + 2):
            s.states["epoch"][entry] = epoch
            s.states["last_used_ns"][entry] = now_ns


@kernel
def _add_port_sum(s: Any, entry: Any, packets: Any, bytes_in: Any, bytes_out: Any, sums: Any, m: Any) -> Any:
    """Add to the sums of the path's two ports; returns how many of `sums` are filled, with one that made room."""
    ports, own = s.told["ports"], s.port_sums
    place = (np.int64(ports[entry, 0]) * 31 + np.int64(ports[entry, 1])) & (PORT_SUMS - 1)
    same = own["ports"][place, 0] == ports[entry, 0] and own["ports"][place, 1] == ports[entry, 1]
    if own["packets"][place] != 0 and not same:
        sums[m] = own[place]
        m += 1
        own["packets"][place] = 0
    if own["packets"][place] == 0:
        own["ports"][place, 0] = ports[entry, 0]
        own["ports"][place, 1] = ports[entry, 1]
        own["bytes_in"][place] = 0
        own["bytes_out"][place] = 0
    own["packets"][place] += packets
    own["bytes_in"][place] += bytes_in
    own["bytes_out"][place] += bytes_out
    return m


@kernel
def _tell(s: Any, entry: Any, usage: Any, i: Any, d: Any, offset_ms: Any, sums: Any, m: Any) -> Any:
    states, told = s.states, s.told
    packets = np.int64(states["packets"][entry]) - told["packets"][entry]
    if packets != 0:
        size = np.int64(states["bytes"][entry]) - told["bytes"][entry]
        extra = np.int64(states["extra_bytes"][entry]) - told["extra_bytes"][entry]
        bytes_in = size + extra + packets * np.int64(told["link_sizes"][entry, 0])
        bytes_out = size + extra + packets * np.int64(told["link_sizes"][entry, 1])
        usage["packets"][i, d] = packets
        usage["bytes"][i, d] = size
        usage["frame_bytes"][i, d] = bytes_in
        told["packets"][entry] += packets
        told["bytes"][entry] += size
        told["extra_bytes"][entry] += extra
        m = _add_port_sum(s, entry, packets, bytes_in, bytes_out, sums, m)
    usage["last_used_ms"][i, d] = max(np.int64(states["last_used_ns"][entry]) // _NS_PER_MS + offset_ms, 0)
    return m


def _example_tell() -> tuple[Any, ...]:
    return make_slots(1), _example_rows(), np.zeros(0, USAGE), _example_rows(), np.zeros(0, PORT_SUM), 0


@kernel(example=_example_tell)
def tell(s: Any, slots: Any, usage: Any, places: Any, sums: Any, offset_ms: Any) -> Any:
    """What passed by the flows in slots since it was told last, in usage[places], USAGE.

    `offset_ms`: what the clock of connections is ahead of the programs'. Returns how many records of `sums`, PORT_SUM
    (2 * n + PORT_SUMS,), say what went between which ports.
    """
    s = by_reference(s)
    m = np.int64(0)
    n = len(slots)
    for i in range(n):
        if i + _AHEAD < n:
            for entry in range(2 * slots[i + _AHEAD], 2 * slots[i + _AHEAD] + 2):
                prefetch(s.told, entry, 0)
                prefetch(s.states, entry, 0)
        for d in range(2):
            m = _tell(s, 2 * slots[i] + d, usage, places[i], np.int64(d), offset_ms, sums, m)
    for place in range(PORT_SUMS):
        if s.port_sums["packets"][place] != 0:
            sums[m] = s.port_sums[place]
            s.port_sums["packets"][place] = 0
            m += 1
    return m


@kernel(example=lambda: (make_slots(1), 0, 0, 0, _example_rows()))
def find_idle(s: Any, first: Any, last: Any, before_ns: Any, slots: Any) -> Any:
    """Write the slots in `[first, last)` whose flows were not used after a time; returns how many."""
    s = by_reference(s)
    m = np.int64(0)
    for slot in range(first, last):
        if (
            s.is_used[slot]
            and np.int64(s.states["last_used_ns"][2 * slot]) <= before_ns
            and np.int64(s.states["last_used_ns"][2 * slot + 1]) <= before_ns
        ):
            slots[m] = slot
            m += 1
    return m
