"""`flowshunt replay --offload`: what the summary, the table and the JSON say of it."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.cli.replay import command
from flowshunt.cli.replay.arguments import offload
from flowshunt.cli.replay.offloading import OffloadWatch
from flowshunt.cli.replay.options import DEFAULT_FLOWS, Offload, ReplayOptions, TableStyle
from flowshunt.offload import reasons as R
from flowshunt.offload.batch import Context
from flowshunt.offload.providers.dummy import Dummy
from tests.cli.test_report import check_schema

FLOWTABLE = (Offload("flowtable"),)


def _options(repository: Path, **changes: Any) -> ReplayOptions:
    options = ReplayOptions(str(repository / "demo" / "demo.pcap"), **{"quiet": True, **changes})
    options.check()
    return options


def _json(repository: Path, tmp_path: Path, **changes: Any) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "run.json"
    status = command.execute(_options(repository, json=str(path), **changes))
    return status, check_schema(path.read_text())


def test_hits_are_counted_and_nothing_changes(repository: Path, tmp_path: Path) -> None:
    status, told = _json(repository, tmp_path, offloads=FLOWTABLE, compare=True)
    offload = told["offload"]

    assert status == 0
    assert offload["comparison"] == {"unchecked": 0, "after_unchecked": 0, "different": 0, "first_different": None}
    assert offload["packets"] == told["summary"]["packets"]
    assert 0.5 < offload["shunted_packets"] / offload["packets"] < 0.8
    walked = sum(entry["packets"] for entry in offload["long_way"])
    assert walked + offload["shunted_packets"] <= offload["packets"]
    steps = offload["over_time"]["steps"]
    assert sum(step["packets"] for step in steps) == offload["packets"]
    assert sum(step["shunted_bytes"] for step in steps) == offload["shunted_bytes"]
    assert sum(step["taken"] for step in steps) == offload["taken"]
    assert max(step["connections"] for step in steps) == offload["peak_connections"]


def test_counters_are_those_of_a_run_without(repository: Path, tmp_path: Path) -> None:
    _, without = _json(repository, tmp_path)
    _, told = _json(repository, tmp_path, offloads=FLOWTABLE)

    assert told["rules"] == without["rules"]
    assert told["ports"] == without["ports"]
    both = zip(told["connections"], without["connections"], strict=True)
    assert all(one["original"] == other["original"] and one["reply"] == other["reply"] for one, other in both)
    assert {entry["provider"] for entry in told["connections"]} == {"flowtable", None}
    assert all(entry["provider"] is None and entry["reasons"] == {} for entry in without["connections"])


def test_a_comparison_begins_with_the_same_table(repository: Path, tmp_path: Path) -> None:
    table = tmp_path / "first.json"
    assert command.execute(_options(repository, limit=260, json=str(table))) == 0
    status, told = _json(repository, tmp_path, offloads=FLOWTABLE, compare=True, load_table=str(table))

    assert told["summary"]["loaded_connections"] == 12
    assert (status, told["offload"]["comparison"]["different"]) == (0, 0)


def test_the_summary_accounts_for_every_packet(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.execute(_options(repository, offloads=FLOWTABLE, quiet=False))

    out = capsys.readouterr().out
    causes = out.partition("Packets that took the long way, by cause\n")[2].partition("\n\n")[0].splitlines()[1:]
    shunted = re.search(r"shunted +(\d+) packets", out)
    assert shunted is not None
    assert sum(int(line.split()[1]) for line in causes) + int(shunted[1]) == 377
    assert sorted(line.split()[0] for line in causes) == ["absent", "dead", "empty", "not-fit", "tcp-flags"]


def test_the_table_says_who_forwards_or_why_nobody_does(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.execute(_options(repository, offloads=FLOWTABLE, table=TableStyle.OFFLOAD))

    lines = capsys.readouterr().out.splitlines()
    assert sum("[OFFLOAD]" in line and line.endswith("provider=flowtable") for line in lines) == 2
    assert any(line.startswith("icmp ") and line.endswith(" flowtable=protocol") for line in lines)
    assert any("UNREPLIED" in line and line.endswith(" flowtable=no-reply-yet") for line in lines)


def test_limits_show_in_the_summary(repository: Path, tmp_path: Path) -> None:
    small = (Offload("eswitch", (("ct_max_offloaded_conns", "1"),)),)
    _, told = _json(repository, tmp_path, offloads=small)
    offload = told["offload"]

    assert offload["peak_connections"] == 1
    assert offload["wanted_connections"] == 2
    assert offload["refused"][0]["reason"] == "table-full"
    assert offload["providers"][0]["mark"] == "HW_OFFLOAD"


def test_a_way_that_may_not_be_skipped_is_a_reason(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flows = (*DEFAULT_FLOWS.splitlines(), "table=1,priority=9,ip,nw_ttl=1,actions=drop")
    _, told = _json(repository, tmp_path, offloads=FLOWTABLE, flows=flows, flow_files=(), quiet=False)

    assert {entry["reason"] for entry in told["offload"]["refused"]} == {"varying-match:nw_ttl"}
    out = capsys.readouterr().out
    assert re.search(r"varying-match:nw_ttl +[1-9]\d*  A rule on its way matches on nw_ttl, which", out)
    assert "varying-match:nw_ttl: Match it in a table that established connections do not visit" in out


class SlowWorker(Dummy):
    """Observes on a thread of its own, and takes its time."""

    queue_limit = 1000

    def conn_add(self, context: Context, /) -> None:
        time.sleep(0.003)
        super().conn_add(context)


def test_a_replay_waits_for_providers_with_a_thread(repository: Path, tmp_path: Path) -> None:
    _, told = _json(repository, tmp_path, offloads=(Offload("tests.cli.test_offload:SlowWorker"),))
    _, inline = _json(repository, tmp_path, offloads=(Offload("dummy"),))

    assert told["offload"]["providers"][0]["counters"] == inline["offload"]["providers"][0]["counters"]
    assert [entry["reasons"] for entry in told["connections"]] == [entry["reasons"] for entry in inline["connections"]]


def test_what_was_handed_back_is_wanted_no_more(repository: Path, tmp_path: Path) -> None:
    switch = command.make_switch(_options(repository))
    watch = OffloadWatch(switch)
    idle, full = (np.full(1, R.number_of(code), np.uint16) for code in ("idle", "table-full"))
    one, other, third = (np.array([row]) for row in (1, 2, 3))

    watch.note("taken", one, one, 1000, "p", R.NONE)
    watch.note("handed-back", one, one, 2000, "p", idle)
    watch.note("taken", other, other, 3000, "p", R.NONE)
    assert watch.report().peak_wanted == 1
    watch.note("refused", third, third, 3000, "p", full)
    assert watch.report().peak_wanted == 2
    watch.note("withdrawn", other, other, 4000, "p", R.PATH_CHANGED)
    watch.note("destroyed", np.repeat(third, 2), np.repeat(third, 2), 4000, "", R.NONE)
    watch.note("taken", np.arange(4, 6), np.arange(4, 6), 5000, "p", R.NONE)
    assert watch.report().peak_wanted == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flowtable", Offload("flowtable")),
        ("eswitch:bluefield-2", Offload("eswitch", (("profile", "bluefield-2"),))),
        ("eswitch:a/b.toml,num_of_groups=2", Offload("eswitch", (("profile", "a/b.toml"), ("num_of_groups", "2")))),
        ("package.module:Class,x=1", Offload("package.module:Class", (("x", "1"),))),
    ],
)
def test_a_provider_is_a_name_with_a_profile_or_a_class_in_a_module(text: str, expected: Offload) -> None:
    assert offload(text) == expected


@pytest.mark.parametrize("name", ["./x:y", "no.such.module:Class", "tests.cli.test_offload:Unmade", "json:Nothing"])
def test_a_class_that_makes_no_provider_is_wrong_usage(repository: Path, name: str) -> None:
    with pytest.raises(UsageError, match="offload provider '"):
        command.execute(_options(repository, offloads=(Offload(name),)))


class Unmade(Dummy):
    """Cannot be made."""

    def __init__(self) -> None:
        raise ZeroDivisionError


def test_a_difference_is_an_error(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch beside it that has other rules is a provider that does harm."""
    made = command.make_switch

    def other_rules(options: ReplayOptions, *, quiet: bool = False) -> Any:
        return made(replace(options, flows=("table=0,actions=drop",)) if quiet else options, quiet=quiet)

    monkeypatch.setattr(command, "make_switch", other_rules)
    status, told = _json(repository, tmp_path, offloads=FLOWTABLE, compare=True)

    assert status == 1
    assert told["offload"]["comparison"]["different"] > 100
    assert told["offload"]["comparison"]["first_different"] == 1


