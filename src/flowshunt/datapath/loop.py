"""The batch loop: parse and hash, prefetch, run to completion, group after group.

Packets go through the stages in groups: a group runs, then those behind it are each taken a stage further, and the
memory that their next stages read is asked for in bursts. Each packet runs to its end in arrival order, so the result
cannot depend on the size of a chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack.arrays import example_arrays
from flowshunt.conntrack.kernels.buckets import prefetch_bucket
from flowshunt.conntrack.kernels.step import hash_parsed, suggest
from flowshunt.conntrack.schema import BATCH_MAX, EVENTS_PER_TRACK
from flowshunt.datapath.fragments.schema import make_fragments
from flowshunt.datapath.interpreter import run_packet
from flowshunt.datapath.paths.learn import prefetch_told
from flowshunt.datapath.schema import (
    FATE_INVALID,
    MAX_OUTPUT_SIZE,
    MAX_OUTPUTS,
    MAX_TRACKS,
    N_BYTES,
    N_PACKETS,
    PORT_NUMBERS,
    PUNT_ANSWERED,
    PUNT_WAITING,
    PacketArrays,
    make_output,
    make_own,
    make_ports,
    make_tables,
    make_work,
)
from flowshunt.datapath.shunt.lookup import come_back, count_hits, judge, pass_by, send_up
from flowshunt.datapath.shunt.lookup import suggest as suggest_shunt
from flowshunt.datapath.shunt.places import prefetch_place
from flowshunt.datapath.shunt.schema import CAUSE_NONE, make_shunt
from flowshunt.datapath.shunt.settle import bury
from flowshunt.datapath.vlans import has_tag_too_many, hide_inner_tag
from flowshunt.jit import by_reference, kernel, prefetch
from flowshunt.packet.parse import parse
from flowshunt.packet.schema import PACKET, VERDICT_OK, VERDICT_SHORT_ETHERNET

MAX_EVENTS = MAX_TRACKS * (EVENTS_PER_TRACK + 2)
"""The most events that one packet can cause: at each pass those of the tracker, and a change of mark and label."""
_BYTES_AHEAD = 8
_GROUP = 8
_FIND_AFTER, _JUDGE_AFTER, _RUN_AFTER = 1, 2, 3
"""How many groups behind the one that is parsed the others stand whose entries or connections are looked for, that are
judged, and that run.
"""


def _example() -> tuple[Any, ...]:
    tables = make_tables(1, 1, 8)
    output = make_output(1, 1, 1)
    tracker = example_arrays()
    return (
        make_work(1, tracker.quotes), tables, make_ports(1, 1), output, tracker, make_fragments(1, 1), make_own(),
        make_shunt(1, 1), np.zeros(64, np.uint8), np.zeros(1, PACKET), 0, 1, 1,
    )  # fmt: skip


@kernel
def _has_room(w: Any, o: Any, t: Any, f: Any, hits: Any) -> Any:
    """Whether there is room for so many hits, and then for whatever one packet causes.

    Learning stops the loop when it cannot take another packet (`paths.tell.STOP_*`).

    A fragment may complete a datagram in each of several zones: all that are held, and itself each time.
    """
    return (
        o.sent[0] + hits + MAX_OUTPUTS <= len(o.tx)
        and o.sent[1] + (hits + 1) * MAX_OUTPUT_SIZE <= len(o.tx_data)
        and o.sent[2] + 2 * len(f.fragments) <= len(o.joined)
        and t.state["n_events"][0] + MAX_EVENTS <= len(t.events)
        and w.paths["stop"][0] == 0
    )


@kernel
def _read(w: Any, t: Any, s: Any, b: Any, i: Any, shunts: Any) -> Any:
    """Parse and hash packet i of a chunk, and ask for the bucket that it will be looked for in first."""
    if i + _BYTES_AHEAD < len(b.packets):
        prefetch(b.data, b.packets["data"][i + _BYTES_AHEAD], 0)
    parse(b.data, b.packets, i, w.original, i)
    hash_parsed(t, b.packets, i, w.original, i)
    if shunts:
        prefetch_place(s, t.hashes[i])
    else:
        prefetch_bucket(t, t.hashes[i])


@kernel
def _find(w: Any, t: Any, s: Any, i: Any, shunts: Any) -> Any:
    """Ask for the entry or the connection of packet i, whose bucket should be there."""
    if shunts:
        suggest_shunt(s, t, w.original, i)
        if s.found[i] < 0:
            prefetch_bucket(t, t.hashes[i])
    else:
        suggest(t, w.original, i)


@kernel
def _judge(w: Any, t: Any, s: Any, b: Any, i: Any) -> Any:
    """Judge packet i by its entry, which should be there; one that will not be shunted needs the tracker's memory."""
    judge(s, t, b.packets, w.original, i)
    t.candidates[i] = -1
    if s.why[i] != CAUSE_NONE and s.found[i] >= 0:
        prefetch_bucket(t, t.hashes[i])


