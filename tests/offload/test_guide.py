"""The provider guide: its code runs, and what it shows as providers keeps the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowshunt.offload import api
from flowshunt.offload.conformance.score import FAILED, PASSED, SCENARIOS, run
from flowshunt.offload.forwarding import BEGIN_EPOCH, HANDED_BACK, INSTALL, RENEW, STATISTICS, WITHDRAW

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "providers.md"
QUICK = [scenario for scenario in SCENARIOS if scenario.name not in ("worker", "late")]


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def guide() -> dict[str, type]:
    """What the guide's code defines, run from top to bottom."""
    names: dict[str, type] = {"__name__": "guide"}  # type: ignore[dict-item]
    for block in blocks():
        exec(compile(block, str(GUIDE), "exec"), names)
    return names


def test_the_minimal_provider_has_less_than_forty_lines() -> None:
    assert len(blocks()[0].splitlines()) < 40


@pytest.mark.parametrize("name", ["Minimal", "Batched", "Arrays", "Forwards"])
@pytest.mark.parametrize("scenario", QUICK, ids=lambda scenario: scenario.name)
def test_the_guide_s_providers_keep_the_contract(guide: dict[str, type], name: str, scenario: object) -> None:
    result = run(scenario, guide[name])  # type: ignore[arg-type]
    assert result.verdict != FAILED, result.detail


def test_the_guide_names_every_callback_and_the_kit_s_command() -> None:
    text = GUIDE.read_text()
    for callback in (*api.MANDATORY, *api.OPTIONAL, "queue_limit", "forwards"):
        assert f"`{callback}" in text


def test_the_guide_names_every_method_of_a_forwarder() -> None:
    text = GUIDE.read_text()
    for method in (INSTALL, RENEW, BEGIN_EPOCH, WITHDRAW, STATISTICS, HANDED_BACK):
        assert f"`{method}(" in text


def test_the_guide_s_forwarder_passes_what_concerns_forwarders(guide: dict[str, type]) -> None:
    for scenario in SCENARIOS:
        if scenario.name.startswith("forward-") and scenario.name != "forward-many":
            assert run(scenario, guide["Forwards"]).verdict == PASSED
