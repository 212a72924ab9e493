"""How long the command takes to begin: with no compiled kernels at all, and with all of them in the cache.

`start.warm` is a replay of the demo capture, from the shell's call to its end; `start.numba` what importing numba alone
takes in the same round; `start.warm_extra` the difference.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.replay import DEMO, RULES
from flowshunt.cli.bench.figures import Record

_REPLAY = ["-m", "flowshunt", "replay", str(DEMO), "--flows", str(RULES), "--quiet"]


def _seconds(*arguments: str, cache: str | None = None) -> float:
    environment = os.environ | ({"FLOWSHUNT_CACHE_DIR": cache} if cache else {})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=environment, capture_output=True)
    return time.perf_counter() - began


def measure(record: Record, rounds: int) -> None:
    """All figures named start.*."""
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o700)
        record.add("start.cold", "s", _seconds(*_REPLAY, cache=cache))
        for _ in range(rounds):
            numba = _seconds("-c", "import numba")
            warm = _seconds(*_REPLAY, cache=cache)
            record.add("start.numba", "s", numba)
            record.add("start.warm", "s", warm)
            record.add("start.warm_extra", "s", warm - numba)
        record.add("start.help", "s", _seconds("-m", "flowshunt", "--help"))
