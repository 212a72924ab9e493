"""The learning switch: where stations are, and where `normal` sends a packet.

Stations are kept per MAC address and VLAN. One not heard for `age_ms` is unknown again; when all places are taken, a
new one takes the place of one that has aged, or of an old one on the port with the most stations, among the next few
in turn, so that a flood of made-up addresses on one port costs that port's own stations first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.schema import (
    FATE_NO_PORT,
    FATE_RESERVED,
    FATE_SAME_PORT,
    PORT_CONTROLLER,
    PORT_FLOOD,
    PORT_NONE,
    PORT_NUMBERS,
    STATION_ON_PATH,
    make_ports,
)
from flowshunt.jit import kernel, mix
from flowshunt.packet.schema import W_ETH_DST, W_ETH_SRC

_K = np.int64(0x1E3779B97F4A7C15)
STATIC_MS = 1 << 62
"""When a station was heard that stays where it was put: it never ages, and what it sends does not move it."""
_GROUP = 0x010000000000
_BROADCAST = 0xFFFFFFFFFFFF
_CANDIDATES = 16

# ovs-vswitchd.conf.db(5), forward-bpdu: 01:80:c2:00:00:00 to :0f, and protocols of single vendors.
_BPDU = 0x0180C2000000 >> 4
_EXTREME = (0x00E02B000000, 0x00E02B000004, 0x00E02B000006)
_CISCO = (0x01000CCCCCCC, 0x01000CCCCCCD, 0x01000CCDCDCD, 0x01000C000000)


@kernel
def is_reserved(mac: Any) -> Any:
    """Whether a destination is for the next switch only, not to be forwarded."""
    if mac >> 4 == _BPDU:
        return True
    if mac >> 24 == 0x00E02B:
        return mac == _EXTREME[0] or mac == _EXTREME[1] or mac == _EXTREME[2]
    if mac >> 24 == 0x01000C:
        return mac == _CISCO[0] or mac == _CISCO[1] or mac == _CISCO[2] or mac == _CISCO[3]
    return False


@kernel
def _find(p: Any, key: Any) -> Any:
    """Slot of a station, or of the free place where its search ended."""
    last = len(p.slots) - 1
    place = mix(key, _K) & last
    while p.slots[place] != 0 and p.stations["key"][p.slots[place] - 1] != key:
        place = (place + 1) & last
    return place


@kernel
def find_station(p: Any, key: Any) -> Any:
    """The station of a key (MAC << 12 | VLAN), however old, or -1."""
    return np.int64(p.slots[_find(p, key)]) - 1


@kernel
def _disturb(p: Any, station: Any) -> Any:
    """A station will not be where it was: tell, if a path depends on it."""
    if p.stations["flags"][station] & STATION_ON_PATH:
        p.stations["flags"][station] = 0
        p.state["disturbed"][0] += 1


@kernel
def _unlink(p: Any, place: Any) -> Any:
    """Free a slot, and move those behind it that could no longer be found."""
    last = len(p.slots) - 1
    hole = place
    while True:
        place = (place + 1) & last
        if p.slots[place] == 0:
            break
        home = mix(p.stations["key"][p.slots[place] - 1], _K) & last
        if (place - home) & last >= (place - hole) & last:
            p.slots[hole] = p.slots[place]
            hole = place
    p.slots[hole] = 0


@kernel
def _count_station(p: Any, port: Any, change: Any) -> Any:
    index = np.int64(p.index[port])
    if index >= 0:
        p.ports["n_stations"][index] += change


@kernel
def _stations_of(p: Any, port: Any) -> Any:
    index = np.int64(p.index[port])
    return p.ports["n_stations"][index] if index >= 0 else np.int64(1) << 40


@kernel(inline=False)
def _evict(p: Any, now_ms: Any) -> Any:
    """The station to overwrite, taken out of the slots."""
    n = len(p.stations)
    hand = p.state["hand"][0]
    victim = np.int64(-1)
    crowd = np.int64(-1)
    for _ in range(_CANDIDATES):
        station = hand
        hand = (hand + 1) % n
        if now_ms - p.stations["used_ms"][station] > p.state["age_ms"][0]:
            p.state["expired"][0] += 1
            p.state["evicted"][0] -= 1
            victim = station
            break
        own_crowd = _stations_of(p, np.int64(p.stations["port"][station]))
        older = victim >= 0 and p.stations["used_ms"][station] < p.stations["used_ms"][victim]
        if own_crowd > crowd or (own_crowd == crowd and older):
            victim = station
            crowd = own_crowd
    p.state["hand"][0] = hand
    p.state["evicted"][0] += 1
    _disturb(p, victim)
    _unlink(p, _find(p, p.stations["key"][victim]))
    _count_station(p, np.int64(p.stations["port"][victim]), -1)
    return victim


@kernel(inline=False)
def _add(p: Any, key: Any, port: Any, now_ms: Any) -> Any:
    station = p.state["n_stations"][0]
    if station < len(p.stations):
        p.state["n_stations"][0] += 1
    else:
        station = _evict(p, now_ms)
    p.stations["key"][station] = key
    p.stations["port"][station] = port
    p.stations["used_ms"][station] = now_ms
    p.stations["flags"][station] = 0
    p.slots[_find(p, key)] = station + 1
    p.state["learned"][0] += 1
    _count_station(p, port, 1)


@kernel
def _learn(p: Any, key: Any, port: Any, now_ms: Any) -> Any:
    station = find_station(p, key)
    if station < 0:
        _add(p, key, port, now_ms)
        return
    if p.stations["used_ms"][station] == STATIC_MS:
        return
    if p.stations["port"][station] != port:
        _count_station(p, np.int64(p.stations["port"][station]), -1)
        _count_station(p, port, 1)
        p.stations["port"][station] = port
        _disturb(p, station)
        p.state["moved"][0] += 1
    p.stations["used_ms"][station] = now_ms


@kernel
def has_no_port(in_port: Any) -> Any:
    """Whether a packet is a controller's own, and came in on no port."""
    return in_port == PORT_NONE or in_port == PORT_CONTROLLER


