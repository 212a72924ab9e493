"""Run the measurements, print a table, write build/bench.json."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from flowshunt.cli.bench.figures import Record

PARTS = (
    "tracker", "pipeline", "attacks", "offload", "shunt", "insertion", "kernel", "restart", "replay", "start",
    "control", "ports", "live",
)  # fmt: skip


def main() -> int:
    """Entry point of `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--rounds", type=int, default=7, help="how often each figure is taken (default 7)")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    record = Record()
    for part in arguments.only or PARTS:
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        importlib.import_module(f"benchmarks.{part}").measure(record, arguments.rounds)
    print(record.table())
    record.write(arguments.output)
    print(f"written to {arguments.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