@kernel
def _look_ahead(w: Any, t: Any, s: Any, b: Any, group: Any, shunts: Any) -> Any:
    """Take the groups behind `group` a stage further, the foremost first, and read that one.

    What a stage asks for has a whole turn to come. Groups before the first and past the last have no packets.
    """
    n = len(b.packets)
    at = max(group - _JUDGE_AFTER, -1) * _GROUP
    if shunts:
        for i in range(max(at, 0), min(at + _GROUP, n)):
            _judge(w, t, s, b, i)
    for i in range(max(at, 0), min(at + _GROUP, n)):
        if shunts:
            if s.why[i] == CAUSE_NONE:
                continue
            suggest(t, w.original, i)
        prefetch_told(w, t, i)
    at = max(group - _FIND_AFTER, -1) * _GROUP
    for i in range(max(at, 0), min(at + _GROUP, n)):
        _find(w, t, s, i, shunts)
    for i in range(group * _GROUP, min((group + 1) * _GROUP, n)):
        _read(w, t, s, b, i, shunts)


@kernel
def _follow_epoch(w: Any, s: Any) -> Any:
    """Where paths are learned, their epoch is the shunt's: a packet may have moved a station that a path leads to."""
    if w.paths["on"][0]:
        s.state["epoch"][0] = w.paths["epoch"][0]


@kernel
def _count(p: Any, o: Any, s: Any, packets: Any, start: Any, stop: Any, shunts: Any) -> Any:
    """Count for ports and verdicts packets `[start, stop)` of a chunk, and those that the shunt took."""
    port = np.int64(-1)
    n = received = total = n_ok = np.int64(0)
    for i in range(start, stop):
        if packets["in_port"][i] != port:
            _count_port(p, port, n, received)
            port = np.int64(packets["in_port"][i])
            n = received = np.int64(0)
        size = max(np.int64(packets["wire_length"][i]), np.int64(packets["length"][i]))
        n += 1
        received += size
        total += size
        if packets["verdict"][i] == VERDICT_OK:
            n_ok += 1
        else:
            o.verdicts[np.int64(packets["verdict"][i])] += 1
    _count_port(p, port, n, received)
    o.counters[N_BYTES] += total
    o.verdicts[VERDICT_OK] += n_ok
    if shunts:
        count_hits(p, o, s, packets, start, stop)


@kernel
def _count_port(p: Any, port: Any, n: Any, size: Any) -> Any:
    if port >= 0 and port < PORT_NUMBERS and p.index[port] >= 0:
        p.ports["rx_packets"][np.int64(p.index[port])] += n
        p.ports["rx_bytes"][np.int64(p.index[port])] += size


