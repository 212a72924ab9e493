"""The installed ovs-ofctl, if there is one, reads and refuses what we read and refuse."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.rules.openflow import Flow, FlowSyntaxError, format_flow, parse_flow
from tests.rules.openflow.flow_strategies import FAMILIES, matches

OVS_OFCTL = shutil.which("ovs-ofctl")
CASES = Path(__file__).with_name("same_as_ovs.txt").read_text().splitlines()

pytestmark = pytest.mark.skipif(
    OVS_OFCTL is None, reason="needs ovs-ofctl to compare with (Debian: openvswitch-common)"
)

MEANT_OTHERWISE = {
    # a packet with this VID and without the bit that says that there is one does not exist; ovs-ofctl reads "no tag"
    "vlan_vid=5,actions=1",
    "vlan_vid=0,actions=1",
}


def ovs(text: str) -> str | None:
    """The flow as ovs-ofctl prints it, None when it refuses it or could not send it to a switch."""
    assert OVS_OFCTL is not None
    done = subprocess.run([OVS_OFCTL, "parse-flow", text], capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r": ADD ?(.*)", done.stdout)
    return found.group(1) if found and done.returncode == 0 else None


def ours(text: str) -> str | None:
    try:
        return format_flow(parse_flow(text))
    except FlowSyntaxError:
        return None


def test_there_are_many_cases_of_both_kinds() -> None:
    accepted = sum(ours(text) is not None for text in CASES)
    assert accepted > 400
    assert len(CASES) - accepted > 250


def test_the_same_flows_are_accepted_and_mean_the_same() -> None:
    printed = [ours(text) for text in CASES]
    with ThreadPoolExecutor(4) as pool:
        theirs = pool.map(ovs, CASES)
        again = pool.map(lambda text: None if text is None else ovs(text), printed)
        compared = list(zip(CASES, theirs, printed, again, strict=True))
    assert not [case for case in compared if case[1] != case[3] and case[0] not in MEANT_OTHERWISE]


def test_what_is_meant_otherwise_still_differs() -> None:
    for text in MEANT_OTHERWISE:
        printed = ours(text)
        assert printed is not None
        assert ovs(text) != printed


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)).flatmap(matches))
def test_matches_are_printed_alike(match: tuple[tuple[str, int, int], ...]) -> None:
    # in the OpenFlow 1.0 form of its messages, ovs-ofctl can't say all of these
    plain = tuple(triple for triple in match if triple[0] not in ("vlan_tci", "in_port"))
    text = format_flow(Flow(plain))
    assert ovs(text) == text
