"""Output: which ports a packet leaves on, and in which bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.datapath.fdb import forward, has_no_port
from flowshunt.datapath.fields import read_place
from flowshunt.datapath.fragments.split import plan, split
from flowshunt.datapath.paths.learn import note_normal, note_output, note_stations, stop_noting
from flowshunt.datapath.program import OP_OUTPUT, OUTPUT_LIMIT
from flowshunt.datapath.schema import (
    FATE_IN_PORT,
    FATE_NO_PORT,
    FATE_VLAN,
    FLAG_NO_FLOOD,
    HEADER_GROWTH,
    MAX_OUTPUT_SIZE,
    MAX_OUTPUTS,
    N_CHANGED,
    N_FRAGMENTED,
    N_SENT,
    N_SKIPPED_IN_PORT,
    N_SKIPPED_LIMIT,
    N_SKIPPED_NO_PORT,
    PORT_ALL,
    PORT_FLOOD,
    PORT_IN_PORT,
    PORT_NORMAL,
    PORT_NUMBERS,
    PORT_RESERVED_32,
    SOURCE_BATCH,
    SOURCE_TX_DATA,
)
from flowshunt.datapath.vlans import customer_of, has_tag, is_carried, retag, vlan_of
from flowshunt.jit import kernel
from flowshunt.packet.emit import copy_bytes, is_changed, rewrite
from flowshunt.packet.requote import requote
from flowshunt.packet.schema import NAT_QUOTE_SHIFT, W_ARP_SHA, W_ARP_THA, W_ETH_SRC, W_FLAGS, W_NAT, W_PORT

_U32 = 0xFFFFFFFF


@kernel
def _skip(w: Any, o: Any, counter: Any, fate: Any) -> Any:
    o.counters[counter] += 1
    w.machine["fate"][0] = fate


@kernel
def _choose_port(w: Any, p: Any, o: Any, number: Any, in_port: Any) -> Any:
    """Place in `ports` for one port number, or -1 when the packet must not leave there."""
    if number == PORT_IN_PORT:
        number = in_port
    elif number == in_port:
        _skip(w, o, N_SKIPPED_IN_PORT, FATE_IN_PORT)
        return np.int64(-1)
    index = np.int64(p.index[number]) if number < PORT_NUMBERS else np.int64(-1)
    if index < 0:
        _skip(w, o, N_SKIPPED_NO_PORT, FATE_NO_PORT)
    return index


@kernel
def _rewrite(w: Any, b: Any, i: Any, out: Any, at: Any) -> Any:
    """`rewrite`, and what an ICMP error quotes is translated too."""
    length = rewrite(b.data, b.packets, i, w.keys, 0, b.original, out, at)
    quote = w.keys[0, W_NAT] >> NAT_QUOTE_SHIFT
    if quote and length >= 0:
        requote(b.packets, i, w.quotes, quote, out, at + length - np.int64(b.packets["length"][i]))
    return length


@kernel
def _write_frame(w: Any, o: Any, b: Any, i: Any) -> Any:
    """The packet's bytes as its key says: `(source, offset, length)`; length -1 when the packet has used up its share.

    Unchanged packets of the batch are not copied.
    """
    length = np.int64(b.packets["length"][i])
    if not is_changed(w.keys, 0, b.original, i) and w.machine["own"][0] == 0:
        return np.int64(SOURCE_BATCH), b.packets["data"][i], length
    at = o.sent[1]
    if at + length + HEADER_GROWTH > w.machine["size_start"][0] + MAX_OUTPUT_SIZE:
        return np.int64(SOURCE_TX_DATA), at, np.int64(-1)
    length = _rewrite(w, b, i, o.tx_data, at)
    if length >= 0:
        o.sent[1] = at + length
        o.counters[N_CHANGED] += 1
    return np.int64(SOURCE_TX_DATA), at, length


@kernel
def _append(
    machine: Any, ports: Any, o: Any, packet: Any, time_ns: Any, index: Any, source: Any, at: Any, length: Any
) -> Any:
    n = o.sent[0]
    if n - machine["tx_start"][0] >= MAX_OUTPUTS or length < 0:
        o.counters[N_SKIPPED_LIMIT] += 1
        return
    o.tx["data"][n] = at
    o.tx["time_ns"][n] = time_ns
    o.tx["length"][n] = length
    o.tx["port"][n] = ports["number"][index]
    o.tx["packet"][n] = packet
    o.tx["source"][n] = source
    o.tx["cut"][n] = 0
    o.sent[0] = n + 1


@kernel(inline=False)
def _flood(
    machine: Any, ports: Any, o: Any, packet: Any, time_ns: Any, in_port: Any, avoided: Any, source: Any, at: Any,
    length: Any,
) -> Any:  # fmt: skip
    """Send to all ports but the input port and those with a flag of `avoided`."""
    for index in range(len(ports)):
        if np.int64(ports["number"][index]) != in_port and np.int64(ports["flags"][index]) & avoided == 0:
            _append(machine, ports, o, packet, time_ns, index, source, at, length)


@kernel
def _write_fragments(w: Any, o: Any, f: Any, b: Any, i: Any) -> Any:
    """The own packet, which came in fragments, as fragments no larger than those: `(offset, number, length, last)`.

    They lie one behind the other, all `length` long but for the last. One whole frame when the packet is no larger;
    none when it has used up its share.
    """
    size = _rewrite(w, b, i, f.scratch, np.int64(0))
    if size < 0:
        return np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    family = np.int64(b.packets["family"][i])
    l3 = np.int64(b.packets["l3"][i]) + size - np.int64(b.packets["length"][i])
    cut = plan(w.machine, family, f.scratch, l3, np.int64(0), size)
    length = cut.header + cut.chunk
    last = cut.header + cut.rest
    at = o.sent[1]
    end = at + (cut.n - 1) * length + last
    if end > w.machine["size_start"][0] + MAX_OUTPUT_SIZE:
        return np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    if cut.n == 1:
        copy_bytes(f.scratch, np.int64(0), o.tx_data, at, size)
    else:
        split(w.machine, family, f.scratch, l3, np.int64(0), cut, o.tx_data, at)
        o.counters[N_FRAGMENTED] += 1
    o.sent[1] = end
    o.counters[N_CHANGED] += cut.n
    return at, cut.n, length, last


@kernel
def _append_all(
    machine: Any, ports: Any, o: Any, packet: Any, time_ns: Any, index: Any, at: Any, n: Any, length: Any, last: Any
) -> Any:
    """Send all fragments, or none."""
    if n == 0 or o.sent[0] - machine["tx_start"][0] + n > MAX_OUTPUTS:
        o.counters[N_SKIPPED_LIMIT] += 1
        return
    for k in range(n):
        size = length if k < n - 1 else last
        _append(machine, ports, o, packet, time_ns, index, np.int64(SOURCE_TX_DATA), at + k * length, size)


@kernel(inline=False)
def _output_fragments(
    w: Any, p: Any, o: Any, f: Any, b: Any, i: Any, packet: Any, in_port: Any, index: Any, avoided: Any
) -> Any:
    """Send the own packet, which came in fragments, to the port in place `index`, or (-1) flood it."""
    at, n, length, last = _write_fragments(w, o, f, b, i)
    time_ns = b.packets["time_ns"][i]
    ports = p.ports
    if index >= 0:
        _append_all(w.machine, ports, o, packet, time_ns, index, at, n, length, last)
        return
    for place in range(len(ports)):
        if np.int64(ports["number"][place]) != in_port and np.int64(ports["flags"][place]) & avoided == 0:
            _append_all(w.machine, ports, o, packet, time_ns, place, at, n, length, last)


@kernel
def _normal(w: Any, p: Any, in_port: Any) -> Any:
    """Where `normal` sends the packet: as `forward`."""
    index = np.int64(p.index[in_port]) if in_port < PORT_NUMBERS else np.int64(-1)
    if index < 0:
        if not has_no_port(in_port):
            return np.int64(-FATE_NO_PORT)
        stop_noting(w)
    vlan = vlan_of(p, w.keys, 0, index)
    if vlan < 0:
        return np.int64(-FATE_VLAN)
    number = forward(p, w.keys, 0, in_port, vlan, w.machine["now_ms"][0])
    note_stations(w, p)
    note_normal(w, vlan)
    return number


@kernel(inline=False)
def _output_in_vlan(
    w: Any, p: Any, o: Any, f: Any, b: Any, i: Any, packet: Any, in_port: Any, number: Any, vlan: Any
) -> Any:
    """Send to port `number`, or (PORT_FLOOD) to all that carry the VLAN, tagged as each of them wants it."""
    w.machine["fate"][0] = FATE_NO_PORT
    w.machine["dirty"][0] = 1
    in_index = np.int64(p.index[in_port])
    customer = customer_of(p, w.keys, 0, in_index)
    if number == PORT_FLOOD:
        note_output(w, p, np.int64(-1), True)
    eth, flags = w.keys[0, W_ETH_SRC], w.keys[0, W_FLAGS]
    sha, tha = w.keys[0, W_ARP_SHA], w.keys[0, W_ARP_THA]
    for tagged in range(2):
        retag(p, w.keys, 0, in_index, vlan, tagged != 0)
        source = at = length = np.int64(-1)
        for index in range(len(p.ports)):
            port = np.int64(p.ports["number"][index])
            if port == in_port or has_tag(p, index, vlan) != (tagged != 0) or not is_carried(p, index, vlan, customer):
                continue
            if number == PORT_FLOOD:
                if np.int64(p.ports["flags"][index]) & FLAG_NO_FLOOD:
                    continue
            elif port != number:
                continue
            else:
                note_output(w, p, np.int64(index), True)
            if w.machine["mru"][0] != 0:
                _output_fragments(w, p, o, f, b, i, packet, in_port, np.int64(index), np.int64(0))
                continue
            if source < 0:
                source, at, length = _write_frame(w, o, b, i)
            _append(w.machine, p.ports, o, packet, b.packets["time_ns"][i], np.int64(index), source, at, length)
        w.keys[0, W_ETH_SRC], w.keys[0, W_FLAGS] = eth, flags
        w.keys[0, W_ARP_SHA], w.keys[0, W_ARP_THA] = sha, tha


@kernel(inline=False)
def _truncate(o: Any, first: Any, limit: Any) -> Any:
    """Cut the frames from number `first` on to `limit` bytes."""
    for n in range(first, o.sent[0]):
        if np.int64(o.tx["length"][n]) > limit:
            o.tx["length"][n] = limit
            o.tx["cut"][n] = 1


@kernel
def output(w: Any, c: Any, p: Any, o: Any, f: Any, b: Any, i: Any, packet: Any, pc: Any) -> Any:
    """Run an output instruction for packet i of `b`, the one of index `packet` in the batch."""
    instruction = c.pool[pc]
    number = (instruction >> 8) & _U32
    if instruction & 0xFF != OP_OUTPUT:
        number = read_place(w.keys, 0, instruction >> 8) & _U32
    if number >= PORT_RESERVED_32:
        number &= 0xFFFF
    in_port = (w.keys[0, W_PORT] >> 32) & _U32
    by_normal = number == PORT_NORMAL
    if by_normal:
        number = _normal(w, p, in_port)
        if number < 0:
            w.machine["fate"][0] = -number
            return
        if p.state["vlan_ports"][0]:
            vlan = vlan_of(p, w.keys, 0, np.int64(p.index[in_port]))
            _output_in_vlan(w, p, o, f, b, i, packet, in_port, number, vlan)
            return
    floods = number == PORT_FLOOD or number == PORT_ALL
    index = np.int64(-1)
    if not floods:
        index = _choose_port(w, p, o, number, in_port)
        if index < 0:
            return
    note_output(w, p, index, by_normal)
    avoided = np.int64(FLAG_NO_FLOOD if number == PORT_FLOOD else 0)
    if floods:
        w.machine["fate"][0] = FATE_NO_PORT
    first = o.sent[0]
    if w.machine["mru"][0] != 0:
        _output_fragments(w, p, o, f, b, i, packet, in_port, index, avoided)
    else:
        source, at, length = _write_frame(w, o, b, i)
        time_ns = b.packets["time_ns"][i]
        if floods:
            _flood(w.machine, p.ports, o, packet, time_ns, in_port, avoided, source, at, length)
        else:
            _append(w.machine, p.ports, o, packet, time_ns, index, source, at, length)
    if instruction >> OUTPUT_LIMIT != 0:
        _truncate(o, first, instruction >> OUTPUT_LIMIT)


@kernel
def count_sent(w: Any, p: Any, o: Any) -> Any:
    """Count what the packet sent, when it is done, per port; returns how many frames."""
    first = w.machine["tx_start"][0]
    for n in range(first, o.sent[0]):
        index = np.int64(p.index[np.int64(o.tx["port"][n])])
        p.ports["tx_packets"][index] += 1
        p.ports["tx_bytes"][index] += np.int64(o.tx["length"][n])
    o.counters[N_SENT] += o.sent[0] - first
    return o.sent[0] - first
