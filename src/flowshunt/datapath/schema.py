"""The datapath's memory: tables, subtables, rules, programs; ports and stations; what leaves.

Two NamedTuples hold what rules and ports are made of (`TableArrays`, `PortArrays`), one what a batch needs while it
runs (`WorkArrays`), one what comes out of it (`OutputArrays`). Everything of variable length (slots of a subtable,
order of the subtables of a table, match words beyond the inline ones, programs) lies in chunks of one pool.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.conntrack.schema import TRACKED
from flowshunt.datapath.fragments.schema import JOINED, MAX_PER_DATAGRAM
from flowshunt.datapath.paths.schema import make_paths
from flowshunt.packet import schema as packet
from flowshunt.packet.schema import KEY_WORDS, MAX_TAGS, PACKET, VERDICTS

N_TABLES = 255
"""Tables 0 to 254; 255 means "all tables" in OpenFlow, and "none" in instructions."""
CLAUSES = N_TABLES
"""The rules of table t that are clauses of conjunctions lie apart from the others, in table t + CLAUSES."""
ALL_TABLES = 255
OUTSIDE_TABLE = N_TABLES - 1
"""The table that a packet is in whose actions come from no table: every resubmit leads to an earlier one."""

INLINE_WORDS = 4
"""Match words kept in the subtable and the rule themselves; most masks need no more."""
BLOOM_WORDS = 4
POOL_CLASSES = 40
"""Chunks of the pool have 2**0 to 2**(POOL_CLASSES - 1) words."""

TABLE = np.dtype(
    [
        ("order", np.int64),  # pool offset of its subtables: priority << 32 | subtable, highest first
        ("n_subtables", np.int32),
        ("order_class", np.int16),  # size class of that chunk; -1: none
        ("has_clauses", np.int16),  # 1: there are clauses of conjunctions
        ("lookups", np.int64),
        ("matches", np.int64),
    ],
    align=True,
)

SUBTABLE = np.dtype(
    [
        # line 1: all that most probes read
        ("first_mask", np.int64),
        ("first_bloom", np.int64, BLOOM_WORDS),  # one bit per hash of the first word
        ("words", np.uint8, INLINE_WORDS),  # places in the key; unused ones are 0, with mask 0
        ("n_words", np.uint8),
        ("slots_class", np.uint8),
        ("table", np.uint16),
        ("slots", np.int32),  # pool offset of the slots: hash << 32 | rule + 1, 0 when free
        ("extra", np.int32),  # pool offset of word, mask pairs beyond INLINE_WORDS; 0: none
        ("only", np.int32),  # the chain, when there is just one; else -1
        ("pad2", np.int32),
        # line 2
        ("masks", np.int64, INLINE_WORDS - 1),
        ("bloom", np.int64, BLOOM_WORDS),  # one bit per hash of all words
        ("n_slots", np.int32),  # heads of chains; a chain is the rules of equal match
        ("stale", np.int32),  # removals since the bloom words and the highest priority were exact
    ],
    align=True,
)
"""All rules of one table with one mask; 128 bytes. A clear bit of a bloom word means that no rule has that hash."""

RULE = np.dtype(
    [
        ("values", np.int64, INLINE_WORDS),
        ("hash", np.uint32),
        ("priority", np.int32),
        ("subtable", np.int32),  # -1: the record is free
        ("next", np.int32),  # next lower priority of the same match, or next free record; -1: none
        ("extra", np.int64),  # pool offset of the values beyond INLINE_WORDS; 0: none
        ("program", np.int64),  # pool offset
        ("packets", np.int64),
        ("bytes", np.int64),
        ("used_ms", np.int64),
        ("created_ms", np.int64),
        ("program_class", np.int32),
        ("generation", np.uint32),  # counts the lives of this record
        ("previous", np.int32),  # next higher priority of the same match; the highest has the lowest here
        ("pad", np.int32),
        ("room", np.int64, 2),
    ],
    align=True,
)
"""One rule: match, program, counters; 128 bytes."""

TABLE_STATE = np.dtype(
    [
        ("pool_used", np.int64),
        ("pool_free", np.int64, POOL_CLASSES),  # first free chunk of each class; 0: none
        ("free_rule", np.int64),  # first free record below n_rules; -1: none
        ("n_rules", np.int64),  # records ever used
        ("free_subtable", np.int64),
        ("n_subtables", np.int64),
        ("live_rules", np.int64),
        ("miss", np.int64),  # pool offset of the program for packets that the first table has no rule for; 0: drop
        ("tally", np.int64),  # counts the passes over clauses (`conjunctions`)
        ("ttl_over", np.int64),  # of the one for packets whose TTL cannot be decremented; 0: drop
        ("frag_ports", np.int64),  # whether rules see the ports of first fragments
        ("misses", np.int64, N_TABLES),  # by table, where packets go on that it has no rule for; 0: as said by `miss`
    ]
)

FLAG_NO_FLOOD = 1
FLAG_DOWN = 2
"""Bundles pass over the port."""

PORT = np.dtype(
    [
        ("number", np.uint32),
        ("flags", np.uint32),  # FLAG_*
        ("rx_packets", np.int64),
        ("rx_bytes", np.int64),
        ("tx_packets", np.int64),
        ("tx_bytes", np.int64),
        ("n_stations", np.int64),
        ("vlan_mode", np.uint8),  # vlans.MODES
        ("vlan_tag", np.uint16),  # the VLAN of packets without a tag
        ("vlan_tpid", np.uint16),  # dot1q-tunnel: type of the tag that packets get
        ("mtu", np.uint32),  # bytes of layer 3 that leave in one piece; 0: not known
    ],
    align=True,
)
"""One port; ports lie densely, in the order in which they are flooded."""

DROP_MISSES = -1
"""In `misses` of TABLE_STATE: they are dropped."""

PORT_NUMBERS = 1 << 16
PORT_IN_PORT = 0xFFF8
PORT_NORMAL = 0xFFFA
PORT_FLOOD = 0xFFFB
PORT_ALL = 0xFFFC
PORT_CONTROLLER = 0xFFFD
PORT_LOCAL = 0xFFFE
PORT_NONE = 0xFFFF
PORT_RESERVED_32 = 0xFFFFFF00
"""From here on, a 32-bit port number is a reserved one of OpenFlow 1.1; its low 16 bits are the number used here."""

STATION = np.dtype(
    [
        ("key", np.int64),  # MAC << 12 | VLAN; -1: free
        ("used_ms", np.int64),
        ("port", np.int32),  # port number
        ("flags", np.uint32),  # STATION_*
    ],
    align=True,
)
"""A learned station."""

STATION_ON_PATH = 1
"""A path leads to it or comes from it: when it moves or makes room for another, paths must be learned anew."""

FDB_STATE = np.dtype(
    [
        ("n_stations", np.int64),
        ("hand", np.int64),  # where the search for a station to evict goes on
        ("age_ms", np.int64),
        ("forward_bpdu", np.int64),
        ("learned", np.int64),
        ("moved", np.int64),
        ("evicted", np.int64),
        ("expired", np.int64),
        ("disturbed", np.int64),  # stations on a path that moved or went since someone looked
        ("vlan_ports", np.int64),  # ports with VLAN settings
        ("vlan_limit", np.int64),  # tags that are read; what follows them is payload
        ("flood_vlans", np.int64),  # VLANs in which no stations are learned
    ]
)

TX = packet.TX

SOURCE_BATCH = 0
SOURCE_TX_DATA = 1

FATES = (
    "output",
    "drop.no-match",
    "drop.action",
    "drop.resubmit-depth",
    "drop.resubmit-limit",
    "drop.snapshot-limit",
    "drop.ct-limit",
    "drop.ttl",
    "drop.output-in-port",
    "drop.no-port",
    "drop.reserved-multicast",
    "drop.learned-on-in-port",
    "drop.invalid-packet",
    "drop.too-long",
    "held",
    "drop.fragment",
    "drop.meter",
    "drop.vlan",
)
"""What became of a packet. A packet that left on any port is "output", a fragment that waits for the others "held";
otherwise the last reason not to counts.
"""

(
    FATE_OUTPUT,
    FATE_NO_MATCH,
    FATE_ACTION,
    FATE_DEPTH,
    FATE_RESUBMITS,
    FATE_SNAPSHOTS,
    FATE_TRACKS,
    FATE_TTL,
    FATE_IN_PORT,
    FATE_NO_PORT,
    FATE_RESERVED,
    FATE_SAME_PORT,
    FATE_INVALID,
    FATE_TOO_LONG,
    FATE_HELD,
    FATE_FRAGMENT,
    FATE_METER,
    FATE_VLAN,
) = range(len(FATES))

MAX_DEPTH = 64
"""Nested lookups that don't lead to a later table, and nested passes through the tracker."""
MAX_RESUBMITS = 4096
MAX_SNAPSHOTS = 512
MAX_FRAMES = MAX_RESUBMITS + 2 * MAX_SNAPSHOTS + 9
MAX_TRACKS = 128
"""Passes of one packet through the tracker."""
MAX_OUTPUTS = 4096
"""Frames that one packet may cause; more are left out and counted."""
MAX_OUTPUT_SIZE = 1 << 20
"""Bytes of changed frames that one packet may cause."""
HEADER_GROWTH = 64
"""Most bytes by which a changed frame may be longer."""

