"""The log, where the whole daemon writes to: whatever its patterns say, whoever logs goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.control.unixctl.vlog import Vlog


@pytest.fixture
def vlog(tmp_path: Path) -> Iterator[Vlog]:
    vlog = Vlog()
    vlog.set("console:off")
    vlog.install()
    vlog.open_file(tmp_path / "log")
    yield vlog
    vlog.uninstall()


@pytest.mark.parametrize("pattern", ["%D{\0}|%m", "%" + "9" * 5000 + "m"])
def test_a_pattern_that_cannot_be_written_costs_the_line_and_nothing_else(vlog: Vlog, pattern: str) -> None:
    log = logging.getLogger("flowshunt.bridge")
    assert vlog.set(f"PATTERN:file:{pattern}") is None
    log.warning("lost")
    assert vlog.set("PATTERN:file:%m") is None
    log.warning("written")
    assert vlog._path is not None
    assert vlog._path.read_text().splitlines()[-1] == "written"


def test_a_width_is_bounded(vlog: Vlog) -> None:
    vlog.set("PATTERN:file:%999999999m")
    logging.getLogger("flowshunt.bridge").warning("text")
    assert vlog._path is not None
    assert vlog._path.read_text().splitlines()[-1] == "text".rjust(1024)
