"""What providers are told in the life of a connection, and what becomes of their answers."""

from __future__ import annotations

import errno
from itertools import pairwise

import numpy as np
import pytest

from flowshunt import Switch
from flowshunt.base.errors import UsageError
from flowshunt.conntrack import schema as C
from flowshunt.offload.attachment import MARK_ADDED, MARK_ESTABLISHED, MARK_NONE
from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, POLICY, UPD, Batch, ConnectionId, Context, Operation
from flowshunt.offload.errors import ProviderError
from flowshunt.offload.installing import FLOW, PATH
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.providers.unruly import Reordering, Unruly
from flowshunt.offload.reasons import number_of
from flowshunt.offload.registry import Settings
from tests.builders import Packet, batch_of
from tests.offload.traffic import CLIENT, CLIENT_PORT, SECOND, SERVER, SERVER_PORT, START_MS, Bench, tcp, udp


def test_a_handshake_is_one_add_at_the_syn_and_one_established_at_the_syn_ack() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.send(tcp("S", 100))
    assert dummy.names() == ["add"]
    bench.send(tcp("SA", 500, 101, reply=True), reply=True)
    assert dummy.names() == ["add", "est"]
    bench.send(tcp("A", 101, 501))
    for n in range(10):
        bench.send(tcp("PA", 101 + n, 501, payload=1))
        bench.send(tcp("A", 501, 102 + n, reply=True), reply=True)
    assert dummy.names() == ["add", "est"]
    (identity,) = bench.identities()
    assert dummy.contains(identity)
    assert dummy.is_bidirectional(identity)
    assert bench.counters("dummy") == {"added": 1, "established": 1}


def test_the_context_says_which_connection_where_from_and_when() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.send(udp(5000))
    bench.send(udp(5000, reply=True), reply=True, after_ms=70)
    bench.tracker.flush()
    _, add, established, deleted = dummy.told
    assert add.connection == established.connection == deleted.connection == ConnectionId(0, 0)
    assert (add.in_port, add.device, add.now_ms) == (CLIENT_PORT, "p0", START_MS)
    assert (established.in_port, established.device, established.now_ms) == (SERVER_PORT, "pf0hpf", START_MS + 70)
    assert (deleted.in_port, deleted.device) == (None, None)
    for told in (add, established, deleted):
        assert told.key is not None
        assert (told.key.family, told.key.protocol, told.key.zone) == (4, 17, 0)
        assert (str(told.key.tuple.source), str(told.key.tuple.destination)) == (CLIENT, SERVER)
        assert (told.key.tuple.source_port, told.key.tuple.destination_port) == (5000, 53)


def test_ipv6_and_zones_are_in_the_key() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    packet = Packet().eth().ipv6("2001:db8::1", "fe80::2").udp(7, 8)
    bench.tracker.track(batch_of([packet]), zone=77, commit=True)
    key = dummy.told[-1].key
    assert key is not None
    assert (key.family, key.zone, str(key.tuple.source), str(key.tuple.destination)) == (
        6,
        77,
        "2001:db8::1",
        "fe80::2",
    )


def test_udp_that_nobody_answers_is_never_established() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    for _ in range(3):
        bench.ask(1, 2, 3)
    assert dummy.names() == ["add"] * 3
    bench.answer(2)
    bench.answer(2)
    assert dummy.names() == ["add"] * 3 + ["est"]
    assert [bench.reason("dummy", place) for place in range(3)] == ["no-reply-yet", "none", "no-reply-yet"]


def test_a_packet_that_is_not_committed_is_told_to_nobody() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.send(udp(), commit=False)
    assert dummy.told == []


def test_add_and_established_within_one_batch_come_in_order() -> None:
    dummy, arrays = Dummy(), ArrayDummy()
    bench = Bench(dummy, arrays)
    packets = [packet for port in range(1, 101) for packet in (udp(port), udp(port, reply=True))]
    bench.send(*packets)
    assert dummy.names() == ["add"] * 100 + ["est"] * 100
    assert arrays.counts == {"policy": 100, "add": 100, "est": 100}
    assert arrays.n_calls == 3
    assert all(
        dummy.is_bidirectional(identity) and arrays.is_bidirectional(identity) for identity in bench.identities()
    )


