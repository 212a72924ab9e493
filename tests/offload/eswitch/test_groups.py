"""Flow groups: who gets an entry, against a naive table that is asked for one connection at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.offload.eswitch.groups import FITS, NO_GROUP, NO_ROOM, PATTERNS, TOO_MANY, Groups, patterns_of
from flowshunt.offload.eswitch.settings import EswitchSettings
from tests.offload.eswitch.fake import ICMP, TCP, UDP, flows_of


class NaiveGroups:
    """Lists: each group is a pattern and how many entries it has."""

    def __init__(self, size: int, n_groups: int) -> None:
        self.size = size
        self.n_groups = n_groups
        self.groups: list[list[int]] = []  # pattern, entries

    def add(self, patterns: list[int], most: int) -> int:
        if any(self._homeless(patterns)) and self._n_homeless(patterns) > self.n_groups - len(self.groups):
            return NO_GROUP
        before = [list(group) for group in self.groups]
        for pattern in patterns:
            own = next((group for group in self.groups if group[0] == pattern and group[1] < self.size), None)
            if own is None and len(self.groups) < self.n_groups:
                own = [pattern, 0]
                self.groups.append(own)
            if own is None:
                self.groups = before
                return NO_ROOM
            own[1] += 1
        if most <= 0:
            self.groups = before
            return TOO_MANY
        return FITS

    def _homeless(self, patterns):
        return [all(group[0] != pattern for group in self.groups) for pattern in set(patterns)]

    def _n_homeless(self, patterns):
        return sum(self._homeless(patterns))

    def remove(self, patterns: list[int]) -> None:
        for pattern in patterns:
            group = max((group for group in self.groups if group[0] == pattern), key=lambda group: group[1])
            group[1] -= 1
        self.groups = [group for group in self.groups if group[1]]


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 7), st.integers(1, 5), st.lists(st.tuples(pairs, st.integers(0, 60)), max_size=5))
def test_a_batch_is_answered_as_if_asked_for_one_at_a_time(size, n_groups, batches):
    groups, naive = Groups(size, n_groups), NaiveGroups(size, n_groups)
    for wanted, most in batches:
        patterns = np.array(wanted, np.uint8).reshape(-1, 2)
        expected, left = [], most
        for pair in wanted:
            expected.append(naive.add(list(pair), left))
            left -= expected[-1] == FITS
        refusals = groups.fit(patterns, most)
        assert refusals.tolist() == expected
        taken = groups.take(patterns[refusals == FITS])
        assert (groups.patterns(taken) == patterns[refusals == FITS]).all()
        assert groups.n_entries == sum(group[1] for group in naive.groups)
        assert groups.used.max() <= size
        assert groups.n_used == len(naive.groups)


def test_a_group_is_free_again_when_its_last_entry_is_gone():
    groups = Groups(10, 1)
    tcp, udp = np.zeros((2, 2), np.uint8), np.ones((1, 2), np.uint8)
    assert groups.fit(tcp, 9).tolist() == [FITS, FITS]
    taken = groups.take(tcp)
    assert groups.fit(udp, 9).tolist() == [NO_GROUP]
    groups.give_back(taken[0])
    assert groups.fit(udp, 9).tolist() == [NO_GROUP]
    groups.give_back(taken[1])
    assert groups.n_used == groups.n_entries == 0
    assert groups.fit(udp, 9).tolist() == [FITS]


def test_a_pattern_whose_group_is_full_takes_a_further_one():
    groups = Groups(4, 2)
    pairs = np.zeros((5, 2), np.uint8)
    assert groups.fit(pairs, 9).tolist() == [FITS] * 4 + [NO_ROOM]
    groups.take(pairs[:4])
    assert groups.used.tolist() == [4, 4]
    assert groups.entries_by_pattern().tolist() == [8] + [0] * 7


def test_by_default_there_are_four_groups_of_800_000_entries():
    assert EswitchSettings().num_of_groups == 4
    assert EswitchSettings().group_size == 800_000


@pytest.mark.parametrize(
    ("flow", "names"),
    [
        ({"protocol": TCP}, ("untagged IPv4 TCP", "untagged IPv4 TCP")),
        ({"protocol": UDP}, ("untagged IPv4 UDP", "untagged IPv4 UDP")),
        ({"protocol": TCP, "ipv6": True}, ("untagged IPv6 TCP", "untagged IPv6 TCP")),
        ({"protocol": UDP, "vlan": (True, False)}, ("VLAN IPv4 UDP", "untagged IPv4 UDP")),
    ],
)
def test_protocol_family_and_tag_make_a_pattern(flow, names):
    patterns, forwarded = patterns_of(flows_of([1], **flow)["paths"])
    assert tuple(PATTERNS[pattern] for pattern in patterns[0]) == names
    assert forwarded.all()


def test_other_protocols_are_not_forwarded():
    assert not patterns_of(flows_of([1, 2], protocol=ICMP)["paths"])[1].any()
