"""What a restart without a gap costs with 100,000 offloaded connections: the packet thread's time. As root.

`restart.rebuild`: connections are put back from what is pinned. `restart.install`: their flows go into new maps; the
programs are swapped after that. `restart.write`, `restart.read`: the file of connections, for comparison.
`restart.describe`: what it takes to describe a flow for the next process, to offering and installing without.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.insertion import flows_of
from flowshunt.app import Switch
from flowshunt.base.clock import this_moment
from flowshunt.cli.bench.figures import Record
from flowshunt.conntrack.holding import Holding
from flowshunt.daemon import snapshot
from flowshunt.daemon.adoption import Adoption
from flowshunt.jit import warm_up
from flowshunt.offload.handover import HANDOVER
from flowshunt.offload.providers.kernel.pinned import LeftBehind
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.registry import Settings

N = 100_000


class _Process:
    def __init__(self, pins: str | None) -> None:
        self.switch = Switch(max_connections=N + 1024)
        for name in ("p1", "p2"):
            self.switch.add_port(name)
        self.kernel = Kernel(EveryPort(), limit=N)
        self.switch.offload.register(self.kernel)
        self.holding = Holding(self.switch.tracker)
        if pins is not None:
            self.kernel.set_options({"hitless": "true", "pins": pins, "limit": str(N)})
            self.kernel.flows.describe = partial(self.switch.offload.describe, self.holding)
        self.switch.offload.configure(Settings(True, ("kernel",)))

    def fill(self) -> float:
        """Connections, offloaded; returns the seconds that offering and installing take."""
        tracker = self.switch.tracker
        flows = flows_of(tracker, N)
        handover = np.zeros(N, HANDOVER)
        handover["paths"], handover["turned"], handover["n_zones"] = flows["paths"], (0, 1), 1
        identity = flows["rows"].astype(np.int64), flows["generations"].astype(np.int64)
        began = time.thread_time()
        self.switch.offload.adopt(self.holding, handover, *identity, tracker.now_ms)
        seconds = time.thread_time() - began
        if self.kernel.flows.n_flows != N:
            raise AssertionError("not all flows were taken")
        return seconds


def measure(record: Record, rounds: int) -> None:
    """Add the figures."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
        try:
            for turn in range(rounds + 1):
                _round(record if turn else Record(), folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def _round(record: Record, folder: str) -> None:
    plain = _Process(None)
    without = plain.fill()
    plain.kernel.close()
    before = _Process(folder)
    record.add("restart.describe", "ratio", before.fill() / without)
    now_ms = before.switch.tracker.now_ms
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "connections"
        with _timed(record, "restart.write"):
            snapshot.write(file, "default", list(snapshot.documents(before.switch.tracker, now_ms)), this_moment())
        with _timed(record, "restart.read"):
            entries = snapshot.read(file, "default").entries
            snapshot.put_back(Switch(max_connections=N + 1024).tracker, entries, now_ms)
    assert before.kernel.objects is not None
    before.kernel.objects.states["last_used_ns"] = time.monotonic_ns()
    before.kernel.forget_others()
    before.kernel.close(keep=True)
    after = _Process(folder)
    with _timed(record, "restart.rebuild"):
        left = LeftBehind(folder)
        adoption = Adoption(left, after.switch.tracker, after.switch.offload, after.kernel, now_ms)
        adoption.rebuild(announced=False)
        adoption.rebuild(announced=True)
    with _timed(record, "restart.install"):
        adoption.install()
        adoption.settle()
    if after.kernel.flows.n_flows != N:
        raise AssertionError(f"{after.kernel.flows.n_flows} of {adoption.n_rebuilt} flows go on")
    after.kernel.close()


@contextmanager
def _timed(record: Record, name: str) -> Iterator[None]:
    began = time.thread_time()
    yield
    record.add(name, "s", time.thread_time() - began)
