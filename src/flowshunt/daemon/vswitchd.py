"""A node that a database describes and that ovs-appctl talks to, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowshunt.base.clock import SteppedClock, SystemClock
from flowshunt.base.errors import InputError, UsageError
from flowshunt.base.log import logger
from flowshunt.control.ovsdb.service import Service
from flowshunt.control.ovsdb.writer import IFACE_TYPES
from flowshunt.control.unixctl.server import Server
from flowshunt.control.unixctl.vlog import Vlog
from flowshunt.daemon.bridge import OpenPort, PortInfo
from flowshunt.daemon.commands import registry
from flowshunt.daemon.node import Node
from flowshunt.daemon.ports import open_device, open_dummy
from flowshunt.daemon.privileges import tell_missing
from flowshunt.daemon.restart import keeping
from flowshunt.daemon.run import settle_interpreter
from flowshunt.daemon.signals import handled, ignore_hangup
from flowshunt.daemon.system import tell_systemd
from flowshunt.ports.api import PortError
from flowshunt.ports.live import LivePort

FEATURES = (
    "Datapath supports recirculation",
    "VLAN header stack length probed as {vlans}",
    "Datapath supports clone action",
    "Datapath supports eventmask in conntrack action",
    "Datapath supports ct_clear action",
    "Datapath supports timeout policy in conntrack action",
    "Datapath supports ct_zero_snat",
    "Datapath supports ct_state",
    "Datapath supports ct_zone",
    "Datapath supports ct_mark",
    "Datapath supports ct_label",
    "Datapath supports ct_state_nat",
    "Datapath supports ct_orig_tuple",
    "Datapath supports ct_orig_tuple6",
)
"""What Open vSwitch finds out by trying when it starts, and scripts look for in the log."""
MAX_VLANS = 2

_BRIDGE_LOG = logger("flowshunt.bridge")
_FEATURE_LOG = logging.getLogger("flowshunt.ofproto_dpif")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run."""

    program: str
    version: str
    """What `version` answers."""
    rundir: Path
    database: str
    unixctl: Path | None
    log_file: Path | None = None
    log_levels: tuple[str, ...] = ()
    """Arguments of -v."""
    is_quiet: bool = False
    """Nothing goes to standard error, whatever the levels say: it is to be let go of."""
    missing: frozenset[int] = frozenset()
    """Capabilities that are missing, see `privileges`."""
    dummy: str | None = None
    """None: no dummy ports; `override`: all are dummy ports, `system`: those of type system are."""


def opener(dummy: str | None) -> OpenPort:
    """Opens ports, dummy ones only where they are allowed."""

    def open_port(info: PortInfo) -> LivePort:
        if dummy == "override" or (dummy == "system" and info.type == "system"):
            return open_dummy(info)
        if info.type == "dummy" and dummy is None:
            raise PortError(f"could not open network device {info.name} (Address family not supported by protocol)")
        return open_device(info)

    return open_port


def start_log(settings: Settings) -> Vlog:
    """The log as the settings ask for it. Raises UsageError for a level that is none, InputError for a bad file."""
    vlog = Vlog(settings.program)
    vlog.install()
    try:
        for spec in settings.log_levels:
            wrong = vlog.set(spec, lenient=True)
            if wrong is not None:
                raise UsageError(f'processing "{spec}": {wrong}')
        if settings.is_quiet:
            vlog.set("console:off")
        if settings.log_file is not None:
            vlog.open_file(settings.log_file)
    except BaseException:
        vlog.uninstall()
        raise
    return vlog


async def serve(settings: Settings, ready: Callable[[], None], vlog: Vlog) -> None:
    """Follow the database until `exit`, SIGTERM or SIGINT; `ready` is called once it was heard of and acted on.

    SIGHUP opens the log file anew.

    Raises UsageError and InputError for what keeps it from starting.
    """
    stop = asyncio.Event()
    clock = SystemClock() if settings.dummy is None else SteppedClock()
    node = Node(
        settings.rundir,
        clock=clock,
        open_port=opener(settings.dummy),
        has_devices=settings.dummy not in ("override", "system"),
    )
    stepped = clock if isinstance(clock, SteppedClock) else None
    commands = registry(settings.version, stop, vlog=vlog, clock=stepped, leave_nothing=node.leave_nothing)
    server = Server(node, commands, settings.program)
    _BRIDGE_LOG.info("%s", settings.version)
    for line in FEATURES:
        _FEATURE_LOG.info("netdev@ovs-netdev: %s", line.format(vlans=MAX_VLANS))
    tell_missing(settings.missing)
    types = IFACE_TYPES if settings.dummy is None else (*IFACE_TYPES, "dummy")
    await node.start()
    try:
        if settings.unixctl is not None:
            await server.listen(settings.unixctl)
        service = Service(node, settings.database, iface_types=types)
        with handled(stop, partial(_reopen, vlog)):
            async with keeping(node):
                await _follow(service, stop, ready)
    finally:
        tell_systemd("STOPPING=1")
        await node.stop()
        await server.close()


def _reopen(vlog: Vlog) -> None:
    try:
        vlog.reopen()
    except InputError as problem:
        _BRIDGE_LOG.error("%s", problem)  # the old file stays open


async def _follow(service: Service, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    following = asyncio.create_task(service.run())
    heard, stopped = asyncio.create_task(service.heard()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((following, heard, stopped), return_when=asyncio.FIRST_COMPLETED)
        if heard.done():
            settle_interpreter()
            ready()
            tell_systemd("READY=1\nSTATUS=forwarding")
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        for task in (following, heard, stopped):
            task.cancel()
        await asyncio.gather(following, heard, stopped, return_exceptions=True)


def serve_forever(settings: Settings, ready: Callable[[], None]) -> None:
    """`serve` in a loop of its own, with a log."""
    ignore_hangup()
    before = os.umask(0o027)
    vlog = start_log(settings)
    try:
        asyncio.run(serve(settings, ready, vlog))
    finally:
        vlog.uninstall()
        os.umask(before)
