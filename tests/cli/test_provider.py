from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from flowshunt.cli.main import app


def flowshunt(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["provider", *arguments], terminal_width=200)
    return result.exit_code, result.stdout, result.stderr


def test_the_list_says_what_each_provider_is() -> None:
    status, out, _ = flowshunt("list")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["dummy", "built", "in", "callbacks", "packet", "thread", "no", "for", "tests"] in lines
    assert ["eswitch", "built", "in", "batches", "packet", "thread", "yes", "HW_OFFLOAD", "when", "named"] in lines
    assert ["dummy-array", "built", "in", "batches", "packet", "thread", "no", "for", "tests"] in lines


def test_the_list_is_json_on_demand() -> None:
    _, out, _ = flowshunt("list", "--json")
    assert json.loads(out)["providers"][:4:3] == [
        {
            "name": "flowtable",
            "from": "built in",
            "served_by": "batches",
            "runs_on": "packet thread",
            "forwards": True,
            "mark": "OFFLOAD",
            "state": "ready",
        },
        {
            "name": "dummy",
            "from": "built in",
            "served_by": "callbacks",
            "runs_on": "packet thread",
            "forwards": False,
            "mark": "",
            "state": "for tests",
        },
    ]


def test_a_check_prints_a_scorecard() -> None:
    status, out, _ = flowshunt("check", "dummy", "--only", "life", "--only", "batch-order")
    assert status == 0
    assert out.splitlines()[0].startswith("passed          life")
    assert out.splitlines()[-1] == "dummy: 1 passed, 0 failed, 1 not applicable"


def test_a_check_that_fails_says_so_by_its_exit_status() -> None:
    status, out, _ = flowshunt("check", "tests.offload.broken:RaisesAtFlush", "--only", "flush", "--json")
    assert status == 1
    document = json.loads(out)
    assert not document["passed"]
    assert document["scenarios"][0]["verdict"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["check", "nobody"], "no offload provider 'nobody'"),
        (["check", "no.such:Module"], "No module named"),
        (["check", "dummy", "--only", "all"], "no scenario 'all'"),
    ],
)
def test_what_cannot_be_checked_is_said_with_a_hint(arguments: list[str], problem: str) -> None:
    status, out, err = flowshunt(*arguments)
    assert (status, out) == (2, "")
    assert problem in err
    assert "hint: " in err
