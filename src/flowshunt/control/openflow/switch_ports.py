"""Ports as controllers see them: what is known of them, what they have counted, and what is configured."""

from __future__ import annotations

from collections.abc import Callable

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.control.openflow import ports, queues
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.parts import Bridge
from flowshunt.control.openflow.wire import PORT_LOCAL

_LOG = logger(__name__)


def describe_port(name: str, number: int) -> ports.PortDescription:
    """A port that nothing more is known about: up, with an address made of its number."""
    return ports.PortDescription(number, name, b"\x02\x00\x00\x00" + number.to_bytes(2, "big"))


class SwitchPorts:
    """The ports of one bridge. `bring_up` brings one up or down, where that can be done; it may raise UsageError."""

    def __init__(self, bridge: Bridge, describe: Callable[[str, int], ports.PortDescription]) -> None:
        """`describe` gives what is known of a port by its name and number."""
        self._bridge = bridge
        self.describe_device = describe
        self._configs: dict[int, int] = {}
        self.bring_up: Callable[[str, bool], None] | None = None

    def _numbers(self, wanted: int | None, error: str) -> dict[str, int]:
        """Names and numbers of the wanted port, or of all, the bridge's own first; `error` when there is none."""
        known = self._bridge.ports
        found = {name: number for name, number in known.items() if wanted in (None, number)}
        if wanted is not None and not found:
            raise OpenFlowError(error, f"there is no port {wanted}")
        return dict(sorted(found.items(), key=lambda pair: (pair[1] != PORT_LOCAL, pair[1])))

    def describe(self, name: str, number: int) -> ports.PortDescription:
        """What is known of a port, with what controllers have configured."""
        port = self.describe_device(name, number)
        return port._replace(config=port.config | self._configs.get(number, 0))

    def descriptions(self, wanted: int | None = None) -> list[ports.PortDescription]:
        """One port, or all. Raises OpenFlowError."""
        return [self.describe(name, number) for name, number in self._numbers(wanted, "OFPBRC_BAD_PORT").items()]

    def counters(self, wanted: int | None, age_ns: int) -> list[ports.PortCounters]:
        """What one port, or all, have counted since the bridge came up. Raises OpenFlowError."""
        numbers = self._numbers(wanted, "OFPBRC_BAD_PORT").values()
        counted = self._bridge.datapath.port_statistics()
        return [
            ports.PortCounters(
                number,
                counted[number]["rx_packets"],
                counted[number]["tx_packets"],
                counted[number]["rx_bytes"],
                counted[number]["tx_bytes"],
                duration_ns=age_ns,
            )
            for number in numbers
        ]

    def queue_counters(self, wanted: int | None, queue: int | None) -> list[queues.QueueCounters]:
        """The queue that each port has. Raises OpenFlowError."""
        numbers = self._numbers(wanted, "OFPQOFC_BAD_PORT").values()
        if queue not in (None, 0):
            raise OpenFlowError("OFPQOFC_BAD_QUEUE", f"there is no queue {queue}")
        return [queues.QueueCounters(number, 0) for number in numbers]

    def change(self, mod: ports.PortMod) -> list[tuple[str, int]]:
        """Carry out a port-mod; names and numbers of the ports whose configuration it has changed.

        Raises OpenFlowError.
        """
        configured = []
        for name, number in self._numbers(mod.port, "OFPPMFC_BAD_PORT").items():
            before = self.describe(name, number)
            if before.address != mod.address:
                raise OpenFlowError("OFPPMFC_BAD_HW_ADDR", f"port {number} has another address")
            changed = (before.config ^ mod.config) & mod.mask
            if changed & ports.CONFIG_DOWN:
                self._bring_up(name, not mod.config & ports.CONFIG_DOWN)
            if changed & ~ports.CONFIG_DOWN:
                self._configs[number] = (self._configs.get(number, 0) ^ changed) & ~ports.CONFIG_DOWN
                no_flood = bool(self._configs[number] & ports.CONFIG_NO_FLOOD)
                self._bridge.datapath.ports.set_flooded(number, not no_flood)
                configured.append((name, number))
        return configured

    def _bring_up(self, name: str, up: bool) -> None:
        if self.bring_up is None:
            raise OpenFlowError("OFPPMFC_BAD_CONFIG", f"port {name} can't be brought up or down")
        try:
            self.bring_up(name, up)
        except UsageError as problem:
            _LOG.warning("%s", problem)
            raise OpenFlowError("OFPPMFC_EPERM", str(problem)) from None

    def is_configured(self, number: int, config: int) -> bool:
        """Whether controllers have given a port one of these bits of configuration (`ports.CONFIG_*`)."""
        return bool(self._configs.get(number, 0) & config)

    def configured(self, config: int) -> list[int]:
        """The ports that have one of these bits."""
        return [number for number, bits in self._configs.items() if bits & config]

    def forget(self, number: int) -> None:
        """A port is gone, and its configuration with it."""
        self._configs.pop(number, None)

    def is_live(self, number: int) -> bool:
        """Whether a port is there, and neither down nor without a link."""
        for name, known in self._bridge.ports.items():
            if known == number:
                port = self.describe(name, number)
                return not (port.config & ports.CONFIG_DOWN or port.state & ports.STATE_LINK_DOWN)
        return False