OWN_SIZE = 1 << 17
"""Bytes of room for an own packet: more than any IP packet with its link-layer header."""

COUNTERS = (
    "packets",
    "bytes",
    "frames-sent",
    "frames-changed",
    "skipped.in-port",
    "skipped.no-port",
    "skipped.output-limit",
    "resubmits",
    "tracked",
    "punted",
    "joined",
    "fragmented",
    "shunted",
)
(
    N_PACKETS,
    N_BYTES,
    N_SENT,
    N_CHANGED,
    N_SKIPPED_IN_PORT,
    N_SKIPPED_NO_PORT,
    N_SKIPPED_LIMIT,
    N_RESUBMITS,
    N_TRACKED,
    N_PUNTED,
    N_JOINED,
    N_FRAGMENTED,
    N_SHUNTED,
) = range(len(COUNTERS))

PUNT_NONE, PUNT_WAITING, PUNT_ANSWERED = range(3)
"""Where a punt stands: there is none, Python is asked, Python is done."""

FRAME_WORDS = 10
F_PC, F_TABLE, F_DEPTH, F_SNAPSHOT, F_TX_MARK, F_SIZE_MARK, F_OWN, F_SIZE, F_BASE, F_TOP = range(FRAME_WORDS)
"""A frame: where to go on, in which table and depth; the key to go on with (-1: the present one); where the outputs of
the list of actions began that goes on (-1: the list continues the present one's). With a key of its own: whether it is
that of the own packet, the bytes that the packet counts for, and where its stack lies.
"""
F_SET = F_BASE
"""Of a frame that carries out an action set: the last of its writes in `WorkArrays.sets`; 0: none, -1: it is done."""
OF_BUCKET = -2
"""In F_TX_MARK: what goes on there follows a group or one of its buckets."""

