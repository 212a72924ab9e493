"""What the operator wants of a tracker: limits, timeouts, how strictly TCP is judged. Part of the facade."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.conntrack.timeouts import MAX_TIMEOUT_S, POLICY_CLASSES, timeout_row

MAX_LIMIT = (1 << 32) - 1
_CLOSED = -1

Policy = Mapping[str, int]
"""Seconds by name (`timeouts.POLICY_CLASSES`)."""


def check_zone(zone: int) -> int:
    """The zone. Raises UsageError when it is none."""
    if not 0 <= zone < C.N_ZONES:
        raise UsageError(f"zone {zone} is out of range: use 0 to {C.N_ZONES - 1}")
    return zone


def check_policy(policy: Policy) -> dict[str, int]:
    """A copy of a timeout policy. Raises UsageError for a name or a value that cannot be in one."""
    for name, seconds in policy.items():
        if name not in POLICY_CLASSES:
            raise UsageError(f"no timeout is called {name!r}", hint=f"the names are {', '.join(POLICY_CLASSES)}")
        if not 0 <= seconds <= MAX_TIMEOUT_S:
            raise UsageError(f"{name}: {seconds} seconds are out of range: use 0 to {MAX_TIMEOUT_S}")
    return dict(policy)


class Policies:
    """The settings of a tracker that may change while it runs. All hold for the packets that follow.

    `before_timeouts()`, where it is set, is called before a timeout policy changes: whoever lets packets pass unseen
    brings timers up to date there.
    """

    def __init__(self, arrays: C.ConntrackArrays) -> None:
        """Policies of a tracker that was just made: no limits but its capacity, the profile's timeouts."""
        self.arrays = arrays
        self.before_timeouts: Callable[[], None] | None = None
        self._limits: dict[int, int] = {}
        self._default_policy: dict[str, int] = {}
        self._policies: dict[int, dict[str, int]] = {}
        self._rows: dict[frozenset[tuple[str, int]], int] = {}
        arrays.timeouts[0] = timeout_row({})

    # --- how many ----------------------------------------------------------------------------------------------------

    @property
    def max_connections(self) -> int:
        """How many connections there may be at most, whether offloaded or not."""
        return int(self.arrays.state["limit"][0])

    def set_max_connections(self, n: int) -> None:
        """Allow up to `n` connections; those beyond it stay, and no new ones come until there is room.

        What a full table does to a packet that would begin a connection: it stays new and is not stored (Open vSwitch);
        in profile linux, where it would be dropped, it is invalid. Counted as `full`. Raises UsageError for less than 1
        or more than the capacity that the tracker was made with.
        """
        capacity = int(self.arrays.state["capacity"][0])
        if not 1 <= n <= capacity:
            raise UsageError(f"{n} connections are out of range: this tracker was made for 1 to {capacity}")
        self.arrays.state["limit"] = n

    @property
    def headroom(self) -> int:
        """See `set_headroom`."""
        return int(self.arrays.state["headroom"][0])

    def set_headroom(self, n: int) -> None:
        """Keep the last `n` of `max_connections` for packets that have a connection in another zone already.

        A pipeline of several zones commits each of its connections several times. When the table fills up in between, a
        connection that one zone has accepted is refused by the next and hangs half open. With headroom a flood ends at
        its first commit (counted as `headroom`), and what has passed that can be completed. One entry for each further
        zone is enough where one packet passes all of them; where a later packet does the next commit, as many as there
        are connections that wait for theirs. 0, none, is the default and Open vSwitch's behaviour. Raises UsageError
        when it is negative.
        """
        if n < 0:
            raise UsageError(f"headroom {n} is negative")
        self.arrays.state["headroom"] = n

    @property
    def early_drop(self) -> bool:
        """See `set_early_drop`."""
        return bool(self.arrays.state["early_drop"][0])

    def set_early_drop(self, on: bool) -> None:
        """Whether a full table or zone ends a connection that was never answered, in favour of a new one.

        As nf_conntrack: only a few neighbours in the hash table are looked at, so it may find none and refuse the new
        one. Answered and assured connections are never dropped. The reason in the event is `early-drop`.
        """
        self.arrays.state["early_drop"] = on

    def zone_limits(self) -> dict[int | None, int]:
        """Limits by zone, under None that of the others; 0: unlimited, or closed."""
        default = int(self.arrays.state["zone_limit"][0])
        return {None: 0 if default == C.UNLIMITED else default, **dict(sorted(self._limits.items()))}

    def set_zone_limit(self, zone: int | None, limit: int) -> None:
        """Allow up to `limit` connections in a zone, with None in every zone without a limit of its own. 0: unlimited.

        Those beyond the limit stay. What becomes of a packet over it: as in `set_max_connections`, counted as
        `zone-limit`. Raises UsageError for a zone or a limit out of range.
        """
        if not 0 <= limit <= MAX_LIMIT:
            raise UsageError(f"limit {limit} is out of range: use 0 (unlimited) to {MAX_LIMIT}")
        if zone is None:
            self.arrays.state["zone_limit"] = limit or C.UNLIMITED
            return
        self._limits[check_zone(zone)] = limit
        self.arrays.zones["limit"][zone] = limit or C.UNLIMITED

    def close_zone(self, zone: int) -> None:
        """Allow no more connections in a zone, until it gets a limit or loses the one that it has."""
        self._limits[check_zone(zone)] = 0
        self.arrays.zones["limit"][zone] = _CLOSED

    def del_zone_limit(self, zone: int) -> bool:
        """Have the limit of the others hold in a zone. Returns whether it had one of its own."""
        self.arrays.zones["limit"][check_zone(zone)] = 0
        return self._limits.pop(zone, None) is not None

    def zone_count(self, zone: int) -> int:
        """Connections of a zone in the table, expired ones that were not swept yet included, as in `len(tracker)`."""
        return int(self.arrays.zones["live"][check_zone(zone)])

    # --- for how long ------------------------------------------------------------------------------------------------

    def timeout_policies(self) -> dict[int | None, dict[str, int]]:
        """What was set, seconds by name, by zone; under None what holds in all zones where nothing else is set."""
        return {None: dict(self._default_policy), **{zone: dict(p) for zone, p in sorted(self._policies.items())}}

    def set_timeout_policy(self, zone: int | None, policy: Policy) -> None:
        """Give a zone timeouts of its own, with None give all zones others than the profile's.

        `policy`: seconds by the names of Open vSwitch's CT_Timeout_Policy; a name left out keeps what holds for all
        zones. Replaces what was set before. A packet sets its connection's timer by the policy that its zone has at
        that moment; timers that run are left alone. Names without a meaning in the profile set nothing (see
        `timeouts.POLICY_CLASSES`). Zones with equal policies share one. Raises UsageError for an unknown name, for
        values or a zone out of range, and for `schema.MAX_POLICIES` different policies or more; nothing has changed
        then.
        """
        policy = check_policy(policy)
        self._announce_timeouts()
        if zone is None:
            self._default_policy = policy
            self._write_row(0, {})
            for content, row in self._rows.items():
                self._write_row(row, dict(content))
            return
        row = self._row_for(check_zone(zone), policy)
        self._policies[zone] = policy
        self.arrays.zones["policy"][zone] = row

    def del_timeout_policy(self, zone: int | None) -> bool:
        """Take a zone's policy away, or with None that of all zones. Returns whether there was one."""
        if zone is None:
            existed = bool(self._default_policy)
            self.set_timeout_policy(None, {})
            return existed
        check_zone(zone)
        self._announce_timeouts()
        self.arrays.zones["policy"][zone] = 0
        return self._policies.pop(zone, None) is not None

    def _announce_timeouts(self) -> None:
        if self.before_timeouts is not None:
            self.before_timeouts()

    def _row_for(self, zone: int, policy: Policy) -> int:
        """The row of the timeout table for a policy: the one that has it, or a free one, filled."""
        content = frozenset(policy.items())
        if content in self._rows:
            return self._rows[content]
        in_use = {frozenset(other.items()) for holder, other in self._policies.items() if holder != zone}
        kept = {known: row for known, row in self._rows.items() if known in in_use}
        taken = set(kept.values())
        row = next((row for row in range(1, C.MAX_POLICIES) if row not in taken), 0)
        if not row:
            raise UsageError(f"{C.MAX_POLICIES - 1} different timeout policies are in use already, which are all")
        self._rows = {**kept, content: row}
        self._write_row(row, policy)
        return row

    def _write_row(self, row: int, policy: Policy) -> None:
        self.arrays.timeouts[row] = timeout_row({**self._default_policy, **policy})

    # --- how strictly ------------------------------------------------------------------------------------------------

    def set_loose(self, on: bool) -> None:
        """Whether a TCP connection may begin in mid-stream (nf_conntrack_tcp_loose); on from the start.

        Without it only a SYN begins one, and other packets without a connection are invalid (`mid-stream`). Open
        vSwitch has no such switch and picks up.
        """
        self.arrays.state["loose"] = on

    @property
    def check_sequence(self) -> bool:
        """See `set_check_sequence`."""
        return bool(self.arrays.state["check_sequence"][0])

    def set_check_sequence(self, on: bool) -> None:
        """Whether TCP segments must lie within their windows (`dpctl/ct-disable-tcp-seq-chk` of Open vSwitch)."""
        self.arrays.state["check_sequence"] = on

    def set_zone_liberal(self, zone: int | None, on: bool | None) -> None:
        """Whether to judge TCP liberally in a zone, with None in all zones that say nothing; off from the start.

        As Linux's nf_conntrack_tcp_be_liberal: segments outside the window are valid, except resets. For connections of
        which the tracker did not see everything, such as those that come back from an offload. `on` None: the zone says
        nothing. A single connection can be made liberal with `Tracker.set_liberal`. Raises UsageError for a zone out of
        range.
        """
        if zone is None:
            self.arrays.state["liberal"] = bool(on)
            return
        flags = int(self.arrays.zones["flags"][check_zone(zone)]) & ~(C.ZONE_LIBERAL | C.ZONE_STRICT)
        if on is not None:
            flags |= C.ZONE_LIBERAL if on else C.ZONE_STRICT
        self.arrays.zones["flags"][zone] = flags
