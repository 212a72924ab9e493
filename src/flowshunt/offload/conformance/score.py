"""Running scenarios, each with a deadline, and the scorecard."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flowshunt.offload.conformance import batches, forwarding, framework, scenarios
from flowshunt.offload.conformance.scenarios import SCENARIOS as SCENARIOS
from flowshunt.offload.conformance.scenarios import Scenario
from flowshunt.offload.conformance.subject import BrokenContractError, Factory, NotApplicableError

PASSED, FAILED, SKIPPED = "passed", "failed", "not applicable"

_PARTS = (scenarios, batches, framework, forwarding)
"""Whose scenarios are run; importing them has filled SCENARIOS."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a provider did in one scenario. `detail`: what it broke, or why the scenario does not apply."""

    scenario: Scenario
    verdict: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Scorecard:
    """How a provider did."""

    provider: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(result.verdict != FAILED for result in self.results)

    def failures(self) -> list[Result]:
        """What it broke."""
        return [result for result in self.results if result.verdict == FAILED]

    def as_dict(self) -> dict[str, object]:
        """For JSON: `provider`, `passed`, `scenarios` with name, sentence, verdict, detail and seconds."""
        return {
            "provider": self.provider,
            "passed": self.passed,
            "scenarios": [
                {
                    "name": result.scenario.name,
                    "sentence": result.scenario.sentence,
                    "verdict": result.verdict,
                    "detail": result.detail,
                    "seconds": round(result.seconds, 3),
                }
                for result in self.results
            ],
        }


def run(scenario: Scenario, factory: Factory) -> Result:
    """Run one scenario with a fresh provider, on a thread of its own that is given up after the deadline."""
    found: list[Result] = []

    def work() -> None:
        try:
            scenario.run(factory)
            found.append(Result(scenario, PASSED))
        except NotApplicableError as reason:
            found.append(Result(scenario, SKIPPED, str(reason)))
        except BrokenContractError as violation:
            found.append(Result(scenario, FAILED, str(violation)))
        except (Exception, SystemExit) as failure:  # noqa: BLE001  (what a provider does ends in its scorecard)
            place = traceback.extract_tb(failure.__traceback__)[-1]
            what = f"{type(failure).__name__}: {failure} ({place.filename.rpartition('/')[2]}, line {place.lineno})"
            found.append(Result(scenario, FAILED, what))

    began = time.monotonic()
    thread = threading.Thread(target=work, name=f"conformance-{scenario.name}", daemon=True)
    thread.start()
    thread.join(scenario.deadline_s)
    seconds = time.monotonic() - began
    if not found:
        return Result(
            scenario, FAILED, f"no answer within {scenario.deadline_s:.0f} s: it hangs, or is too slow", seconds
        )
    return Result(scenario, found[0].verdict, found[0].detail, seconds)


def check(
    name: str,
    factory: Factory,
    chosen: Sequence[Scenario] | None = None,
    report: Callable[[Result], None] | None = None,
) -> Scorecard:
    """Drive a provider through the scenarios (default: all). `report` is called after each."""
    results = []
    for scenario in SCENARIOS if chosen is None else chosen:
        result = run(scenario, factory)
        results.append(result)
        if report:
            report(result)
    return Scorecard(name, tuple(results))


def lines(card: Scorecard) -> Iterator[str]:
    """The scorecard as text."""
    width = max(len(result.scenario.name) for result in card.results)
    for result in card.results:
        detail = f"  {result.detail}" if result.detail else ""
        yield f"{result.verdict:<14}  {result.scenario.name:<{width}}  {result.seconds:7.2f} s{detail}"
    n_passed = sum(result.verdict == PASSED for result in card.results)
    n_skipped = sum(result.verdict == SKIPPED for result in card.results)
    skipped = f", {n_skipped} not applicable" if n_skipped else ""
    yield f"{card.provider}: {n_passed} passed, {len(card.failures())} failed{skipped}"
