"""Scenarios for providers that forward packets: when they are given flows, and how they must let go of them."""

from __future__ import annotations

import numpy as np

from flowshunt.offload.conformance.framework import MANY, no_bugs
from flowshunt.offload.conformance.scenarios import scenario
from flowshunt.offload.conformance.stage import Stage
from flowshunt.offload.conformance.subject import START_MS, Factory, expect
from flowshunt.offload.conformance.ways import ForwardWatcher, Ways, stand
from flowshunt.offload.framework import Offload

_SETTLE_S = 30.0
_ROWS = np.arange(100)

Standing = tuple[Stage, Ways, Offload, ForwardWatcher]


def _established(factory: Factory, rows: np.ndarray = _ROWS, capacity: int = 1000, queue_limit: int = 0) -> Standing:
    """Connections that are established, and of which no packet has shown a path."""
    standing = stand(factory, capacity, queue_limit)
    stage, _, offload, _ = standing
    stage.create(rows)
    stage.reply(rows)
    offload.settle(_SETTLE_S)
    return standing


def _forwarded(factory: Factory, rows: np.ndarray = _ROWS, capacity: int = 1000, queue_limit: int = 0) -> Standing:
    """Connections whose paths are known in both directions; at least one was taken."""
    standing = _established(factory, rows, capacity, queue_limit)
    _show(standing, rows)
    _, _, offload, watcher = standing
    expect(bool(watcher.held[rows].any()), "it takes no flow of TCP or UDP")
    no_bugs(offload, watcher)
    return standing


def _show(standing: Standing, rows: np.ndarray, out_port: int | None = None) -> None:
    _, ways, offload, _ = standing
    for d in (0, 1, 0):  # after a change of one alone, that of the other has to be shown again
        ways.show(rows, d, out_port=out_port)
    offload.settle(_SETTLE_S)


@scenario("forward-life", "It is given a flow once both paths are known, and has none left when connections end.")
def _forward_life(factory: Factory) -> None:
    standing = _established(factory)
    stage, ways, offload, watcher = standing
    ways.show(_ROWS, 0)
    expect("install" not in watcher.calls, "it was given flows of which one path is known")
    _show(standing, _ROWS)
    expect(bool(watcher.held[_ROWS].any()), "it takes no flow of TCP or UDP")
    stage.now_ms += 1000
    offload.poll(stage.now_ms)
    offload.synchronise()
    stage.destroy(_ROWS)
    no_bugs(offload, watcher)
    expect(not watcher.held.any(), f"{int((watcher.held != 0).sum())} flows are left behind")


@scenario("forward-passes", "Packets of what it took pass, and those of nothing else.")
def _forward_passes(factory: Factory) -> None:
    _, ways, _, watcher = _forwarded(factory)
    expect(
        bool((watcher.passes(_ROWS, ways.epoch) == (watcher.held[_ROWS] != 0)).all()),
        "it forwards other flows than those that it took",
    )
    others = np.arange(200, 300)
    expect(not watcher.passes(others, ways.epoch).any(), "it forwards flows that it was never given")
    expect(not watcher.passes(_ROWS, ways.epoch, 1).any(), "it forwards connections of another generation")


@scenario("forward-unknown", "What is said or asked about unknown flows is no error, and tells nothing.")
def _forward_unknown(factory: Factory) -> None:
    _, ways, offload, watcher = _forwarded(factory)
    rows, generations = np.arange(500, 600, dtype=np.uint32), np.full(100, 3, np.uint32)
    watcher.renew(rows, generations, ways.epoch)
    for usage in (watcher.statistics(rows, generations, START_MS), watcher.withdraw(rows, generations)):
        told = any(usage[name].any() for name in ("packets", "bytes", "frame_bytes", "last_used_ms"))
        expect(not told, "it tells counters of flows that it never had")
    taken = _ROWS[watcher.held[_ROWS] != 0]
    watcher.withdraw(taken.astype(np.uint32), np.full(len(taken), 9, np.uint32))
    no_bugs(offload, watcher)
    expect(bool(watcher.passes(taken, ways.epoch).all()), "withdraw of another generation stopped a living flow")


@scenario("forward-withdraw", "After withdraw no packet of the flow passes, and it can be given again.")
def _forward_withdraw(factory: Factory) -> None:
    standing = _forwarded(factory)
    _, ways, offload, watcher = standing
    taken = _ROWS[watcher.held[_ROWS] != 0]
    gone, left = taken[::2], taken[1::2]
    watcher.withdraw(gone.astype(np.uint32), np.zeros(len(gone), np.uint32))
    passes = watcher.passes(taken, ways.epoch)
    expect(not passes[::2].any(), "packets of withdrawn flows still pass")
    expect(bool(passes[1::2].all()), "withdraw stopped flows that it did not name")
    _show(standing, left, out_port=7)
    expect(bool(watcher.passes(left, ways.epoch).all()), "flows that were given again with other paths do not pass")
    no_bugs(offload, watcher)


