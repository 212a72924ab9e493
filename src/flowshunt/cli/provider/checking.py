"""`flowshunt provider check`."""

from __future__ import annotations

import json as json_module
import sys

from flowshunt.base.errors import UsageError
from flowshunt.cli.failures import DAMAGED, OK
from flowshunt.offload.conformance.scenarios import Scenario
from flowshunt.offload.conformance.score import SCENARIOS, Result, check, lines
from flowshunt.offload.providers import factory_of


def execute(name: str, *, only: tuple[str, ...], json: bool) -> int:
    """Run the kit, with progress on standard error, and print the scorecard. Returns the exit status."""
    factory = factory_of(name)
    card = check(name, factory, _chosen(only), _progress)
    if json:
        print(json_module.dumps(card.as_dict(), indent=1))
    else:
        for line in lines(card):
            print(line)
    return OK if card.passed else DAMAGED


def _chosen(only: tuple[str, ...]) -> list[Scenario]:
    names = [scenario.name for scenario in SCENARIOS]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(f"no scenario {unknown[0]!r}", hint=f"there are {', '.join(names)}")
    return [scenario for scenario in SCENARIOS if not only or scenario.name in only]


def _progress(result: Result) -> None:
    if sys.stderr.isatty():
        print(f"flowshunt: {result.scenario.name}: {result.verdict}", file=sys.stderr)
