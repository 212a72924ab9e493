"""Which connections there are: finding them, and finding new ones a place, or why there is none.

What the tracker under test chose is checked and followed here. Without one, the first free tuple is taken.
"""

from __future__ import annotations

from collections import deque

from tests.oracle.frames import Datagram, dissect
from tests.oracle.nat import Nat, complaint, first
from tests.oracle.policies import Policies
from tests.oracle.records import Connection, Key, MismatchError, Seen


class Placing:
    """The table of the naive tracker.

    `ledger`: where limits are, what the one under test created for the packet, and what it dropped early for that, in
    order; None: what it says of the packet tells.
    """

    def __init__(self, linux: bool, policies: Policies) -> None:
        self.linux, self.policies = linux, policies
        self.table: dict[Key, Connection] = {}
        self.replies: dict[Key, Connection] = {}
        self.ledger: deque[tuple[str, Key]] | None = None
        self.now_ms = 0

    def live(self, now_ms: int) -> list[Connection]:
        """Connections that have not expired."""
        return [connection for connection in self.table.values() if now_ms < connection.expires_ms]

    def drop(self, connection: Connection) -> None:
        """Forget a connection."""
        if self.table.get(connection.key) is connection:
            del self.table[connection.key]
        if self.replies.get(connection.reply) is connection:
            del self.replies[connection.reply]

    def sweep(self, before_ms: int) -> None:
        """Forget what has expired by then, for sure."""
        for connection in [other for other in self.table.values() if other.expires_ms <= before_ms]:
            self.drop(connection)

    def find(self, key: Key, now: int) -> tuple[Connection | None, bool]:
        connection = self.table.get(key)
        if connection is not None and now < connection.expires_ms:
            return connection, False
        connection = self.replies.get(key)
        if connection is not None and now < connection.expires_ms:
            return connection, True
        return None, False

    def in_use(self, key: Key) -> bool:
        """Whether a connection that lives has this tuple, in either direction."""
        return self.find(key, self.now_ms)[0] is not None

    def key(self, datagram: Datagram, zone: int, quoted: bool = False) -> Key | None:
        """The tuple of a packet."""
        raise NotImplementedError

    def place(self, key: Key, nat: Nat | None, seen: Seen | None) -> Key | str:
        """The reply tuple of a new connection, or the ct_state of its packet when it is not stored."""
        plain = key.reversed()
        if seen is None:
            reply = first(key, nat, self.in_use) if nat is not None else plain
            return "inv|trk" if reply is None or self.in_use(reply) else reply
        stored = "inv" not in seen.state and (self.ledger is None or self._was_stored(key))
        if not stored:
            return self._refusal(key, nat, seen)
        reply = plain if nat is None else self._chosen(key, nat, seen)
        if self.in_use(reply):
            raise MismatchError(f"{key} was stored although its reply tuple {reply} is in use")
        if self.ledger is not None:
            self._admit(key)
        return reply

    def _chosen(self, key: Key, nat: Nat, seen: Seen) -> Key:
        """The reply tuple that the other one chose, if it was allowed."""
        sent = dissect(seen.frame)
        chosen = None if sent is None else self.key(sent, key.zone)
        if chosen is None:
            raise MismatchError(f"{key} with {nat.action()} became something else: {seen.frame.hex()}")
        wrong = complaint(key, nat, chosen.reversed(), self.in_use)
        if wrong:
            raise MismatchError(f"{key} with {nat.action()}: {wrong}")
        return chosen.reversed()

    def _refusal(self, key: Key, nat: Nat | None, seen: Seen) -> str:
        """The ct_state of a packet that was refused, if there was a reason: no tuple is left, or no room."""
        allowed = set()
        free = first(key, nat, self.in_use) if nat is not None else None
        if free is None and (nat is not None or self.in_use(key.reversed())):
            allowed.add("inv|trk")
        if self.is_short(key.zone):
            allowed.add("inv|trk" if self.linux else "new|trk")
        if seen.state not in allowed:
            raise MismatchError(f"{key} with {nat and nat.action()} was refused; free is {free or key.reversed()}")
        return seen.state

    def is_short(self, zone: int) -> bool:
        """Whether a new connection may be refused; what has expired may count, and may not, until it is swept."""
        if not self.policies.has_limits:
            return False
        of_zone = sum(other.key.zone == zone for other in self.table.values())
        return len(self.table) >= self.policies.capacity or of_zone >= self.policies.limit(zone)

    def _was_stored(self, key: Key) -> bool:
        """Whether the other one made this connection."""
        assert self.ledger is not None
        return ("created", key) in self.ledger

    def _admit(self, key: Key) -> None:
        """Take note that a connection was stored, and of those that had to go for it."""
        assert self.ledger is not None
        while self.ledger[0][0] != "created":
            self._drop_early(self.ledger.popleft()[1])
        self.ledger.popleft()
        alive = self.live(self.now_ms)
        of_zone = sum(other.key.zone == key.zone for other in alive)
        if len(alive) >= self.policies.capacity or of_zone >= self.policies.limit(key.zone):
            raise MismatchError(f"{key} was stored, beyond the limit")

    def _drop_early(self, key: Key) -> None:
        victim = self.table.get(key)
        if victim is None or not self.policies.early_drop:
            raise MismatchError(f"{key} was dropped early: there is no such connection")
        if victim.seen_reply or victim.assured:
            raise MismatchError(f"{key} was dropped early although it was answered")
        self.drop(victim)
