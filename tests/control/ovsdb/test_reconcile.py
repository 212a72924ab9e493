"""The difference between two wishes, as a list of actions."""

from __future__ import annotations

from dataclasses import replace

from flowshunt.control.ovsdb import reconcile as R
from flowshunt.control.ovsdb.model import Bridge, Interface, Port, Vlans, Wanted, Zone


def port(name: str, **values: object) -> Port:
    return Port(name, (Interface(name, "dummy", **values),))  # type: ignore[arg-type]


def wanted(*bridges: Bridge, **values: object) -> Wanted:
    return Wanted({bridge.name: bridge for bridge in bridges}, **values)  # type: ignore[arg-type]


def test_nothing_changes_nothing() -> None:
    state = wanted(Bridge("br0", (port("p1"),)), zones={5: Zone(3)})
    assert R.plan(state, state) == []


def test_names_are_free_before_they_are_taken() -> None:
    before = wanted(Bridge("br0", (port("p1"), port("p2"))), Bridge("old", (port("p3"),)))
    after = wanted(Bridge("br0", (port("p2"),)), Bridge("new", (port("p1"), port("p3"))))
    assert R.plan(before, after) == [
        R.DelBridge("old"),
        R.DelPort("br0", "p1"),
        R.AddBridge(after.bridges["new"]),
        R.AddPort("new", Interface("p1", "dummy"), "dummy"),
        R.AddPort("new", Interface("p3", "dummy"), "dummy"),
    ]


def test_numbers_that_are_asked_for_come_first_and_then_those_that_were_had() -> None:
    ports = (port("a"), port("b", last_ofport=4), port("c", ofport_request=1))
    actions = R.plan(wanted(Bridge("br0")), wanted(Bridge("br0", ports)))
    assert [action.interface.name for action in actions if isinstance(action, R.AddPort)] == ["c", "b", "a"]


def test_a_number_from_before_is_no_difference() -> None:
    before = wanted(Bridge("br0", (port("a"),)))
    assert R.plan(before, wanted(Bridge("br0", (port("a", last_ofport=4),)))) == []


def test_a_changed_interface_is_made_anew() -> None:
    before = wanted(Bridge("br0", (port("a"),)))
    after = wanted(Bridge("br0", (port("a", options=(("peer", "b"),)),)))
    assert [type(action) for action in R.plan(before, after)] == [R.DelPort, R.AddPort]


def test_what_becomes_a_bond_loses_its_number_and_gets_it_back() -> None:
    alone = wanted(Bridge("br0", (port("a"),)))
    bond = wanted(Bridge("br0", (Port("bond", (Interface("a", "dummy"), Interface("b", "dummy"))),)))
    gone, *came = R.plan(alone, bond)
    assert gone == R.DelPort("br0", "a")
    assert [action.refusal for action in came if isinstance(action, R.AddPort)] == [
        "port bond: bonds are not supported"
    ] * 2
    assert R.AddPort("br0", Interface("a", "dummy"), "dummy") in R.plan(bond, alone)


def test_vlans_are_set_without_reopening_the_port() -> None:
    plain = Bridge("br0", (port("a"),))
    access = Bridge("br0", (replace(port("a"), vlans=Vlans("access", 5)),))
    assert R.plan(wanted(plain), wanted(access)) == [R.SetVlans("br0", "a", Vlans("access", 5))]
    assert R.plan(wanted(access), wanted(plain)) == [R.SetVlans("br0", "a", None)]


def test_packets_wait_before_anything_else_and_go_on_after_all() -> None:
    waiting = wanted(Bridge("br0"), other_config=(("flow-restore-wait", "true"),))
    assert R.plan(wanted(), waiting)[0] == R.Hold(True)
    assert R.plan(waiting, wanted(Bridge("br0"), Bridge("br1")))[-1] == R.Hold(False)


def test_zones_change_one_by_one() -> None:
    before = wanted(zones={1: Zone(limit=5), 2: Zone(timeouts=(("udp_first", 3),))})
    after = wanted(zones={2: Zone(timeouts=(("udp_first", 4),)), 3: Zone(limit=7)}, default_limit=9)
    assert R.plan(before, after) == [
        R.SetDefaultLimit(9),
        R.SetZone(1, Zone(limit=5), Zone()),
        R.SetZone(2, before.zones[2], after.zones[2]),
        R.SetZone(3, Zone(), Zone(limit=7)),
    ]
