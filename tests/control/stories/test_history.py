"""The latest steps of all connections."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.app import Switch
from flowshunt.control.stories import history
from flowshunt.control.stories.history import History
from flowshunt.offload import reasons as R
from tests.builders import Packet, batch_of

START_MS = 1_700_000_000_000


def switch() -> Switch:
    one = Switch(seed=1, max_connections=1000)
    for name in ("p1", "p2"):
        one.add_port(name)
    one.add_flows("ip,actions=ct(commit),output:2")
    return one


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_the_oldest_steps_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_STEPS_KEPT", 8)
    one = switch()
    packets = [Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1000 + n, 53) for n in range(2)]
    one.process(batch_of(packets, time_ns=START_MS * 1_000_000))
    first, second = one.tracker.connections()
    kept = History(one)
    kept._note("created", rows(first.id, second.id), rows(first.generation, second.generation), START_MS, "", 0)
    kept._note("offered", rows(second.id), rows(second.generation), START_MS + 1, "a", 0)
    for n in range(6):
        reason = np.array([R.TABLE_FULL], np.uint16)
        kept._note("refused", rows(second.id), rows(second.generation), START_MS + 2 + n, "b", reason)
    told = {story.connection.id: story for story in kept.tell([first, second])}
    assert [step.kind for step in told[first.id].steps] == []
    kinds = [(step.kind, step.provider) for step in told[second.id].steps]
    assert kinds == [("created", ""), ("offered", "a"), *[("refused", "b")] * 6]
    assert told[second.id].steps[-1].reason == R.reason(R.TABLE_FULL)
    kept._note("created", rows(*range(20)), np.zeros(20, np.int64), START_MS + 9, "", 0)
    assert sorted(kept._steps["row"].tolist()) == list(range(12, 20))


def test_steps_of_another_life_of_the_row_are_not_told() -> None:
    one = switch()
    one.process(batch_of([Packet().eth().ipv4("10.0.0.1", "10.0.0.2").udp(1, 53)], time_ns=START_MS * 1_000_000))
    (found,) = one.tracker.connections()
    kept = History(one)
    kept._note("created", rows(found.id), rows(found.generation + 1), START_MS, "", 0)
    (story,) = kept.tell([found])
    assert story.steps == []