@kernel
def forward(p: Any, keys: Any, k: Any, in_port: Any, vlan: Any, now_ms: Any) -> Any:
    """Learn where the sender of keys[k], in a VLAN, is, and return the port for its destination there.

    A port number, PORT_FLOOD for what is unknown or for many, or minus the fate of a packet that goes nowhere.
    Nothing is learned of a packet that came in on no port. `p`: PortArrays, changed. Times are milliseconds since the
    epoch.
    """
    on_port = in_port < PORT_NUMBERS and p.index[in_port] >= 0
    if not on_port and not has_no_port(in_port):
        return np.int64(-FATE_NO_PORT)
    destination = (keys[k, W_ETH_DST] >> 16) & _BROADCAST
    if is_reserved(destination) and p.state["forward_bpdu"][0] == 0:
        return np.int64(-FATE_RESERVED)
    if p.state["flood_vlans"][0] and (p.flooded[vlan >> 6] >> (vlan & 63)) & 1:
        return np.int64(PORT_FLOOD)
    source = (keys[k, W_ETH_SRC] >> 16) & _BROADCAST
    if on_port and source & _GROUP == 0:
        _learn(p, source << 12 | vlan, in_port, now_ms)
    if destination & _GROUP:
        return np.int64(PORT_FLOOD)
    station = find_station(p, destination << 12 | vlan)
    if station < 0 or now_ms - p.stations["used_ms"][station] > p.state["age_ms"][0]:
        return np.int64(PORT_FLOOD)
    port = np.int64(p.stations["port"][station])
    return port if port != in_port else np.int64(-FATE_SAME_PORT)


def _example() -> tuple[Any, ...]:
    return make_ports(1, 1), 0


@kernel(example=_example)
def flush(p: Any, port: Any) -> Any:
    """Forget the stations behind `port`, or all when it is -1. Returns how many."""
    n = p.state["n_stations"][0]
    for index in range(len(p.ports)):
        p.ports["n_stations"][index] = 0
    for place in range(len(p.slots)):
        p.slots[place] = 0
    kept = np.int64(0)
    for station in range(n):
        if port < 0 or p.stations["port"][station] == port:
            continue
        p.stations["key"][kept] = p.stations["key"][station]
        p.stations["port"][kept] = p.stations["port"][station]
        p.stations["used_ms"][kept] = p.stations["used_ms"][station]
        p.stations["flags"][kept] = p.stations["flags"][station]
        p.slots[_find(p, p.stations["key"][kept])] = kept + 1
        _count_station(p, np.int64(p.stations["port"][kept]), 1)
        kept += 1
    for station in range(kept, n):
        p.stations["key"][station] = -1
    p.state["n_stations"][0] = kept
    p.state["hand"][0] = 0
    return n - kept


@kernel(example=lambda: (make_ports(1, 1), 0, 0))
def put(p: Any, key: Any, port: Any) -> Any:
    """Put a station (MAC << 12 | VLAN) behind `port`, where it stays."""
    station = np.int64(p.slots[_find(p, key)]) - 1
    if station < 0:
        _add(p, key, port, np.int64(STATIC_MS))
        p.state["learned"][0] -= 1
        return
    _count_station(p, np.int64(p.stations["port"][station]), -1)
    _count_station(p, port, 1)
    p.stations["port"][station] = port
    p.stations["used_ms"][station] = STATIC_MS


@kernel(example=_example)
def take(p: Any, key: Any) -> Any:
    """Take away a station that was put. Returns whether there was one."""
    place = _find(p, key)
    station = np.int64(p.slots[place]) - 1
    if station < 0 or p.stations["used_ms"][station] != STATIC_MS:
        return False
    _unlink(p, place)
    _count_station(p, np.int64(p.stations["port"][station]), -1)
    last = p.state["n_stations"][0] - 1
    if station != last:
        p.slots[_find(p, p.stations["key"][last])] = station + 1
        p.stations["key"][station] = p.stations["key"][last]
        p.stations["port"][station] = p.stations["port"][last]
        p.stations["used_ms"][station] = p.stations["used_ms"][last]
    p.stations["key"][last] = -1
    p.state["n_stations"][0] = last
    return True
