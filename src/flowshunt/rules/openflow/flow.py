"""Flows as values: what the flow text parses to, what is printed, and what the compiler takes.

Everything here is frozen (flows by agreement) and hashable. Fields are named as in `flowshunt.packet.schema.FIELDS`;
values and masks are non-negative Python integers of the field's width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flowshunt.conntrack.nat import Nat

DEFAULT_PRIORITY = 0x8000

ALL_TABLES = 0xFF
"""As the table of a modification or deletion: whichever table the flow is in."""


@dataclass(frozen=True, slots=True)
class Subfield:
    """Bits `[start, start + width)` of a field, counted from its least significant bit."""

    field: str
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class Output:
    """Send to a port; a Subfield names the field that holds the port number at run time."""

    port: int | Subfield


@dataclass(frozen=True, slots=True)
class OutputTruncated:
    """Send the first `max_len` bytes to a port."""

    port: int
    max_len: int


MIN_TRUNCATED = 14
"""An Ethernet header has to be left."""


def can_truncate(port: int) -> bool:
    """Whether a port number can be that of an OutputTruncated: one port, be it the input port."""
    return port <= 0xFEFF or port in (0xFFF8, 0xFFFE)


@dataclass(frozen=True, slots=True)
class Normal:
    """Forward as a learning switch."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Send to all ports but the input port."""


@dataclass(frozen=True, slots=True)
class All:
    """Send to all ports but the input port, also those that flood excludes."""


@dataclass(frozen=True, slots=True)
class InPort:
    """Send back to the input port."""


@dataclass(frozen=True, slots=True)
class Local:
    """Send to the bridge's own port."""


@dataclass(frozen=True, slots=True)
class ToTable:
    """Look up in the first table, as OpenFlow's port TABLE says; then go on."""


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look up again, with in_port and table replaced for the lookup where given; then go on.

    `ct`: it sees the addresses, ports and protocol with which the packet's connection began, too.
    """

    port: int | None = None
    table: int | None = None
    ct: bool = False


@dataclass(frozen=True, slots=True)
class GotoTable:
    """Continue in a later table when this list is done."""

    table: int


@dataclass(frozen=True, slots=True)
class SetField:
    """Set bits of `dest`: those of `mask`, relative to the subfield, take the bits of `value`.

    The flow text reader gives masks of all ones only (other masks become several of these), and these rules, all
    after Open vSwitch, decide which packets are changed:

    - vlan_tci: with VLAN_PRESENT among the bits set (mod_vlan_vid and mod_vlan_pcp do that, and a tag is added where
      there is none), every packet; without it (set_field and load of vlan_vid and vlan_pcp), only packets with a tag.
    - nw_src, nw_dst, nw_proto: the ARP header's in a flow that matches ARP or RARP, else the IPv4 header's, and then
      packets that are not IPv4 stay as they are.
    - nw_tos, nw_ttl: IPv4 and IPv6 packets; tp_src, tp_dst: TCP, UDP and SCTP packets, ICMP in a flow that matches it.
    - arp_sha, arp_tha: ARP packets, or the link-layer option in a flow that matches neighbour discovery.
    """

    dest: Subfield
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `source` to `dest`, of equal width."""

    source: Subfield
    dest: Subfield


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Add a VLAN tag of zero in front of the others."""

    tpid: int


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the outermost VLAN tag off; nothing happens without one (strip_vlan too)."""


MAX_CONTROLLERS = 64
"""Controllers of one dec_ttl."""


@dataclass(frozen=True, slots=True)
class DecTtl:
    """Decrement TTL or hop limit; at 0 or 1 the list of actions ends here, and the controllers of these numbers get the
    packet.
    """

    controllers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ct:
    """Send through the connection tracker. `exec` changes only ct_mark and ct_label; without `nat` nothing is
    translated; `alg` names a helper.
    """

    commit: bool = False
    force: bool = False
    zone: int | Subfield = 0
    table: int | None = None
    exec: tuple[SetField | Move, ...] = ()
    nat: Nat | None = None
    alg: str | None = None


@dataclass(frozen=True, slots=True)
class CtClear:
    """Forget the connection tracking state."""


@dataclass(frozen=True, slots=True)
class Clone:
    """Run actions on a copy of packet and metadata."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Does nothing; carries bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Controller:
    """Send to controllers as a packet-in; `pause` stops the packet until a controller resumes it.

    `reason` is a number of OpenFlow's OFPR_*. Packets go whole, whatever `max_len` says (as in Open vSwitch 2.7 and
    later).
    """

    max_len: int = 0xFFFF
    controller: int = 0
    reason: int = 1
    userdata: bytes = b""
    pause: bool = False
    meter: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Go through a group."""

    group: int


@dataclass(frozen=True, slots=True)
class Meter:
    """Go through a meter first."""

    meter: int


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Send to a port through one of its queues."""

    port: int
    queue: int


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Choose the queue for outputs that follow; None chooses the default again."""

    queue: int | None