def test_a_provider_that_says_false_is_asked_again_at_the_next_reply_packet_only() -> None:
    unruly, dummy = Unruly(), Dummy()
    unruly.answers["est"] = False
    bench = Bench(unruly, dummy)
    bench.ask(1)
    bench.answer(1)
    bench.ask(1)
    assert (unruly.n_established, dummy.n_established) == (1, 1)
    assert bench.reason("unruly") == "provider-not-ready"
    bench.answer(1)
    assert (unruly.n_established, dummy.n_established) == (2, 1)
    del unruly.answers["est"]
    bench.answer(1)
    bench.answer(1)
    assert (unruly.n_established, dummy.n_established) == (3, 1)
    assert bench.reason("unruly") == "none"
    assert bench.counters("unruly") == {
        "added": 1,
        "established": 1,
        "not-now": 2,
        "refused.provider-not-ready": 2,
    }


def test_a_provider_that_never_agrees_is_asked_a_hundred_times_at_most() -> None:
    unruly = Unruly()
    unruly.answers["est"] = False
    bench = Bench(unruly)
    bench.ask(1)
    for _ in range(130):
        bench.answer(1)
    assert unruly.n_established == 100


def test_only_providers_that_took_the_add_are_asked_for_more_but_all_hear_of_the_end() -> None:
    unwilling, refusing, willing = Unruly("unwilling"), Unruly("refusing"), Dummy("willing")
    unwilling.answers["policy"] = False
    refusing.failures["add"] = ProviderError(errno.ENOSPC, reason="table-full")
    bench = Bench(unwilling, refusing, willing)
    bench.ask(1)
    bench.answer(1)
    assert [bench.reason(name) for name in ("unwilling", "refusing", "willing")] == [
        "provider-declined",
        "table-full",
        "none",
    ]
    bench.tracker.flush()
    assert unwilling.names() == ["del"]
    assert refusing.counts == {"policy": 1, "add": 1, "del": 1}
    assert willing.names() == ["add", "est", "del"]


def test_a_batch_may_name_its_reasons() -> None:
    class Full(ArrayDummy):
        def _add(self, run: np.ndarray) -> None:
            run["error"] = errno.ENOSPC
            run["reason"] = number_of("no-group")

    bench = Bench(Full())
    bench.ask(1)
    assert bench.reason("dummy-array") == "no-group"
    assert bench.counters("dummy-array") == {"refused": 1, "refused.no-group": 1}


def test_a_path_fits_into_what_a_connection_may_cost() -> None:
    assert PATH.itemsize <= 128  # bytes per direction
    assert set(FLOW.names or ()) >= {"epoch", "paths", "rows", "generations", "error", "reason"}


def test_errors_that_have_no_better_name_are_refusals_with_the_errno() -> None:
    unruly = Unruly()
    bench = Bench(unruly)
    unruly.failures["add"] = OSError(errno.EOPNOTSUPP, "no such thing")
    bench.ask(1)
    unruly.failures["add"] = RuntimeError("a bug")
    bench.ask(2)
    assert [bench.reason("unruly", place) for place in range(2)] == ["provider-refused:ENOTSUP", "provider-refused:EIO"]
    refused = {"refused.provider-refused:ENOTSUP": 1, "refused.provider-refused:EIO": 1}
    assert bench.counters("unruly") == {"refused": 2, **refused}


def test_the_mark_is_kept_per_provider_and_the_connection_shows_the_highest() -> None:
    eager, slow = Dummy("eager"), Unruly("slow")
    slow.answers["est"] = False
    bench = Bench(slow, eager)
    bench.ask(1)
    (identity,) = bench.identities()
    assert bench.offload.mark(*identity) == MARK_ADDED
    assert bench.offload.is_offloaded(*identity)
    assert not bench.offload.is_established(*identity)
    bench.answer(1)
    assert bench.offload.mark(*identity) == MARK_ESTABLISHED
    assert bench.offload.mark(*identity, "slow") == MARK_ADDED
    assert bench.offload.mark(*identity, "eager") == MARK_ESTABLISHED
    assert bench.offload.is_established(*identity)
    assert bench.offload.marks(np.array([identity.row]), "slow").tolist() == [MARK_ADDED]
    bench.offload.unregister("eager")
    assert bench.offload.mark(*identity) == MARK_ADDED
    bench.tracker.flush()
    assert bench.offload.mark(*identity) == MARK_NONE
    bench.ask(1)
    assert bench.identities() == [ConnectionId(identity.row, identity.generation + 1)]
    assert bench.offload.mark(*identity) == MARK_NONE


