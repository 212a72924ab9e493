"""The software fast path in a switch: real packets, which come out as they would have, and counters that stay true."""

from __future__ import annotations

import random

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.listing import proc
from flowshunt.offload.attachment import MARK_ESTABLISHED
from flowshunt.offload.providers.flowtable import Flowtable
from tests.builders import Packet
from tests.offload.twins import MACS, NAT, PLAIN, ZONES, Talk, Twins, udp, wander


def flowtable(twins: Twins) -> Flowtable:
    provider = twins.other.offload.registry["flowtable"]
    assert isinstance(provider, Flowtable)
    return provider


def test_a_switch_offloads_when_it_is_told_to() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    assert twins.counters() == {"added": 1, "established": 1, "offered": 1, "installed": 1}
    talk.exchange(2)
    assert twins.hits == 0  # the tracker shows which flags it has seen, so the first segment with another one walks
    talk.exchange(6)
    assert twins.hits == 6
    (line,) = [proc.line(connection) for connection in twins.other.tracker.connections()]
    assert line == (
        "ipv4     2 tcp      6 src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 packets=6 bytes=286 "
        "src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 packets=6 bytes=290 [OFFLOAD] mark=0 zone=0 use=3"
    )
    identity = twins.identity()
    assert twins.other.offload.holder(*identity) == "flowtable"
    assert twins.other.offload.mark(*identity) == MARK_ESTABLISHED
    twins.compare()
    assert twins.counters()["forwarded-packets"] == 6


def test_installation_waits_for_the_handshake_and_for_both_paths() -> None:
    twins = Twins()
    talk = Talk(twins)
    talk.say(0, syn=True, ack=False)
    assert twins.reason() == "no-reply-yet"
    talk.say(1, syn=True)
    assert twins.reason() == "not-established"
    talk.say(0)
    assert twins.reason() == "path-unknown"
    talk.say(1)
    assert twins.reason() == "none"


def test_udp_is_offloaded_after_its_answer_also_when_it_is_one_way_from_then_on() -> None:
    twins = Twins()
    twins.send(udp())
    twins.send(udp())
    assert twins.hits == 0
    twins.send(udp(reply=True), port=2)
    for _ in range(5):
        twins.send(udp())
    assert twins.hits == 4
    twins.compare()


def test_icmp_is_not_offloaded_with_a_reason() -> None:
    twins = Twins()
    for reply in (False, True) * 3:
        ends = ("10.0.0.2", "10.0.0.1") if reply else ("10.0.0.1", "10.0.0.2")
        macs = (MACS[1], MACS[0]) if reply else MACS
        twins.send(Packet().eth(*macs).ipv4(*ends).icmp(type=0 if reply else 8, id=7), port=1 + reply)
    assert twins.reason() == "protocol"
    assert twins.hits == 0


def test_a_fin_brings_the_connection_back_for_good() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    hits = twins.hits
    talk.say(0, fin=True)
    talk.say(1, b"more")
    talk.say(1, b"still more")
    talk.close()
    assert twins.hits == hits
    assert twins.reason() == "not-established"
    twins.compare()


@pytest.mark.parametrize("rules", [PLAIN, NAT, ZONES], ids=["plain", "nat", "zones"])
@pytest.mark.parametrize("profile", ["default", "linux"])
def test_random_conversations_come_out_the_same(rules: str, profile: str) -> None:
    twins = Twins(rules, profile=profile)
    changes = [
        "table=0,priority=40000,ip,nw_ttl=3,actions=drop",
        "delete_strict table=0,priority=40000,ip,nw_ttl=3",
        "table=5,priority=7,ip,actions=drop",
        "table=0,priority=3,ip,tcp_dst=81,actions=drop",
        "delete table=5",
    ]
    wander(twins, 60, seed=len(rules), changes=changes)
    assert twins.hits > 40


def test_conversations_between_access_ports_come_out_the_same() -> None:
    twins = Twins()
    for switch in twins.switches:
        for number, mode in ((1, "access"), (2, "native-untagged"), (3, "trunk")):
            switch.datapath.ports.set_vlans(number, mode, 10)
    wander(twins, 25, seed=7)
    assert twins.hits > 25
    twins.other.offload.synchronise()
    stations = [sorted(switch.datapath.ports.stations(twins.now_ms)) for switch in twins.switches]
    assert stations[0] == stations[1]


def test_ipv6_conversations_come_out_the_same() -> None:
    twins = Twins()
    wander(twins, 25, seed=6, family=6)
    assert twins.hits > 25


