"""Totals over time, whatever the length of a run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowshunt.cli.replay.series import FIRST_STEP_NS, STEPS, Series, Step


@given(gaps=st.lists(st.integers(0, 10**12), min_size=1, max_size=60))
def test_nothing_is_lost_when_steps_grow(gaps: list[int]) -> None:
    series, now = Series(), 10**18
    for gap in gaps:
        now += gap
        series.add(now, Step(packets=1, shunted_bytes=7, taken=2))

    assert sum(step.packets for step in series.steps) == len(gaps)
    assert sum(step.shunted_bytes for step in series.steps) == 7 * len(gaps)
    assert sum(step.taken for step in series.steps) == 2 * len(gaps)
    assert len(series.steps) <= STEPS


def test_steps_have_the_length_they_say() -> None:
    series = Series()
    for n in range(10):
        series.add(n * FIRST_STEP_NS * 100, Step(packets=1))

    places = [place for place, step in enumerate(series.steps) if step.packets]

    assert series.step_ns == 4 * FIRST_STEP_NS
    assert places == [25 * n for n in range(10)]


def test_flows_stay_between_the_batches_that_tell_of_them() -> None:
    series = Series()
    series.add(0, Step(flows=5))
    series.add(3 * FIRST_STEP_NS, Step(flows=2))

    assert [step.flows for step in series.steps] == [5, 5, 5, 5]