def test_a_row_that_is_used_again_is_another_connection() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.handshake()
    bench.send(tcp("FA", 101, 501))
    bench.send(tcp("FA", 501, 102, reply=True), reply=True)
    bench.send(tcp("A", 102, 502))
    bench.send(tcp("S", 9000), tcp("S", 9000))
    assert [(told.name, told.connection) for told in dummy.told if told.name != "policy"] == [
        ("add", (0, 0)),
        ("est", (0, 0)),
        ("del", (0, 0)),
        ("add", (0, 1)),
    ]


def test_an_attack_that_reopens_one_connection_costs_few_rounds_and_ends_right() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.tracker.drain()
    packets = []
    for _ in range(60):  # a RST closes, a SYN opens anew
        packets += [tcp("S", 100), tcp("SA", 500, 101, reply=True), tcp("A", 101, 501), tcp("RA", 101, 501)]
    bench.send(*packets)
    (identity,) = bench.identities()
    names = dummy.names()
    assert names.count("add") == names.count("del") + 1 <= 8
    assert len(dummy) == 1
    assert dummy.contains(identity)
    assert identity.generation == 59
    assert bench.offload.statistics()["left-out"] > 0
    for first, second in pairwise(names):
        assert (first, second) not in {("add", "add"), ("del", "del"), ("del", "est")}


def test_connections_that_come_and_go_in_one_batch_are_told_in_order() -> None:
    dummy, arrays = Dummy(), ArrayDummy()
    bench = Bench(dummy, arrays)
    closing = []
    for port in range(1, 41):
        closing += [tcp("S", 100, port=port), tcp("SA", 500, 101, reply=True, port=port), tcp("A", 101, 501, port=port)]
        closing += [tcp("RA", 101, 501, port=port), tcp("S", 7000, port=port)]
    bench.send(*closing)
    assert len(dummy) == len(arrays) == 40
    assert dummy.counts["add"] == 80
    assert dummy.counts["del"] == 40
    assert dummy.counts["est"] == 40
    assert all(dummy.contains(identity) for identity in bench.identities())
    assert not any(dummy.is_bidirectional(identity) for identity in bench.identities())


def test_expiry_tells_the_end_once() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.ask(1, 2)
    bench.answer(1)
    bench.pass_time(40 * SECOND)
    assert dummy.names() == ["add", "add", "est", "del"]
    bench.pass_time(60 * SECOND)
    assert dummy.names().count("del") == 2
    assert len(dummy) == 0


# --- on and off ------------------------------------------------------------------------------------------------------


def test_off_flushes_and_on_again_adopts_what_exists_at_its_next_reply() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.ask(1, 2)
    bench.answer(1)
    bench.offload.configure(Settings(enabled=False))
    assert dummy.names()[-1] == "flush"
    assert len(dummy) == 0
    assert [bench.offload.mark(*identity) for identity in bench.identities()] == [MARK_NONE, MARK_NONE]
    assert bench.reason("dummy") == "offload-off"
    dummy.told.clear()
    bench.ask(3)
    bench.answer(1)
    assert dummy.told == []
    bench.offload.configure(Settings(enabled=True))
    assert bench.reason("dummy") == "not-told"
    bench.ask(1, 2, 3)
    assert dummy.told == []
    bench.answer(1, 2)
    bench.answer(1, 2)
    assert dummy.names() == ["add", "add", "est", "est"]
    add = dummy.told[2]
    assert (add.in_port, add.device) == (CLIENT_PORT, "p0")
    assert dummy.told[-1].in_port == SERVER_PORT
    assert [bench.offload.mark(*identity) for identity in bench.identities()] == [2, 2, 0]


def test_off_means_that_the_tracker_makes_no_events() -> None:
    bench = Bench(Dummy(), enabled=False)
    assert bench.tracker.arrays.state["events_on"][0] == 0
    bench.offload.configure(Settings(enabled=True))
    assert bench.tracker.arrays.state["events_on"][0] == 1
    bench.offload.configure(Settings(enabled=False))
    assert bench.tracker.arrays.state["events_on"][0] == 0
    bench.offload.configure(Settings(enabled=True))
    bench.offload.unregister("dummy")
    assert bench.tracker.arrays.state["events_on"][0] == 0