@dataclass(frozen=True, slots=True)
class Exit:
    """End the pipeline here."""


@dataclass(frozen=True, slots=True)
class LearnSpec:
    """What a learned flow gets from the packet: bits of a field, or a number, for one of three things.

    `kind` is "match" (the flow matches `dest` to be so), "load" (it sets `dest` to that) or "output" (it sends there).
    """

    kind: str
    source: Subfield | int
    dest: Subfield | None
    width: int


@dataclass(frozen=True, slots=True)
class Learn:
    """Add a flow made of the packet, or refresh it. `limit` 0: none; `result` gets 1 where the flow is there then."""

    specs: tuple[LearnSpec, ...] = ()
    table: int = 1
    priority: int = DEFAULT_PRIORITY
    cookie: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    fin_idle_timeout: int = 0
    fin_hard_timeout: int = 0
    send_flow_rem: bool = False
    delete_learned: bool = False
    limit: int = 0
    result: Subfield | None = None


@dataclass(frozen=True, slots=True)
class FinTimeout:
    """Shorten the flow's timeouts, where they are longer, when a TCP packet with FIN or RST passes; 0: not that one."""

    idle_timeout: int = 0
    hard_timeout: int = 0


@dataclass(frozen=True, slots=True)
class Push:
    """Push bits of a field onto the packet's stack."""

    source: Subfield


@dataclass(frozen=True, slots=True)
class Pop:
    """Take bits of a field from the packet's stack."""

    dest: Subfield


@dataclass(frozen=True, slots=True)
class CheckLarger:
    """Put into one bit whether the packet has more than `size` bytes."""

    size: int
    dest: Subfield


@dataclass(frozen=True, slots=True)
class Conjunction:
    """The flow is one of the ways in which clause `clause` of `n_clauses`, counted from 1, of a conjunction is met."""

    id: int
    clause: int
    n_clauses: int


@dataclass(frozen=True, slots=True)
class Multipath:
    """Put the number of one of `n_links` links into a field, chosen by a hash of packet fields.

    `fields` is one of `links.HASH_FIELDS`, `algorithm` of `links.ALGORITHMS`; `argument` is for some of those.
    """

    fields: str
    basis: int
    algorithm: str
    n_links: int
    argument: int
    dest: Subfield


@dataclass(frozen=True, slots=True)
class Bundle:
    """Choose one of the `members` (ports) that are up: send there, or put its number into `dest`, where it is given."""

    fields: str
    basis: int
    algorithm: str
    members: tuple[int, ...]
    dest: Subfield | None = None


@dataclass(frozen=True, slots=True)
class ClearActions:
    """Empty the packet's action set."""


@dataclass(frozen=True, slots=True)
class WriteActions:
    """Add to the packet's action set, which is carried out where its way ends (`action_set`)."""

    actions: tuple[Action, ...]


Action = (
    Output | Normal | Flood | All | InPort | Local | Resubmit | GotoTable | SetField | Move | PushVlan | PopVlan
    | DecTtl | Ct | CtClear | Clone | Note | Controller | Group | Meter | Enqueue | SetQueue | Exit
    | Learn | FinTimeout | Push | Pop | CheckLarger
    | ToTable | OutputTruncated | Conjunction | Multipath | Bundle
    | ClearActions | WriteActions
)  # fmt: skip


@dataclass(slots=True, unsafe_hash=True)
class Flow:
    """One flow entry, which nobody changes; it would take three times as long to make one that nobody can change.

    `match` maps field to (value, mask); an empty list of actions drops.

    `match` is sorted by field, its masks are not zero and its values have no bits outside the masks. What a
    modification or deletion selects by comes last: `table` may be `ALL_TABLES` there, a cookie is compared under
    `cookie_mask`, `out_port` and `out_group` restrict to flows that output there.
    """

    match: tuple[tuple[str, int, int], ...] = ()
    actions: tuple[Action, ...] = ()
    table: int = 0
    priority: int = DEFAULT_PRIORITY
    cookie: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    importance: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)
    cookie_mask: int = 0
    new_cookie: int | None = None  # of a modification; None: cookies stay
    out_port: int | None = None
    out_group: int | None = None
    written: tuple[int, bytes, bytes] | None = field(default=None, init=False, compare=False, repr=False)

    def with_flags(self, flags: frozenset[str]) -> Flow:
        """The same flow with these flags: `dataclasses.replace`, but quickly."""
        return Flow(
            self.match,
            self.actions,
            self.table,
            self.priority,
            self.cookie,
            self.idle_timeout,
            self.hard_timeout,
            self.importance,
            flags,
            self.cookie_mask,
            self.new_cookie,
            self.out_port,
            self.out_group,
        )

    def remember(self, form: int, match: bytes, actions: bytes) -> None:
        """Keep in `written` how the flow was last written, in a form of the writer's: listings often repeat it."""
        self.written = form, match, actions
