"""Forwarders that are programmed from a worker thread (row D7): the packet path never waits for them."""

from __future__ import annotations

import errno
from itertools import count

import numpy as np
import pytest

from flowshunt.conntrack.states import WATCH_HELD
from flowshunt.offload.framework import Offload
from flowshunt.offload.registry import Settings
from flowshunt.offload.runner import Inline, Worker
from tests.offload.forwarders import Forwarding, PathBench
from tests.offload.traffic import SECOND, tcp


def is_held(bench: PathBench, row: int) -> bool:
    return bool(int(bench.tracker.arrays.conns["watch"][row]) & WATCH_HELD)


def settled(bench: PathBench) -> None:
    assert bench.offload.settle(10)


def with_worker(limit: int = 1000, **rest: int) -> tuple[Forwarding, PathBench]:
    forwarder = Forwarding(queue_limit=limit, **rest)  # type: ignore[arg-type]
    return forwarder, PathBench(forwarder)


def test_a_worker_s_answer_makes_it_the_holder() -> None:
    forwarder, bench = with_worker()
    (way,) = bench.established(1)
    settled(bench)
    forwarder.gate.clear()
    bench.show([way])
    assert is_held(bench, way.row)  # it may begin at any moment
    forwarder.gate.set()
    settled(bench)
    assert list(forwarder.flows) == [way]
    assert bench.reason("forwarding") == "none"
    assert bench.counters("forwarding")["installed"] == 1
    forwarder.forwarded(way.row, (3, 4), bench.now_ms)
    bench.offload.synchronise()
    settled(bench)
    assert bench.counters("forwarding")["forwarded-packets"] == 7


def test_what_ends_while_it_waits_is_withdrawn_behind_it() -> None:
    forwarder, bench = with_worker()
    bench.handshake()
    settled(bench)
    (way,) = bench.identities()
    forwarder.gate.clear()
    bench.show([way])
    bench.send(tcp("FA", 101, 501))
    bench.tracker.flush()
    (again,) = bench.established(1)
    assert again.row == way.row
    bench.show([again])
    assert bench.offload.holder(*again) is None
    forwarder.gate.set()
    settled(bench)
    assert forwarder.flows == {}
    bench.show([again])
    settled(bench)
    assert list(forwarder.flows) == [again]
    assert bench.tracker.statistics()["observer-errors"] == 0


def test_a_withdrawn_connection_is_held_until_the_worker_has_answered() -> None:
    forwarder, bench = with_worker()
    (way,) = bench.established(1)
    settled(bench)
    bench.show([way])
    settled(bench)
    forwarder.gate.clear()
    bench.tracker.set_mark(*way, 5)
    assert is_held(bench, way.row)
    forwarder.gate.set()
    settled(bench)
    assert not is_held(bench, way.row)
    assert forwarder.flows == {}


def test_a_worker_s_refusal_goes_to_the_next_forwarder() -> None:
    full, other = Forwarding("full", limit=0, queue_limit=1000), Forwarding("other")
    bench = PathBench(full, other)
    (way,) = bench.established(1)
    settled(bench)
    bench.show([way])
    settled(bench)
    assert bench.offload.holder(*way) == "other"
    assert bench.reason("full") == "table-full"
    assert is_held(bench, way.row)


def test_a_worker_s_refusal_goes_to_one_that_comes_after_it_by_then() -> None:
    full, other = Forwarding("full", limit=0, queue_limit=1000), Forwarding("other", limit=0)
    bench = PathBench(other, full)
    (way,) = bench.established(1)
    settled(bench)
    full.gate.clear()
    bench.show([way])
    other.limit = 1
    bench.offload.configure(Settings(enabled=True, priority=("full", "other")))
    full.gate.set()
    settled(bench)
    assert bench.offload.holder(*way) == "other"