def test_a_provider_that_comes_late_is_offered_what_exists() -> None:
    first, second = Dummy("first"), Dummy("second")
    bench = Bench(first)
    bench.ask(1)
    bench.answer(1)
    bench.offload.register(second)
    assert bench.reason("second") == "not-told"
    bench.answer(1)
    assert first.names() == ["add", "est"]
    assert second.names() == ["add", "est"]


def test_unregistering_a_provider_flushes_it_and_clears_its_marks() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.ask(*range(1, 51))
    bench.answer(*range(1, 26))
    assert bench.offload.unregister("dummy")
    assert dummy.names()[-1] == "flush"
    assert [bench.offload.mark(*identity) for identity in bench.identities()] == [MARK_NONE] * 50
    bench.ask(99)
    bench.tracker.flush()
    assert dummy.names()[-1] == "flush"
    assert bench.offload.reason(0, 0, "dummy").code == "no-provider"
    bench.offload.register(Dummy())
    bench.ask(100)
    assert bench.counters("dummy") == {"added": 1}


def test_unregistering_an_unknown_provider_is_a_logged_no_op(caplog: pytest.LogCaptureFixture) -> None:
    assert not Bench(Dummy()).offload.unregister("nobody")
    assert "no offload provider nobody" in caplog.text


def test_flush_forgets_everything_and_connections_are_offered_again() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    bench.ask(1)
    bench.answer(1)
    bench.offload.flush()
    assert bench.offload.mark(*bench.identities()[0]) == MARK_NONE
    bench.answer(1)
    assert dummy.names() == ["add", "est", "flush", "add", "est"]


def test_without_a_private_slot_left_nothing_is_switched_on() -> None:
    bench = Bench(Dummy(), enabled=False)
    for number in range(C.N_SLOTS):
        bench.tracker.allocate_slot(f"module{number}")
    with pytest.raises(UsageError, match="no private slot left"):
        bench.offload.configure(Settings(enabled=True))
    assert not bench.offload.settings.enabled
    bench.ask(1)
    assert bench.counters("dummy") == {}


def test_a_switch_has_it_all() -> None:
    dummy = Dummy()
    switch = Switch(max_connections=100)
    switch.add_port("p0")
    switch.add_port("pf0hpf")
    switch.add_flows("table=0,ip,actions=ct(commit),normal")
    switch.offload.register(dummy)
    switch.offload.configure(Settings.from_other_config({"hw-offload": "true"}))
    switch.process(batch_of([udp()], in_port=1))
    switch.process(batch_of([udp(reply=True)], in_port=2))
    assert [(told.name, told.device) for told in dummy.told[1:]] == [("add", "p0"), ("est", "pf0hpf")]


def test_another_observer_that_raises_harms_no_provider() -> None:
    dummy = Dummy()
    bench = Bench(enabled=False)

    def broken(events: np.ndarray) -> None:
        raise ZeroDivisionError("a bug of a module")

    bench.tracker.observe(broken)
    bench.offload.register(dummy)
    bench.offload.configure(Settings(enabled=True))
    bench.ask(1)
    bench.answer(1)
    assert dummy.names() == ["add", "est"]
    assert bench.tracker.statistics()["observer-errors"] == 2


def test_an_observer_cannot_switch_offloading_in_the_middle_of_events() -> None:
    refused: list[str] = []
    bench = Bench(Dummy())

    def meddle(events: np.ndarray) -> None:
        for change in (
            lambda: bench.offload.configure(Settings(enabled=False)),
            lambda: bench.offload.unregister("dummy"),
            bench.offload.flush,
        ):
            with pytest.raises(UsageError) as caught:
                change()
            refused.append(str(caught.value))

    bench.tracker.observe(meddle)
    bench.ask(1)
    assert len(refused) == 3
    assert bench.counters("dummy") == {"added": 1}


# --- operations by hand ----------------------------------------------------------------------------------------------


def context(row: int, generation: int = 0, now_ms: int = START_MS) -> Context:
    """A connection as a hand-made operation names it."""
    return Context(ConnectionId(row, generation), (0, row), (0, 1), 17 << 8, in_port=1, now_ms=now_ms)


def run(bench: Bench, *operations: tuple[int, Context | None]) -> list[Operation]:
    """Dispatch operations as one batch."""
    batch = Batch.of(operations)
    bench.offload.dispatch(batch)
    return list(batch)


