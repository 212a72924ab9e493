"""A pytest plug-in that runs the conformance kit: each scenario is a test.

    pytest -p flowshunt.offload.conformance.plugin --offload-provider NAME

NAME is what `flowshunt provider check` takes. No test file is needed; other tests that are collected run too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option `--offload-provider`, which may be given several times."""
    parser.addoption(
        "--offload-provider",
        action="append",
        default=[],
        metavar="NAME",
        help="check this offload provider against Flowshunt's contract: its name, or module:class",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test per provider and scenario."""
    for name in config.getoption("--offload-provider"):
        items.extend(_items(session, name))


def _items(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    from flowshunt.base.errors import UsageError
    from flowshunt.offload.conformance.score import SCENARIOS
    from flowshunt.offload.providers import factory_of

    try:
        factory = factory_of(name)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    for scenario in SCENARIOS:
        yield ScenarioItem.from_parent(session, name=f"{name}[{scenario.name}]", scenario=scenario, factory=factory)


class ScenarioItem(pytest.Item):
    """One scenario with one provider."""

    def __init__(self, *, scenario: Any, factory: Any, **rest: Any) -> None:
        super().__init__(**rest)
        self._scenario = scenario
        self._factory = factory

    def runtest(self) -> None:
        """Run the scenario; one that does not apply is skipped."""
        from flowshunt.offload.conformance.score import FAILED, SKIPPED, run

        result = run(self._scenario, self._factory)
        if result.verdict == SKIPPED:
            pytest.skip(result.detail)
        if result.verdict == FAILED:
            pytest.fail(f"{self._scenario.sentence}\n{result.detail}", pytrace=False)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Where the test is said to be."""
        return "offload contract", None, self.name
