"""Compiled, compiled with bounds checks, and plain Python: the same answers for the same broken packets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packet.digest import digest

RunPython = Callable[..., subprocess.CompletedProcess[str]]
SEED, N = 20261120, 1500


@pytest.mark.parametrize(
    "mode",
    [
        {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "error::RuntimeWarning"},
        {"FLOWSHUNT_BOUNDSCHECK": "1"},
        {},
    ],
    ids=["jit off", "bounds checked", "compiled"],
)
def test_modes_agree(mode: dict[str, str], run_python: RunPython, repository: Path) -> None:
    done = run_python(
        str(repository / "tests" / "packet" / "digest.py"),
        str(SEED),
        str(N),
        PYTHONPATH=f"{repository / 'src'}:{repository}",
        FLOWSHUNT_CACHE_DIR=os.environ.get("FLOWSHUNT_CACHE_DIR"),
        **mode,
    )
    assert done.stdout.strip() == digest(SEED, N)


def test_bounds_checks_would_notice(run_python: RunPython, repository: Path) -> None:
    """The variant that the fuzz trusts does raise when a record claims more bytes than there are."""
    done = run_python(
        "-c",
        "from tests.packet.kernels import *\n"
        "from tests.packet.samples import V4\n"
        "data, packets = batch_of([V4.udp(1, 2)])\n"
        "packets['length'] = packets['length'] + 100\n"
        "parse_batch(data[:30], packets, keys_of(1), 1)\n",
        check=False,
        PYTHONPATH=f"{repository / 'src'}:{repository}",
        FLOWSHUNT_CACHE_DIR=os.environ.get("FLOWSHUNT_CACHE_DIR"),
        FLOWSHUNT_BOUNDSCHECK="1",
    )
    assert done.returncode != 0 and "IndexError" in done.stderr
