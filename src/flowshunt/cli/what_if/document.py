"""The results as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from flowshunt.cli.what_if.summary import Tried

VERSION = 1


def write(out: TextIO, results: Sequence[Tried], sources: Sequence[str], *, is_complete: bool) -> None:
    """One object: `version`, `captures`, `complete` (every point was tried), `points`; counts are numbers."""
    document = {
        "version": VERSION,
        "captures": list(sources),
        "complete": is_complete,
        "points": [_point(result) for result in results],
    }
    json.dump(document, out, indent=1)
    out.write("\n")


def _point(result: Tried) -> dict[str, Any]:
    point = result.point
    return {
        "provider": point.offer.label,
        "name": point.offer.name,
        "options": dict(point.options),
        **asdict(result.summary),
    }
