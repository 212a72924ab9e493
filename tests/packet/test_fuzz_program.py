"""`benchmarks/fuzz_parser.py` as a program, in small: the ten million are run by hand."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packet.samples import SAMPLES

RunPython = Callable[..., subprocess.CompletedProcess[str]]


def capture(path: Path, order: str) -> Path:
    """A classic pcap of all samples, in the byte order `order`."""
    content = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for packet in SAMPLES.values():
        frame = packet.bytes()
        content += struct.pack(f"{order}IIII", 0, 0, len(frame), len(frame)) + frame
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("mode", "n"),
    [
        pytest.param({"NUMBA_DISABLE_JIT": "1"}, 60, id="jit off"),
        pytest.param({"FLOWSHUNT_BOUNDSCHECK": "1"}, 200_000, id="bounds checked", marks=pytest.mark.long),
    ],
)
def test_a_small_run(mode: dict[str, str], n: int, run_python: RunPython, repository: Path, tmp_path: Path) -> None:
    program = str(repository / "benchmarks" / "fuzz_parser.py")
    captures = [str(capture(tmp_path / "a.pcap", "<")), str(capture(tmp_path / "b.pcap", ">"))]
    cache = os.environ.get("FLOWSHUNT_CACHE_DIR")
    done = run_python(program, *captures, "-n", str(n), "--seed", "5", FLOWSHUNT_CACHE_DIR=cache, **mode)
    assert done.stdout.startswith(f"{n} packets from {2 * len(SAMPLES)} of 2 captures, seed 5, bounds checked: ")
    assert " broken=0 " in done.stdout
    counted = dict(part.split("=") for part in done.stdout.split() if "=" in part)
    assert int(counted["rewritten"]) > n // 4 and int(counted["ok"]) > n // 4


def test_a_file_that_is_no_capture(run_python: RunPython, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"nothing of the kind")
    program = str(repository / "benchmarks" / "fuzz_parser.py")
    done = run_python(program, str(tmp_path / "x.pcap"), check=False, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1 and "not a classic pcap file" in done.stderr
