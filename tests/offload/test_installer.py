"""When flows are handed to a forwarder, and taken from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowshunt.conntrack.states import F_SEQ_CHECK_OFF, WATCH_HELD
from flowshunt.offload.batch import ConnectionId
from flowshunt.offload.installing import PATH
from flowshunt.offload.providers.dummy import Dummy
from flowshunt.offload.registry import Settings
from tests.offload.forwarders import Forwarding, PathBench
from tests.offload.traffic import SECOND, START_MS, tcp, udp


def is_held(bench: PathBench, row: int) -> bool:
    return bool(int(bench.tracker.arrays.conns["watch"][row]) & WATCH_HELD)


def test_a_flow_is_installed_when_it_is_established_and_both_paths_are_known() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.send(tcp("S", 100))
    bench.send(tcp("SA", 500, 101, reply=True), reply=True)
    (way,) = bench.identities()
    bench.show([way])
    assert forwarder.flows == {}
    assert bench.reason("forwarding") == "not-established"
    bench.send(tcp("A", 101, 501))
    assert bench.reason("forwarding") == "path-unknown"
    bench.show([way], d=0)
    assert forwarder.flows == {}
    bench.show([way], d=1)
    (flow,) = forwarder.flows.values()
    assert flow["paths"]["out_port"].tolist() == [2, 1]
    assert flow["rows"].tolist() == [way.row, 0, 0, 0]
    assert (flow["n_zones"], flow["epoch"], flow["now_ms"]) == (1, 1, START_MS)
    assert flow["max_idle_ms"] == 30_000
    assert bench.reason("forwarding") == "none"
    assert bench.offload.holder(*way) == "forwarding"
    assert is_held(bench, way.row)
    assert forwarder.n_calls_of("install") == 1


def test_udp_is_installed_after_its_answer_and_no_longer_idle_than_it_would_live() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.tracker.set_timeout_policy(0, {"udp_multiple": 7})
    bench.ask(1)
    (way,) = bench.identities()
    bench.show([way])
    assert forwarder.flows == {}
    bench.answer(1)
    bench.show([way])
    (flow,) = forwarder.flows.values()
    assert flow["max_idle_ms"] == 7000


def test_listings_show_who_forwards_and_one_more_reference() -> None:
    soft, hard = Forwarding("soft", limit=1), Forwarding("hard", limit=1, mark="HW_OFFLOAD")
    bench = PathBench(hard, soft)
    ways = bench.established(1, 2, 3)
    bench.show(*([way] for way in ways))
    assert [c.offload for c in bench.tracker.connections()] == ["HW_OFFLOAD", "OFFLOAD", None]
    assert [c.use for c in bench.tracker.connections()] == [2, 2, 1]
    assert [bench.offload.holder(*way) for way in ways] == ["hard", "soft", None]
    assert [bench.reason("hard", n) for n in range(3)] == ["none", "table-full", "table-full"]
    assert [bench.reason("soft", n) for n in range(3)] == ["held-elsewhere", "none", "table-full"]


def test_only_forwarders_that_took_the_connection_are_offered_it() -> None:
    class Choosy(Forwarding):
        def _policy(self, run: np.ndarray) -> None:
            run["error"] = np.where(run["row"] == 0, 1, 0)

    choosy, other = Choosy("choosy"), Forwarding("other")
    bench = PathBench(choosy, other)
    ways = bench.established(1, 2)
    bench.show(*([way] for way in ways))
    assert [bench.offload.holder(*way) for way in ways] == ["other", "choosy"]
    assert bench.reason("choosy") == "provider-declined"


def test_the_same_paths_in_a_new_epoch_are_renewed_and_others_installed_again() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    same, changed = bench.established(1, 2)
    bench.show([same], [changed])
    bench.paths.epoch = 2
    bench.show([same], d=0)
    assert forwarder.epoch == 2
    assert forwarder.n_calls_of("renew") == 0
    bench.show([same], d=1)
    assert forwarder.epochs[same] == 2
    bench.show([changed], d=0, out_port=3)
    assert forwarder.n_calls_of("install") == 1
    bench.show([changed], d=1)
    assert forwarder.n_calls_of("install") == 1  # the reply path waits with whoever forwards; nothing to pair with
    assert bench.offload.holder(*changed) is None
    bench.show([changed], d=0, out_port=3)
    bench.show([changed], d=1)
    assert forwarder.flows[changed]["paths"]["out_port"].tolist() == [3, 1]
    assert bench.counters("forwarding")["renewed"] == 1


def test_both_paths_changed_replace_the_flow_without_a_gap() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    bench.paths.epoch = 2
    bench.show([way], new_eth_dst=77)
    assert forwarder.n_calls_of("withdraw") == 0
    assert forwarder.flows[way]["paths"]["new_eth_dst"].tolist() == [77, 77]
    assert is_held(bench, way.row)
    assert bench.counters("forwarding")["installed"] == 2


def test_paths_of_two_epochs_are_no_pair() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way], d=0)
    bench.paths.epoch = 2
    bench.show([way], d=1)
    assert forwarder.flows == {}
    bench.show([way], d=0)
    assert list(forwarder.flows) == [way]


def test_the_latest_of_several_records_counts() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    records = [bench.record([way], 0, out_port=port) for port in (5, 6, 7)] + [bench.record([way], 1)]
    bench.paths.tell(np.concatenate(records))
    assert forwarder.flows[way]["paths"]["out_port"].tolist() == [7, 1]


def test_all_connections_on_the_way_are_held_and_the_end_of_any_ends_the_flow() -> None:
    for victim in range(2):
        forwarder = Forwarding()
        bench = PathBench(forwarder)
        outer, inner = bench.established(1, 2)
        bench.show([outer, inner])
        assert forwarder.flows[outer]["rows"].tolist()[:2] == [outer.row, inner.row]
        assert is_held(bench, outer.row)
        assert is_held(bench, inner.row)
        assert [bench.offload.holder(*way) for way in (outer, inner)] == ["forwarding"] * 2
        gone = list(bench.tracker.connections())[victim]
        bench.tracker.flush(0, wanted=gone.original, protocol=17)
        assert forwarder.flows == {}
        (left,) = bench.identities()
        assert not is_held(bench, left.row)
        assert bench.offload.holder(*left) is None


def test_a_connection_is_on_the_way_of_one_flow_only() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    first, second, shared = bench.established(1, 2, 3)
    bench.show([first, shared])
    bench.show([second, shared])
    assert list(forwarder.flows) == [second]
    assert not is_held(bench, first.row)
    assert is_held(bench, shared.row)
    bench.tracker.flush()
    assert forwarder.flows == {}


def test_other_connections_on_the_way_than_before_are_another_flow() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    first, second, third = bench.established(1, 2, 3)
    bench.show([first, second])
    bench.show([first, third])
    assert forwarder.flows[first]["rows"].tolist()[:2] == [first.row, third.row]
    assert [is_held(bench, way.row) for way in (first, second, third)] == [True, False, True]


def test_a_fin_brings_the_connection_back_for_good() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.handshake()
    (way,) = bench.identities()
    bench.show([way])
    bench.send(tcp("FA", 101, 501))
    assert forwarder.flows == {}
    assert not is_held(bench, way.row)
    bench.show([way])
    assert forwarder.n_calls_of("install") == 1
    assert bench.reason("forwarding") == "not-established"


def test_another_mark_takes_the_connection_back_until_its_paths_are_shown_again() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    bench.tracker.set_mark(*way, 5)
    assert forwarder.flows == {}
    assert bench.paths.forgotten == [way.row]
    assert bench.reason("forwarding") == "path-changed"
    bench.show([way])
    assert forwarder.flows == {}, "that might have been told before the mark, in the same millisecond"
    assert bench.paths.forgotten[1:] == [way.row, way.row]
    bench.pass_time(1)
    bench.show([way])
    assert list(forwarder.flows) == [way]


@pytest.mark.parametrize("code", ["multiple-outputs", "controller", "ip-options", "rewrite"])
def test_a_packet_that_shows_that_the_way_is_unfit_takes_the_connection_back(code: str) -> None:
    forwarder, observer = Forwarding(), Dummy()
    bench = PathBench(forwarder, observer)
    ways = bench.established(1, 2)
    bench.show([ways[0]])
    for way in ways:
        bench.show([way], d=1, unfit=code)
        bench.show([way], d=1, unfit=code)
    assert forwarder.flows == {}
    assert [bench.reason("forwarding", n) for n in range(2)] == [code, code]
    assert bench.counters("forwarding")[f"refused.{code}"] >= 1
    assert bench.reason("dummy") == "none"


def test_the_reason_names_the_field_that_varies() -> None:
    from flowshunt.packet.schema import FIELDS

    bench = PathBench(Forwarding())
    (way,) = bench.established(1)
    record = bench.record([way], 0, "varying-match")
    record["parameter"] = list(FIELDS).index("nw_ttl")
    bench.paths.tell(record)
    assert bench.reason("forwarding") == "varying-match:nw_ttl"


def test_what_a_provider_hands_back_is_offered_again() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    ways = bench.established(1, 2)
    bench.show(*([way] for way in ways))
    forwarder.gone = [(*ways[0], "idle"), (*ways[0], "idle"), (999, 0, "idle"), (ways[1].row, 5, "idle")]
    bench.pass_time(1)
    assert [is_held(bench, way.row) for way in ways] == [False, True]
    assert bench.reason("forwarding") == "idle"
    assert bench.paths.forgotten == [ways[0].row]
    assert bench.counters("forwarding")["handed-back"] == 1
    bench.show([ways[0]])
    assert is_held(bench, ways[0].row)


def test_off_and_unregistering_withdraw_everything() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    ways = bench.established(1, 2)
    bench.show(*([way] for way in ways))
    assert bench.paths.is_on
    bench.offload.configure(Settings(enabled=False))
    assert forwarder.flows == {}
    assert not bench.paths.is_on
    assert not any(is_held(bench, way.row) for way in ways)
    assert [c.offload for c in bench.tracker.connections()] == [None, None]
    bench.offload.configure(Settings(enabled=True))
    bench.answer(1, 2)
    bench.show(*([way] for way in ways))
    assert len(forwarder.flows) == 2
    bench.offload.unregister("forwarding")
    assert forwarder.flows == {}
    assert not any(is_held(bench, way.row) for way in ways)


def test_a_row_that_is_used_again_starts_from_nothing() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way], d=0)
    bench.tracker.flush()
    (again,) = bench.established(2)
    assert again == ConnectionId(way.row, way.generation + 1)
    bench.show([again], d=1)
    assert forwarder.flows == {}
    bench.show([way], d=0)
    assert forwarder.flows == {}
    bench.show([again], d=0)
    assert list(forwarder.flows) == [again]


def test_paths_that_wait_take_no_room_for_ever() -> None:
    bench = PathBench(Forwarding(limit=2))
    assert bench.offload._installer is not None
    book = bench.offload._installer.book
    for turn in range(3):
        ways = bench.established(*range(1, 51))
        bench.show(*([way] for way in ways), d=0)
        assert book.n_waiting == 50
        bench.show(*([way] for way in ways), d=1)
        assert book.n_waiting == 0
        bench.show(*([way] for way in ways), d=turn % 2)
        bench.tracker.flush()
        assert book.n_waiting == 0


def test_a_full_table_of_which_only_one_direction_is_known_leaves_room_for_the_other() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder, max_connections=32)
    ways = bench.established(*range(1, 33))
    bench.show(*([way] for way in ways), d=0)
    bench.show(*([way] for way in ways), d=1)
    assert len(forwarder.flows) == 32


def test_a_forwarder_that_fails_harms_nobody() -> None:
    broken, other = Forwarding("broken"), Forwarding("other")
    bench = PathBench(broken, other)
    ways = bench.established(1, 2)
    broken.failing = {"install"}
    bench.show([ways[0]])
    assert bench.offload.holder(*ways[0]) == "other"
    assert bench.reason("broken") == "provider-refused:EIO"
    assert bench.counters("broken")["refused.provider-refused:EIO"] == 1
    broken.failing = {"handed_back", "statistics", "renew", "begin_epoch", "withdraw"}
    bench.show([ways[1]])
    assert bench.offload.holder(*ways[1]) == "broken"
    bench.paths.epoch = 2
    bench.show([ways[1]])
    bench.offload.synchronise()
    bench.tracker.flush()
    assert bench.counters("broken")["errors"] >= 4
    assert bench.tracker.statistics()["observer-errors"] == 0


@pytest.mark.parametrize("nonsense", [None, 5, np.zeros(3), "usage", np.zeros((2, 2), PATH)])
def test_nonsense_for_an_answer_is_no_answer(nonsense: object) -> None:
    forwarder: Any = Forwarding()
    for name in ("statistics", "withdraw", "handed_back"):
        setattr(forwarder, name, lambda *arguments: nonsense)
    bench = PathBench(forwarder)
    (way,) = bench.established(1)
    bench.show([way])
    bench.offload.synchronise()
    bench.tracker.flush()
    assert bench.tracker.statistics()["observer-errors"] == 0
    assert bench.offload.holder(*way) is None


def test_the_journal_tells_the_whole_story() -> None:
    story: list[tuple[str, list[int], str, int]] = []
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.offload.keep_journal(
        lambda kind, rows, generations, now_ms, provider, reason: story.append((kind, rows.tolist(), provider, now_ms))
    )
    bench.handshake()
    (way,) = bench.identities()
    bench.show([way], d=0)
    bench.show([way], d=1)
    bench.paths.epoch = 2
    bench.show([way])
    forwarder.gone = [(*way, "idle")]
    bench.pass_time(1)
    bench.show([way])
    bench.send(tcp("FA", 101, 501), after_ms=SECOND)
    bench.tracker.flush()
    kinds = [kind for kind, *_ in story]
    assert kinds == [
        "created", "reply", "path-original", "path-reply", "offered", "taken", "path-original", "path-reply", "renewed",
        "handed-back", "path-original", "path-reply", "offered", "taken", "closed", "destroyed",
    ]  # fmt: skip
    assert story[4] == ("offered", [way.row], "forwarding", START_MS)
    assert story[-1] == ("destroyed", [way.row], "", START_MS + 1 + SECOND)


def test_windows_are_not_checked_while_it_is_held_and_are_set_anew_after() -> None:
    forwarder = Forwarding()
    bench = PathBench(forwarder)
    bench.handshake()
    (way,) = bench.identities()
    bench.show([way])
    assert int(bench.tracker.arrays.conns["flags"][way.row]) & F_SEQ_CHECK_OFF
    bench.offload.unregister("forwarding")
    (state,) = bench.send(tcp("A", 5_000_101, 501))
    assert state & 0x10 == 0  # not invalid although far outside of the window that the tracker knew
    assert not int(bench.tracker.arrays.conns["flags"][way.row]) & F_SEQ_CHECK_OFF


def test_a_refused_flow_keeps_its_window_checks() -> None:
    bench = PathBench(Forwarding(limit=0))
    bench.handshake()
    (way,) = bench.identities()
    bench.show([way])
    assert not int(bench.tracker.arrays.conns["flags"][way.row]) & F_SEQ_CHECK_OFF
    assert bench.send(udp(9)) == [0x21]
