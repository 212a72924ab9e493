"""What a measurement is, how it is kept and how it is shown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Figure:
    """All values of one name, in the order in which they were taken."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The form of build/bench.json."""
        return {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.values),
            "median": statistics.median(self.values),
            "min": min(self.values),
            "max": max(self.values),
        }


class Record:
    """Collects figures by name."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def add(self, name: str, unit: str, value: float) -> None:
        """One more value of a figure."""
        self.figures.setdefault(name, Figure(name, unit)).values.append(float(value))

    def json(self) -> str:
        """The figures as JSON, with the commit and the machine that they were measured on."""
        figures = [figure.as_dict() for figure in self.figures.values()]
        return json.dumps({"commit": commit(), "machine": machine(), "figures": figures}, indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write the JSON file; figures of an earlier run that this one did not measure are dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.json())

    def table(self) -> str:
        """Aligned text, one line a figure."""
        width = max(34, *map(len, self.figures)) if self.figures else 34
        lines = [f"{'figure':{width}} {'unit':10} {'n':>4} {'median':>12} {'min':>12} {'max':>12}"]
        for figure in self.figures.values():
            row = figure.as_dict()
            values = " ".join(f"{row[column]:12.3f}" for column in ("median", "min", "max"))
            lines.append(f"{figure.name:{width}} {figure.unit:10} {row['n']:4d} {values}")
        return "\n".join(lines)


def commit() -> str:
    """The commit that is measured, with `+` when the working tree differs."""
    try:
        described = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """Processor, cores and system, as far as they matter to a figure."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    load = os.getloadavg()[0]
    return f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, load {load:.1f}"