def test_a_full_queue_refuses_and_the_flow_is_offered_again() -> None:
    forwarder, bench = with_worker(limit=40)
    ways = bench.established(*range(1, 11))
    settled(bench)
    forwarder.gate.clear()
    for _ in range(4):
        bench.show(*([way] for way in ways))
        bench.paths.epoch += 1
    bench.established(*range(20, 60))
    more = bench.identities()[10:]
    bench.show(*([way] for way in more))
    assert bench.counters("forwarding")["queue-full"] > 0
    forwarder.gate.set()
    settled(bench)
    bench.answer(*range(20, 60))
    settled(bench)
    for way in more:
        bench.show([way])
        settled(bench)
    assert {way for way in more if way in forwarder.flows} == set(more)


class Fickle(Forwarding):
    """Takes what it is offered first, and refuses what is to replace it."""

    def install(self, flows: np.ndarray, /) -> None:
        if "install" in self.calls:
            self._begin("install")
            flows["error"] = errno.EIO
        else:
            super().install(flows)


def test_what_was_taken_is_withdrawn_when_a_later_offer_of_the_same_flow_is_refused() -> None:
    fickle, other = Fickle("fickle", queue_limit=1000), Forwarding("other")
    bench = PathBench(fickle, other)
    (way,) = bench.established(1)
    settled(bench)
    fickle.gate.clear()
    bench.show([way])
    bench.show([way], new_eth_dst=77)
    fickle.gate.set()
    settled(bench)
    assert fickle.n_calls_of("install") == 2
    assert fickle.flows == {}
    assert bench.offload.holder(*way) is None
    assert not is_held(bench, way.row)
    bench.show([way], new_eth_dst=77)
    settled(bench)
    assert bench.counters("fickle")["withdrawn"] == 1
    assert bench.offload.holder(*way) == "other"


def test_other_paths_that_find_the_queue_full_take_back_those_that_were_offered_before() -> None:
    forwarder, bench = with_worker(limit=1)
    (way,) = bench.established(1)
    settled(bench)
    forwarder.gate.clear()
    bench.show([way])
    bench.show([way], new_eth_dst=77)
    assert bench.counters("forwarding")["queue-full"] == 1
    forwarder.gate.set()
    settled(bench)
    assert forwarder.flows == {}
    assert bench.reason("forwarding") == "queue-full"
    assert not is_held(bench, way.row)
    bench.paths.epoch += 1
    bench.offload.follow()
    settled(bench)
    bench.show([way], new_eth_dst=77)
    settled(bench)
    assert forwarder.flows[way]["paths"]["new_eth_dst"].tolist() == [77, 77]


def test_a_worker_that_hangs_keeps_no_connection_for_ever() -> None:
    forwarder, bench = with_worker()
    (way,) = bench.established(1)
    settled(bench)
    bench.show([way])
    settled(bench)
    forwarder.gate.clear()
    bench.offload.synchronise()
    for _ in range(60):
        bench.pass_time(2 * SECOND)
    assert bench.identities() == []
    forwarder.gate.set()
    settled(bench)
    assert forwarder.flows == {}


def test_unregistering_lets_go_of_what_a_worker_never_answered() -> None:
    forwarder, bench = with_worker()
    (way,) = bench.established(1)
    settled(bench)
    bench.show([way])
    settled(bench)
    bench.offload.unregister("forwarding")
    assert not is_held(bench, way.row)
    assert forwarder.flows == {}
    bench.offload.register(Forwarding("next"))
    bench.answer(1)
    bench.show([way])
    assert bench.offload.holder(*way) == "next"


def test_one_that_belongs_to_the_packet_thread_stays_there_however_slow_it_is(caplog: pytest.LogCaptureFixture) -> None:
    for stays in (False, True):
        forwarder = Forwarding()
        forwarder.packet_thread_only = stays  # type: ignore[attr-defined]
        bench = PathBench(enabled=False)
        ticks = count(step=10_000_000_000)
        bench.offload = Offload(bench.holding, clock_ns=lambda ticks=ticks: next(ticks), paths=bench.paths)  # type: ignore[misc]
        bench.offload.register(forwarder)
        bench.offload.configure(Settings(enabled=True))
        bench.ask(1)
        runner = bench.offload._attachments["forwarding"].runner
        assert isinstance(runner, Inline if stays else Worker)
    assert "where it has to stay" in caplog.text
