"""How fast counters move, as `coverage/show` tells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flowshunt.control.unixctl.coverage import Coverage, Rates


class Counting:
    """A node with a bridge that counts packets."""

    def __init__(self) -> None:
        self.packets = 0
        datapath = SimpleNamespace(statistics=lambda: {"packets": self.packets, "table-misses": 0})
        self.bridges = {"br0": SimpleNamespace(switch=SimpleNamespace(datapath=datapath))}
        self.tracker = SimpleNamespace(statistics=dict)


def rates(coverage: Coverage) -> Rates:
    return coverage.rates(["packets"])["packets"]


@pytest.fixture
def node() -> Any:
    return Counting()


def test_rates_are_averages_over_five_seconds_a_minute_and_an_hour(node: Any) -> None:
    coverage = Coverage()
    node.packets = 1000  # before anybody looked
    for now_ms in range(0, 60_001, 200):
        node.packets += 20 if now_ms > 55_000 else 2
        coverage.look(node, now_ms)
    # At 0 there were 1002; 275 more steps of 2, and 25 of 20.
    n = 275 * 2 + 25 * 20
    assert rates(coverage) == (100.0, pytest.approx(n / 60), pytest.approx(n / 3600))
    for now_ms in range(60_200, 125_001, 200):
        coverage.look(node, now_ms)
    assert rates(coverage) == (0.0, 0.0, pytest.approx(n / 3600))
    assert coverage.rates(["nope"]) == {"nope": (0, 0, 0)}


def test_what_nobody_looked_at_for_a_while_is_spread_over_it(node: Any) -> None:
    coverage = Coverage()
    coverage.look(node, 10**12)
    node.packets = 7200
    coverage.look(node, 10**12 + 7_200_000)
    assert rates(coverage) == (pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0))


def test_a_clock_that_goes_back_and_a_bridge_that_goes_do_no_harm(node: Any) -> None:
    coverage = Coverage()
    node.packets = 50
    coverage.look(node, 100_000)
    coverage.look(node, 50_000)
    node.packets = 100
    coverage.look(node, 55_000)
    assert rates(coverage).lately == 10.0
    node.bridges.clear()
    coverage.look(node, 60_000)
    assert rates(coverage).lately == 0
