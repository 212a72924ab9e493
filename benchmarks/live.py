"""A running switch beside the kernel's own ways of forwarding, in turns: `flowshunt bench live`. Needs root.

See `flowshunt.cli.bench` for what is measured, and how.
"""

from __future__ import annotations

import sys

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench.figures import Record
from flowshunt.cli.bench.live import measure_live
from flowshunt.cli.bench.rows import ROWS


def measure(record: Record, rounds: int) -> None:
    """Take each figure `rounds` times; says so when it cannot."""
    try:
        measure_live(record, tuple(ROWS), rounds=rounds)
    except UsageError as problem:
        print(f"live: left out; {problem.what}", file=sys.stderr)
