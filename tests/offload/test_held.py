"""Connections whose packets a provider forwards: expiry asks it first, windows are not checked, and are again after."""

from __future__ import annotations

import numpy as np
import pytest

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.states import CS_ESTABLISHED, CS_INVALID, CS_REPLY, CS_TRACKED
from flowshunt.offload.batch import ConnectionId
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.providers.unruly import Unruly
from tests.builders import Packet
from tests.offload.traffic import CLIENT, SECOND, SERVER, START_MS, Bench, tcp, udp

EST = CS_ESTABLISHED | CS_TRACKED
UDP_TIMEOUT = {"default": 30 * SECOND, "linux": 30 * SECOND}


def held_udp(**options: object) -> tuple[Bench, Dummy, ConnectionId]:
    """A connection of UDP that a provider forwards."""
    dummy = Dummy(forwards=True)
    bench = Bench(dummy, **options)
    bench.ask(1)
    bench.answer(1)
    (identity,) = bench.identities()
    return bench, dummy, identity


def timeout_ms(bench: Bench) -> int:
    (connection,) = bench.tracker.connections()
    return connection.timeout_ms


# --- the last use ----------------------------------------------------------------------------------------------------


def test_a_newer_last_use_keeps_a_connection_from_that_time_on() -> None:
    bench, dummy, identity = held_udp()
    dummy.last_used_ms[identity] = START_MS + 20 * SECOND
    bench.pass_time(33 * SECOND)
    assert dummy.n_updated == 1
    assert timeout_ms(bench) == 20 * SECOND + UDP_TIMEOUT["default"] - 33 * SECOND
    assert dummy.told[-1].name == "upd"
    assert (dummy.told[-1].in_port, dummy.told[-1].now_ms) == (None, START_MS + 33 * SECOND)
    bench.pass_time(20 * SECOND)
    assert dummy.names()[-2:] == ["upd", "del"]
    assert len(bench.tracker) == 0


@pytest.mark.parametrize("last_used_ms", [0, START_MS, START_MS - 99 * SECOND])
def test_an_old_or_unknown_last_use_ends_it_after_a_del(last_used_ms: int) -> None:
    bench, dummy, identity = held_udp()
    dummy.last_used_ms[identity] = last_used_ms
    bench.pass_time(33 * SECOND)
    assert dummy.names() == ["add", "est", "upd", "del"]
    assert len(bench.tracker) == 0
    assert bench.tracker.statistics()["removed-expired"] == 1


def test_a_last_use_ahead_of_now_counts_as_now() -> None:
    bench, _, _ = held_udp()
    bench.offload.unregister("dummy")
    liar = Unruly(forwards=True)
    liar.answers["upd"] = START_MS + 10**9
    bench.offload.register(liar)
    bench.answer(1)
    bench.pass_time(33 * SECOND)
    assert timeout_ms(bench) == UDP_TIMEOUT["default"]


def test_observers_are_not_asked_and_keep_nothing_alive() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.ask(1)
    bench.answer(1)
    dummy.last_used_ms[bench.identities()[0]] = START_MS + 30 * SECOND
    bench.pass_time(33 * SECOND)
    assert dummy.names() == ["add", "est", "del"]


def test_a_packet_that_comes_up_while_the_timer_ran_out_finds_its_connection() -> None:
    bench, dummy, _ = held_udp()
    assert bench.send(udp(1), after_ms=UDP_TIMEOUT["default"]) == [EST]
    assert len(bench.tracker) == 1
    bench.pass_time(29 * SECOND)
    assert len(bench.tracker) == 1
    assert dummy.n_deleted == 0


def test_a_packet_seen_after_the_question_outweighs_the_answer() -> None:
    slow = Unruly(forwards=True, queue_limit=100)
    bench = Bench(slow)
    bench.ask(1)
    bench.answer(1)
    assert bench.offload.settle()
    slow.delays.add("upd")
    slow.gate.clear()
    bench.pass_time(33 * SECOND)
    assert slow.waiting.wait(10)
    bench.send(udp(1))
    slow.gate.set()
    assert bench.offload.settle()
    bench.pass_time(SECOND)
    assert len(bench.tracker) == 1
    assert timeout_ms(bench) == UDP_TIMEOUT["default"] - SECOND


