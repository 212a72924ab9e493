"""When what was learned is worth nothing any more, and that it is told anew then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.config.model import Config, TrackerSection
from flowshunt.datapath.program import PUNT_ACTION, Assembler, CompiledRule
from flowshunt.datapath.schema import make_ports
from flowshunt.rules.openflow.compile import compile_match
from tests.builders import Packet, batch_of
from tests.datapath.paths.conversation import C1, CLIENT_MAC, SERVER_MAC, Lab, Talk, through
from tests.datapath.paths.test_verdicts import EST

OTHER_MAC = "02:00:00:00:00:03"
CHANGES: dict[str, Callable[[Lab], object]] = {
    "a flow comes": lambda lab: lab.switch.add_flows("table=9,actions=drop"),
    "a flow is replaced": lambda lab: lab.switch.add_flows(C1.splitlines()[4]),
    "a flow is changed": lambda lab: lab.switch.add_flows("modify table=1,ip,ct_state=+trk+new,actions=drop"),
    "a flow goes": lambda lab: lab.switch.del_flows("arp"),
    "a port comes": lambda lab: lab.switch.add_port("new"),
    "a port goes": lambda lab: lab.switch.datapath.ports.remove(3),
    "ports are configured": lambda lab: lab.switch.datapath.ports.configure(age_ms=5000),
    "a port gets an MTU": lambda lab: lab.switch.datapath.ports.set_mtu(2, 1500),
    "stations are flushed": lambda lab: lab.switch.datapath.ports.flush_stations(),
    "the tracker is configured": lambda lab: lab.switch.configure(
        replace(Config(), tracker=replace(TrackerSection(), max_connections=1000, liberal=True))
    ),
    "someone says so": lambda lab: lab.paths.bump("test"),
}


def heard(lab: Lab, port: int, mac: str, destination: str = "02:00:00:00:00:77") -> None:
    """A station speaks."""
    lab.send(port, Packet().eth(mac, destination).arp("10.0.0.5", "10.0.0.6"))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_begins_an_epoch(change: Callable[[Lab], object]) -> None:
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    before = lab.paths.epoch
    change(lab)
    assert lab.paths.epoch == before + 1
    assert lab.paths.epoch == before + 1, "once"


def test_nothing_changes_without_a_change() -> None:
    lab = Lab()
    Talk(lab).run()
    before = lab.paths.epoch
    for _ in range(3):
        Talk(lab).run()
    assert lab.paths.epoch == before


def test_equal_paths_are_told_again_in_the_next_epoch() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    first = lab.take()
    talk.send(0)
    assert lab.take() == [], "lately"
    lab.switch.add_flows("table=9,actions=drop")
    talk.send(0)
    talk.send(1)
    second = lab.take()
    assert [r["path"].tobytes() for r in second] == [r["path"].tobytes() for r in first]
    assert [int(r["chain"]) for r in second] == [int(r["chain"]) for r in first]
    assert {int(r["epoch"]) for r in second} == {lab.paths.epoch} and int(first[0]["epoch"]) < lab.paths.epoch


def test_a_path_has_the_mtu_of_the_port_that_it_leads_to() -> None:
    lab = Lab(through(EST))
    lab.switch.datapath.ports.set_mtu(1, 9000)
    lab.switch.datapath.ports.set_mtu(2, 70_000)
    talk = Talk(lab).run()
    assert {int(r["path"]["out_port"]): int(r["path"]["mtu"]) for r in lab.take()} == {1: 9000, 2: 0xFFFF}
    before = lab.paths.epoch
    lab.switch.datapath.ports.set_mtu(1, 9000)
    assert lab.paths.epoch == before
    lab.switch.datapath.ports.set_mtu(1, None)
    talk.send(0)
    talk.send(1)
    assert {int(r["path"]["out_port"]): int(r["path"]["mtu"]) for r in lab.take()} == {1: 0, 2: 0xFFFF}
    with pytest.raises(UsageError, match="no port number 9"):
        lab.switch.datapath.ports.set_mtu(9, 1500)


def test_a_path_is_told_again_after_a_while() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    lab.take()
    lab.now_ms += 3900
    talk.send(0)
    assert lab.take() == []
    lab.now_ms += 100
    talk.send(0)
    assert lab.verdicts() == ["none"]


def test_forgotten_paths_are_told_at_the_next_packet() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    rows = lab.take()[0]["rows"][:1]
    lab.paths.forget(rows)
    talk.send(1)
    talk.send(0)
    assert lab.verdicts() == ["none", "none"]


def test_a_new_connection_in_the_same_place_is_told_at_once() -> None:
    lab = Lab(through(EST))
    Talk(lab, protocol="udp").run()
    before = lab.take()[0]
    lab.switch.tracker.flush()
    Talk(lab, protocol="udp").run()
    after = lab.take()[0]
    assert int(before["rows"][0]) == int(after["rows"][0])
    assert int(before["generations"][0]) != int(after["generations"][0])


def test_other_rules_give_another_verdict_and_another_path() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    assert lab.verdicts() == ["none", "none"]
    lab.switch.add_flows("table=1,priority=200,ip,nw_ttl=1,actions=drop")
    talk.send(0)
    assert lab.verdicts() == ["varying-match:nw_ttl"]
    lab.switch.del_flows("table=1,ip,nw_ttl=1")
    lab.switch.add_flows("table=1,priority=300,ct_state=+est,in_port=1,actions=dec_ttl,2")
    talk.send(0)
    (record,) = lab.take()
    assert record["path"]["ttl_decrements"] == 1
    assert [flow.priority for flow in lab.paths.chain_rules(int(record["chain"]))] == [32768, 300]


def test_learning_off_tells_nothing_and_on_again_everything() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    lab.take()
    lab.paths.enable(False)
    assert not lab.paths.enabled
    lab.now_ms += 5000
    talk.send(0)
    assert lab.take() == []
    lab.paths.enable(True)
    talk.send(0)
    assert lab.verdicts() == ["none"]


def test_rules_changed_while_the_packet_waits_for_a_handler() -> None:
    """The rules that it met before may be others now: it is not told, the next one is."""
    punt = Assembler()
    punt.punt(0)
    punt.output(2)
    lab = Lab(through(EST))
    match = compile_match((("in_port", 1, 0xFFFFFFFF), ("ct_state", 0x22, 0x22)))
    lab.switch.datapath.rules.add([CompiledRule(1, 500, match, punt.finish())])
    talk = Talk(lab).run()
    assert "controller" in lab.verdicts()
    lab.switch.datapath.handle_punts(PUNT_ACTION, lambda _: lab.paths.bump("test"))
    lab.now_ms += 5000
    talk.send(0)
    assert lab.take() == []


# --- stations --------------------------------------------------------------------------------------------------------


def test_a_station_on_a_path_that_moves_begins_an_epoch() -> None:
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    talk = Talk(lab).run()
    assert lab.verdicts() == ["none", "none"]
    before = lab.paths.epoch
    heard(lab, 3, OTHER_MAC)
    heard(lab, 2, OTHER_MAC)
    assert lab.paths.epoch == before, "no path depends on that one"
    heard(lab, 3, SERVER_MAC)
    assert lab.paths.epoch == before + 1
    talk.send(0)
    (record,) = lab.take()
    assert (record["path"]["out_port"], int(record["epoch"])) == (3, before + 1)
    heard(lab, 3, CLIENT_MAC)
    assert lab.paths.epoch == before + 2, "nor may anyone else claim to be the sender"
    assert lab.paths.statistics()["epoch.stations-moved"] == 2


def test_a_station_moves_within_a_batch() -> None:
    """The packet behind the one that moved the station is already told in the new epoch."""
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    talk = Talk(lab).run()
    lab.take()
    before = lab.paths.epoch
    packets = [talk.packet(0), Packet().eth(SERVER_MAC, OTHER_MAC).arp("10.0.0.5", "10.0.0.6"), talk.packet(0)]
    lab.now_ms += 5000
    batch = batch_of(packets, time_ns=lab.now_ms * 1_000_000)
    batch.packets["in_port"] = [1, 3, 1]
    lab.switch.process(batch)
    assert [(int(r["epoch"]), int(r["path"]["out_port"])) for r in lab.take()] == [(before, 2), (before + 1, 3)]


def test_a_station_that_flaps_costs_no_new_verdicts() -> None:
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    talk = Talk(lab).run()
    before = lab.paths._state["verdicts"][0]
    for n in range(20):
        heard(lab, 3 - n % 2, SERVER_MAC)
        talk.send(0)
    assert lab.paths.statistics()["epoch.stations-moved"] == 20
    assert lab.paths._state["verdicts"][0] == before
    assert [int(record["path"]["out_port"]) for record in lab.take()[2:]] == [3, 2] * 10


def crowded(n_stations: int) -> Lab:
    lab = Lab(C1, ports=())
    lab.switch.datapath.ports.arrays = make_ports(0, n_stations)
    for port in ("p0", "p1", "p2"):
        lab.switch.add_port(port)
    return lab


def test_a_station_on_a_path_that_makes_room_begins_an_epoch() -> None:
    lab = crowded(8)
    talk = Talk(lab).run()
    lab.take()
    epochs = {lab.paths.epoch}
    for n in range(60):
        heard(lab, 2, f"02:00:00:01:00:{n:02x}")
        epochs.add(lab.paths.epoch)
    assert len(epochs) > 1
    talk.send(0)
    talk.send(1)
    assert {int(r["epoch"]) for r in lab.take()} == {lab.paths.epoch}


def test_a_station_that_falls_silent_begins_an_epoch() -> None:
    """Only the client speaks: after the age of a station `normal` floods to the server's."""
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    talk = Talk(lab, protocol="udp").run()
    lab.take()
    lab.switch.datapath.ports.configure(age_ms=10_000)
    talk.send(0)
    assert lab.verdicts() == ["none"]
    before = lab.paths.epoch
    for _ in range(3):
        lab.now_ms += 3000
        talk.send(0)
    assert lab.paths.epoch == before
    lab.take()
    lab.now_ms += 1500
    assert sorted(port for port, _ in talk.send(0)) == [2, 3]
    assert lab.paths.epoch == before + 1
    assert lab.verdicts() == ["multiple-outputs"]


