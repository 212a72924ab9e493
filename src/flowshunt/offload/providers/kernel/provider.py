"""The provider, on the contract of `flowshunt.offload`: `flows` between ports that `devices` are attached to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowshunt.offload.answers import answer
from flowshunt.offload.api import ArrayProvider
from flowshunt.offload.batch import Batch
from flowshunt.offload.providers.kernel.attaching import Attaching
from flowshunt.offload.providers.kernel.flows import Flows
from flowshunt.offload.providers.kernel.objects import Objects
from flowshunt.offload.providers.kernel.options import LIMIT, NAME, Options, options_from
from flowshunt.offload.providers.kernel.pinned import LeftBehind, forget_all
from flowshunt.offload.providers.kernel.ports import Ports


class Kernel(ArrayProvider):
    """Forwards between ports that `devices.attach` names; without any it is told of connections and forwards none.

    Runs on the packet thread.
    """

    name = NAME
    mark = "OFFLOAD"
    queue_limit = 0
    packet_thread_only = True

    def __init__(self, ports: Ports | None = None, *, limit: int = LIMIT) -> None:
        """`ports`: what stands for those that are attached, in tests."""
        ports = Ports() if ports is None else ports
        self.options = Options(limit=limit)
        self.objects: Objects | None = None
        self.flows = Flows(ports)
        self.devices = Attaching(ports, self.options, self._load, self.flows.give_up_port)

    def init(self) -> None:
        """Load the programs. Raises OSError with the privilege that is missing, or what the kernel lacks."""
        self._load()

    def _load(self) -> Objects:
        if self.objects is None:
            self.objects = Objects(self.options.limit, self.options.folder)
            self.flows.use(self.objects)
        return self.objects

    def close(self, *, keep: bool = False) -> None:
        """Detach everything, and give up maps and programs; `keep`: those that are pinned go on without us."""
        self.devices.close(keep=keep)
        if not keep:
            self.flows.give_up_all()
        if self.objects is not None:
            self.objects.close(keep=keep)
            self.objects = None
        self.flows.use(None)

    def set_options(self, options: Mapping[str, str]) -> None:
        """See `options.options_from`; ports that are attached from now on follow `peer`.

        With another limit or folder, and with `hitless` on or off, flows begin anew. Raises UsageError for others, and
        OSError when the kernel refuses maps or pins; then everything is as it was.
        """
        wanted = options_from(options)
        if (wanted.limit, wanted.folder) != (self.options.limit, self.options.folder):
            self._begin_anew(wanted)
        self.options = self.devices.options = wanted

    def _begin_anew(self, wanted: Options) -> None:
        """Other maps and programs in the places of the ones that there are; flows are handed back."""
        former = self.objects
        if former is None:
            return
        made = Objects(wanted.limit, wanted.folder)
        made.control["epoch"] = former.control["epoch"]
        try:
            self.devices.move(made, former, wanted)
        except OSError:
            made.close()
            raise
        self.flows.give_up_all()
        former.close()
        self.objects = made
        self.flows.use(made)

    # --- what the process before has left ----------------------------------------------------------------------------

    def forget_others(self) -> None:
        """Let go of pinned programs on devices that are no ports any more, and of what other processes have left.

        Raises OSError when the next process cannot be told of what is here.
        """
        if self.objects is not None and self.objects.pinned is not None:
            self.objects.pinned.publish()
        else:
            forget_all(self.options.pins)
        self.devices.forget_others()

    def left_behind(self) -> LeftBehind | None:
        """The flows that go on by its programs; None: there are none. Raises OSError for those that cannot be read."""
        try:
            return LeftBehind(self.options.pins)
        except FileNotFoundError:
            return None

    def go_on(self, rows: np.ndarray, generations: np.ndarray, last_used_ns: np.ndarray) -> None:
        """Flows were those of the process before, last used at these times, int64 (n, 2), on our programs' clock.

        They pass as they are; a few at a time their next packets come up, and show whether that is still right.
        """
        self._load()
        self.flows.go_on(rows, generations, last_used_ns)

    # --- the contract ------------------------------------------------------------------------------------------------

    def batch_submit(self, batch: Batch, /) -> None:
        """See `answers.answer`: others than TCP and UDP are declined."""
        flushed, ended = answer(batch, declines=True)
        if flushed:
            self.flows.flush()
        if len(ended):
            self.flows.end(ended["row"], ended["generation"])

    def install(self, flows: np.ndarray, /) -> None:
        """See Forwarder."""
        self._load()
        self.flows.install(flows)

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        """See Forwarder."""
        self.flows.renew(rows, generations, epoch)

    def begin_epoch(self, epoch: int, /) -> None:
        """See Forwarder."""
        self.flows.begin_epoch(epoch)

    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        """See Forwarder."""
        return self.flows.withdraw(rows, generations)

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        """See Forwarder."""
        return self.flows.statistics(rows, generations, now_ms)

    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Connections that were silent for the timeout, and those whose ports or maps are others."""
        self.devices.follow_features()
        self.flows.look_after(now_ms, self.options.timeout_ms)
        return self.flows.handed_back()

    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        """See Inspectable."""
        return self.flows.is_forwarding(rows, generations, epoch)

    # --- inspection --------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> list[str]:
        """See `Attaching.notes`."""
        return self.devices.notes

    def counters(self) -> dict[str, int]:
        """Flows and their limit, segments beyond the packets that they came in, and why packets went up, by name."""
        flows = {"n_flows": self.flows.n_flows, "limit": self.options.limit}
        if self.objects is None:
            return flows
        segments = int(self.objects.states["extra_segments"].sum())
        return flows | {"extra_segments": segments} | {f"up.{k}": n for k, n in self.objects.reasons().items()}