SET_COLUMNS = 3
S_PC, S_PREVIOUS, S_NEXT = range(SET_COLUMNS)
"""A write to an action set: its instruction, the write before it, and the one after it while the set is carried out."""
RUN_SET_PC = 1
"""Where the program that carries out an action set lies in the pool."""

STACK_WORDS = 1 << 13
"""Room for the stack of push and pop, two words per value, and for the copies of it that clones have."""

MACHINE = np.dtype(
    [
        ("now_ms", np.int64),
        ("size", np.int64),  # bytes that the packet counts for
        ("resubmits", np.int64),
        ("snapshots", np.int64),
        ("tracks", np.int64),
        ("fate", np.int64),  # the last reason not to output
        ("dirty", np.int64),  # header fields were written
        ("tx_start", np.int64),  # where the packet's outputs begin, records and bytes
        ("size_start", np.int64),
        ("tx_mark", np.int64),  # where those begin that a limit takes back
        ("size_mark", np.int64),
        ("own", np.int64),  # 1: the packet runs as the own one
        ("punt", np.int64),  # PUNT_*
        ("reason", np.int64),  # of the punt: program.PUNT_*
        ("argument", np.int64),  # of the punt
        # where a punted packet goes on
        ("pc", np.int64),
        ("table", np.int64),
        ("depth", np.int64),
        ("frames", np.int64),
        ("target", np.int64),
        ("row", np.int64),  # connection that the last ct action found or made; -1: none
        ("helped", np.int64),  # connection + 1 that the packet was shown to the helper of << 1 | translated
        # of a packet that was put together (fragments.whole.assemble)
        ("mru", np.int64),  # 0: it was not
        ("frag_id", np.int64),
        ("frag_place", np.int64),
        ("frag_named", np.int64),
        # the stack of push and pop
        ("base", np.int64),
        ("top", np.int64),
    ]
)
"""Registers of the interpreter that few instructions touch, and the others while a packet is punted."""


