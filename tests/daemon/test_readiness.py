"""What is done before a daemon says that it is ready: nothing is to be loaded or collected when packets are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from flowshunt.cli import kernels
from flowshunt.cli.vswitchd import main
from flowshunt.daemon import privileges, vswitchd


def test_vswitchd_loads_the_kernels_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def end(status: int) -> None:
        done.append(f"exit {status}")

    monkeypatch.setattr(kernels, "ready", lambda: done.append("compiled"))
    monkeypatch.setattr("flowshunt.jit.warm_up", lambda: done.append("loaded"))
    monkeypatch.setattr(privileges, "drop_privileges", lambda account: frozenset())
    monkeypatch.setattr(vswitchd, "serve_forever", lambda settings, ready: done.append("serving"))
    monkeypatch.setattr(main.os, "_exit", end)
    assert main.run(["unix:/nowhere"]) is None
    assert done == ["compiled", "loaded", "serving", "exit 0"]


def test_what_numpy_loads_late_is_loaded_before_packets_come(run_python: Callable[..., object]) -> None:
    code = "import sys, flowshunt.daemon.vswitchd, numpy; before = set(sys.modules); numpy.unique([1, 2]); "
    run_python("-c", code + "assert set(sys.modules) == before, set(sys.modules) - before")


@pytest.mark.parametrize("follow_only", [False, True])
def test_the_interpreter_is_settled_before_anybody_is_told(monkeypatch: pytest.MonkeyPatch, follow_only: bool) -> None:
    done: list[str] = []
    stop = asyncio.Event()

    class Service:
        async def heard(self) -> None:
            if follow_only:
                await asyncio.Event().wait()

        async def run(self) -> None:
            if not follow_only:
                await asyncio.Event().wait()

    def ready() -> None:
        done.append("ready")
        stop.set()

    monkeypatch.setattr(vswitchd, "settle_interpreter", lambda: done.append("settled"))
    monkeypatch.setattr(vswitchd, "tell_systemd", lambda state: done.append(state.split("\n")[0]))
    asyncio.run(vswitchd._follow(Service(), stop, ready))  # type: ignore[arg-type]
    assert done == ([] if follow_only else ["settled", "ready", "READY=1"])