def test_stations_that_were_used_elsewhere_are_not_silent() -> None:
    lab = Lab(C1, ports=("p0", "p1", "p2"))
    talk = Talk(lab, protocol="udp").run()
    lab.take()
    lab.switch.datapath.ports.configure(age_ms=10_000)
    talk.send(0)
    talk.send(1)
    there, back = lab.take()
    asked = []

    def synchronise() -> None:
        asked.append(lab.now_ms)
        for record in (there, back):
            path = record["path"]
            columns = (record["chain"], path["in_port"], 1, 60, lab.now_ms, path["eth_src"], path["vlan_tci"])
            lab.paths.account(*(np.array([column]) for column in columns))

    lab.switch.datapath.before_expiry = synchronise
    before = lab.paths.epoch
    lab.now_ms += 10_500
    assert [port for port, _ in talk.send(0)] == [2]
    assert lab.paths.epoch == before and asked == [lab.now_ms]


def test_a_port_of_a_bundle_that_goes_down_begins_an_epoch() -> None:
    rules = through(
        "table=1,ct_state=+est,ip,in_port=1,actions=bundle(eth_src,0,active_backup,ofport,members:3,2)\n"
        "table=1,ct_state=+est,ip,in_port=2,actions=1"
    )
    lab = Lab(rules, ports=("p0", "p1", "p2"))
    talk = Talk(lab).run()
    assert {int(record["path"]["out_port"]) for record in lab.take()} == {3, 1}
    epoch = lab.paths.epoch
    lab.switch.datapath.ports.set_up(3, False)
    assert lab.paths.epoch > epoch
    assert [port for port, _ in talk.send(0)] == [2]
    assert [int(record["path"]["out_port"]) for record in lab.take()] == [2]
