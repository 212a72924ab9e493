"""`flowshunt trace`: rules in a file, explained without a switch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowshunt.cli.main import app
from tests.builders import Packet

RULES = """
# the way of a connection
table=0,ip,ct_state=-trk,actions=ct(table=1)
table=1,ip,ct_state=+trk+new,actions=ct(commit),output:2
table=1,ip,ct_state=+trk+est,actions=dec_ttl,output:3
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.flows"
    path.write_text(RULES)
    return str(path)


def trace(*words: str) -> Result:
    return CliRunner().invoke(app, ["trace", *words])


def test_a_packet_is_explained(rules: str) -> None:
    done = trace("--flows", rules, "in_port=1,udp,nw_ttl=9")
    assert done.exit_code == 0 and done.stderr == ""
    assert " 0. ct_state=-trk,ip, priority 32768\n    ct(table=1)\n" in done.stdout
    assert "resume conntrack with default ct_state=trk|new" in done.stdout
    assert done.stdout.endswith("Datapath actions: ct(commit),2\n")
    established = trace("--flows", rules, "--ct-next", "trk,est", "in_port=1,udp,nw_ttl=9").stdout
    assert established.endswith("Datapath actions: set(ipv4(ttl=8)),3\n")


def test_json_says_the_same(rules: str) -> None:
    found = json.loads(trace("--flows", rules, "--ct-next", "trk,est", "--json", "in_port=1,udp,nw_ttl=1").stdout)
    assert found["fate"] == "drop.ttl" and found["outputs"] == []
    first, second = found["parts"]
    assert first["datapath_actions"] == "ct,recirc(0x1)" and second["ct_state_from"] == "asked"
    rule = second["steps"][0]["nodes"][1]
    assert rule["text"] == " 1. ct_state=+est+trk,ip, priority 32768"
    assert [node["text"] for node in rule["nodes"]] == ["dec_ttl", "IPv4 decrement TTL exception"]


def test_a_packet_of_bytes_is_tracked(rules: str) -> None:
    packet = Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 2).bytes().hex()
    done = trace("--flows", rules, "in_port=1", packet)
    assert "ct_state=new|trk (as the tracker says)" in done.stdout
    assert json.loads(trace("--flows", rules, "--json", "in_port=1", packet).stdout)["outputs"][0]["port"] == 2


def test_ports_have_names_and_actions_come_first(rules: str) -> None:
    named = trace("--flows", rules, "--ports", "p0,p1", "--names", "in_port=p0,udp").stdout
    assert named.startswith("Flow: udp,in_port=p0,") and named.endswith("Datapath actions: ct(commit),p1\n")
    own = trace(
        "--set-flow", "priority=1,actions=output:4", "--actions", "output:7,resubmit(,0)", "in_port=1,ip"
    ).stdout
    assert "    output:7\n    resubmit(,0)\n 0. priority 1\n    output:4\n" in own
    assert own.endswith("Datapath actions: 7,4\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("in_port=1",), "--flows or --set-flow"),
        (("--set-flow", "actions=output:1", "bogus=1"), 'unknown field "bogus"'),
        (("--set-flow", "actions=nonsense", "in_port=1"), "unknown action"),
        (
            ("--set-flow", "actions=output:1", "--ct-next", "x", "in_port=1"),
            "x: unknown connection tracking state flag",
        ),
        (("--set-flow", "actions=output:1", "in_port=1", "00zz"), "Trailing garbage in packet data"),
        (("--set-flow", "actions=output:1", "--actions", "nonsense", "in_port=1"), "Bad actions:"),
        (("--flows", "/nowhere.flows", "in_port=1"), "No such file"),
    ],
)
def test_nonsense_is_refused(words: tuple[str, ...], text: str) -> None:
    done = trace(*words)
    assert done.exit_code == 2 and text in done.stderr