def test_a_worker_is_asked_and_answers_later() -> None:
    slow = Unruly(forwards=True, queue_limit=100)
    bench = Bench(slow)
    bench.ask(1, 2)
    bench.answer(1, 2)
    assert bench.offload.settle()
    kept, gone = bench.identities()
    slow.last_used_ms[kept] = START_MS + 25 * SECOND
    bench.pass_time(33 * SECOND)
    assert bench.offload.settle()
    bench.pass_time(0)
    assert bench.identities() == [kept]
    assert bench.offload.settle()
    assert not slow.contains(gone)


def test_a_worker_that_never_answers_keeps_a_connection_for_seconds_not_for_ever() -> None:
    slow = Unruly(forwards=True, queue_limit=100)
    bench = Bench(slow)
    bench.ask(1)
    bench.answer(1)
    assert bench.offload.settle()
    slow.delays.add("upd")
    slow.gate.clear()
    bench.pass_time(33 * SECOND)
    assert len(bench.tracker) == 1
    for _ in range(30):
        bench.pass_time(SECOND)
    assert len(bench.tracker) == 0
    slow.gate.set()
    assert bench.offload.settle()
    assert len(slow) == 0


def test_the_kernel_s_profile_keeps_a_connection_until_it_is_given_back() -> None:
    bench, dummy, _ = held_udp(profile="linux")
    for _ in range(10):
        bench.pass_time(100 * SECOND)
    assert len(bench.tracker) == 1
    assert dummy.n_updated >= 10
    bench.offload.unregister("dummy")
    assert timeout_ms(bench) == UDP_TIMEOUT["linux"]
    bench.pass_time(33 * SECOND)
    assert len(bench.tracker) == 0


def test_only_the_first_of_two_providers_that_would_forward_does() -> None:
    first, second = Dummy("first", forwards=True), Dummy("second", forwards=True)
    bench = Bench(first, second)
    bench.ask(1)
    bench.answer(1)
    (identity,) = bench.identities()
    assert bench.offload.holder(*identity) == "first"
    bench.offload.unregister("first")
    assert bench.offload.holder(*identity) is None


def test_a_full_table_drops_no_connection_early_that_is_held() -> None:
    dummy = Dummy(forwards=True)
    bench = Bench(dummy, max_connections=2)
    bench.tracker.set_early_drop(True)
    bench.ask(1, 2)
    bench.answer(1)
    bench.now_ms += UDP_TIMEOUT["default"]
    bench.ask(3)
    bench.answer(3)
    assert [connection.original.source_port for connection in bench.tracker.connections()] == [1, 3]
    bench.ask(4)
    assert bench.tracker.statistics()["full"] == 1
    assert bench.tracker.statistics()["removed-early-drop"] == 1


ECHO = Packet().eth().ipv4(CLIENT, SERVER).icmp(8, id=7), Packet().eth().ipv4(SERVER, CLIENT).icmp(0, id=7)
ESP = Packet().eth().ipv4(CLIENT, SERVER).esp(), Packet().eth().ipv4(SERVER, CLIENT).esp()
SEGMENTS = tcp("A", 101, 501, payload=9), tcp("A", 501, 110, reply=True)
CONVERSATIONS = {"udp": (udp(1), udp(1, reply=True)), "icmp": ECHO, "other": ESP, "tcp": SEGMENTS}


@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize("protocol", CONVERSATIONS)
def test_a_use_that_is_told_counts_like_a_packet_that_was_seen(protocol: str, profile: str) -> None:
    dummy = Dummy(forwards=True)
    bench = Bench(dummy, profile=profile)
    if protocol == "tcp":
        bench.handshake(1000)
    there, back = CONVERSATIONS[protocol]
    for _ in range(3):
        bench.send(there, after_ms=1500)
        bench.send(back, reply=True)
    seen = timeout_ms(bench)
    (identity,) = bench.identities()
    dummy.last_used_ms[identity] = bench.now_ms + seen + 3 * SECOND
    bench.pass_time(seen + 3 * SECOND)
    assert dummy.n_updated == 1
    assert timeout_ms(bench) == seen


def test_thousands_are_asked_in_batches() -> None:
    arrays = ArrayDummy(forwards=True)
    bench = Bench(arrays)
    bench.ask(*range(1, 3001))
    bench.answer(*range(1, 3001))
    arrays.last_used_ms[:1500] = START_MS + 20 * SECOND
    before = arrays.n_calls
    bench.pass_time(33 * SECOND)
    assert arrays.counts["upd"] == 3000
    assert len(bench.tracker) == 1500
    assert arrays.n_calls - before < 100