def test_a_flow_change_costs_a_walk_and_equal_paths_stay() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    hits = twins.hits
    twins.add_flows("table=9,actions=drop")
    talk.exchange(2)
    assert twins.hits == hits
    talk.exchange(2)
    assert twins.hits == hits + 2
    assert twins.counters()["renewed"] == 1
    assert twins.counters()["installed"] == 1


def test_a_rule_that_forbids_the_way_brings_the_connection_back() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    hits = twins.hits
    twins.add_flows("table=1,priority=2,ip,nw_ttl=1,actions=drop")
    talk.exchange(6)
    assert twins.hits == hits
    assert twins.reason() == "varying-match:nw_ttl"
    assert next(iter(twins.other.tracker.connections())).offload is None
    twins.add_flows("delete_strict table=1,priority=2,ip,nw_ttl=1")
    talk.exchange(6)
    assert twins.hits > hits
    twins.compare()


def test_a_flow_with_an_idle_timeout_lives_on_what_is_shunted_and_dies_of_silence() -> None:
    twins = Twins(PLAIN.replace("priority=1,ip,ct_state=+trk+est", "priority=1,idle_timeout=5,ip,ct_state=+trk+est"))
    talk = Talk(twins).open()
    for _ in range(20):
        talk.exchange(1, after_ms=1000)
    assert twins.hits >= 19
    twins.compare()
    twins.send(udp(9), after_ms=6_000)
    assert [len(switch.flows()) for switch in twins.switches] == [6, 6]


def test_an_entry_that_is_silent_for_the_timeout_is_handed_back_and_comes_again() -> None:
    twins = Twins()
    flowtable(twins).timeout_ms = 5_000
    talk = Talk(twins).open()
    talk.exchange(4)
    for _ in range(3):
        twins.send(udp(9), after_ms=2_000)
    assert twins.reason() == "idle"
    assert twins.counters()["handed-back"] == 1
    assert next(iter(twins.other.tracker.connections())).offload is None
    hits = twins.hits
    talk.exchange(6)
    assert twins.hits == hits + 4
    twins.compare()


def test_a_limit_refuses_with_table_full_and_can_be_raised() -> None:
    twins = Twins()
    flowtable(twins).limit = 1
    for port in (1, 2):
        twins.send(udp(port))
        twins.send(udp(port, reply=True), port=2)
        twins.send(udp(port), udp(port))
    assert [twins.reason(place) for place in range(2)] == ["none", "table-full"]
    assert twins.counters()["refused.table-full"] >= 1
    flowtable(twins).limit = 2
    for _ in range(3):
        twins.send(udp(2), after_ms=4_100)
        twins.send(udp(2, reply=True), port=2)
    assert [twins.reason(place) for place in range(2)] == ["none", "none"]


def test_off_brings_everything_back_and_on_again_takes_it() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    hits = twins.hits
    twins.other.configure_offload({"hw-offload": "false"})
    talk.exchange(4)
    assert twins.hits == hits
    twins.compare()
    twins.other.configure_offload({"hw-offload": "true"})
    talk.exchange(8)
    assert twins.hits > hits
    twins.compare()


def test_a_port_that_goes_takes_its_connections_back() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    hits = twins.hits
    for switch in twins.switches:
        switch.datapath.ports.remove(2)
    assert talk.say(0, b"lost") is None
    assert twins.hits == hits


def test_held_connections_outlive_their_timeout_and_expire_after_the_last_shunted_packet() -> None:
    twins = Twins()
    twins.send(udp())
    twins.send(udp(reply=True), port=2)
    for _ in range(10):
        twins.send(udp(), after_ms=20_000)
        twins.compare()
    assert twins.hits >= 9
    twins.send(udp(9), after_ms=33_000)
    twins.send(udp(9), after_ms=1_500)
    assert [len(list(switch.tracker.connections())) for switch in twins.switches] == [1, 1]
    twins.compare()


def test_checks_can_be_asked_for() -> None:
    twins = Twins()
    flowtable(twins).check = True
    talk = Talk(twins).open()
    talk.exchange(6)
    assert twins.hits == 4
    far = Packet().eth(*MACS).ipv4("10.0.0.1", "10.0.0.2").tcp(1000, 80, seq=1 << 30, ack_number=5, ack=True)
    twins.send(far)  # comes out the same, so it was judged
    talk.exchange(4)
    twins.compare()


