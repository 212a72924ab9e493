"""What all tests share: which of them run, where the repository and the captures are, and a Python of one's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Compiling at the first example would break any deadline; the gate wants the same examples each time.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the environment does not ask for."""
    no_jit = pytest.mark.skip(reason="about compiled code: run it without NUMBA_DISABLE_JIT")
    too_long = pytest.mark.skip(reason="takes minutes: `make test-long` runs it")
    jit_off = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    for item in items:
        if jit_off and item.get_closest_marker("needs_jit"):
            item.add_marker(no_jit)
        if item.get_closest_marker("long") and not os.environ.get("FLOWSHUNT_LONG"):
            item.add_marker(too_long)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of real captures with the answers of two trackers for every packet."""
    folder = REPOSITORY.parent / "shared" / "captures"
    if not folder.is_dir():
        pytest.skip(f"the captures are not here: put them into {folder}")
    return folder


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own: `run_python("-c", "...", SOME_VARIABLE="1")`.

    A variable given as None is removed. The process shares this one's compiled kernels unless it is given another
    FLOWSHUNT_CACHE_DIR, has no other settings of Flowshunt's or Numba's, and an empty user's cache directory.
    """

    def run(*arguments: str, check: bool = True, **environment: str | None) -> subprocess.CompletedProcess[str]:
        left_out = {name for name in os.environ if name.startswith(("FLOWSHUNT_", "NUMBA_"))} - {"FLOWSHUNT_CACHE_DIR"}
        variables = {name: value for name, value in os.environ.items() if name not in left_out}
        variables |= {"PYTHONPATH": str(REPOSITORY / "src"), "XDG_CACHE_HOME": str(tmp_path / "user-cache")}
        for name, value in environment.items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        done = subprocess.run(
            [sys.executable, *arguments], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        if check and done.returncode:
            pytest.fail(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run