def test_it_is_in_the_table_while_it_is_due() -> None:
    bench, _, identity = held_udp()
    found = bench.tracker.connections(now_ms=START_MS + 40 * SECOND)
    assert [connection.id for connection in found] == [identity.row]


def test_events_of_a_held_connection_say_due_and_in_the_end_destroyed() -> None:
    bench, dummy, identity = held_udp()
    seen: list[np.ndarray] = []
    bench.tracker.observe(seen.append)
    dummy.last_used_ms[identity] = START_MS + 29 * SECOND
    bench.pass_time(33 * SECOND)
    bench.pass_time(40 * SECOND)
    kinds = [C.EVENT_KINDS[kind] for events in seen for kind in events["kind"]]
    assert kinds == ["due", "due", "destroyed"]


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["default", "linux"])
def offloaded(request: pytest.FixtureRequest) -> tuple[Bench, Dummy]:
    """A TCP connection that a provider forwards."""
    dummy = Dummy(forwards=True)
    bench = Bench(dummy, profile=request.param)
    bench.handshake()
    return bench, dummy


FAR = 3_000_000_000
"""More than half of the sequence space was sent unseen."""


def test_segments_after_unseen_ones_are_not_invalid(offloaded: tuple[Bench, Dummy]) -> None:
    bench, _ = offloaded
    assert bench.send(tcp("PA", 101 + FAR, 501 + FAR, payload=10)) == [EST]
    assert bench.send(tcp("A", 501 + FAR, 111 + FAR, reply=True), reply=True) == [EST | CS_REPLY]


def test_without_offload_they_would_be(offloaded: tuple[Bench, Dummy]) -> None:
    bench = Bench(Dummy(), profile=offloaded[0].tracker.profile)
    bench.handshake()
    assert bench.send(tcp("PA", 101 + 500_000_000, 501, payload=10)) == [CS_INVALID | CS_TRACKED]


def test_a_connection_that_comes_back_is_picked_up_and_checked_from_there(offloaded: tuple[Bench, Dummy]) -> None:
    bench, _ = offloaded
    bench.offload.unregister("dummy")
    assert bench.send(tcp("PA", 101 + FAR, 501 + FAR, payload=10)) == [EST]
    assert bench.send(tcp("PA", 501 + FAR, 111 + FAR, reply=True, payload=20), reply=True) == [EST | CS_REPLY]
    assert bench.send(tcp("A", 111 + FAR, 521 + FAR)) == [EST]
    outside = tcp("PA", 111 + FAR + 500_000_000, 521 + FAR, payload=10)
    assert bench.send(outside) == [CS_INVALID | CS_TRACKED]
    assert bench.send(tcp("PA", 111 + FAR, 521 + FAR, payload=5)) == [EST]


def test_it_comes_back_by_the_reply_direction_too(offloaded: tuple[Bench, Dummy]) -> None:
    bench, _ = offloaded
    bench.offload.unregister("dummy")
    assert bench.send(tcp("PA", 501 + FAR, 101 + FAR, reply=True, payload=20), reply=True) == [EST | CS_REPLY]
    assert bench.send(tcp("PA", 101 + FAR, 521 + FAR, payload=10)) == [EST]
    outside = tcp("PA", 521 + FAR + 500_000_000, 111 + FAR, reply=True, payload=10)
    assert bench.send(outside, reply=True) == [CS_INVALID | CS_TRACKED]


def test_a_fin_that_comes_up_first_closes_it(offloaded: tuple[Bench, Dummy]) -> None:
    bench, _ = offloaded
    assert bench.send(tcp("FA", 101 + FAR, 501 + FAR)) == [EST]
    assert bench.send(tcp("FA", 501 + FAR, 102 + FAR, reply=True), reply=True) == [EST | CS_REPLY]
    (connection,) = bench.tracker.connections()
    assert connection.state in ("TIME_WAIT", "CLOSING", "LAST_ACK")


def test_a_reset_that_comes_up_first_closes_it() -> None:
    bench = Bench(Dummy(forwards=True))
    bench.handshake()
    bench.send(tcp("R", 101 + FAR))
    (connection,) = bench.tracker.connections()
    assert connection.state == "TIME_WAIT"
