"""A bridge: a switch whose ports have names and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flowshunt.app import Switch, check_port_name
from flowshunt.base.clock import Clock
from flowshunt.base.errors import InputError, UsageError
from flowshunt.base.log import logger
from flowshunt.control.openflow.controllers import Controllers, ControllerSettings
from flowshunt.control.openflow.ports import (
    CONFIG_DOWN,
    CONFIG_NO_FORWARD,
    CONFIG_NO_RECEIVE,
    STATE_LINK_DOWN,
    STATE_LIVE,
    PortDescription,
)
from flowshunt.control.openflow.server import Server
from flowshunt.control.openflow.service import REASON_ADDED, REASON_CHANGED, REASON_DELETED, Service
from flowshunt.control.openflow.snoop import Snooping
from flowshunt.daemon.recording import Recorders, of_dummy, open_leniently
from flowshunt.datapath.schema import PORT_LOCAL
from flowshunt.datapath.tables import Result
from flowshunt.packet.schema import ETH_QINQ, PACKET, Batch
from flowshunt.ports.api import PortError
from flowshunt.ports.devices import Link, set_address, set_up
from flowshunt.ports.dummy import DummyPort
from flowshunt.ports.live import Frames, LiveBatch, LivePort, plain
from flowshunt.ports.memory import Transmitted
from flowshunt.ports.recorder import Recording
from flowshunt.rules.openflow.flow import Flow, Normal
from flowshunt.rules.openflow.tracing.story import Group

STAND_IN_PRIORITY = 0xF0F0F0
"""Of the flow by which a bridge forwards while its controllers are silent; hidden, as beyond those of OpenFlow."""
_LAST_PORT = 0xFEFF
_LOG = logger(__name__)


@dataclass(slots=True)
class PortInfo:
    """A port of a bridge, as it is now.

    `ofport`: OpenFlow port number, -1 while the port cannot be opened; `error` says why then. `type`: system, internal,
    patch or dummy. `mtu`: bytes, None: not known. `mtu_request`: what an internal port is to get. `number`: the last
    number that it had, and gets again. `mac`: 6 bytes. `link_up`: the carrier. `link_resets`: how often that changed.
    `link`: how fast it is, None: not known. `note`: what it is asked for and does not do although it works.
    `statistics`: counters by name, filled in by `Bridge.port_info`.
    """

    name: str
    type: str
    ofport: int
    options: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    mtu: int | None = None
    mtu_request: int | None = None
    number: int = 0
    mac: bytes = bytes(6)
    ifindex: int = 0
    admin_up: bool = True
    link_up: bool = True
    link_resets: int = 0
    link: Link | None = None
    note: str | None = None
    statistics: dict[str, int] = field(default_factory=dict)


OpenPort = Callable[[PortInfo], LivePort]
"""Opens the device of a port, whose number is set, and fills in what the device says. Raises PortError."""


class Bridge:
    """Ports by name on a switch of their own, beside the other bridges' switches.

    The packet thread alone uses it, through `Node.call`; `server` belongs to the thread of control.
    """

    def __init__(self, name: str, switch: Switch, host: Host, *, datapath_id: int, fail_mode: str) -> None:
        """An empty bridge; `Node.add_bridge` makes one that works."""
        self.name = name
        self.switch = switch
        self.fail_mode = fail_mode
        self._host = host
        self.ports: dict[str, PortInfo] = {}
        self._devices: dict[int, LivePort] = {}
        self._vlans: dict[str, tuple[str, int, frozenset[int], int]] = {}
        self._recorders = Recorders()
        self._dropped = {"tx_no_device": 0}
        self.service = Service(switch, datapath_id=datapath_id, describe=self._describe, started_ns=host.clock.now_ns())
        self.server = Server(self.service, host.clock, host.carry_out)
        self.controllers = Controllers(self.server, host.control_changed, self._order_stand_in)
        self.snooping = Snooping(self.controllers.connection)
        self.forwards_alone = fail_mode != "secure"
        self.service.ports.bring_up = self.bring_up
        self.service.on_configured = host.follow_offload
        self.service.events.wake = lambda: host.post(self.server.flush_events)
        switch.on_output = self._send_out

    @property
    def management_path(self) -> Path:
        """The socket that ovs-ofctl finds by the bridge's name."""
        return self._host.rundir / f"{self.name}.mgmt"

    @property
    def snoop_path(self) -> Path:
        """The socket of `ovs-ofctl snoop`."""
        return self._host.rundir / f"{self.name}.snoop"

    # --- controllers -----------------------------------------------------------------------------------------------

    def set_controllers(self, settings: Iterable[ControllerSettings]) -> None:
        """Have these controllers, soon. With some, and not `secure`, it forwards by itself while none speaks."""
        wanted = tuple(settings)
        self.forwards_alone = self.fail_mode != "secure" and not wanted
        self._host.schedule(partial(self.controllers.configure, wanted, may_stand_in=self.fail_mode != "secure"))

    def _order_stand_in(self, on: bool) -> None:
        """On the thread of control."""
        self._host.carry_out(partial(self._stand_in, on), _nothing)

    def _stand_in(self, on: bool) -> None:
        """Forward as a switch, whatever the flows say, or no longer."""
        datapath, own = self.switch.datapath, Flow((), (Normal(),), 0, STAND_IN_PRIORITY)
        self.service.hides_flows = on
        if not on:
            datapath.delete_flows(own, strict=True)
        elif not datapath.selected_rules(own, strict=True):
            datapath.add_flow(own, self._host.clock.now_ns() // 1_000_000)

    async def listen(self) -> None:
        """On the thread of control: open the bridge's sockets. Raises UsageError and InputError."""
        await self.server.listen(self.management_path)
        await self.snooping.listen(self.snoop_path)

    async def hang_up(self) -> None:
        """On the thread of control: close sockets and connections."""
        await self.controllers.close()
        await self.snooping.close()
        await self.server.close()

    # --- ports -----------------------------------------------------------------------------------------------------

    def add_port(
        self,
        name: str,
        type_: str = "system",
        *,
        ofport_request: int | None = None,
        options: Mapping[str, str] | None = None,
        mtu_request: int | None = None,
    ) -> PortInfo:
        """Add a port and open its device. A device that cannot be opened is no error of the caller's.

        The port stays without a number then, with the reason in `error`, and is tried again when the device appears.
        `ofport_request` is given to it if it is free. Raises UsageError for a name that the bridge has already, or that
        cannot be one.
        """
        check_port_name(name)
        if name in self.ports:
            raise UsageError(f"{self.name} has a port {name!r} already")
        info = PortInfo(
            name, type_, -1, dict(options or {}), mac=_made_up_mac(self.name, name), mtu_request=mtu_request
        )
        self.ports[name] = info
        self.open_port(name, ofport_request)
        return self.port_info(name)

    def open_port(self, name: str, ofport_request: int | None = None) -> bool:
        """Try to open the device of a port that has none; returns whether it has one now."""
        info = self.ports[name]
        number = self._free_number(name, ofport_request or info.number or None)
        info.ofport = number
        try:
            device = self._host.open_port(self, info)
        except InputError as problem:
            info.ofport, info.error = -1, str(problem)
            _LOG.warning("bridge %s: %s", self.name, problem)
            return False
        info.error, info.number = None, number
        self.switch.add_port(name, number)
        self.switch.datapath.ports.set_mtu(number, info.mtu)
        if name in self._vlans:
            mode, tag, trunks, tpid = self._vlans[name]
            self.switch.datapath.ports.set_vlans(number, mode, tag, trunks, tpid=tpid)
        self._devices[number] = device
        if isinstance(device, DummyPort) and (recording := of_dummy(info.options)) is not None:
            self._recorders.wanted[name] = recording
        open_leniently(self._recorders, name, number)
        self._host.watch(self, device)
        self._tell(info, REASON_ADDED)
        return True

    def del_port(self, name: str) -> None:
        """Remove a port and close its device. Raises UsageError when there is none."""
        if name not in self.ports:
            raise UsageError(f"{self.name} has no port {name!r}")
        self.close_port(name, None)
        self._vlans.pop(name, None)
        self._recorders.wanted.pop(name, None)
        del self.ports[name]

    def close_port(self, name: str, error: str | None) -> None:
        """Take the device from a port, because of `error`; its number is free then."""
        info = self.ports[name]
        device = self._devices.pop(info.ofport, None)
        info.error = error
        if device is None:
            return
        self._host.unwatch(device)
        device.close()
        self._recorders.close(info.ofport)
        self._tell(info, REASON_DELETED)
        self.switch.remove_port(name)
        info.ofport = -1

    def lose_port(self, number: int, error: str) -> None:
        """The device of the port with this number is gone; the port waits for it to come back."""
        name = next(info.name for info in self.ports.values() if info.ofport == number)
        _LOG.warning("bridge %s: %s", self.name, error)
        self.close_port(name, error)

    def set_admin_state(self, name: str, up: bool) -> None:
        """Say whether a dummy port is up; one that is not neither sends nor receives."""
        info = self._info(name)
        if info.admin_up != up:
            info.admin_up = info.link_up = up
            info.link_resets += 1
            if isinstance(device := self.device(name), DummyPort):
                device.is_up = up
            self._tell(info, REASON_CHANGED)

    def bring_up(self, name: str, up: bool) -> None:
        """Bring the device of a port up or down, as a controller asks. Raises UsageError when that cannot be."""
        if not self._info(name).ifindex:
            self.set_admin_state(name, up)
            return
        try:
            set_up(name, up=up)
        except OSError as problem:
            state = "up" if up else "down"
            raise UsageError(f"{name} can't be brought {state}: {problem.strerror}") from None

    def set_vlans(
        self, name: str, mode: str, tag: int = 0, trunks: Iterable[int] = (), *, tpid: int = ETH_QINQ
    ) -> None:
        """Say how a port treats VLANs, also after its device has gone and returned; see `Ports.set_vlans`."""
        info = self._info(name)
        carried = frozenset(trunks)
        if info.ofport > 0:
            self.switch.datapath.ports.set_vlans(info.ofport, mode, tag, carried, tpid=tpid)
        self._vlans[name] = (mode, tag, carried, tpid)

    def record(self, name: str, recording: Recording) -> None:
        """Record what passes a port from now on, also after its device has gone and returned.

        Raises PortError when a file cannot be written.
        """
        self._recorders.wanted[name] = recording
        if (number := self._info(name).ofport) > 0:
            self._recorders.open(name, number)
            self._host.follow_offload()

    def needs_packets(self, number: int) -> bool:
        """Whether all packets of a port are to pass here: it is recorded, or is to receive or to forward nothing."""
        return number in self._recorders or self.service.ports.is_configured(
            number, CONFIG_NO_RECEIVE | CONFIG_NO_FORWARD
        )

    def set_mac(self, name: str, mac: bytes) -> None:
        """Give a port another address, and the device that it is. Raises UsageError when that cannot be."""
        info = self._info(name)
        if info.ifindex:
            try:
                set_address(name, mac)
            except OSError as problem:
                raise UsageError(f"{name} cannot have the address {mac.hex(':')}: {problem.strerror}") from None
        if info.mac != mac:
            info.mac = mac
            self._tell(info, REASON_CHANGED)

    def port_changed(self, name: str) -> None:
        """What is known of a port has changed: go by it, and tell those who listen."""
        info = self._info(name)
        if info.ofport > 0:
            self.switch.datapath.ports.set_mtu(info.ofport, info.mtu)
        self._tell(info, REASON_CHANGED)

    def port_info(self, name: str) -> PortInfo:
        """A copy of what is known of a port, with its counters."""
        info = self._info(name)
        counted = self.switch.datapath.ports.statistics_of(info.ofport)
        device = self._devices.get(info.ofport)
        counted |= (device.counters if device else {}) | self._recorders.counters(info.ofport)
        return dataclasses.replace(info, statistics=counted)

    def device(self, name: str) -> LivePort | None:
        """The device of a port, if it has one."""
        return self._devices.get(self._info(name).ofport)

    def open_devices(self) -> dict[int, tuple[PortInfo, LivePort]]:
        """The devices that ports have now, by port number."""
        named = {info.ofport: info for info in self.ports.values()}
        return {number: (named[number], device) for number, device in self._devices.items()}

    def _info(self, name: str) -> PortInfo:
        if name not in self.ports:
            raise UsageError(f"{self.name} has no port {name!r}")
        return self.ports[name]

    def _free_number(self, name: str, request: int | None) -> int:
        if name == self.name:
            return PORT_LOCAL
        taken = {info.ofport if info.ofport > 0 else info.number for info in self.ports.values() if info.name != name}
        if request is not None and 1 <= request <= _LAST_PORT and request not in taken:
            return request
        return next(number for number in range(1, _LAST_PORT + 1) if number not in taken)

    def _tell(self, info: PortInfo, reason: int) -> None:
        self.service.tell_port(reason, info.name, info.ofport)
        self._host.port_changed(self, info, reason)

    def _describe(self, name: str, number: int) -> PortDescription:
        info = self.ports[name]
        state = STATE_LIVE if info.link_up else STATE_LINK_DOWN
        return PortDescription(number, name, info.mac, 0 if info.admin_up else CONFIG_DOWN, state)

    # --- packets ---------------------------------------------------------------------------------------------------

    def receive(self, received: LiveBatch) -> None:
        """Take a batch through the switch, and send what it causes; frames for patch ports wait at the node."""
        if deaf := self.service.ports.configured(CONFIG_NO_RECEIVE):
            received = received.select(~np.isin(received.batch.packets["in_port"], deaf))
            if not len(received.batch.packets):
                return
        if self._recorders:
            self._recorders.received(received)
        result = self.switch.process(received.batch)
        if len(result.tx):
            self.send(Frames(received, result.tx, result.tx_data))

    def send(self, frames: Frames) -> None:
        """Send frames on the devices of their ports."""
        numbers = frames.tx["port"]
        first = int(numbers[0])
        for number in [first] if (numbers == first).all() else sorted(set(numbers.tolist())):
            device = self._devices.get(number)
            if self.service.ports.is_configured(number, CONFIG_NO_FORWARD):
                continue
            if device is None:
                self._dropped["tx_no_device"] += int(np.count_nonzero(numbers == number))
                continue
            if self._recorders:
                self._recorders.sent(frames, number)
            try:
                device.send(frames)
            except PortError as problem:
                self.lose_port(number, str(problem))

    def _send_out(self, result: Result, batch: Batch) -> None:
        """Send what a packet-out causes."""
        if len(result.tx):
            self.send(Frames(plain(batch), result.tx, result.tx_data))
            self._host.pass_on()

    def group(self, number: int) -> Group | None:
        """An OpenFlow group, for traces."""
        return self.service.groups.story_of(number)

    def inject(self, name: str, frame: bytes) -> None:
        """Let a frame come in on a port, as if its device had received it. Raises UsageError when it cannot."""
        info = self._info(name)
        if info.ofport < 0 or not info.admin_up:
            raise UsageError(f"port {name} of {self.name} receives nothing", hint="it is down")
        packets = np.zeros(1, PACKET)
        packets["length"] = packets["wire_length"] = len(frame)
        packets["in_port"], packets["time_ns"] = info.ofport, self._host.clock.now_ns()
        self._host.forward(self, plain(Batch(np.frombuffer(bytearray(frame), np.uint8), packets)))

    def transmitted(self, name: str) -> list[Transmitted]:
        """What a dummy port has sent since this was last asked, oldest first. Raises UsageError for other ports."""
        device = self.device(name)
        if not isinstance(device, DummyPort):
            raise UsageError(f"port {name} of {self.name} keeps nothing", hint="only dummy ports do")
        sent = list(device.transmitted)
        device.transmitted.clear()
        return sent

    def close(self) -> None:
        """Close all devices, and let go of what forwards without controllers."""
        self._stand_in(False)
        for name in list(self.ports):
            self.del_port(name)

    def statistics(self) -> dict[str, int]:
        """Counters of the switch, and of frames for ports without a device."""
        return self.switch.statistics() | self._dropped


class Host(Protocol):
    """What a bridge needs of the node that it belongs to."""

    clock: Clock
    rundir: Path

    def carry_out(self, work: Callable[[], None], done: Callable[[], None]) -> bool:
        """See `control.openflow.server.Run`."""

    def open_port(self, bridge: Bridge, info: PortInfo) -> LivePort:
        """Open a device. Raises PortError."""

    def watch(self, bridge: Bridge, device: LivePort) -> None:
        """Receive from a device from now on."""

    def unwatch(self, device: LivePort) -> None:
        """No more."""

    def forward(self, bridge: Bridge, received: LiveBatch) -> None:
        """Take a batch into a bridge, and on through patch ports."""

    def pass_on(self) -> None:
        """Take what waits at patch ports on to the bridges behind them."""

    def schedule(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a task of the thread of control run, after those that were scheduled before."""

    def control_changed(self) -> None:
        """On the thread of control: a controller came or went."""

    def post(self, function: Callable[[], None]) -> bool:
        """Have `function()` called on the thread of control; False when it will not be."""

    def port_changed(self, bridge: Bridge, info: PortInfo, reason: int) -> None:
        """A port came, went or changed."""

    def follow_offload(self) -> None:
        """What `Bridge.needs_packets` says of a port has changed."""


def _nothing() -> None:
    """What is left to do after a command that nobody waits for."""


def _made_up_mac(bridge: str, port: str) -> bytes:
    """A locally administered address for a port without a device, always the same."""
    return b"\xaa" + blake2b(f"{bridge}/{port}".encode(), digest_size=5).digest()
