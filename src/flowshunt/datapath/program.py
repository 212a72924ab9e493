"""Programs: lists of actions as int64 words, and the assembler that writes them.

An instruction is one word, its operation in the low 8 bits and small operands above, and as many operand words as its
operation says. A program ends with END, which is 0. Fields are places in the flow key (`packet.schema.Field`), so an
assembler method takes places, not names; what names and texts mean is the compiler's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from flowshunt.conntrack.kernels.step import COMMIT, FORCE, NAT
from flowshunt.datapath.schema import ALL_TABLES

OP_END = 0
OP_OUTPUT = 1  # port << 8 | bytes that are sent at most << OUTPUT_LIMIT, 0: all
OP_OUTPUT_FIELD = 2  # place << 8
OP_SET = 3  # word << 8 | guard << 16; mask; value
OP_MOVE = 4  # from word << 8, shift << 16; to word << 24, shift << 32; width << 40; guards << 48, << 56
OP_FIX_VLAN = 5
OP_PUSH_VLAN = 6  # tpid << 8
OP_POP_VLAN = 7
OP_LAST_CHANGE = OP_POP_VLAN
OP_RESUBMIT = 8  # table << 8 | RESUBMIT_PORT | RESUBMIT_CT; port
OP_GOTO = 9  # table << 8
# flags << 8 | table << 16 | helper << 24 | words behind the fixed ones << 32; zone, or place | zone that was read there
# last << 32 | CT_ZONE_READ; mark mask; label masks, high and low; with CT_NAT what is asked of it
# (conntrack.schema.NAT_WORDS); with CT_EXEC instructions
OP_CT = 10
OP_CT_CLEAR = 11
OP_CLONE = 12  # words of the body << 8; the body, which ends with END
OP_DEC_TTL = 13  # words of a finished program << 8, which runs when the TTL is used up; 0: the list ends then
OP_PUNT = 14  # reason << 8 | argument << 16
OP_EXIT = 15
OP_GROUP = 16  # cell << 8; the cell in the pool holds the pool offset of the group's program
OP_COUNT = 17  # packets; bytes: counted here, in the program itself
# fields << 8 | buckets << 16; basis; word and mask per field; per bucket id << 16 | weight and the distance of its
# program from the operation
OP_SELECT = 18
OP_METER = 19  # cell << 8; the cell in the pool holds the pool offset of the meter (METER_*)
OP_SKIP = 20  # words << 8; word; mask: skips so many words unless the packet's key has one of the bits
OP_LARGER = 21  # word << 8 | shift << 16 | bytes << 32: sets the bit when the packet is longer, or clears it
OP_PUSH = 22  # place << 8 of the low word of the value | place << 32 of the high one, of width 0 when there is none
OP_POP = 23  # the same
# parts << 8 | algorithm << 16 | links << 24; basis | argument << 16; word and mask per part of the hash; ports: puts
# the link that is chosen into W_SCRATCH (see `spreading`)
OP_LINK = 24
# words of all of it << 8; how far on its parts begin (0: it has none), in the order of WRITE_PARTS, and the rank of the
# last one; the parts, each with an END. It adds to the packet's action set (see `action_sets`)
OP_WRITE = 25
OP_CLEAR = 26  # empties the packet's action set
OP_RUN_SET = 27  # carries out the action set of the frame that led here

OUTPUT_LIMIT = 40
MAX_OUTPUT_LIMIT = (1 << 22) - 1

SET_WORDS = 3
RESUBMIT_WORDS = 2
CT_WORDS = 5
COUNT_WORDS = 3
SKIP_WORDS = 3
CLONE_BUCKET = 40
"""Bit of OP_CLONE: what follows is another bucket."""
WRITE_PARTS = 5
WRITE_POP, WRITE_PUSH, WRITE_TTL, WRITE_CHANGES, WRITE_LAST = range(1, 1 + WRITE_PARTS)
WRITE_RANK = 1 + WRITE_PARTS
WRITE_WORDS = WRITE_RANK + 1
"""Parts of OP_WRITE: a tag off, a tag on, the TTL, what is set and moved, and what the set ends with."""

METER_WORDS = 5
METER_PACKET_UNITS, METER_BANDS, METER_LAST_MS, METER_PACKETS, METER_BYTES = range(METER_WORDS)
BAND_WORDS = 5
BAND_RATE, BAND_MOST, BAND_TOKENS, BAND_PACKETS, BAND_BYTES = range(BAND_WORDS)
"""A meter in the pool: METER_WORDS (units per packet, 0: it counts bits; number of bands; time; counters), then
BAND_WORDS per band: units per millisecond, the most that are saved up, those that are, counters of what was too much.
"""

# A ct action has the tracker's flags, those of `conntrack.kernels.step.track`, and its helper in the same place.
CT_COMMIT = COMMIT
CT_FORCE = FORCE
CT_NAT = NAT
CT_EXEC = 16
CT_ZONE_FIELD = 32
CT_ZONE_READ = 1 << 48
"""In a ct action with CT_ZONE_FIELD: a packet was there, and the zone that it had is known."""
NO_TABLE = ALL_TABLES
RESUBMIT_PORT = 1 << 16
RESUBMIT_CT = 1 << 17
"""The lookup sees addresses, ports and protocol with which the packet's connection began."""

