"""The offload provider `kernel` and the devices of bridges: attached while both are there.

While a port is attached its own socket only sends: what the provider's programs do not forward comes up on one device
for all ports of the bridge, where a socket of ours receives it with the number of the port that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from flowshunt.base.background import in_background
from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.conntrack.holding import Holding
from flowshunt.daemon.bridge import Bridge, PortInfo
from flowshunt.daemon.preparing import Preparing
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers.kernel.devices import Ingress, UpDevice
from flowshunt.offload.providers.kernel.looking import Look
from flowshunt.offload.providers.kernel.options import MODE, check_mode
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.af_packet import AfPacketPort
from flowshunt.ports.api import PortError
from flowshunt.ports.live import LivePort
from flowshunt.ports.receiving import IN_TAG

_LOG = logger(__name__)


class Receiver(Protocol):
    """Who has packets received; a node."""

    def watch(self, bridge: Bridge, device: LivePort) -> None:
        """Receive from a device from now on."""

    def unwatch(self, device: LivePort) -> None:
        """No more."""

    @property
    def is_holding(self) -> bool:
        """Whether what is received is dropped for now."""

    def soon(self, function: Callable[[], None]) -> None:
        """From any thread: have the packet thread call this, as long as there is one."""

    def port_in_paths(self, bridge: Bridge, number: int) -> int | None:
        """How paths name a port of a bridge; None: the bridge has none."""

    def find_port(self, port: int) -> tuple[Bridge, int] | None:
        """The bridge and the number of a port that paths name, if the bridge is there."""


class _Up(NamedTuple):
    device: UpDevice
    port: AfPacketPort

    def close(self) -> None:
        """Remove the device."""
        self.port.close()
        self.device.close()


class KernelPorts:
    """Keeps the provider attached to the ports that it can forward between. The packet thread alone uses it."""

    def __init__(self, offload: Offload, holding: Holding, bridges: Mapping[str, Bridge], receiver: Receiver) -> None:
        self._offload = offload
        self._holding = holding
        self._bridges = bridges
        self._receiver = receiver
        self._provider: Kernel | None = None
        self._ups: dict[str, _Up] = {}
        self._attached: dict[int, tuple[str, AfPacketPort]] = {}
        self._refused: set[AfPacketPort] = set()
        self._preparing: Preparing[_Up | Ingress] = Preparing(partial(receiver.soon, self.follow))
        self._looks: set[Future[Look | None]] = set()
        self._has_left = False

    @property
    def is_hitless(self) -> bool:
        """Whether forwarding is to outlive the process."""
        provider = self._working()
        return provider is not None and provider.options.is_hitless

    def begin_anew(self) -> None:
        """A device for what goes up is gone: make everything again."""
        self.close()
        self.follow()

    def look_again(self, ifindex: int) -> None:
        """Something happened to a device, which `follow` may know nothing of."""
        if self._provider is not None:
            self._provider.devices.look_again(ifindex)

    def _beside(self, work: Callable[[], Look | None], done: Callable[[Look | None], None]) -> None:
        """See `looking.Beside`."""
        future = in_background(work)
        self._looks.add(future)
        future.add_done_callback(lambda future: self._receiver.soon(partial(self._looked, future, done)))

    def _looked(self, future: Future[Look | None], done: Callable[[Look | None], None]) -> None:
        self._looks.discard(future)
        done(future.result())

    def follow(self) -> None:
        """Attach and detach as settings and ports are now; to be called when they have changed.

        While packets are held back, programs of the process before go on as they are (`is_hitless`).
        """
        if self._has_left:
            return
        provider = self._working()
        if provider is not self._provider:
            self._end()
            self._provider = provider
        if provider is None:
            return
        self._listen_to(provider)
        if self._receiver.is_holding and provider.options.is_hitless:
            return
        wanted = self._wanted()
        self._refused &= {device for _, device, *_ in wanted.values()}
        for port, (_, device) in list(self._attached.items()):
            if port not in wanted or wanted[port][1] is not device:
                self._detach(provider, port)
        pending: set[Hashable] = set()
        for port, (bridge, device, info) in wanted.items():
            if device not in self._refused:
                pending |= self._attach(provider, port, bridge, device, info)
        self._preparing.keep(pending)
        try:
            provider.forget_others()
        except OSError as problem:
            _LOG.warning("connections would not outlive the process: %s", problem)
        for name in list(self._ups):
            is_used = any(bridge == name for bridge, _ in self._attached.values())
            if not is_used and name not in pending:
                self._close_up(name)

    def _listen_to(self, provider: Kernel) -> None:
        provider.flows.count_ports = self._count
        provider.flows.describe = partial(self._offload.describe, self._holding)
        provider.devices.complain = self._complain
        provider.devices.looking.beside = self._beside

    def prepare(self) -> Kernel | None:
        """Before packets come in: make ports known to the provider, so that what the process before left can be taken.

        Its programs go on. None: forwarding is not to outlive a process.
        """
        provider = self._working()
        if provider is None or not provider.options.is_hitless:
            return None
        for port, (bridge, device, info) in self._wanted().items():
            try:
                mode = check_mode(info.options.get(MODE, provider.options.mode))
                up = self._up(provider, bridge, at_once=True)
                assert up is not None
                provider.devices.attach(port, info.ifindex, info.mtu or 0, up, mode, later=True)
            except (OSError, PortError, UsageError) as problem:
                _LOG.warning("%s stays without the offload provider kernel: %s", device.device, problem)
                self._refused.add(device)
        return provider

    def _working(self) -> Kernel | None:
        if not self._offload.settings.enabled or Kernel.name not in self._offload.registry:
            return None
        found = self._offload.registry[Kernel.name]
        return found if isinstance(found, Kernel) else None

    def _wanted(self) -> dict[int, tuple[Bridge, AfPacketPort, PortInfo]]:
        """By their numbers in paths: ports that are network devices, and need not see each packet here."""
        found: dict[int, tuple[int, tuple[Bridge, AfPacketPort, PortInfo]]] = {}  # by device
        for bridge in self._bridges.values():
            for number, (info, device) in bridge.open_devices().items():
                port = self._receiver.port_in_paths(bridge, number)
                if isinstance(device, AfPacketPort) and port is not None and not bridge.needs_packets(number):
                    # While a device goes from one bridge to another it may be in both.
                    found.setdefault(info.ifindex, (port, (bridge, device, info)))
        return dict(found.values())

    def _attach(
        self, provider: Kernel, port: int, bridge: Bridge, device: AfPacketPort, info: PortInfo
    ) -> set[Hashable]:
        """First the programs, then silence at the port's own socket: a few packets may come twice, none is lost.

        Returns what has to be there before, and is not yet.
        """
        pending: set[Hashable] = set()
        devices, key = provider.devices, info.ifindex
        try:
            mode = check_mode(info.options.get(MODE, provider.options.mode))
            provider.init()
            is_new = port not in self._attached
            # A program of the process before forwards until ours takes its place, and then its port is silent.
            takes_over = is_new and devices.is_taken_over(info.ifindex)
            up, prepared = self._up(provider, bridge), None
            if is_new and not takes_over:
                prepared = self._preparing.get(key, partial(devices.prepare, info.ifindex), provider.objects)
                pending |= {key} if prepared is None or up is None else set()
            if up is None or pending:
                return pending | {bridge.name}
            assert prepared is None or isinstance(prepared, Ingress)
            devices.attach(port, info.ifindex, info.mtu or 0, up, mode, prepared)
            self._preparing.took(key)
            if is_new:
                self._attached[port] = bridge.name, device
                device.pause()
                if takes_over:
                    _empty(device)
        except (OSError, PortError, UsageError) as problem:
            _LOG.warning("%s stays without the offload provider kernel: %s", device.device, problem)
            self._refused.add(device)
            self._detach(provider, port)
        return set()

    def _complain(self, port: int, complaint: str) -> None:
        """A port is not in the mode that it is to be in, or is again: note it where users look, and log it."""
        place = self._receiver.find_port(port)
        info = None if place is None else place[0].open_devices().get(place[1], (None,))[0]
        if info is not None:
            info.note = complaint or None
            if complaint:
                _LOG.warning("%s: %s", info.name, complaint)

    def _detach(self, provider: Kernel, port: int) -> None:
        _, device = self._attached.pop(port, ("", None))
        if device is not None and device.fileno() >= 0:
            try:
                device.resume()
            except OSError as problem:
                _LOG.warning("%s receives nothing: %s", device.device, problem)
        provider.devices.detach(port)

    def _count(self, ports: np.ndarray, packets: np.ndarray, bytes_in: np.ndarray, bytes_out: np.ndarray) -> None:
        """Packets went from ports to ports, by their numbers in paths, without the datapath's knowledge."""
        for end, column, sizes in (("rx", ports[:, 0], bytes_in), ("tx", ports[:, 1], bytes_out)):
            for port in np.unique(column).tolist():
                if (found := self._receiver.find_port(port)) is not None:
                    bridge, number = found
                    mine = column == port
                    numbers = np.full(1, number)
                    totals = packets[mine].sum(keepdims=True), sizes[mine].sum(keepdims=True)
                    bridge.switch.datapath.ports.add_usage(end, numbers, *totals)

    def _up(self, provider: Kernel, bridge: Bridge, *, at_once: bool = False) -> UpDevice | None:
        """The device for what goes up from the ports of a bridge; None: not yet, unless it is wanted `at_once`."""
        if bridge.name not in self._ups:
            prepare = partial(_prepare_up, provider)
            made = prepare()() if at_once else self._preparing.get(bridge.name, prepare, provider.objects)
            if made is None:
                return None
            assert isinstance(made, _Up)
            self._preparing.took(bridge.name)
            self._ups[bridge.name] = made
            self._receiver.watch(bridge, made.port)
        return self._ups[bridge.name].device

    def _close_up(self, name: str) -> None:
        up = self._ups.pop(name)
        self._receiver.unwatch(up.port)
        in_background(up.close)

    def is_attaching(self) -> bool:
        """Whether `follow` waits for something to be there."""
        self.follow()
        return self._preparing.is_busy or bool(self._looks)

    def wait(self) -> None:
        """From any thread: wait until that is there."""
        self._preparing.wait()
        wait(list(self._looks))

    def leave(self, *, keep: bool) -> None:
        """The process ends. `keep`: pinned programs go on, otherwise all end."""
        if keep and self._provider is not None:
            self._provider.close(keep=True)
        else:
            self._end()
        self._has_left = True

    def _end(self) -> None:
        """Nothing is to go on, neither of this process nor of one before that waits to be taken over."""
        provider = self._provider
        self.close()
        if provider is not None:
            provider.forget_others()

    def close(self) -> None:
        """Detach all ports, and have the provider give up its programs."""
        if self._provider is None:
            return
        for port in list(self._attached):
            self._detach(self._provider, port)
        for name in list(self._ups):
            self._close_up(name)
        self._preparing.keep(())
        self._provider.close()
        self._provider = None
        self._refused.clear()


def _prepare_up(provider: Kernel) -> Callable[[], _Up]:
    """What makes the device for what goes up, and a socket there."""
    make = provider.devices.prepare_up_device()

    def make_both() -> _Up:
        device = make()
        try:
            return _Up(device, AfPacketPort(device.name, IN_TAG))
        except PortError:
            device.close()
            raise

    return make_both


def _empty(device: AfPacketPort) -> None:
    """Drop what a port has received: the programs that were there have forwarded it."""
    while device.receive(0) is not None:
        device.release()
