"""`flowshunt bench live`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from flowshunt.base.errors import UsageError
from flowshunt.cli.bench.figures import Record
from flowshunt.cli.bench.live import measure_live
from flowshunt.cli.bench.rows import ROWS


def execute(
    only: tuple[str, ...], *, rounds: int, seconds: float, n_flows: int, json_file: str | None, quiet: bool
) -> None:
    """Measure, and print. Raises UsageError."""
    unknown = [name for name in only if name not in ROWS]
    if unknown:
        raise UsageError(f"there is no row {unknown[0]!r}", hint=", ".join(ROWS))

    def tell(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    # Namespaces outlive a process that ends without a word.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = Record()
    names = tuple(dict.fromkeys(only)) or tuple(ROWS)
    measure_live(record, names, rounds=rounds, seconds=seconds, n_flows=n_flows, tell=tell)
    if json_file == "-":
        print(record.json(), end="")
        return
    print(record.table())
    if json_file is not None:
        Path(json_file).write_text(record.json(), encoding="utf-8")
