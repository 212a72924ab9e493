"""What commands need of the switch that runs, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from flowshunt.conntrack.table import Tracker
from flowshunt.control.stories.history import History
from flowshunt.control.stories.paths import Switch as Told
from flowshunt.datapath.fragments.store import Fragments
from flowshunt.datapath.tables import Datapath
from flowshunt.offload.framework import Offload
from flowshunt.rules.openflow.tracing.story import Group

DATAPATH_NAME = "netdev@ovs-netdev"
"""What Open vSwitch calls its one userspace datapath; scripts name it."""

T = TypeVar("T")


class Coverage(Protocol):
    """How fast counters have moved; see `control.unixctl.coverage`."""

    def rates(self, names: Iterable[str]) -> Mapping[str, tuple[float, float, float]]:
        """Events per second of counters by name: lately, in the last minute, in the last hour."""


class PortInfo(Protocol):
    """A port of a bridge as it is now."""

    @property
    def name(self) -> str:
        """The interface's name."""

    @property
    def ofport(self) -> int:
        """OpenFlow port number, -1 when the port could not be opened."""

    @property
    def type(self) -> str:
        """system, internal, patch or dummy."""

    @property
    def options(self) -> Mapping[str, str]:
        """What else was said of it, such as the peer of a patch port."""

    @property
    def admin_up(self) -> bool:
        """Whether it is switched on."""

    @property
    def statistics(self) -> dict[str, int]:
        """Counters by name; empty but in what `Bridge.port_info` gives."""


class Switch(Protocol):
    """The switch behind a bridge; `app.Switch` is one."""

    tracker: Tracker
    datapath: Datapath


class Bridge(Protocol):
    """A bridge of the node."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def switch(self) -> Switch:
        """What forwards."""

    @property
    def ports(self) -> Mapping[str, PortInfo]:
        """Its ports by name."""

    def port_info(self, name: str) -> PortInfo:
        """A copy of what is known of a port, with its counters."""

    def device(self, name: str) -> object | None:
        """What a port sends and receives on, if it could be opened."""

    def group(self, number: int) -> Group | None:
        """An OpenFlow group of it."""

    def inject(self, name: str, frame: bytes) -> None:
        """Have a dummy port receive a frame. Raises UsageError for any other port."""

    def set_admin_state(self, name: str, up: bool) -> None:
        """Switch a port on or off."""


class Node(Protocol):
    """The one datapath of this process. Everything but `call` and `bridges` belongs to the packet thread."""

    tracker: Tracker
    offload: Offload
    fragments: Fragments
    history: History
    limits_are_of_database: bool
    """Whether nobody else may limit zones."""

    @property
    def core(self) -> Told:
        """The switch that offloads."""

    @property
    def bridges(self) -> Mapping[str, Bridge]:
        """Its bridges by name."""

    @property
    def coverage(self) -> Coverage:
        """How fast its counters move."""

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the packet thread, between two batches; its result, or what it raises."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by the clock that packets have."""
