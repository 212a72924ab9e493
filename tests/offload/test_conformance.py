"""The conformance kit: ours pass, each seeded defect is found, and the scorecard says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowshunt.offload.conformance.scenarios import Scenario
from flowshunt.offload.conformance.score import FAILED, PASSED, SCENARIOS, SKIPPED, check, lines, run
from flowshunt.offload.conformance.stage import Stage
from flowshunt.offload.framework import Offload
from flowshunt.offload.providers import built_in, factory_of
from flowshunt.offload.providers.dummy import ArrayDummy
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.registry import Settings
from tests.offload.broken import DEFECTS, Batched, Hangs, Quiet, RaisesAtFlush, Sound
from tests.offload.kernel.rights import WHY_NO_BPF, needs_bpf

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.mark.parametrize("provider", [entry.name for entry in built_in()])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_ours_pass(provider: str, scenario: Scenario) -> None:
    result = run(scenario, factory_of(provider))
    assert result.verdict in (PASSED, SKIPPED), result.detail
    if scenario.name.startswith("forward-"):
        forwarders = ("flowtable", "eswitch", *(() if WHY_NO_BPF else ("kernel",)))
        assert (result.verdict == PASSED) == (provider in forwarders), result.detail


LARGE = ("forward-many", "capacity", "batch-large")
"""Scenarios that take seconds, and have nothing to do with how ports work."""


@needs_bpf
@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.name not in LARGE], ids=lambda scenario: scenario.name
)
def test_the_kernel_passes_with_frames_too(scenario: Scenario) -> None:
    def factory() -> Kernel:
        made = Kernel(EveryPort(has_frames=True))
        made.set_options({"mode": "xdp"})
        return made

    assert run(scenario, factory).verdict == PASSED


@pytest.mark.parametrize(("factory", "scenario"), DEFECTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_each_seeded_defect_is_found(factory: type, scenario: str) -> None:
    examined = BY_NAME[scenario]
    if factory is Hangs:
        examined = replace(examined, deadline_s=0.5)
    result = run(examined, factory)
    assert result.verdict == FAILED
    assert result.detail


def test_every_scenario_finds_something() -> None:
    unproven = set(BY_NAME) - {scenario for _, scenario in DEFECTS}
    assert unproven == {"late"}  # the framework's own order keeps any provider clean; it checks that order


@pytest.mark.parametrize("base", [Quiet, Batched, Sound])
def test_what_the_broken_ones_are_made_of_is_sound(base: type) -> None:
    quick = [scenario for scenario in SCENARIOS if scenario.name not in ("hundred-thousand", "worker", "late")]
    assert check("base", base, quick).failures() == []


def test_the_scorecard_is_text_and_json() -> None:
    some = [BY_NAME[name] for name in ("life", "flush", "batch-large")]
    told: list[str] = []
    card = check("broken", RaisesAtFlush, some, lambda result: told.append(result.verdict))
    assert told == [PASSED, FAILED, SKIPPED]
    *results, summary = lines(card)
    assert summary == "broken: 1 passed, 1 failed, 1 not applicable"
    assert results[1].startswith("failed")
    assert "flush fails with errno 16" in results[1]
    document = json.loads(json.dumps(card.as_dict()))
    assert document["passed"] is False
    assert [part["verdict"] for part in document["scenarios"]] == told
    assert {"name", "sentence", "verdict", "detail", "seconds"} == set(document["scenarios"][0])


def test_a_hundred_thousand_connections_are_a_few_dozen_calls_of_an_array_provider() -> None:
    arrays, stage = ArrayDummy(), Stage(100_000)
    offload = Offload(stage)
    offload.register(arrays)
    offload.configure(Settings(enabled=True))
    rows = np.arange(100_000)
    stage.create(rows)
    stage.reply(rows)
    stage.destroy(rows)
    assert arrays.counts == {"policy": 100_000, "add": 100_000, "est": 100_000, "del": 100_000}
    assert arrays.n_calls == 4 * 13  # the events of 13 full arrays


def test_the_pytest_plug_in_needs_no_test_file(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "flowshunt.offload.conformance.plugin", "-k", "not thousand"]
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}"}

    def pytest_with(name: str) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--offload-provider", name]
        return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    good = pytest_with("dummy-array")
    assert good.returncode == 0, good.stdout + good.stderr
    n_forwarding = sum(scenario.name.startswith("forward-") for scenario in SCENARIOS)
    assert f"{len(SCENARIOS) - 1 - n_forwarding} passed" in good.stdout
    bad = pytest_with("tests.offload.broken:RaisesAtFlush")
    assert bad.returncode == 1
    assert "flush fails with errno 16" in bad.stdout
    assert "no offload provider 'nobody'" in pytest_with("nobody").stderr