def test_the_summary_has_a_part_about_offload(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.execute(replace(_options(repository, offloads=FLOWTABLE), quiet=False))

    text = capsys.readouterr().out
    assert "connections  6 taken, 2 at most at a time" in text
    assert "flowtable  [OFFLOAD]      6" in text
    assert "tcp-flags" in text and "SYN, FIN or RST, or no ACK" in text
    assert "Offload over time" in text


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"compare": True}, "--compare and --unchecked need --offload"),
        ({"table": TableStyle.OFFLOAD}, "--table offload needs --offload"),
        ({"offloads": FLOWTABLE * 2}, "flowtable is named twice"),
    ],
)
def test_options_that_do_not_go_together(repository: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        _options(repository, **changes)


@pytest.mark.parametrize(
    ("offload", "what"),
    [
        (Offload("nobody"), "no offload provider 'nobody'"),
        (Offload("flowtable", (("timeot", "1"),)), "did you mean timeout"),
        (Offload("flowtable", (("limit", "-1"),)), "limit is '-1'"),
        (Offload("eswitch", (("profile", "none-such"),)), "no profile 'none-such'"),
        (Offload("dummy", (("size", "1"),)), "has no options"),
    ],
)
def test_providers_that_there_are_not(repository: Path, offload: Offload, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        command.execute(_options(repository, offloads=(offload,)))
    assert what in f"{caught.value} {caught.value.hint}"
