"""The offload provider `kernel` and the devices of bridges: attached while both are there.

While a port is attached its own socket only sends: what the provider's programs do not forward comes up on one device
for all ports of the bridge, where a socket of ours receives it with the number of the port that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.daemon.bridge import Bridge, PortInfo
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers.kernel.devices import UpDevice
from flowshunt.offload.providers.kernel.provider import MODE, Kernel, check_mode
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

    def port_in_paths(self, bridge: Bridge, number: int) -> int | None:
        """How paths name a port of a bridge; None: the bridge has none."""

    def find_port(self, port: int) -> tuple[Bridge, int] | None:
        """The bridge and the number of a port that paths name, if the bridge is there."""


class _Up(NamedTuple):
    device: UpDevice
    port: AfPacketPort


class KernelPorts:
    """Keeps the provider attached to the ports that it can forward between. The packet thread alone uses it."""

    def __init__(self, offload: Offload, bridges: Mapping[str, Bridge], receiver: Receiver) -> None:
        self._offload = offload
        self._bridges = bridges
        self._receiver = receiver
        self._provider: Kernel | None = None
        self._ups: dict[str, _Up] = {}
        self._attached: dict[int, tuple[str, AfPacketPort]] = {}
        self._refused: set[AfPacketPort] = set()
        self._has_left = False

    @property
    def is_hitless(self) -> bool:
        """Whether forwarding is to outlive the process."""
        provider = self._working()
        return provider is not None and provider.is_hitless

    def begin_anew(self) -> None:
        """A device for what goes up is gone: make everything again."""
        self.close()
        self.follow()

    def look_again(self, ifindex: int) -> None:
        """Something happened to a device, which `follow` may know nothing of."""
        if self._provider is not None:
            self._provider.look_again(ifindex)

    def follow(self) -> None:
        """Attach and detach as settings and ports are now; to be called when they have changed.

        While packets are held back, programs of the process before go on as they are (`is_hitless`).
        """
        if self._has_left:
            return
        provider = self._working()
        if provider is not self._provider:
            self.close()
            self._provider = provider
        if provider is None:
            return
        provider.count_ports, provider.complain = self._count, self._complain
        if self._receiver.is_holding and provider.is_hitless:
            return
        wanted = self._wanted()
        self._refused &= {device for _, device, *_ in wanted.values()}
        for port, (_, device) in list(self._attached.items()):
            if port not in wanted or wanted[port][1] is not device:
                self._detach(provider, port)
        for port, (bridge, device, info) in wanted.items():
            if device not in self._refused:
                self._attach(provider, port, bridge, device, info)
        provider.forget_others()
        for name in list(self._ups):
            if all(bridge != name for bridge, _ in self._attached.values()):
                self._close_up(name)

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

    def _attach(self, provider: Kernel, port: int, bridge: Bridge, device: AfPacketPort, info: PortInfo) -> None:
        """First the programs, then silence at the port's own socket: a few packets may come twice, none is lost."""
        try:
            mode = check_mode(info.options.get(MODE, provider.mode))
            provider.attach(port, info.ifindex, info.mtu or 0, self._up(provider, bridge), mode)
            if port not in self._attached:
                self._attached[port] = bridge.name, device
                device.pause()
                if provider.is_hitless:
                    _empty(device)
        except (OSError, PortError, UsageError) as problem:
            _LOG.warning("%s stays without the offload provider kernel: %s", device.device, problem)
            self._refused.add(device)
            self._detach(provider, port)

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
        provider.detach(port)

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

    def _up(self, provider: Kernel, bridge: Bridge) -> UpDevice:
        if bridge.name not in self._ups:
            device = provider.make_up_device()
            try:
                port = AfPacketPort(device.name, IN_TAG)
            except PortError:
                device.close()
                raise
            self._ups[bridge.name] = _Up(device, port)
            self._receiver.watch(bridge, port)
        return self._ups[bridge.name].device

    def _close_up(self, name: str) -> None:
        up = self._ups.pop(name)
        self._receiver.unwatch(up.port)
        up.port.close()
        up.device.close()

    def leave(self) -> None:
        """The process ends: pinned programs go on, the others end."""
        if self._provider is not None and self._provider.is_hitless:
            self._provider.close(keep=True)
            self._has_left = True
        else:
            self.close()

    def close(self) -> None:
        """Detach all ports, and have the provider give up its programs."""
        if self._provider is None:
            return
        for port in list(self._attached):
            self._detach(self._provider, port)
        for name in list(self._ups):
            self._close_up(name)
        self._provider.close()
        self._provider = None
        self._refused.clear()


def _empty(device: AfPacketPort) -> None:
    """Drop what a port has received: the programs that were there have forwarded it."""
    while device.receive(0) is not None:
        device.release()
