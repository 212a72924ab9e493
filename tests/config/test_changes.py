"""From one configuration to the next: the difference as actions, and what they do to a switch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.config.changes import SetTracker, SetZoneLiberal, SetZoneLimit, SetZoneTimeouts, changes
from flowshunt.config.model import Config, FragmentsSection, TrackerSection, ZoneSection
from flowshunt.datapath.fragments.schema import PROFILES

POLICIES = {"short": {"udp_first": 5}, "long": {"udp_first": 500}, "odd": {"tcp_close": 1, "icmp_reply": 2}}


def test_nothing_changes_without_a_difference() -> None:
    assert changes(Config(), Config()) == ()
    config = Config(zones={5: ZoneSection(7, "short")}, timeouts=POLICIES)
    assert changes(config, config) == ()


def test_only_what_differs_is_done_and_the_tracker_comes_first() -> None:
    old = Config(zones={None: ZoneSection(10), 5: ZoneSection(7, "short", True)}, timeouts=POLICIES)
    new = Config(
        tracker=TrackerSection(loose=False, headroom=3),
        zones={5: ZoneSection(8, "long"), 9: ZoneSection(timeout="short")},
        timeouts=POLICIES,
    )
    assert changes(old, new) == (
        SetTracker("loose", False),
        SetTracker("headroom", 3),
        SetZoneLimit(None, None),
        SetZoneLimit(5, 8),
        SetZoneTimeouts(5, {"udp_first": 500}),
        SetZoneLiberal(5, None),
        SetZoneTimeouts(9, {"udp_first": 5}),
    )


def test_a_policy_with_another_content_is_a_change_and_one_with_another_name_is_none() -> None:
    old = Config(zones={1: ZoneSection(timeout="a")}, timeouts={"a": {"udp_first": 1}})
    other = replace(old, timeouts={"a": {"udp_first": 2}})
    renamed = Config(zones={1: ZoneSection(timeout="b")}, timeouts={"b": {"udp_first": 1}})
    assert changes(old, other) == (SetZoneTimeouts(1, {"udp_first": 2}),)
    assert changes(old, renamed) == ()


@pytest.mark.parametrize("change", [{"profile": "linux"}, {"checksums": False}, {"sequence_checks": False}], ids=str)
def test_what_is_fixed_cannot_change_and_then_nothing_does(change: dict[str, Any]) -> None:
    switch = Switch(max_connections=100)
    config = Config(TrackerSection(max_connections=100, headroom=5, **change))
    with pytest.raises(UsageError, match="cannot change while the switch runs"):
        switch.configure(config)
    assert switch.tracker.headroom == 0


zones = st.dictionaries(
    st.one_of(st.none(), st.integers(0, 3), st.just(65535)),
    st.builds(
        ZoneSection,
        st.none() | st.integers(0, 20),
        st.none() | st.sampled_from(sorted(POLICIES)),
        st.none() | st.booleans(),
    ),
)
configs = st.builds(
    Config,
    tracker=st.builds(
        TrackerSection,
        max_connections=st.integers(51, 100),
        liberal=st.booleans(),
        loose=st.booleans(),
        early_drop=st.booleans(),
        headroom=st.integers(0, 50),
    ),
    zones=zones,
    timeouts=st.just(POLICIES),
    fragments=st.builds(
        FragmentsSection,
        ipv4=st.booleans(),
        min_size_ipv6=st.none() | st.integers(0, 1280),
        max_zone_fragments=st.none() | st.integers(0, 9),
        timeout_ipv4=st.none() | st.integers(1, 60),
    ),
)


def settings(switch: Switch) -> dict[str, Any]:
    """All that a configuration can set of a tracker, as the tracker has it."""
    tracker = switch.tracker
    state = tracker.arrays.state[0]
    policy = tracker.arrays.zones["policy"]
    used = (0, 1, 2, 3, 65535)
    return {
        "state": {name: int(state[name]) for name in ("limit", "headroom", "early_drop", "loose", "liberal")},
        "limits": {zone: limit for zone, limit in tracker.zone_limits().items() if zone is None or limit},
        "timeouts": [tracker.arrays.timeouts[int(policy[zone])].tolist() for zone in used],
        "flags": [int(tracker.arrays.zones["flags"][zone]) for zone in used],
        "fragments": switch.fragments.settings,
    }


@given(configs, configs)
def test_a_switch_that_is_configured_anew_is_as_one_made_that_way(old: Config, new: Config) -> None:
    base = Config(TrackerSection(max_connections=100))
    one, other = Switch.from_config(base), Switch.from_config(base)
    one.configure(old)
    one.configure(new)
    other.configure(new)
    assert settings(one) == settings(other)
    assert one.configure(new) == ()


def test_a_switch_made_from_a_configuration_is_set_as_it_says() -> None:
    config = Config(
        tracker=TrackerSection("linux", 50, checksums=False, sequence_checks=False, early_drop=True, headroom=4),
        zones={None: ZoneSection(9, "short"), 3: ZoneSection(0, "odd", True)},
        timeouts=POLICIES,
    )
    tracker = Switch.from_config(config).tracker
    assert (tracker.profile, tracker.max_connections, tracker.headroom, tracker.early_drop) == ("linux", 50, 4, True)
    assert tracker.arrays.state["check_checksums"][0] == tracker.arrays.state["check_sequence"][0] == 0
    assert tracker.zone_limits() == {None: 9, 3: 0}
    assert tracker.timeout_policies() == {None: POLICIES["short"], 3: POLICIES["odd"]}


def test_fragments_are_treated_as_the_profile_and_the_section_say() -> None:
    section = FragmentsSection(ipv6=False, max_fragments=10, timeout_ipv6=7)
    settings = Switch.from_config(Config(TrackerSection("linux"), fragments=section)).fragments.settings
    assert settings == replace(PROFILES["linux"], ipv6=False, max_fragments=10, timeout_ipv6_ms=7000)
