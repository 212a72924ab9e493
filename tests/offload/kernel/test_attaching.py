"""Attaching ports, without any device."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowshunt.offload.providers.kernel import attaching
from flowshunt.offload.providers.kernel.attaching import Attaching
from flowshunt.offload.providers.kernel.options import Options
from flowshunt.offload.providers.kernel.ports import Ports

UP = cast(Any, SimpleNamespace(ifindex=5))


class Program:
    """On a device while it is not closed."""

    there = 0

    def __init__(self, *about: Any, **more: Any) -> None:
        Program.there += 1

    def close(self, *, keep: bool = False) -> None:
        Program.there -= 1


def test_a_program_that_took_over_goes_when_its_device_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    objects = SimpleNamespace(set_port=lambda *port: None, clear_port=lambda ifindex: None, forward=-1)
    options = Options(is_hitless=True, pins="/nowhere")
    devices = Attaching(Ports(), options, lambda: cast(Any, objects), lambda port: None)
    monkeypatch.setattr(attaching, "Ingress", Program)
    devices.attach(1, 10, 1500, UP, "tc", later=True)
    monkeypatch.setattr(attaching, "Features", refuse)
    known = devices.ports.attached[1]
    devices.ports.change(1, known._replace(wants_frames=True))
    with pytest.raises(OSError, match="too many"):
        devices.attach(1, 10, 1500, UP, "xdp")
    devices.detach(1)
    assert Program.there == 0