class TableArrays(NamedTuple):
    """Tables and rules. `tables`: TABLE (2 * N_TABLES,), `subtables`: SUBTABLE (n,), `rules`: RULE (n,), `pool`: int64
    (n,), of which word 0 is an END instruction, `state`: TABLE_STATE (1,).
    """

    tables: np.ndarray
    subtables: np.ndarray
    rules: np.ndarray
    pool: np.ndarray
    state: np.ndarray


class PortArrays(NamedTuple):
    """Ports and stations. `ports`: PORT (n,), `index`: int32 (PORT_NUMBERS,), place of each number in `ports` or -1.
    `stations`: STATION (capacity,), `slots`: int32 (power of two >= 2 * capacity,), station + 1 or 0, `state`:
    FDB_STATE (1,). `trunks`: int64 (as `ports`, 64), the VLANs that ports carry with a tag, a bit for each; of a
    dot1q-tunnel port those of customers. `flooded`: int64 (64,), a bit for each VLAN in which nothing is learned.
    """

    ports: np.ndarray
    index: np.ndarray
    stations: np.ndarray
    slots: np.ndarray
    state: np.ndarray
    trunks: np.ndarray
    flooded: np.ndarray


class WorkArrays(NamedTuple):
    """Scratch memory of the loop, sized once.

    `original`: int64 (batch size, KEY_WORDS), the keys as parsed. `keys`: int64 (1, KEY_WORDS), that of the packet that
    runs. `snapshots`: int64 (MAX_SNAPSHOTS + 1, KEY_WORDS). `frames`: int64 (MAX_FRAMES, FRAME_WORDS). `machine`:
    MACHINE (1,). `tracked`: TRACKED (1,), what the tracker remembers of a packet while it is punted. `kept`:
    TRACKED (MAX_SNAPSHOTS + 1,), what it remembered at each snapshot. `quotes`: the
    tracker's, for the frames that leave. `stack`: int64 (STACK_WORDS,), values of push, high word and low word.
    `sets`: int64 (MAX_RESUBMITS + 2, SET_COLUMNS), writes to action sets, in the first row how many there are. All from
    `paths` on: see `paths.schema.PathArrays`.
    """

    original: np.ndarray
    keys: np.ndarray
    snapshots: np.ndarray
    frames: np.ndarray
    machine: np.ndarray
    tracked: np.ndarray
    kept: np.ndarray
    quotes: np.ndarray
    stack: np.ndarray
    sets: np.ndarray
    paths: np.ndarray
    lookups: np.ndarray
    lookup_keys: np.ndarray
    final_key: np.ndarray
    passed: np.ndarray
    learned: np.ndarray
    told: np.ndarray
    chains: np.ndarray
    chain_slots: np.ndarray
    chain_free: np.ndarray
    chain_entries: np.ndarray
    candidates: np.ndarray


class PacketArrays(NamedTuple):
    """Packets with their bytes. `data`: uint8. `packets`: PACKET (n,), parsed. `original`: int64 (at least n,
    KEY_WORDS), the keys as parsed.

    There are two: the chunk of the batch that is worked on, and the *own* packet, alone in its arrays. A packet whose
    bytes have to be replaced (not just its headers) becomes the own one for the rest of its way.
    """

    data: np.ndarray
    packets: np.ndarray
    original: np.ndarray


class OutputArrays(NamedTuple):
    """What a batch causes. `tx`: TX (n,), `tx_data`: uint8 (m,), `sent`: int64 (3,), records and bytes used of those,
    and records used of `joined`. `fate`: uint8, `ct_state`: uint16, one per packet of the batch. `fates`, `verdicts`,
    `counters`: int64, totals by name. `joined`: JOINED (k,), the fragments that became complete datagrams.
    """

    tx: np.ndarray
    tx_data: np.ndarray
    sent: np.ndarray
    fate: np.ndarray
    ct_state: np.ndarray
    fates: np.ndarray
    verdicts: np.ndarray
    counters: np.ndarray
    joined: np.ndarray


