"""Every real capture with offload: the same packets out and the same states as without, byte for byte.

What passed unchecked is the only exception (`cli.replay.twin`), and there is little of it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from flowshunt import Switch
from flowshunt.cli.replay.sources import open_sided
from flowshunt.cli.replay.twin import Twin
from flowshunt.cli.replay.windows import Windowed

ALL = """
table=0,actions=ct(commit,table=1)
table=1,actions=normal
"""
C1 = """
table=0,arp,actions=normal
table=0,ip,ct_state=-trk,actions=ct(table=1)
table=0,ipv6,ct_state=-trk,actions=ct(table=1)
table=1,priority=1,ct_state=+trk+new,actions=ct(commit),normal
table=1,priority=1,ct_state=+trk+est,actions=normal
table=1,priority=1,ct_state=+trk+rel,actions=normal
"""
CHANGES = """
table=0,ip,actions=ct(commit,table=1)
table=0,actions=normal
table=1,in_port=inside,actions=dec_ttl,mod_dl_src:02:00:00:00:00:aa,outside
table=1,in_port=outside,ct_state=+est,actions=dec_ttl,mod_vlan_vid:7,inside
table=1,in_port=outside,ct_state=+rel,actions=inside
"""
ZONES = """
table=0,actions=ct(commit,zone=1,table=1)
table=1,actions=ct(commit,zone=2,table=2)
table=2,tcp,nw_tos=0,actions=normal
table=2,priority=1,actions=normal
"""
PROVIDERS = {
    "flowtable": {},
    "flowtable with a small table": {"limit": "2", "timeout": "1"},
    "flowtable that checks": {"check": "true"},
    "eswitch": {"profile": "bluefield-2"},
}

UNLIKE = {("linux", "flowtable with a small table"): {"suri-tcp-rst-unacked-stream-09.pcap"}}
"""Handed back after a second of silence, a connection's windows are not known, and Linux judges a reset by them."""


def _twin(rules: str, profile: str, provider: str) -> tuple[Switch, Switch]:
    switches = []
    for _ in range(2):
        switch = Switch(profile, max_connections=10_000, seed=1)
        for name in ("inside", "outside"):
            switch.add_port(name)
        switch.add_flows(rules)
        switches.append(switch)
    switches[0].offload_to([(provider.split()[0], PROVIDERS[provider])])
    return switches[0], switches[1]


@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize(
    ("rules", "provider"),
    [(rules, "flowtable") for rules in (ALL, C1, CHANGES, ZONES)] + [(C1, name) for name in list(PROVIDERS)[1:]],
    ids=["all", "c1", "changes", "zones", "small", "checks", "eswitch"],
)
def test_nothing_changes_but_what_passed_unchecked(captures: Path, rules: str, provider: str, profile: str) -> None:
    n_packets = n_unchecked = n_shunted = 0
    wrong = []
    for path in sorted(captures.glob("*.pcap")):
        switch, reference = _twin(rules, profile, provider)
        twin = Twin(switch, reference)
        with ExitStack() as closing:
            source = Windowed(open_sided(str(path), (), None, closing))
            while (batch := source.receive(256)) is not None:
                twin.process(batch)
                n_packets += len(batch.packets)
        n_shunted += switch.statistics()["shunted"]
        n_unchecked += twin.unchecked
        if twin.different and path.name not in UNLIKE.get((profile, provider), ()):
            wrong.append((path.name, twin.first_different, twin.different))
    assert not wrong
    assert n_shunted > n_packets // 10
    if "checks" in provider:
        assert n_unchecked == 0
    assert n_unchecked < n_packets // 50
