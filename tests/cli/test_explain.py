"""Stories of connections: `flowshunt explain`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowshunt.cli.explain import command
from flowshunt.cli.main import app
from flowshunt.cli.replay.command import make_switch, open_source, replay
from flowshunt.cli.replay.options import Offload, ReplayOptions
from flowshunt.conntrack.selection import Selection
from flowshunt.control.stories.stories import Stories

C1 = (
    "table=0,arp,actions=normal",
    "table=0,ip,ct_state=-trk,actions=ct(table=1)",
    "table=1,priority=1,ip,ct_state=+trk+new,actions=ct(commit),normal",
    "table=1,priority=1,ip,ct_state=+trk+est,actions=normal",
)


def _explain(
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    words: str,
    *more: str,
    json: bool = False,
) -> tuple[int, str]:
    demo = str(repository / "demo" / "demo.pcap")
    options = ReplayOptions(demo, flows=(*C1, *more), offloads=(Offload("flowtable"),), quiet=True)
    options.check()
    status = command.execute(options, words, json=json)
    return status, capsys.readouterr().out


def test_a_connection_that_is_forwarded(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = _explain(repository, capsys, "proto=tcp dport=5001")

    head, *steps = text.splitlines()
    told = [line[14:] for line in steps if line.startswith("  +")]
    assert status == 0
    assert head.startswith("tcp 1.1.1.2:51888 -> 1.1.1.3:5001")
    assert told == [
        "committed",
        "the first packet in the reply direction",
        "path of the original direction: inside -> outside, unchanged",
        "path of the reply direction: outside -> inside, unchanged",
        "offered to flowtable",
        "taken by flowtable",
    ]
    assert "table=1, priority=1,ct_state=+est+trk,ip actions=NORMAL" in text
    assert "forwarded by flowtable [OFFLOAD]; 62 packets there, 35 back" in text


def test_a_rule_that_stands_in_the_way(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "table=1,priority=9,ip,nw_ttl=1,actions=drop"

    _, text = _explain(repository, capsys, "dport=5001", rule)

    assert "cannot be forwarded: varying-match:nw_ttl" in text
    assert "not offloaded" in text
    assert "Match it in a table that established connections do not visit" in text


def test_a_rewritten_path_says_what_changes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "table=1,priority=9,in_port=inside,ip,ct_state=+est,actions=dec_ttl,mod_dl_dst:02:00:00:00:00:aa,outside"

    _, text = _explain(repository, capsys, "dport=5001", rule)

    assert "path of the original direction: inside -> outside, eth_dst 02:00:00:00:00:aa, nw_ttl -1" in text


def test_connections_that_end_are_told_to_their_end(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = _explain(repository, capsys, "dport=8000 src=1.1.1.2")

    assert text.count("comes back from flowtable for good: it is closing") == 3


def test_as_json(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = _explain(repository, capsys, "proto=icmp", json=True)

    (found,) = json.loads(text)["connections"]
    assert status == 0
    assert found["holder"] is None
    assert found["reasons"]["flowtable"]["code"] == "protocol"
    assert [step["kind"] for step in found["steps"]][:2] == ["created", "reply"]


def test_a_selection_of_nothing_fails(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = _explain(repository, capsys, "dport=9999")

    assert status == 1
    assert text == ""


def test_connections_beyond_the_limit_are_counted_once(repository: Path) -> None:
    options = ReplayOptions(str(repository / "demo" / "demo.pcap"), flows=C1, quiet=True)
    switch = make_switch(options)
    stories = Stories(switch, Selection.parse("proto=tcp"), limit=2)
    switch.offload_to([("flowtable", {})])
    with ExitStack() as closing:
        replay(options, switch, open_source(options, switch, closing), [])

    assert (len(list(stories)), stories.n_left_out) == (2, 4)


def test_a_table_to_begin_with_is_no_option() -> None:
    told = CliRunner().invoke(app, ["explain", "a.pcap", "--load-table", "b.json"])

    assert (told.exit_code, "--load-table" in told.output) == (2, True)


def test_a_provider_that_forwards_nothing_observes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ReplayOptions(str(repository / "demo" / "demo.pcap"), flows=C1, offloads=(Offload("dummy"),), quiet=True)

    assert command.execute(options, "dport=5001", json=False) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == "dummy: observes it, and forwards no packets"
