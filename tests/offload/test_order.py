"""Events in rounds: orders that must hold, checked against the events one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack import schema as C
from flowshunt.offload.order import MAX_ROUNDS, rounds


def event(kind: int, row: int, generation: int, tuple_: int) -> np.ndarray:
    record = np.zeros(1, C.EVENT)
    record["kind"], record["row"], record["generation"], record["tuple"] = kind, row, generation, tuple_
    return record


def drained(events: list[np.ndarray]) -> np.ndarray:
    """As observers get them."""
    together = np.concatenate([np.zeros(0, C.EVENT), *events])
    together.flags.writeable = False
    return together


@st.composite
def histories(draw: st.DrawFn) -> np.ndarray:
    """What a tracker of a few rows and tuples could say: rows and tuples are used again after their end."""
    living: dict[int, tuple[int, int]] = {}
    generation = dict.fromkeys(range(4), 0)
    for row in draw(st.sets(st.integers(0, 3))):  # there before these events
        living[row] = 0, row
    events = []
    for _ in range(draw(st.integers(0, 60))):
        row = draw(st.integers(0, 3))
        if row not in living:
            free = sorted(set(range(5)) - {tuple_ for _, tuple_ in living.values()})
            living[row] = generation[row], draw(st.sampled_from(free))
            kind = C.EVENT_CREATED
        else:
            kind = draw(st.sampled_from([C.EVENT_REPLY, C.EVENT_DUE, C.EVENT_STATE, C.EVENT_DESTROYED]))
        events.append(event(kind, row, *living[row]))
        if kind == C.EVENT_DESTROYED:
            del living[row]
            generation[row] += 1
    return drained(events)


@given(histories())
def test_rounds_keep_every_order_that_a_provider_could_notice(events: np.ndarray) -> None:
    told = [record for part in rounds(events)[0] for group in part for record in group]
    place = {(int(r["kind"]), int(r["row"]), int(r["generation"])): n for n, r in enumerate(told)}
    by_row: dict[int, int] = {}
    by_tuple: dict[int, int] = {}
    for record in events:
        kind, row, generation = int(record["kind"]), int(record["row"]), int(record["generation"])
        at = place.get((kind, row, generation))  # of several, the last
        if at is None:
            continue
        if kind == C.EVENT_CREATED:
            assert at > max(by_row.get(row, -1), by_tuple.get(int(record["tuple"]), -1))
        created = place.get((C.EVENT_CREATED, row, generation), -1)
        ended = place.get((C.EVENT_DESTROYED, row, generation), len(told))
        assert created <= at <= ended
        if kind == C.EVENT_DESTROYED:
            by_row[row] = by_tuple[int(record["tuple"])] = at


@given(histories())
def test_only_whole_lives_are_left_out_and_only_of_long_histories(events: np.ndarray) -> None:
    parts, n_left_out = rounds(events)
    assert len(parts) <= MAX_ROUNDS
    told = {(int(r["kind"]), int(r["row"]), int(r["generation"])) for part in parts for group in part for r in group}
    concerned = {
        (int(r["kind"]), int(r["row"]), int(r["generation"])) for r in events if int(r["kind"]) != C.EVENT_STATE
    }
    missing = concerned - told
    for _, row, generation in missing:
        assert (C.EVENT_CREATED, row, generation) in missing
        assert (C.EVENT_DESTROYED, row, generation) in missing
    assert (n_left_out > 0) == bool(missing)
    if len(parts) < MAX_ROUNDS:
        assert not missing


def test_events_that_concern_nobody_make_no_round() -> None:
    events = drained([event(C.EVENT_STATE, 1, 0, 1), event(C.EVENT_MARK, 1, 0, 1)])
    assert rounds(events) == ([], 0)


def test_plain_traffic_is_one_round_whatever_its_size() -> None:
    destroyed = [event(C.EVENT_DESTROYED, row, 0, row) for row in range(100, 200)]
    begun = [event(kind, row, 0, row) for row in range(100) for kind in (C.EVENT_CREATED, C.EVENT_REPLY)]
    assert len(rounds(drained(begun + destroyed))[0]) == 1


@pytest.mark.parametrize("module", ["api", "batch", "errors", "conformance.score", "providers.dummy", "framework"])
def test_a_provider_s_author_needs_no_numba(run_python, module: str) -> None:  # type: ignore[no-untyped-def]
    code = f"import sys, flowshunt.offload.{module}; print('numba' in sys.modules)"
    assert run_python("-c", code).stdout.strip() == "False"
