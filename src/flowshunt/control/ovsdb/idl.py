"""The replica of the database in asyncio: one task that runs it, and transactions that it carries out."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Any

from ovs.db.idl import Idl, Transaction

from flowshunt.base.log import logger
from flowshunt.control.ovsdb import schema

LOCK = "ovs_vswitchd"
"""Whoever holds this lock is the switch; Open vSwitch takes the same."""
_LOG = logger(__name__)


class Poller:
    """What `Idl.wait` tells its wishes, and what waits for them."""

    def __init__(self) -> None:
        """Nothing is wished for yet."""
        self._wake = asyncio.Event()
        self._fds: dict[int, int] = {}
        self._deadline: float | None = None

    def fd_wait(self, fd: Any, events: int) -> None:
        """Wake up when a file descriptor is ready."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._fds[number] = self._fds.get(number, 0) | events

    def timer_wait(self, msec: int) -> None:
        """Wake up after so many milliseconds."""
        self.timer_wait_until(time.monotonic() * 1000 + max(msec, 0))

    def timer_wait_until(self, msec: float) -> None:
        """Wake up at a time of the monotonic clock, in milliseconds."""
        self._deadline = msec if self._deadline is None else min(self._deadline, msec)

    def immediate_wake(self) -> None:
        """Do not wait at all."""
        self.timer_wait(0)

    def wake(self) -> None:
        """Wake up now; from the same loop."""
        self._wake.set()

    async def block(self) -> None:
        """Wait for the first of all that was wished for since the last time."""
        loop = asyncio.get_running_loop()
        for fd, events in self._fds.items():
            if events & (select.POLLIN | select.POLLERR | select.POLLHUP):
                loop.add_reader(fd, self._wake.set)
            if events & select.POLLOUT:
                loop.add_writer(fd, self._wake.set)
        timer = None
        if self._deadline is not None:
            timer = loop.call_later(max(self._deadline / 1000 - time.monotonic(), 0), self._wake.set)
        try:
            # Not asyncio.wait_for: before Python 3.12 it may lose a cancellation.
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
            for fd in self._fds:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
            self._wake.clear()
            self._fds.clear()
            self._deadline = None


class Replica:
    """The database at `remote`, as it was last heard of.

    `step` is to be called in a loop; nothing changes in between, so that rows can be read and transactions built.
    """

    def __init__(self, remote: str, schema_json: dict[str, Any]) -> None:
        """Begin to connect."""
        helper = schema.helper(schema_json)
        self.columns = {table: frozenset(spec["columns"]) for table, spec in schema_json["tables"].items()}
        self.version = str(schema_json.get("version", ""))
        self._idl = Idl(remote, helper)
        self._idl.set_lock(LOCK)
        for table, columns in schema.WRITTEN.items():
            for column in columns:
                if table in self._idl.tables and column in self._idl.tables[table].columns:
                    self._idl.tables[table].columns[column].alert = False
        if "ofport" in self._idl.tables["Interface"].columns:
            self._idl.tables["Interface"].columns["ofport"].alert = False
        self._poller = Poller()
        self._transaction: Transaction | None = None
        self._done: Callable[[bool], None] | None = None

    @property
    def seqno(self) -> int:
        """Changes whenever the replica does; 0: nothing has come yet."""
        return int(self._idl.change_seqno)

    @property
    def has_lock(self) -> bool:
        """Whether we are the switch."""
        return bool(self._idl.has_lock)

    @property
    def is_contended(self) -> bool:
        """Whether somebody else holds the lock."""
        return bool(self._idl.is_lock_contended)

    @property
    def is_busy(self) -> bool:
        """Whether a transaction is under way."""
        return self._transaction is not None

    def rows(self, table: str) -> list[Any]:
        """All rows of a table."""
        return list(self._idl.tables[table].rows.values()) if table in self._idl.tables else []

    def root(self) -> Any | None:
        """The one row of Open_vSwitch."""
        return next(iter(self.rows("Open_vSwitch")), None)

    def begin(self) -> Transaction:
        """A new transaction; build it and hand it to `commit` before anything is awaited."""
        assert self._transaction is None
        return Transaction(self._idl)

    def commit(self, transaction: Transaction, done: Callable[[bool], None]) -> None:
        """Send a transaction; `done(whether it worked)` is called from a later step."""
        self._transaction, self._done = transaction, done
        self._advance()

    def _advance(self) -> None:
        if self._transaction is None or self._done is None:
            return
        status = self._transaction.commit()
        if status == Transaction.INCOMPLETE:
            return
        works = status in (Transaction.SUCCESS, Transaction.UNCHANGED)
        if status == Transaction.ERROR:
            _LOG.warning("the database refused what we wrote: %s", self._transaction.get_error())
        done, self._transaction, self._done = self._done, None, None
        done(works)

    def step(self) -> None:
        """Take what has come."""
        self._idl.run()
        self._advance()

    def wake(self) -> None:
        """Have `wait` return."""
        self._poller.wake()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait until there may be something to do, at most `timeout_s`."""
        self._idl.wait(self._poller)
        if self._transaction is not None:
            self._transaction.wait(self._poller)
        if timeout_s is not None:
            self._poller.timer_wait(int(timeout_s * 1000))
        await self._poller.block()

    def close(self) -> None:
        """Give up the connection, and the lock with it."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = self._done = None
        self._idl.close()