GUARDS = ("none", "ipv4", "ipv6", "ip", "arp", "ports", "icmp", "icmpv6", "nd", "vlan")
"""What must be in the packet for an instruction that reads or writes it; without it the instruction does nothing."""

(
    GUARD_NONE,
    GUARD_IPV4,
    GUARD_IPV6,
    GUARD_IP,
    GUARD_ARP,
    GUARD_PORTS,
    GUARD_ICMP,
    GUARD_ICMPV6,
    GUARD_ND,
    GUARD_VLAN,
) = range(len(GUARDS))

PUNT_ACTION = 0
"""Reason of a punt that an action asks for."""
PUNT_HELPER = 1
"""Reason of a punt to the helper of a connection."""

W_SCRATCH = 31
"""A word of the key that belongs to no field: values that lie across two words are put together there."""


def as_int64(value: int) -> int:
    """The int64 with the bit pattern of an unsigned 64-bit value."""
    return value - (1 << 64) if value >> 63 else value


class Place(NamedTuple):
    """Up to 64 bits of one word of the key."""

    word: int
    shift: int
    width: int

    def packed(self) -> int:
        """As instructions carry it."""
        return self.word | self.shift << 8 | self.width << 16


class Late(NamedTuple):
    """A number that is known only when a program is stored: it goes into word `at`, `shift` bits up.

    `thing` says which: a Handled, a GroupNumber, a MeterNumber or a ConjunctionCell.
    """

    at: int
    shift: int
    thing: Any


class Handled(NamedTuple):
    """What the handler of punted packets gets for an action that Python carries out."""

    action: Any
    flow: Any


class GroupNumber(NamedTuple):
    """The group of this number; it must exist."""

    number: int


class MeterNumber(NamedTuple):
    """The meter of this number; it must exist."""

    number: int


class ConjunctionCell(NamedTuple):
    """The cell of a conjunction; there is one for each table, priority and id."""

    table: int
    priority: int
    id: int


class CompiledRule(NamedTuple):
    """A rule as the datapath takes it.

    `match`: (word, mask, value) in order of word, one per word, masks not 0, values within their masks, all as int64.
    `program`: int64 words. `source`: what it was compiled from, kept for listings. It goes when no packet used it for
    `idle_ms`, and `hard_ms` after it came or changed; 0: never. In place of an equal rule it counts from zero, unless
    `keeps_counters` is set. With `checks_overlap` it is refused where a packet could match it and another rule of its
    table and priority. `late`: what is filled into the program when it is stored. `is_clause`: the program is a list of
    conjunctions (`conjunctions`).
    """

    table: int
    priority: int
    match: tuple[tuple[int, int, int], ...]
    program: tuple[int, ...]
    source: Any = None
    idle_ms: int = 0
    hard_ms: int = 0
    keeps_counters: bool = False
    checks_overlap: bool = False
    late: tuple[Late, ...] = ()
    is_clause: bool = False