def make_tables(n_rules: int = 1 << 22, n_subtables: int = 1 << 18, n_words: int = 1 << 27) -> TableArrays:
    """Empty tables for up to `n_rules` rules and `n_subtables` masks. Memory is committed as it is used.

    Raises MemoryError when the address space cannot be reserved.
    """
    state = np.zeros(1, TABLE_STATE)
    state["pool_used"] = 4  # word 0: END; no chunk begins at 0, which means "none"; from RUN_SET_PC on, that
    state["free_rule"] = -1
    state["free_subtable"] = -1
    tables = np.zeros(2 * N_TABLES, TABLE)
    tables["order_class"] = -1
    return TableArrays(
        tables,
        _reserve_at(576, SUBTABLE, n_subtables),
        _reserve_at(1344, RULE, n_rules),
        _reserve_at(2688, np.int64, n_words),
        state,
    )


def _reserve_at(offset: int, dtype: Any, n: int) -> np.ndarray:
    """`reserve`, but the array begins `offset` bytes into a page.

    Processors compare the low 12 bits of addresses to guess whether a load depends on a store that is still under way.
    Arrays that all begin at a page make them guess wrong, since everyone's first records are the busy ones.
    """
    size = n * np.dtype(dtype).itemsize
    return reserve(np.uint8, offset + size)[offset:].view(dtype)


def make_ports(n_ports: int = 0, n_stations: int = 8192, age_ms: int = 300_000) -> PortArrays:
    """No stations, and room for `n_ports` ports."""
    n_slots = 1 << (2 * n_stations - 1).bit_length()
    state = np.zeros(1, FDB_STATE)
    state["age_ms"] = age_ms
    state["vlan_limit"] = MAX_TAGS
    stations = np.zeros(n_stations, STATION)
    stations["key"] = -1
    return PortArrays(
        np.zeros(n_ports, PORT),
        np.full(PORT_NUMBERS, -1, np.int32),
        stations,
        np.zeros(n_slots, np.int32),
        state,
        np.zeros((n_ports, 64), np.int64),
        np.zeros(64, np.int64),
    )


def make_work(batch_size: int, quotes: np.ndarray, n_rows: int = 1) -> WorkArrays:
    """Scratch memory for chunks of `batch_size` packets; `quotes`: those of the tracker of `n_rows` connections."""
    return WorkArrays(
        np.zeros((batch_size, KEY_WORDS), np.int64),
        np.zeros((1, KEY_WORDS), np.int64),
        np.zeros((MAX_SNAPSHOTS + 1, KEY_WORDS), np.int64),
        np.zeros((MAX_FRAMES, FRAME_WORDS), np.int64),
        np.zeros(1, MACHINE),
        np.zeros(1, TRACKED),
        np.zeros(MAX_SNAPSHOTS + 1, TRACKED),
        quotes,
        np.zeros(STACK_WORDS, np.int64),
        np.zeros((MAX_RESUBMITS + 2, SET_COLUMNS), np.int64),
        *make_paths(n_rows),
    )


def make_own() -> PacketArrays:
    """Room for one packet of up to OWN_SIZE bytes."""
    return PacketArrays(np.zeros(OWN_SIZE, np.uint8), np.zeros(1, PACKET), np.zeros((1, KEY_WORDS), np.int64))


def make_output(n_packets: int, n_frames: int = MAX_OUTPUTS, size: int = MAX_OUTPUT_SIZE) -> OutputArrays:
    """Room for what `n_packets` packets cause, and totals of zero."""
    return OutputArrays(
        np.zeros(n_frames, TX),
        np.zeros(size, np.uint8),
        np.zeros(3, np.int64),
        np.zeros(n_packets, np.uint8),
        np.zeros(n_packets, np.uint16),
        np.zeros(len(FATES), np.int64),
        np.zeros(len(VERDICTS), np.int64),
        np.zeros(len(COUNTERS), np.int64),
        np.zeros(2 * MAX_PER_DATAGRAM, JOINED),
    )
