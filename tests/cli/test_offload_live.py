"""`flowshunt offload` and `flowshunt top` against a switch that runs beside them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flowshunt.cli.daemon_client import ask
from flowshunt.cli.layout import write_plain
from flowshunt.cli.top.rates import rates
from flowshunt.cli.top.screen import sections
from tests.builders import Packet
from tests.cli.live import ROUTED, Live, live

__all__ = ["live"]


@pytest.fixture
def offloading(live: Live) -> Live:
    """A switch that offloads: a TCP connection, a UDP conversation, and one that nobody answers."""
    live.configure_offload({"hw-offload": "true", "hw-offload-priority": "flowtable"})
    live.add_flows(ROUTED)
    for n in range(6):
        live.talk("udp", 1000, 53)
        live.talk("tcp", 2000, 80, first=n == 0)
    live.ask_only("udp", 3000, 53)
    return live


def test_show_says_what_providers_have(offloading: Live) -> None:
    found = json.loads(offloading.run("offload", "show", "--json").stdout)
    flowtable = next(one for one in found["providers"] if one["name"] == "flowtable")
    assert found["enabled"] and found["connections"] == 3
    assert flowtable["entries"] == 2 and flowtable["counters"]["installed"] == 2 and flowtable["mark"] == "OFFLOAD"
    assert found["shunted_packets"] > 0 and 0 < found["hit_ratio"] < 1
    text = offloading.run("offload", "show").stdout
    assert "flowtable: forwards, shown as [OFFLOAD]\n  entries       2" in text
    assert f"{found['shunted_packets']} of {found['packets']} packets" in text


def test_explain_tells_the_story_that_a_replay_would(offloading: Live) -> None:
    text = offloading.run("offload", "explain", "-p", "tcp").stdout
    lines = text.splitlines()
    assert lines[0] == "tcp 10.0.0.1:2000 -> 10.0.0.2:80, zone 0"
    for words in ("committed", "the first packet in the reply direction", "taken by flowtable"):
        assert any(line.endswith(words) for line in lines), words
    assert "path of the original direction: p1 -> p2, unchanged" in text
    assert "forwarded by flowtable [OFFLOAD]" in text
    waiting = offloading.run("offload", "explain", "--sport", "3000", "--json")
    (story,) = json.loads(waiting.stdout)["connections"]
    assert story["holder"] is None and story["reasons"]["flowtable"]["code"] == "no-reply-yet"
    missed = offloading.run("offload", "explain", "-p", "sctp")
    assert missed.exit_code == 1 and "no connection is like that" in missed.stderr


def test_flush_takes_connections_back_and_they_come_again(offloading: Live) -> None:
    assert offloading.run("offload", "flush", "--zone", "7").stdout == "0 connections were taken back\n"
    assert offloading.run("offload", "flush", "--zone", "0").stdout == "2 connections were taken back\n"
    assert "OFFLOAD" not in offloading.run("conntrack", "-L").stdout
    for _ in range(3):
        offloading.talk("udp", 1000, 53)
    assert "[OFFLOAD]" in offloading.run("conntrack", "-L", "-p", "udp").stdout
    assert offloading.run("offload", "flush", "--provider", "flowtable").stdout == "1 connections were taken back\n"
    wrong = offloading.run("offload", "flush", "--provider", "nobody")
    assert wrong.exit_code == 2 and "no provider is called 'nobody'" in wrong.stderr


def test_nothing_is_told_where_nothing_is_offloaded(live: Live) -> None:
    live.add_flows(ROUTED)
    live.talk("udp", 1000, 53)
    text = live.run("offload", "show").stdout
    assert text.startswith("offloading is off; 1 connections\n") and "no provider is registered" in text
    assert live.run("offload", "flush").stdout == "0 connections were taken back\n"
    assert "not offloaded" in live.run("offload", "explain").stdout


def test_nonsense_is_refused(live: Live) -> None:
    for words in (("offload/flush", '{"zone": "x"}'), ("offload/explain", '{"limit": 0}'), ("offload/explain", "[")):
        with pytest.raises(Exception, match=r"zone|stories|JSON"):
            ask(live.path, *words)


def test_a_switch_is_looked_for(tmp_path: Path, live: Live) -> None:
    assert live.run("offload", "show", socket=str(tmp_path / "nowhere")).exit_code == 2


def test_top_measures_once_as_text_and_as_json(offloading: Live) -> None:
    found = json.loads(offloading.run("top", "--once", "--json", "--interval", "0.1").stdout)
    assert found["connections"] == 3 and found["offload"] is True
    (bridge,) = found["bridges"]
    assert {port["name"] for port in bridge["ports"]} == {"br0", "p1", "p2"}
    text = offloading.run("top", "--once", "--interval", "0.1").stdout
    assert "connections" in text and "bridge br0, 4 flows" in text and "flowtable" in text
    assert "\x1b" not in text and not any(line.endswith(" ") for line in text.splitlines())


def test_rates_are_what_happened_in_between(offloading: Live) -> None:
    before = json.loads(ask(offloading.path, "switch/sample"))
    for _ in range(10):
        offloading.talk("udp", 1000, 53)
    offloading.inject("p1", Packet().arp("10.0.0.1", "10.0.0.2"))
    after = json.loads(ask(offloading.path, "switch/sample"))
    after["time_ms"] = before["time_ms"] + 2000
    found = rates(before, after)
    ports = {port["name"]: port for port in found["bridges"][0]["ports"]}
    assert ports["p1"]["rx_packets"] == 5.5 and ports["p2"]["tx_packets"] == 5.0
    assert found["bridges"][0]["hit_ratio"] == round(20 / 21, 4)
    assert found["bridges"][0]["drops"] == {"drop.no-match": 0.5}
    again = rates(after, {**before, "time_ms": after["time_ms"] + 1000})
    assert all(port["rx_packets"] >= 0 for port in again["bridges"][0]["ports"])


def test_the_screen_says_what_is_lost() -> None:
    now = {
        "time_ms": 0, "seconds": 1.0, "connections": 12345, "new": 2.5, "removed": 0.0,
        "invalid": {"checksum": 3.0}, "refused": {"full": 7.0}, "offload": True,
        "bridges": [
            {
                "name": "br0", "flows": 1, "packets": 1000.0, "bytes": 1.0, "hit_ratio": 0.5,
                "drops": {"drop.no-match": 4.0}, "long_way": {"absent": 9.0},
                "ports": [{"name": "p1", "number": 1, "rx_packets": 1234567.0, "rx_bytes": 1e9, "tx_packets": 0.0,
                           "tx_bytes": 0.0, "dropped": 1.0}],
            }
        ],
        "providers": [
            {"name": "flowtable", "entries": 4, "told": 9, "queued": None, "taken": 1.5, "refusals": {},
             "refused_so_far": {f"reason-{n}": n for n in range(1, 8)}},
        ],
    }  # fmt: skip
    out = io.StringIO()
    write_plain(sections(now), out)
    text = out.getvalue()
    for words in ("12.3k", "50.0 %", "1235k", "8000M", "dropped/s: no-match 4", "the long way/s: absent 9", "2 more",
                  "invalid: checksum", "not tracked: full"):  # fmt: skip
        assert words in text, words