class Assembler:
    """Writes one program, instruction by instruction."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.late: list[Late] = []

    def finish(self) -> tuple[int, ...]:
        """The program, ended."""
        return (*self.words, OP_END)

    def output(self, port: int, limit: int = 0) -> None:
        """Send to a port number, which may be one of the reserved `schema.PORT_*`; no more than `limit` bytes, 0: all.

        What goes to several ports has no limit.
        """
        self.words.append(OP_OUTPUT | port << 8 | min(limit, MAX_OUTPUT_LIMIT) << OUTPUT_LIMIT)

    def output_field(self, place: Place) -> None:
        """Send to the port whose number is there."""
        self.words.append(OP_OUTPUT_FIELD | place.packed() << 8)

    def set(self, word: int, mask: int, value: int, guard: int = GUARD_NONE) -> None:
        """Give the bits of `mask` (both unsigned) those of `value`."""
        self.words += (OP_SET | word << 8 | guard << 16, as_int64(mask), as_int64(value & mask))

    def move(self, source: Place, dest: Place, source_guard: int = GUARD_NONE, dest_guard: int = GUARD_NONE) -> None:
        """Copy bits of one word to another, of equal width."""
        self.words.append(
            OP_MOVE
            | source.word << 8
            | source.shift << 16
            | dest.word << 24
            | dest.shift << 32
            | dest.width << 40
            | source_guard << 48
            | dest_guard << 56
        )

    def fix_vlan(self) -> None:
        """After vlan_tci was written: a tag gets a type, and what is no tag any more goes."""
        self.words.append(OP_FIX_VLAN)

    def push_vlan(self, tpid: int) -> None:
        """Put a tag of zero in front."""
        self.words.append(OP_PUSH_VLAN | tpid << 8)

    def pop_vlan(self) -> None:
        """Take the outer tag off."""
        self.words.append(OP_POP_VLAN)

    def dec_ttl(self, expired: tuple[int, ...] = (), late: Iterable[Late] = ()) -> None:
        """Decrement the TTL, or end the list when it is 0 or 1, with the finished program `expired` if there is one."""
        self.words.append(OP_DEC_TTL | len(expired) << 8)
        self.append(expired, late)

    def resubmit(self, port: int | None, table: int | None, *, ct: bool = False) -> None:
        """Look up again, with another input port and table where given, and go on. `ct`: with the original tuple."""
        flags = (RESUBMIT_PORT if port is not None else 0) | (RESUBMIT_CT if ct else 0)
        self.words += (OP_RESUBMIT | (NO_TABLE if table is None else table) << 8 | flags, port or 0)

    def goto(self, table: int) -> None:
        """Continue in that table; the last instruction of a list."""
        self.words.append(OP_GOTO | table << 8)

    def ct(
        self,
        flags: int,
        table: int | None,
        zone: int | Place,
        *,
        masks: tuple[int, int, int] = (0, 0, 0),
        program: tuple[int, ...] = (),
        nat: tuple[int, ...] = (),
        helper: int = 0,
    ) -> None:
        """Through the tracker. `program`: sets and moves that fill the bits `masks` (mark, label high, label low).

        `nat`: NAT_WORDS, see `conntrack.schema`; without them packets are not translated. `helper`: the one that a
        connection gets when it is committed (states.HELPER_NAMES); 0: none.
        """
        if isinstance(zone, Place):
            flags |= CT_ZONE_FIELD
        if program:
            flags |= CT_EXEC
        if nat:
            flags |= CT_NAT
        program = nat + program
        at = zone.packed() if isinstance(zone, Place) else zone
        table = NO_TABLE if table is None else table
        operands = flags << 8 | table << 16 | helper << 24
        self.words += (OP_CT | operands | len(program) << 32, at, *map(as_int64, masks), *program)

    def ct_clear(self) -> None:
        """Forget the connection tracking state."""
        self.words.append(OP_CT_CLEAR)

    def punt(self, argument: int) -> None:
        """Hand the packet to Python with an argument in [0, 2**32), and go on with what it makes of it."""
        self.words.append(OP_PUNT | PUNT_ACTION << 8 | argument << 16)

    def clone(self, body: tuple[int, ...], late: Iterable[Late] = (), *, is_bucket: bool = False) -> None:
        """Run a finished program on a copy of packet and metadata. `late`: what is to be filled into it.

        The copy has an action set of its own, as the packet's was, but that of a group's bucket.
        """
        self.words.append(OP_CLONE | len(body) << 8 | (1 << CLONE_BUCKET if is_bucket else 0))
        self.append(body, late)

    def write(self, parts: Sequence[tuple[Sequence[int], Sequence[Late]]], rank: int) -> None:
        """Add to the action set: WRITE_PARTS finished programs and what is to be filled into them, empty for none.

        `rank`: of the last of them, among those that a set may end with.
        """
        offsets, at = [], WRITE_WORDS
        for words, _ in parts:
            offsets.append(at if words else 0)
            at += len(words)
        self.words += (OP_WRITE | at << 8, *offsets, rank)
        for words, late in parts:
            self.append(words, late)

    def clear(self) -> None:
        """Empty the action set."""
        self.words.append(OP_CLEAR)

    def append(self, program: Iterable[int], late: Iterable[Late]) -> None:
        """Add the words of another program, with what is to be filled into them."""
        self.late += [each._replace(at=each.at + len(self.words)) for each in late]
        self.words += program

    def handled(self, thing: Handled) -> None:
        """Hand the packet to Python, which carries out an action."""
        self.late.append(Late(len(self.words), 16, thing))
        self.words.append(OP_PUNT | PUNT_ACTION << 8)

    def exit(self) -> None:
        """End the list with those that it was resubmitted from."""
        self.words.append(OP_EXIT)

    def group(self, number: int) -> None:
        """Go through a group with a copy of packet and metadata."""
        self.late.append(Late(len(self.words), 8, GroupNumber(number)))
        self.words.append(OP_GROUP)

    def meter(self, number: int) -> None:
        """Go through a meter, or end as by `exit`."""
        self.late.append(Late(len(self.words), 8, MeterNumber(number)))
        self.words.append(OP_METER)

    def skip_unless(self, word: int, mask: int, program: Sequence[int], late: Iterable[Late]) -> None:
        """Run instructions only for packets that have one of the bits in a word of the key."""
        self.words += (OP_SKIP | len(program) << 8, word, as_int64(mask))
        self.append(program, late)

    def larger(self, place: Place, size: int) -> None:
        """Put into one bit whether the packet has more than `size` bytes."""
        self.words.append(OP_LARGER | place.word << 8 | place.shift << 16 | size << 32)

    def push(self, low: Place, high: Place | None = None) -> None:
        """Push a value of up to 64 bits, or of 128."""
        self.words.append(OP_PUSH | low.packed() << 8 | (high.packed() << 32 if high else 0))

    def pop(self, low: Place, high: Place | None = None) -> None:
        """Pop a value, of which the low bits count."""
        self.words.append(OP_POP | low.packed() << 8 | (high.packed() << 32 if high else 0))

    def link(
        self,
        algorithm: int,
        n: int,
        basis: int,
        argument: int,
        parts: Sequence[tuple[int, int]],
        ports: Sequence[int] = (),
    ) -> Place:
        """Choose one of `n` links, or of `ports` (`spreading`); returns where its number is then."""
        self.words += (OP_LINK | len(parts) << 8 | algorithm << 16 | n << 24, basis | argument << 16)
        for part, mask in parts:
            self.words += (part, as_int64(mask & 0xFFFFFFFFFFFFFFFF))
        self.words += ports
        return Place(W_SCRATCH, 0, 16)

    def count(self) -> int:
        """Count packets and bytes; returns the place of the counters in the program."""
        self.words += (OP_COUNT, 0, 0)
        return len(self.words) - 2

    def select(
        self,
        basis: int,
        fields: Sequence[tuple[int, int]],
        buckets: Sequence[tuple[int, int, tuple[int, ...], Sequence[Late]]],
    ) -> list[int]:
        """Go on with one of several finished programs, chosen by a hash of fields (word, mask); nothing follows.

        `buckets`: id, weight, program and what is to be filled into it. Returns where the programs begin.
        """
        start = len(self.words)
        at = 2 + 2 * len(fields) + 2 * len(buckets)
        self.words += (OP_SELECT | len(fields) << 8 | len(buckets) << 16, as_int64(basis))
        for word, mask in fields:
            self.words += (word, as_int64(mask))
        places = []
        for number, weight, program, _ in buckets:
            self.words += (number << 16 | weight, at)
            places.append(start + at)
            at += len(program)
        for _, _, program, late in buckets:
            self.append(program, late)
        return places
