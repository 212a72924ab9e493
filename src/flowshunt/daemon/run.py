"""`flowshunt run`: a node as a configuration file says, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy.ma  # noqa: F401  (np.unique loads it when it is first called, and a packet would wait for that)

from flowshunt.base.errors import FlowshuntError
from flowshunt.base.log import logger
from flowshunt.base.sockets import default_rundir
from flowshunt.base.version import VERSION
from flowshunt.config import Config
from flowshunt.config.model import PortSection
from flowshunt.control.unixctl.server import Server, socket_path
from flowshunt.daemon.bridge import Bridge
from flowshunt.daemon.commands import registry
from flowshunt.daemon.node import Node
from flowshunt.daemon.restart import keeping
from flowshunt.daemon.signals import handled, ignore_hangup
from flowshunt.daemon.system import tell_systemd
from flowshunt.datapath.ports import SERVICE_TYPES
from flowshunt.offload.providers.kernel.options import MODE
from flowshunt.ports.recorder import Recording

PROGRAM = "flowshunt"
VERSION_TEXT = f"{PROGRAM} {VERSION}"
SWITCH_INTERVAL_S = 0.0005
"""How long one thread of the interpreter keeps another one waiting."""
GC_THRESHOLDS = 700, 5, 10_000
"""When garbage is looked for among young, older and all objects: `gc.set_threshold`."""

Tell = Callable[[str], None]
_LOG = logger(__name__)


async def run(config: Config, base: Path, tell: Tell, *, stop: asyncio.Event | None = None) -> None:
    """Make what `config` says and keep it until SIGTERM, SIGINT or `stop`.

    `base`: directory that the names of files of rules are relative to. `tell` gets one line for everything that is
    listened on. Raises UsageError and InputError for what cannot be made; devices that are not there are waited for.
    """
    stop = stop or asyncio.Event()
    rundir = Path(config.run.rundir) if config.run.rundir else default_rundir()
    node = Node(rundir, config=config, busy_poll=config.run.busy_poll)
    server = Server(node, registry(VERSION_TEXT, stop, leave_nothing=node.leave_nothing), PROGRAM)
    await node.start()
    try:
        with handled(stop, _say_hang_up):
            await server.listen(socket_path(rundir, PROGRAM))
            await _build(node, config, base, tell)
            async with keeping(node):
                settle_interpreter()
                tell("ready")
                tell_systemd("READY=1\nSTATUS=forwarding")
                await stop.wait()
                tell_systemd("STOPPING=1")
    finally:
        await node.stop()
        await server.close()


def _say_hang_up() -> None:
    _LOG.info("SIGHUP changes nothing: the log goes to standard error, and the configuration is read at the start")


def settle_interpreter() -> None:
    """Once everything is loaded: what lives now is garbage never again, and threads change places quickly.

    Packets wait while garbage is looked for, and ten thousand flows are a lot to look through. They have no cycles:
    young objects are looked through as always, old ones hardly ever.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


async def _build(node: Node, config: Config, base: Path, tell: Tell) -> None:
    priority = ",".join(config.offload.priority)
    other_config = {"hw-offload": str(config.offload.enabled).lower(), "hw-offload-priority": priority}
    other_config |= dict(option.split("=", 1) for option in config.offload.options)
    await node.call(partial(node.configure_offload, other_config))
    for name, section in config.bridges.items():
        number = None if section.datapath_id is None else int(section.datapath_id, 16)
        bridge = await node.call(partial(node.add_bridge, name, datapath_id=number, local_port=section.local_port))
        async with node.opening(port for port, details in config.ports[name].items() if details.type == "system"):
            for port, details in config.ports[name].items():
                await node.call(partial(_add_port, bridge, port, details, base))
        await node.call(partial(_add_flows, node, bridge, config, base))
        await node.settled()
        tell(f"bridge {name} on unix:{bridge.management_path}")
        for port in list(bridge.ports):
            info = await node.call(partial(bridge.port_info, port))
            tell(f"  port {port}: {info.ofport}" if info.error is None else f"  port {port} waits: {info.error}")
    await node.take_over()


def _add_port(bridge: Bridge, name: str, section: PortSection, base: Path) -> None:
    asked = {"peer": section.peer, MODE: section.kernel_mode}
    options = {name: value for name, value in asked.items() if value is not None}
    bridge.add_port(name, section.type, ofport_request=section.number, options=options, mtu_request=section.mtu)
    mode = section.vlan_mode or ("access" if section.tag is not None else "trunk" if section.trunks else "all")
    if mode != "all":
        carried = {"access": (), "dot1q-tunnel": section.cvlans}.get(mode, section.trunks)
        bridge.set_vlans(name, mode, section.tag or 0, carried, tpid=SERVICE_TYPES[section.qinq_ethtype])
    if section.pcap is not None:
        file = str(base / section.pcap)
        bridge.record(name, Recording(file, file, section.pcap_mb << 20))


def _add_flows(node: Node, bridge: Bridge, config: Config, base: Path) -> None:
    section = config.bridges[bridge.name]
    rules = section if section.flow_files or section.flows else config.switch
    for file in rules.flow_files:
        path = base / file
        bridge.switch.add_flows(path.read_text(encoding="utf-8"), str(path), now_ms=node.now_ms())
    source = f"[bridge.{bridge.name}] flows"
    flows = rules.flows if rules.flows or rules.flow_files else ("priority=0,actions=normal",)
    bridge.switch.add_flows("\n".join(flows), source, now_ms=node.now_ms())


def run_forever(config: Config, base: Path, tell: Tell) -> None:
    """`run` in a loop of its own."""
    ignore_hangup()
    try:
        asyncio.run(run(config, base, tell))
    except FlowshuntError:
        tell_systemd("STATUS=failed")
        raise