@scenario("forward-fin", "A connection that begins to close is given back for good.")
def _forward_fin(factory: Factory) -> None:
    standing = _forwarded(factory)
    stage, ways, offload, watcher = standing
    closing = _ROWS[::2]
    stage.close(closing)
    expect(not watcher.held[closing].any(), "connections that close are still held")
    expect(not stage.held[closing].any(), "the tracker still holds connections that close")
    n_calls = watcher.calls.count("install")
    _show(standing, closing)
    expect(watcher.calls.count("install") == n_calls, "connections that close were offered again")
    expect(not watcher.passes(closing, ways.epoch).any(), "packets of connections that close still pass")
    no_bugs(offload, watcher)


@scenario("forward-epoch", "After a change of the rules packets come up until the flow is renewed or given again.")
def _forward_epoch(factory: Factory) -> None:
    standing = _forwarded(factory)
    stage, ways, offload, watcher = standing
    taken = _ROWS[watcher.held[_ROWS] != 0]
    ways.epoch += 1
    stage.now_ms += 5
    offload.poll(stage.now_ms)
    expect("begin_epoch" in watcher.calls, "it was not told of the new epoch")
    expect(not watcher.passes(taken, ways.epoch).any(), "packets pass by the rules of before")
    same, other = taken[::2], taken[1::2]
    _show(standing, same)
    expect(bool(watcher.passes(same, ways.epoch).all()), "flows that were renewed do not pass")
    expect(not watcher.passes(other, ways.epoch).any(), "flows that were not renewed pass")
    _show(standing, other, out_port=9)
    expect(bool(watcher.passes(other, ways.epoch).all()), "flows with other paths than before do not pass")
    no_bugs(offload, watcher)


@scenario("forward-flush", "Switched off it forwards nothing, and switched on it may be given everything again.")
def _forward_flush(factory: Factory) -> None:
    standing = _forwarded(factory)
    stage, ways, offload, watcher = standing
    n_taken = int((watcher.held != 0).sum())
    offload.flush()
    expect(not stage.held.any(), "the tracker holds connections that nobody forwards")
    expect(not watcher.passes(_ROWS, ways.epoch).any(), "packets still pass after a flush")
    stage.reply(_ROWS)
    _show(standing, _ROWS)
    expect(int((watcher.held != 0).sum()) >= n_taken, "after a flush it takes less than before")
    no_bugs(offload, watcher)


@scenario("forward-rows", "A row that is used again is another connection: nothing of the old one stays.")
def _forward_rows(factory: Factory) -> None:
    standing = _forwarded(factory)
    stage, ways, offload, watcher = standing
    for generation in range(1, 20):
        stage.destroy(_ROWS)
        stage.create(_ROWS)
        stage.reply(_ROWS)
        expect(not watcher.passes(_ROWS, ways.epoch, generation).any(), "a new connection passes by the old one's flow")
        _show(standing, _ROWS)
        held = watcher.held[_ROWS] != 0
        expect(bool(held.any()), f"it takes no flow of the {generation}th connections in these rows: room is lost")
        expect(
            bool((watcher.passes(_ROWS, ways.epoch, generation) == held).all()), "flows of new connections do not pass"
        )
        expect(not watcher.passes(_ROWS, ways.epoch, generation - 1).any(), "flows of ended connections pass")
    no_bugs(offload, watcher)


@scenario("forward-many", "100,000 connections are given, read, and taken back; and then others.", 120.0)
def _forward_many(factory: Factory) -> None:
    rows = np.arange(MANY)
    standing = _forwarded(factory, rows, MANY)
    stage, _, offload, watcher = standing
    n_taken = int((watcher.held != 0).sum())
    for _ in range(3):
        stage.now_ms += 100
        offload.poll(stage.now_ms)
        offload.synchronise()
    stage.destroy(rows)
    expect(not watcher.held.any(), f"{int((watcher.held != 0).sum())} flows are left behind")
    stage.create(rows)
    stage.reply(rows)
    _show(standing, rows)
    expect(int((watcher.held != 0).sum()) >= n_taken, "after all had ended it takes less than before")
    no_bugs(offload, watcher)


@scenario("forward-worker", "On a worker thread it does the same; what ends while it waits is cleaned up.", 60.0)
def _forward_worker(factory: Factory) -> None:
    rows = np.arange(5000)
    inline = _forwarded(factory, rows, 5000)
    standing = _forwarded(factory, rows, 5000, 200_000)
    stage, ways, offload, watcher = standing
    here, there = ((s[3].held != 0).sum() for s in (inline, standing))
    expect(here == there, f"it took {here} flows on the packet thread, {there} on a worker")
    stage.close(rows[::2])
    ways.epoch += 1
    for d in range(2):
        ways.show(rows[1::2], d, out_port=9)
    stage.destroy(rows)
    expect(offload.settle(_SETTLE_S), f"its worker does not come to an end within {_SETTLE_S:.0f} s")
    expect(not watcher.held.any(), f"{int((watcher.held != 0).sum())} flows are left behind")
    expect(not stage.held.any(), "the tracker holds connections that nobody forwards")
    no_bugs(offload, watcher)
    offload.close()
