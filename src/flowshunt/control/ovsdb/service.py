"""Keeps the switch as the database says, and the database as the switch is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from typing import Any

from flowshunt.base.errors import InputError
from flowshunt.base.log import logger
from flowshunt.control.ovsdb import model, schema, writer
from flowshunt.control.ovsdb.apply import Applier
from flowshunt.control.ovsdb.idl import Replica
from flowshunt.control.ovsdb.node import Node
from flowshunt.control.ovsdb.reconcile import plan

RETRY_S = 1.0
STATISTICS_S = 5.0
"""How often counters are written, unless `stats-update-interval` says otherwise (at least that)."""
_LOG = logger(__name__)


class Service:
    """One database, one node. `run` is a task that goes on until it is cancelled."""

    def __init__(self, node: Node, remote: str, *, iface_types: Iterable[str] = writer.IFACE_TYPES) -> None:
        """`remote`: `unix:PATH` or `tcp:HOST:PORT`."""
        self._node = node
        self._remote = remote
        self._iface_types = tuple(iface_types)
        self._applier = Applier(node)
        self._applied = model.Wanted()
        self._replica: Replica | None = None
        self._seqno = 0
        self._cur_cfg: int | None = None
        self._is_stale = False
        self._written_s = 0.0
        self._retry_s = 0.0
        self._lock_state = ""
        self._was_heard = asyncio.Event()
        node.on_port_change(self._port_changed)
        node.on_control_change(self._changed)

    async def heard(self) -> None:
        """Wait until the database has been heard of for the first time, and was acted on."""
        await self._was_heard.wait()

    async def run(self) -> None:
        """Follow the database; it may come, go and return."""
        found = await self._schema()
        if missing := schema.lacking(found):
            text = "the database has an older schema (%s), without %s: what they are for is not there"
            _LOG.info(text, found.get("version", "no version"), ", ".join(missing))
        self._replica = Replica(self._remote, found)
        try:
            while True:
                await self._turn(self._replica)
        finally:
            self._replica.close()

    async def _schema(self) -> dict[str, Any]:
        is_known = False
        _LOG.info("%s: connecting...", self._remote)
        while True:
            try:
                found = await schema.fetch(self._remote)
            except InputError as error:
                if not is_known:
                    _LOG.info("waiting for the database: %s", error)
                is_known = True
                await asyncio.sleep(RETRY_S)
            else:
                _LOG.info("%s: connected", self._remote)
                return found

    async def _turn(self, replica: Replica) -> None:
        replica.step()
        self._watch_lock(replica)
        if replica.has_lock and replica.seqno != self._seqno and (root := replica.root()) is not None:
            self._seqno = replica.seqno
            wanted, next_cfg = model.read(root), int(getattr(root, "next_cfg", 0))
            await self._reconfigure(wanted)
            self._cur_cfg = next_cfg
            self._is_stale = True
        if replica.has_lock and not replica.is_busy and self._pause_s() <= 0:
            await self._write(replica)
        if replica.seqno and replica.has_lock:
            self._was_heard.set()
        # Without the lock, and while a transaction is under way, it is the database's turn.
        may_write = self._seqno and replica.has_lock and not replica.is_busy
        await replica.wait(max(self._pause_s(), 0.0) if may_write else None)

    def _pause_s(self) -> float:
        """How long until something is to be written; a database that refused has some time first."""
        due_s = 0.0 if self._is_stale else self._written_s + self._interval_s()
        return max(due_s, self._retry_s) - time.monotonic()

    def _watch_lock(self, replica: Replica) -> None:
        state = "held" if replica.has_lock else "contended" if replica.is_contended else ""
        if state == self._lock_state:
            return
        self._lock_state = state
        if state == "contended":
            text = "another ovs-vswitchd process is running, disabling this process (pid %d) until it goes away"
            _LOG.error(text, os.getpid())
            self._was_heard.set()

    def _interval_s(self) -> float:
        asked = self._applied.config.get("stats-update-interval", "")
        return max(int(asked) / 1000, STATISTICS_S) if asked.isdecimal() and len(asked) < 10 else STATISTICS_S

    async def _reconfigure(self, wanted: model.Wanted) -> None:
        actions = plan(self._applied, wanted)
        if actions:
            await self._applier.carry_out(actions)
        await self._node.take_over()
        self._applied = wanted

    async def _write(self, replica: Replica) -> None:
        self._is_stale = False
        facts = await writer.gather(self._node, self._applier.errors, self._applier.notes)
        self._written_s = time.monotonic()
        writer.write(replica, facts, self._iface_types, self._cur_cfg, self._written)

    def _written(self, works: bool) -> None:
        if not works:
            self._is_stale = True
            self._retry_s = time.monotonic() + RETRY_S

    def _port_changed(self, bridge: str, port: Any, reason: int) -> None:
        """A port came, went or changed: the database is to know."""
        self._changed()

    def _changed(self) -> None:
        self._is_stale = True
        if self._replica is not None:
            self._replica.wake()