def test_without_a_table_nothing_is_forwarded() -> None:
    provider = Flowtable()
    assert (provider.limit, provider.check, provider.counters()) == (0, False, {})
    provider.limit = 5
    provider.check = True
    twins = Twins(config={})
    twins.other.offload.register(Flowtable(name="tableless"))
    twins.other.configure_offload({"hw-offload": "true", "hw-offload-priority": "tableless"})
    Talk(twins).open().exchange(4)
    assert twins.reason(name="tableless") == "provider-refused:ENODEV"
    assert twins.other.offload.holder(*twins.identity()) == "flowtable"


def test_a_second_one_has_a_share_of_its_own() -> None:
    twins = Twins()
    with pytest.raises(UsageError, match="flowtable"):
        Flowtable(twins.other.datapath.shunt)
    second = Flowtable(twins.other.datapath.shunt, name="second", limit=7)
    assert second.limit == 7


def test_a_configuration_sets_its_options_and_leaves_out_what_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    options = {"flowtable-timeout": "7", "flowtable-limit": "5", "flowtable-check": "true"}
    twins = Twins(config={"hw-offload": "true", **options})
    table = flowtable(twins)
    assert (table.timeout_ms, table.limit, table.check) == (7000, 5, True)
    for key, wrong in (("timeout", "0"), ("limit", "-1"), ("check", "perhaps"), ("size", "3")):
        twins.other.configure_offload({"hw-offload": "true", f"flowtable-{key}": wrong})
        assert key in caplog.text
    assert (table.timeout_ms, table.limit, table.check) == (7000, 5, True)
    twins.other.configure_offload({"hw-offload": "true"})
    assert (table.timeout_ms, table.limit, table.check) == (30_000, 2000, False)


def test_offload_may_be_chosen_anew_as_often_as_one_likes() -> None:
    twins = Twins()
    talk = Talk(twins).open()
    talk.exchange(4)
    for options in ({"limit": "1", "check": "true"}, {}):
        before = twins.hits
        twins.other.offload_to([("flowtable", options)])
        talk.exchange(6)
        assert twins.hits > before  # the totals go on
        assert flowtable(twins).counters()["hits"] == twins.hits - before
        assert flowtable(twins).check is bool(options)
    assert flowtable(twins).limit == twins.other.datapath.shunt.capacity
    twins.compare()


def test_a_choice_that_fails_offloads_to_nobody_and_can_be_made_again() -> None:
    twins = Twins()
    for wrong in (("eswitch", {"num_of_groups": "0"}), ("nobody", {}), ("flowtable", {})):
        with pytest.raises(UsageError):
            twins.other.offload_to([("flowtable", {}), wrong])
        assert not list(twins.other.offload.providers())
        assert not twins.other.offload.settings.enabled
    twins.other.offload_to([("flowtable", {}), ("eswitch", {})])
    assert [provider.name for provider, _ in twins.other.offload.providers()] == ["flowtable", "eswitch"]


def test_a_provider_that_was_let_go_of_comes_back_with_the_next_configuration() -> None:
    twins = Twins()
    twins.other.offload.unregister("flowtable")
    twins.other.configure_offload({"hw-offload": "true"})
    Talk(twins).open().exchange(6)
    assert twins.reason() == "none"


@pytest.mark.parametrize("gap_ms", [35_000, 70_000, 125_000, 310_000])
@pytest.mark.parametrize("profile", ["default", "linux"])
def test_a_silence_that_outlasts_every_timeout_ends_the_connection_as_ever(profile: str, gap_ms: int) -> None:
    twins = Twins(profile=profile)
    for after_ms in (1, 1, 1, 3_000):
        twins.send(udp(), after_ms=after_ms)
        twins.send(udp(reply=True), port=2)
    assert twins.hits > 0
    twins.send(udp(), after_ms=gap_ms)
    twins.compare()


CHOICES: list[tuple[str, dict[str, str]]] = [
    ("flowtable", {}),
    ("flowtable", {"limit": "1", "timeout": "1"}),
    ("flowtable", {"check": "true"}),
    ("eswitch", {"ct_max_offloaded_conns": "2", "ageing_s": "5"}),
    ("eswitch", {"insertion_rate": "3", "insertion_latency_ms": "400"}),
    ("dummy", {}),
]


@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize("rules", [PLAIN, NAT, ZONES], ids=["plain", "nat", "zones"])
def test_providers_may_come_and_go_under_traffic(rules: str, profile: str) -> None:
    twins = Twins(rules, profile=profile)
    rng = random.Random(27)
    for _ in range(8):
        wander(twins, 6, seed=rng.randrange(1 << 30))
        chosen = dict(rng.sample(CHOICES, rng.randrange(3)))
        twins.other.offload_to(chosen.items())
    twins.compare()
    assert twins.hits > 0