@kernel
def _run(
    w: Any, c: Any, p: Any, o: Any, t: Any, f: Any, own: Any, s: Any, b: Any, i: Any, packet: Any, shunts: Any,
    resumes: Any,
) -> Any:  # fmt: skip
    """Take packet i of a chunk through the tables, to its end; False when it waits for an answer."""
    if b.packets["verdict"][i] == VERDICT_SHORT_ETHERNET:
        o.fate[packet] = FATE_INVALID
        o.ct_state[packet] = 0
        o.fates[FATE_INVALID] += 1
        return True
    if shunts and not resumes:
        send_up(s, t, b, i)
    if has_tag_too_many(p, w.original, i) and not resumes:
        hide_inner_tag(b.packets, i, w.original, i)
        hash_parsed(t, b.packets, i, w.original, i)
    n_events = t.state["n_events"][0]
    run_packet(w, c, p, o, t, f, own, b, i, packet, resumes)
    if shunts:
        _follow_epoch(w, s)
        bury(s, t, n_events)
    if w.machine["punt"][0] == PUNT_WAITING:
        return False
    if shunts:
        come_back(s, t, i)
    return True


@kernel(example=_example)
def run_batch(
    w: Any, c: Any, p: Any, o: Any, t: Any, f: Any, own: Any, s: Any, data: Any, packets: Any, first: Any, n: Any,
    batch_size: Any,
) -> Any:  # fmt: skip
    """Take packets `[first, n)` of a batch through the switch, in chunks of `batch_size`; returns where it stopped.

    `w`: WorkArrays for at least `batch_size` (at most BATCH_MAX) packets. `c`, `p`, `o`, `t`, `f`: TableArrays,
    PortArrays, OutputArrays, ConntrackArrays, FragmentArrays. `own`: PacketArrays of one packet. `s`: ShuntArrays.
    `data`: uint8. `packets`: PACKET, the parser's part is filled in.

    It stops before n when packet `first` is punted: `machine["punt"]` is PUNT_WAITING then, the packet lies in `own`;
    the caller sets it to PUNT_ANSWERED and calls again, and the packet goes on. And it stops when there might not be
    room for all that one more packet causes; the caller drains events or enlarges `tx` and `tx_data`, and calls again.
    """
    original = w.original
    w = by_reference(w)
    c = by_reference(c)
    p = by_reference(p)
    o = by_reference(o)
    t = by_reference(t)
    f = by_reference(f)
    own = by_reference(own)
    s = by_reference(s)
    _follow_epoch(w, s)
    s.state["home"][0] = t.state["home"][0] = w.paths["home"][0]
    counted = np.int64(1 if w.machine["punt"][0] == PUNT_ANSWERED else 0)
    while first < n:
        end = min(first + min(batch_size, BATCH_MAX), n)
        chunk = packets[first:end]
        b = by_reference(PacketArrays(data, chunk, original))
        shunts = s.state["n_flows"][0] != 0  # changes between calls only
        for group in range(_RUN_AFTER - (first - end) // _GROUP):
            at = max(group - _RUN_AFTER, -1) * _GROUP
            stop = min(at + _GROUP, end - first)
            for_hits = _has_room(w, o, t, f, np.int64(_GROUP))
            for i in range(max(at, 0), stop):
                if not for_hits and not _has_room(w, o, t, f, np.int64(0)):
                    _count(p, o, s, b.packets, counted, i, shunts)
                    return first + i
                resumes = w.machine["punt"][0] == PUNT_ANSWERED
                o.counters[N_PACKETS] += 0 if resumes else 1  # what is held of it goes by its number
                if shunts and not resumes and pass_by(w, p, o, t, s, b, i, first + i):
                    continue
                for_hits = False
                if not _run(w, c, p, o, t, f, own, s, b, i, first + i, shunts, resumes):
                    _count(p, o, s, b.packets, counted, i + 1, shunts)
                    return first + i
            _count(p, o, s, b.packets, counted, stop, shunts)
            counted = max(counted, stop)
            _look_ahead(w, t, s, b, group, shunts)
        first = end
        counted = np.int64(0)
    return first
