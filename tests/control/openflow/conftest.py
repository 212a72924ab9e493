"""Recorded conversations of ovs-ofctl with a real switch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors(repository: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Messages by protocol and subcommand: from the tool (>) and from the switch (<)."""
    path = repository.parent / "shared" / "formats" / "openflow-vectors.json"
    if not path.is_file():
        pytest.skip(f"the recorded conversations are not here: put them into {path}")
    recorded = json.loads(path.read_text())
    return {name: [(way, bytes.fromhex(data)) for way, data in messages] for name, messages in recorded.items()}


@pytest.fixture(autouse=True)
def rundir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `ovs-ofctl monitor` puts a socket; the system's own directory is not there before a switch was started."""
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
