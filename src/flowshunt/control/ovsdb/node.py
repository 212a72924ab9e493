"""What OVSDB needs of the switch that runs, as Protocols. All but `call` and `settled` is for the packet thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from flowshunt.conntrack.table import Tracker
from flowshunt.control.openflow.controllers import ControllerSettings
from flowshunt.packet.schema import ETH_QINQ

T = TypeVar("T")


class Link(Protocol):
    """A connection of a device; see `ports.devices.Link`."""

    @property
    def speed(self) -> int:
        """Bits per second."""

    @property
    def full_duplex(self) -> bool:
        """Whether both ends send at a time."""


class PortInfo(Protocol):
    """A port of a bridge as it is now; see `daemon.bridge.PortInfo`."""

    name: str
    type: str
    ofport: int
    error: str | None
    mtu: int | None
    mac: bytes
    ifindex: int
    admin_up: bool
    link_up: bool
    link_resets: int

    @property
    def link(self) -> Link | None:
        """How fast its device is connected, None where that is not known."""

    note: str | None
    statistics: dict[str, int]


class Bridge(Protocol):
    """A bridge of the node."""

    name: str

    @property
    def ports(self) -> Mapping[str, PortInfo]:
        """Its ports by name."""

    @property
    def switch(self) -> Any:
        """What forwards: an `app.Switch`."""

    @property
    def service(self) -> Any:
        """What answers OpenFlow requests."""

    @property
    def server(self) -> Any:
        """The socket for OpenFlow requests."""

    @property
    def controllers(self) -> Any:
        """Connections to controllers: a `control.openflow.controllers.Controllers`."""

    def set_controllers(self, settings: Iterable[ControllerSettings]) -> None:
        """Have these controllers."""

    def add_port(
        self,
        name: str,
        type_: str = "system",
        *,
        ofport_request: int | None = None,
        options: Mapping[str, str] | None = None,
        mtu_request: int | None = None,
    ) -> PortInfo:
        """Add a port."""

    def del_port(self, name: str) -> None:
        """Remove a port."""

    def port_info(self, name: str) -> PortInfo:
        """A copy of what is known of a port, with its counters."""

    def set_vlans(
        self, name: str, mode: str, tag: int = 0, trunks: Iterable[int] = (), *, tpid: int = ETH_QINQ
    ) -> None:
        """Say how a port treats VLANs."""

    def set_mac(self, name: str, mac: bytes) -> None:
        """Give a port another address."""


class Node(Protocol):
    """The node."""

    tracker: Tracker
    is_holding: bool
    limits_are_of_database: bool
    """Whether nobody else may limit zones."""

    @property
    def bridges(self) -> Mapping[str, Any]:
        """Bridges by name."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the packet thread."""

    async def take_over(self) -> None:
        """What the database says is carried out: packets may come in, unless flows are waited for (`is_holding`)."""

    async def settled(self) -> None:
        """Wait until the sockets of all bridges are as they should be."""

    def opening(self, names: Iterable[str]) -> AbstractAsyncContextManager[None]:
        """Have network devices ready for `add_port` while this is entered; on the thread of control."""

    def now_ms(self) -> int:
        """The time."""

    def add_bridge(
        self, name: str, *, datapath_id: int | None = None, fail_mode: str = "standalone", local_port: bool = True
    ) -> Any:
        """Add a bridge."""

    def del_bridge(self, name: str) -> None:
        """Remove a bridge."""

    def configure_offload(self, other_config: Mapping[str, str]) -> None:
        """Apply `hw-offload` and its relatives."""

    def on_port_change(self, observer: Callable[[str, Any, int], None]) -> None:
        """Have `observer(bridge, port, reason)` called on the thread of control."""

    def on_control_change(self, observer: Callable[[], None]) -> None:
        """Have `observer()` called on the thread of control when a controller comes or goes."""