def test_a_batch_has_an_errno_for_each_operation_and_the_first_error_wins() -> None:
    first, second = Unruly("first"), Dummy("second")
    first.failures["add"] = lambda n: ProviderError(errno.ENOSPC) if n == 1 else None
    bench = Bench(first, second)
    answers = run(bench, (ADD, context(1)), (ADD, context(2)), (ADD, context(3)), (EST, context(1)), (99, context(1)))
    assert [operation.error for operation in answers] == [0, errno.ENOSPC, 0, 0, errno.EINVAL]
    assert [second.contains(ConnectionId(row, 0)) for row in (1, 2, 3)] == [True, True, True]
    assert [first.contains(ConnectionId(row, 0)) for row in (1, 2, 3)] == [True, False, True]


def test_counters_are_numbers_of_python() -> None:
    bench = Bench(Dummy())
    bench.ask(1)
    bench.answer(1)
    assert {type(value) for value in bench.offload.statistics().values()} == {int}


def test_operations_about_rows_that_are_not_there_are_refused_as_a_whole() -> None:
    dummy = Dummy()
    bench = Bench(dummy)
    with pytest.raises(UsageError, match="below 4096"):
        run(bench, (ADD, context(1)), (ADD, context(4096)))
    assert dummy.names() == []


def test_policy_is_yes_when_any_provider_says_yes() -> None:
    first, second = Unruly("first"), Unruly("second")
    first.answers["policy"] = False
    bench = Bench(first, second)
    assert [operation.error for operation in run(bench, (POLICY, context(1)))] == [0]
    second.answers["policy"] = False
    assert [operation.error for operation in run(bench, (POLICY, context(1)))] == [errno.EPERM]
    assert len(first) == len(second) == 0


def test_the_first_non_zero_last_use_wins() -> None:
    ignorant, first, second = Dummy("ignorant"), Dummy("first"), Dummy("second")
    bench = Bench(ignorant, first, second)
    run(bench, (ADD, context(1)), (ADD, context(2)))
    first.last_used_ms[ConnectionId(1, 0)] = START_MS - 500
    second.last_used_ms[ConnectionId(1, 0)] = START_MS - 10
    one, two = run(bench, (UPD, context(1)), (UPD, context(2)))
    assert (one.error, one.last_used_ms) == (0, START_MS - 500)
    assert (two.error, two.last_used_ms) == (errno.ENODATA, 0)
    assert (ignorant.n_updated, first.n_updated, second.n_updated) == (2, 2, 1)


def test_deleting_reaches_everybody_and_one_that_fails_stops_nobody() -> None:
    first, second = Unruly("first"), Dummy("second")
    first.failures["del"] = ProviderError(errno.EBUSY)
    bench = Bench(first, second)
    answers = run(bench, (ADD, context(1)), (DEL, context(1)), (DEL, context(7)))
    assert [operation.error for operation in answers] == [0, errno.EBUSY, errno.EBUSY]
    assert (first.n_deleted, second.n_deleted) == (2, 2)


def test_a_batch_that_mixes_types_and_repeats_connections_is_served_in_order() -> None:
    dummy, arrays = Dummy(), ArrayDummy()
    bench = Bench(dummy, arrays)
    answers = run(
        bench,
        (ADD, context(1)),
        (ADD, context(2)),
        (EST, context(2)),
        (DEL, context(2)),
        (ADD, context(2, 1)),
        (ADD, context(2, 2)),
        (FLUSH, None),
        (ADD, context(3)),
    )
    assert [operation.error for operation in answers] == [0] * 8
    assert dummy.names() == ["add", "add", "est", "del", "add", "add", "flush", "add"]
    assert len(dummy) == len(arrays) == 1
    assert dummy.contains(ConnectionId(3, 0))


def test_a_batch_may_be_served_in_any_order_as_long_as_each_answer_is_in_its_place() -> None:
    provider = Reordering()
    provider.failures["add"] = lambda n: ProviderError(errno.ENOSPC) if n % 3 == 0 else None
    bench = Bench(provider)
    bench.ask(*range(1, 61))
    bench.answer(*range(1, 61))
    for identity in bench.identities():
        assert bench.offload.is_established(*identity) == provider.is_bidirectional(identity)
    assert bench.counters("reordering")["refused"] == 20
    assert bench.counters("reordering")["established"] == 40
