"""Which rules let packets skip the tables, and what is said of those that do not."""

from __future__ import annotations

import pytest

from flowshunt.conntrack.helpers import BY_NAME
from flowshunt.datapath.paths import records as R
from flowshunt.datapath.paths.verdicts import Effects, effects_of
from flowshunt.datapath.program import METER_WORDS, Assembler, Place
from flowshunt.packet.schema import FIELDS, W_FLAGS, W_REG
from tests.builders import Packet
from tests.datapath.paths.conversation import SERVER_MAC, Lab, Talk, through, verdict

EST = """table=1,priority=100,ct_state=+trk+est,in_port=1,actions=2
table=1,priority=100,ct_state=+trk+est,in_port=2,actions=1"""


def both(actions: str) -> str:
    """Established packets meet these actions, in which OUT stands for the other port."""
    return "\n".join(
        f"table=1,priority=100,ip,ct_state=+trk+est,in_port={port},actions={actions.replace('OUT', str(3 - port))}"
        for port in (1, 2)
    )


CONJUNCTION = """table=1,priority=7,ip,ct_state=+trk+est,actions=conjunction(1,1/2)
table=1,priority=7,ip,in_port=1,actions=conjunction(1,2/2)
table=1,priority=7,ip,in_port=2,actions=conjunction(1,2/2)
table=1,conj_id=1,ip,in_port=1,actions=2
table=1,conj_id=1,ip,in_port=2,actions=1"""

FIT = {
    "plain rules": EST,
    "a conjunction": CONJUNCTION,
    "a TTL rule beside the clauses of another table": CONJUNCTION
    + "\ntable=2,ip,nw_ttl=9,actions=drop\ntable=2,ip,actions=conjunction(1,1/2)",
    "one of several links": both("multipath(symmetric_l4,0,hrw,8,0,reg0[0..7]),OUT"),
    "a link that decides which rule comes next": both("multipath(symmetric_l3,0,modulo_n,1,0,reg0[]),resubmit(,2)")
    + "\ntable=2,reg0=0,in_port=1,actions=2\ntable=2,reg0=0,in_port=2,actions=1",
    "a bundle": both("bundle(eth_src,0,active_backup,ofport,members:9,OUT)"),
    "the port that bundle_load names": both(
        "bundle_load(eth_src,0,hrw,ofport,reg3[],members:OUT),output:NXM_NX_REG3[]"
    ),
    "a TTL rule of lower priority": EST + "\ntable=1,priority=99,ip,nw_ttl=1,actions=drop",
    "a TTL rule for new connections": EST + "\ntable=1,priority=200,ip,ct_state=+new,nw_ttl=64,actions=drop",
    "a TTL rule for another port": EST + "\ntable=1,priority=200,ip,in_port=9,nw_ttl=64,actions=drop",
    "a TTL rule for another address": EST + "\ntable=1,priority=200,ip,nw_src=10.0.0.9,nw_ttl=64,actions=drop",
    "a TTL rule in a table that is not visited": EST + "\ntable=7,priority=200,ip,nw_ttl=64,actions=drop",
    "an expiring TTL on a way that decrements it": both("dec_ttl,OUT")
    + "\ntable=1,priority=200,ip,nw_ttl=1,actions=drop\ntable=1,priority=200,ip,nw_ttl=0,actions=drop",
    "an expiring TTL before the second decrement": both("dec_ttl,resubmit(,2)")
    + "\ntable=2,priority=9,ip,in_port=1,actions=dec_ttl,2\ntable=2,priority=9,ip,in_port=2,actions=dec_ttl,1"
    + "\ntable=2,priority=10,ip,nw_ttl=1,actions=drop\ntable=1,priority=200,ip,nw_ttl=2,actions=drop",
    "a rule on fragments": EST + "\ntable=1,priority=200,ip,nw_frag=later,actions=drop",
    "a rule on SYN": EST + "\ntable=1,priority=200,tcp,tcp_flags=+syn,actions=drop",
    "a rule on FIN without ACK": EST + "\ntable=1,priority=200,tcp,tcp_flags=+fin-ack,actions=drop",
    "a matched rule on ACK": "table=1,priority=100,tcp,ct_state=+est,tcp_flags=+ack-syn,in_port=1,actions=2\n"
    "table=1,priority=100,tcp,ct_state=+est,tcp_flags=+ack-syn,in_port=2,actions=1",
    "an IPv6 label, which IPv4 has not": EST + "\ntable=1,priority=200,ipv6,ipv6_label=0,actions=drop",
    "other flags of another port's packets": EST + "\ntable=1,priority=200,tcp,tp_dst=81,tcp_flags=+psh,actions=drop",
    "a resubmit that finds nothing": both("resubmit(,5),OUT"),
    "a register that has another value": both("load:1->NXM_NX_REG0[],resubmit(,2),OUT")
    + "\ntable=2,priority=9,ip,reg0=2,nw_ttl=64,actions=drop",
    "the address before it was rewritten": both("mod_nw_dst:10.9.9.9,resubmit(,2),OUT")
    + "\ntable=2,priority=9,ip,nw_dst=10.0.0.2,nw_ttl=64,actions=drop\n"
    "table=2,priority=9,ip,nw_dst=10.0.0.1,nw_ttl=64,actions=drop",
    "a clone without effect": both("clone(mod_nw_src:1.1.1.1),OUT"),
    "an output to the port that it came from, which is skipped": both("output:1,output:2"),
    "untracked for the rest of the list": both("ct_clear,OUT"),
    "a TTL for controllers when it is used up": both("dec_ttl(0,5),OUT"),
    "an action set": both("write_actions(dec_ttl,mod_nw_src:1.1.1.1,output:OUT)"),
    "an action set of two tables": both("write_actions(output:9,dec_ttl),goto_table:2")
    + "\ntable=2,ip,in_port=1,actions=write_actions(2,dec_ttl)\ntable=2,ip,in_port=2,actions=write_actions(1)",
    "an action set that is emptied": both("write_actions(dec_ttl,output:9),goto_table:2")
    + "\ntable=2,ip,in_port=1,actions=2,clear_actions\ntable=2,ip,in_port=2,actions=1,clear_actions",
    "normal written over": both("write_actions(normal),goto_table:2")
    + "\ntable=2,ip,in_port=1,actions=write_actions(2)\ntable=2,ip,in_port=2,actions=write_actions(1)",
}


def protocols_of(rules: str) -> tuple[str, ...]:
    """Those whose established packets the rules let through."""
    return ("tcp",) if "tcp,ct_state=+est" in rules else ("tcp", "udp")


VARYING = {
    "a TTL rule": ("nw_ttl", EST + "\ntable=1,priority=200,ip,nw_ttl=1,actions=drop"),
    "a TTL that is left on a way that decrements it": (
        "nw_ttl",
        both("dec_ttl,OUT") + "\ntable=1,priority=200,ip,nw_ttl=2,actions=drop",
    ),
    "a TTL that is left after the decrement": (
        "nw_ttl",
        both("dec_ttl,resubmit(,2)")
        + "\ntable=2,priority=9,ip,in_port=1,actions=2\ntable=2,priority=9,ip,in_port=2,actions=1"
        + "\ntable=2,priority=10,ip,nw_ttl=1,actions=drop",
    ),
    "a TTL rule of equal priority": ("nw_ttl", EST + "\ntable=1,priority=100,ip,nw_ttl=1,actions=drop"),
    "a TTL rule before ct": ("nw_ttl", EST + "\ntable=0,priority=40000,ip,nw_ttl=1,actions=drop"),
    "a matched rule on TTL": (
        "nw_ttl",
        EST + "\ntable=1,priority=200,ip,nw_ttl=64,in_port=1,actions=2\n"
        "table=1,priority=200,ip,nw_ttl=64,in_port=2,actions=1",
    ),
    "PSH": ("tcp_flags", EST + "\ntable=1,priority=200,tcp,tcp_flags=+psh,actions=drop"),
    "PSH with ACK": ("tcp_flags", EST + "\ntable=1,priority=200,tcp,tcp_flags=+psh+ack,actions=drop"),
    "TTL where nothing matched": ("nw_ttl", both("resubmit(,5),OUT") + "\ntable=5,ip,nw_ttl=9,actions=drop"),
    "a register that has that value": (
        "nw_ttl",
        both("load:1->NXM_NX_REG0[],resubmit(,2),OUT") + "\ntable=2,ip,reg0=1,nw_ttl=2,actions=drop",
    ),
    "the address that was written": (
        "nw_ttl",
        both("mod_nw_dst:10.9.9.9,resubmit(,2),OUT") + "\ntable=2,ip,nw_dst=10.9.9.9,nw_ttl=2,actions=drop",
    ),
    "a port that resubmit names": (
        "nw_ttl",
        both("resubmit(77,2),OUT") + "\ntable=2,ip,in_port=77,nw_ttl=2,actions=drop",
    ),
    "TTL copied into a register by the action set": (
        "nw_ttl",
        both("write_actions(move:NXM_NX_IP_TTL[]->NXM_NX_REG0[0..7],output:OUT)"),
    ),
    "a TTL that the action set has yet to decrement": (
        "nw_ttl",
        both("write_actions(dec_ttl,output:OUT),goto_table:2") + "\ntable=2,priority=9,ip,nw_ttl=2,actions=drop",
    ),
    "a TTL that is left where an action set leads to": (
        "nw_ttl",
        both("write_actions(dec_ttl,resubmit(,2))")
        + "\ntable=2,priority=9,ip,in_port=1,actions=2\ntable=2,priority=9,ip,in_port=2,actions=1"
        + "\ntable=2,priority=10,ip,nw_ttl=1,actions=drop",
    ),
    "TTL copied into a register": ("nw_ttl", both("move:NXM_NX_IP_TTL[]->NXM_NX_REG0[0..7],OUT")),
    "TTL beside clauses of a conjunction": (
        "nw_ttl",
        CONJUNCTION + "\ntable=1,priority=1,ip,nw_ttl=9,actions=drop",
    ),
    "a clause on TTL": ("nw_ttl", CONJUNCTION + "\ntable=1,priority=7,ip,nw_ttl=9,actions=conjunction(9,1/2)"),
    "TOS beside clauses": ("nw_tos", CONJUNCTION + "\ntable=1,priority=1,ip,nw_tos=8,actions=drop"),
    "TTL with the TOS that it has": ("nw_ttl", EST + "\ntable=1,priority=200,ip,nw_tos=0,nw_ttl=9,actions=drop"),
}

UNFIT = {
    "two ports": ("multiple-outputs", both("OUT,IN_PORT")),
    "flooding": ("multiple-outputs", both("flood")),
    "none": ("multiple-outputs", both("drop")),
    "only in a clone, and on": ("multiple-outputs", both("clone(OUT),OUT")),
    "a TTL that is set": ("rewrite", both("mod_nw_ttl:64,OUT")),
    "a part of the packet": ("rewrite", both("output(port=OUT,max_len=99)")),
    "a second tag": ("rewrite", both("push_vlan:0x8100,push_vlan:0x8100,OUT")),
    "an action set beside an output": ("multiple-outputs", both("IN_PORT,write_actions(output:OUT)")),
    "an action set without an end": ("multiple-outputs", both("write_actions(dec_ttl)")),
    "a controller in an action set": ("controller", both("write_actions(controller)")),
    "a TTL that an action set sets": ("rewrite", both("write_actions(output:OUT,mod_nw_ttl:64)")),
    "TTL decremented in a copy only": ("rewrite", both("clone(dec_ttl),OUT")),
}


@pytest.mark.parametrize(
    ("protocol", "rules"),
    [(protocol, rules) for rules in FIT.values() for protocol in protocols_of(rules)],
    ids=[f"{protocol}: {name}" for name, rules in FIT.items() for protocol in protocols_of(rules)],
)
def test_what_does_no_harm(protocol: str, rules: str) -> None:
    lab = Lab(through(rules))
    Talk(lab, protocol=protocol).run()
    records = lab.take()
    assert [verdict(record) for record in records] == ["none", "none"]
    assert not any(int(record["path"]["flags"]) & R.MATCH_TOS for record in records)


@pytest.mark.parametrize(("field", "rules"), VARYING.values(), ids=VARYING)
def test_what_later_packets_may_match_otherwise(field: str, rules: str) -> None:
    lab = Lab(through(rules))
    Talk(lab).run()
    assert lab.verdicts() == [f"varying-match:{field}"] * 2


@pytest.mark.parametrize(("reason", "rules"), UNFIT.values(), ids=UNFIT)
def test_what_no_path_can_say(reason: str, rules: str) -> None:
    lab = Lab(through(rules))
    Talk(lab).run()
    assert lab.verdicts() == [reason] * 2


@pytest.mark.parametrize(
    "rules",
    [
        both("resubmit(,2),OUT,write_actions(normal)") + "\ntable=2,actions=clear_actions",
        both("resubmit(,2),OUT,write_actions(normal)") + "\ntable=2,actions=write_actions(output:9)",
        both("write_actions(normal),goto_table:2")
        + "\ntable=2,in_port=1,actions=clone(resubmit(,3))\ntable=2,in_port=2,actions=clone(resubmit(,3))"
        + "\ntable=3,in_port=1,actions=2,clear_actions\ntable=3,in_port=2,actions=1,clear_actions",
        both("write_actions(normal),goto_table:2")
        + "\ntable=2,ip,actions=ct(zone=1,table=3)"
        + "\ntable=3,in_port=1,actions=2,clear_actions\ntable=3,in_port=2,actions=1,clear_actions",
    ],
    ids=["emptied before it was written", "written last, read first", "a clone's set emptied", "a tracked one's"],
)
def test_normal_of_an_action_set_that_sends_nothing_for_now(rules: str) -> None:
    lab = Lab(through(rules))
    talk = Talk(lab).begin()
    lab.switch.datapath.ports.add_station(int(SERVER_MAC.replace(":", ""), 16), 0, 1)
    talk.send(0)
    assert lab.verdicts() == ["multiple-outputs"]
    lab.switch.datapath.ports.del_station(int(SERVER_MAC.replace(":", ""), 16), 0)
    assert [port for port, _ in talk.send(0)] == [2, 2]


def test_an_ipv6_label_that_a_rule_looks_at() -> None:
    lab = Lab(through(EST + "\ntable=1,priority=200,ipv6,ipv6_label=7,actions=drop"))
    Talk(lab, "2001:db8::1", "2001:db8::2").run()
    assert lab.verdicts() == ["varying-match:ipv6_label"] * 2


def test_one_chain_says_different_things_of_different_connections() -> None:
    rules = EST + "\ntable=1,priority=200,ip,nw_src=10.0.0.9,nw_ttl=1,actions=drop"
    lab = Lab(through(rules))
    Talk(lab, sport=1).run()
    Talk(lab, "10.0.0.9", sport=2).run()
    Talk(lab, sport=3).run()
    assert lab.verdicts() == ["none", "none", "varying-match:nw_ttl", "none", "none", "none"]
    assert lab.paths.statistics()["chains"] == 2


@pytest.mark.parametrize(
    "rules",
    [
        EST + "\ntable=1,priority=200,ip,nw_tos=32,actions=drop",
        EST + "\ntable=1,priority=200,ip,nw_tos=32,nw_ttl=9,actions=drop",
        "table=1,ip,ct_state=+est,nw_tos=0,in_port=1,actions=2\ntable=1,ip,ct_state=+est,nw_tos=0,in_port=2,actions=1",
        both("move:NXM_OF_IP_TOS[2..7]->NXM_NX_REG0[0..5],OUT"),
    ],
    ids=["a rule for another TOS", "for another TOS and some TTL", "the rule itself", "copied into a register"],
)
def test_a_path_for_one_tos(rules: str) -> None:
    lab = Lab(through(rules))
    Talk(lab).run()
    records = lab.take()
    assert [verdict(record) for record in records] == ["none", "none"]
    assert [(int(r["path"]["flags"]), int(r["path"]["tos"])) for r in records] == [(R.MATCH_TOS, 0)] * 2


def test_a_tos_that_is_rewritten() -> None:
    lab = Lab(through(both("mod_nw_tos:32,OUT")))
    Talk(lab, header={"tos": 8}).run()
    path = lab.take()[0]["path"]
    assert (path["flags"], path["tos"], path["new_tos"]) == (R.MATCH_TOS | R.REWRITE_TOS, 8, 32)
    Talk(lab, sport=2, header={"tos": 32}).run()
    path = lab.take()[0]["path"]
    assert (path["flags"], path["tos"], path["new_tos"]) == (R.MATCH_TOS, 32, 0), "it has that TOS already"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ttl_decrements(n: int) -> None:
    lab = Lab(through(both("dec_ttl," * n + "OUT")))
    Talk(lab).run()
    assert [int(record["path"]["ttl_decrements"]) for record in lab.take()] == [n, n]


def test_tags_and_addresses_that_are_rewritten() -> None:
    lab = Lab(through(both("mod_dl_src:02:00:00:00:00:aa,mod_dl_dst:02:00:00:00:00:bb,mod_vlan_vid:7,OUT")))
    Talk(lab).run()
    for record in lab.take():
        path = record["path"]
        assert path["flags"] == R.REWRITE_ETH_SRC | R.REWRITE_ETH_DST | R.REWRITE_VLAN
        assert (path["new_eth_src"], path["new_eth_dst"]) == (0x0200000000AA, 0x0200000000BB)
        assert (path["vlan_tci"], path["new_vlan_tci"], path["new_vlan_tpid"]) == (0, 0x1007, 0x8100)


def test_a_tag_that_is_taken_off() -> None:
    lab = Lab(through(both("strip_vlan,OUT")))
    Talk(lab, vlan=9).run()
    for record in lab.take():
        path = record["path"]
        assert (path["flags"], path["vlan_tci"]) == (R.REWRITE_VLAN, 0x1009)
        assert (path["new_vlan_tci"], path["new_vlan_tpid"]) == (0, 0)


def test_a_tag_that_stays() -> None:
    lab = Lab(through(EST))
    Talk(lab, vlan=9).run()
    assert [(int(r["path"]["vlan_tci"]), int(r["path"]["flags"])) for r in lab.take()] == [(0x1009, 0)] * 2


def test_a_tag_that_is_taken_off_and_put_on_again_is_a_change_of_its_type() -> None:
    lab = Lab(through(both("strip_vlan,push_vlan:0x8100,set_field:9->vlan_vid,OUT")))
    Talk(lab, vlan=9).run()
    for record in lab.take():
        path = record["path"]
        assert (path["flags"], path["vlan_tci"]) == (R.REWRITE_VLAN, 0x1009)
        assert (path["new_vlan_tci"], path["new_vlan_tpid"]) == (0x1009, 0x8100)


def test_a_second_tag_is_never_of_a_path() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab, vlan=9)
    double = Talk(lab)
    talk.run()
    lab.take()
    lab.now_ms += 5000
    packet = Packet().eth().vlan(9, tpid=0x88A8).vlan(8).ipv4("10.0.0.1", "10.0.0.2")
    lab.send(1, packet.tcp(1000, 80, seq=12, ack_number=101, ack=True))
    assert lab.take() == []
    double.send(0)
    assert lab.verdicts() == ["none"]


def test_ports_and_addresses_of_destination_nat_over_ipv6() -> None:
    rules = """
    table=0,ipv6,ct_state=-trk,actions=ct(zone=5,nat,table=1)
    table=1,ipv6,ct_state=+trk+new,in_port=1,actions=ct(commit,zone=5,nat(dst=[2001:db8::80]:8080)),2
    table=1,ct_state=+trk+est,in_port=1,actions=2
    table=1,ct_state=+trk+est,in_port=2,actions=1
    """
    lab = Lab(rules)
    talk = Talk(lab, "2001:db8::1", "2001:db8::2", back=("2001:db8::80", "2001:db8::1"), back_ports=(8080, 1000))
    talk.run()
    there, back = lab.take()
    assert there["path"]["tuple"] & 0xFFFF == 6 << 8 | 0x80, "bit 7 of the kind: IPv6"
    assert there["path"]["flags"] == R.REWRITE_DESTINATION | R.REWRITE_PORTS
    assert there["path"]["new_destination"].tolist() == [0x20010DB8 << 32, 0x80]
    assert (there["path"]["new_source_port"], there["path"]["new_destination_port"]) == (1000, 8080)
    assert back["path"]["flags"] == R.REWRITE_SOURCE | R.REWRITE_PORTS
    assert back["path"]["new_source"].tolist() == [0x20010DB8 << 32, 0x2]
    assert (back["path"]["new_source_port"], back["path"]["new_destination_port"]) == (80, 1000)


# --- zones and lists -------------------------------------------------------------------------------------------------


def zones(n: int) -> str:
    """One connection per zone, zones 10 to 10 + n - 1, each direction through all of them."""
    lines = ["table=0,ip,actions=ct(commit,zone=10,table=1)"]
    lines += [f"table={k},ip,actions=ct(commit,zone={10 + k},table={k + 1})" for k in range(1, n)]
    return "\n".join(lines + [f"table={n},in_port=1,actions=2", f"table={n},in_port=2,actions=1"])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_path_through_zones_names_its_connections_by_row(n: int) -> None:
    lab = Lab(zones(n))
    Talk(lab, protocol="udp").run()
    there, back = (lab.take())[::-1]
    assert there["n_zones"] == back["n_zones"] == n
    rows = there["rows"][:n].tolist()
    assert rows == sorted(set(rows)) and there["rows"].tolist() == back["rows"].tolist()
    assert (there["turned"], back["turned"]) == (0, (1 << n) - 1)
    assert there["generations"][:n].tolist() == back["generations"][:n].tolist()


def test_the_first_row_names_the_flow_whichever_zone_comes_first() -> None:
    rules = """
    table=0,in_port=1,ip,actions=ct(commit,zone=1,table=1)
    table=1,in_port=1,ip,actions=ct(commit,zone=2,table=2)
    table=0,in_port=2,ip,actions=ct(zone=2,table=1)
    table=1,in_port=2,ip,actions=ct(zone=1,table=2)
    table=2,in_port=1,actions=2
    table=2,in_port=2,actions=1
    """
    lab = Lab(rules)
    Talk(lab, protocol="udp").run()
    back, there = lab.take()
    assert there["rows"].tolist() == back["rows"].tolist()
    assert (there["turned"], back["turned"]) == (0, 3)


def test_too_many_zones() -> None:
    lab = Lab(zones(5))
    Talk(lab, protocol="udp").run()
    assert lab.verdicts() == ["too-many-zones"] * 2


def test_a_zone_where_nothing_is_committed_leaves_no_path() -> None:
    rules = through(
        "table=1,ct_state=+trk+est,actions=ct(zone=7,table=2)\ntable=2,in_port=1,actions=2\ntable=2,actions=1"
    )
    lab = Lab(rules)
    Talk(lab).run()
    assert lab.take() == []


def resubmits(n: int) -> str:
    return both(",".join(f"resubmit(,{table})" for table in range(10, 10 + n)) + ",OUT")


def test_a_chain_of_as_many_rules_as_fit_and_one_more() -> None:
    for n, wanted in ((62, "none"), (63, "long-chain"), (200, "long-chain")):
        lab = Lab(through(resubmits(n)))
        Talk(lab).run()
        records = lab.take()
        assert [verdict(record) for record in records] == [wanted] * 2, n
        assert len(lab.paths.chain_rules(int(records[0]["chain"]))) == 2


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_with_a_helper() -> None:
    assert "ftp" in BY_NAME
    rules = through(EST).replace("commit)", "commit,alg=ftp)").replace("priority=9000,", "priority=9000,tcp,")
    lab = Lab(rules)
    Talk(lab, dport=21).run()
    assert lab.verdicts() == ["helper"] * 2


def test_a_connection_that_closes_tells_nothing_more() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).run()
    lab.take()
    talk.send(0, fin=True, seq=12)
    lab.now_ms += 5000
    talk.send(1, ack_number=23)
    talk.send(0, seq=23)
    assert lab.take() == []


def test_the_linux_profile_tells_the_same() -> None:
    for protocol in ("tcp", "udp"):
        lab = Lab(through(EST), profile="linux")
        Talk(lab, protocol=protocol).run()
        assert lab.verdicts() == ["none", "none"]


def test_a_mark_that_both_directions_change_leaves_no_path() -> None:
    exec_ = "ct(commit,zone=1,exec(load:{}->NXM_NX_CT_MARK[])),{}"
    rules = "\n".join(
        f"table=1,ct_state=+trk+est,in_port={port},actions={exec_.format(mark, 3 - port)}"
        for port, mark in ((1, 1), (2, 2))
    )
    lab = Lab(through(rules))
    talk = Talk(lab).run()
    talk.send(0)
    talk.send(1)
    assert lab.take() == []


def test_a_mark_that_is_set_for_good_does() -> None:
    for field, value in (("CT_MARK", 7), ("CT_LABEL", 7)):
        width = 32 if field == "CT_MARK" else 64
        rules = both(f"ct(commit,zone=1,exec(load:{value}->NXM_NX_{field}[0..{width - 1}])),OUT")
        lab = Lab(through(rules))
        talk = Talk(lab, protocol="udp").run()
        assert lab.verdicts() == ["none"], f"the first answer changed the {field}"
        talk.send(1)
        assert lab.verdicts() == ["none"]


# --- packets that say nothing of others -------------------------------------------------------------------------------


def test_packets_with_options_are_told_only_while_there_is_no_path() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab, protocol="udp").begin()
    talk.send(1, header={"options": b"\x94\x04\x00\x00"})
    assert lab.verdicts() == ["ip-options"]
    talk.send(1, header={"options": b"\x94\x04\x00\x00"})
    assert lab.verdicts() == [], "told lately"
    talk.send(1)
    assert lab.verdicts() == ["none"], "the path is told at once"
    lab.now_ms += 5000
    talk.send(1, header={"options": b"\x94\x04\x00\x00"})
    assert lab.verdicts() == []


def test_a_conversation_in_fragments() -> None:
    lab = Lab(through(EST))
    talk = Talk(lab, protocol="udp").begin()
    whole = talk.packet(1, size=2992).bytes()
    ip, body = whole[:34], whole[34:]

    def fragment(start: int, end: int, more: bool) -> Packet:
        packet = Packet().eth(ip[6:12].hex(":"), ip[:6].hex(":"))
        packet = packet.ipv4("10.0.0.2", "10.0.0.1", id=9, offset=start // 8, mf=more, protocol=17)
        return packet.payload(body[start:end])

    lab.send(2, fragment(0, 1480, True))
    lab.send(2, fragment(1480, 3000, False))
    assert lab.verdicts() == ["fragments"]


@pytest.mark.parametrize("flags", [{"fin": True}, {"rst": True}, {"syn": True}, {"ack": False}])
def test_segments_that_never_skip_the_tables_tell_no_path(flags: dict[str, bool]) -> None:
    lab = Lab(through(EST))
    talk = Talk(lab).begin()
    talk.send(0, **flags)
    assert lab.take() == []


def test_other_protocols_are_not_noted() -> None:
    lab = Lab(through(EST))
    for d in range(4):
        ends = ("10.0.0.1", "10.0.0.2") if d % 2 == 0 else ("10.0.0.2", "10.0.0.1")
        lab.send(d % 2 + 1, Packet().eth().ipv4(*ends).icmp(8 if d % 2 == 0 else 0, id=5).payload(b"x"))
        lab.send(d % 2 + 1, Packet().eth().ipv4(*ends).sctp(5, 6).payload(b"\0\0\0\4"))
    assert lab.take() == [] and lab.paths.statistics()["noted"] == 0


# --- actions ---------------------------------------------------------------------------------------------------------


def place(name: str) -> Place:
    return Place(*FIELDS[name])


def test_actions_that_are_not_known_are_refused() -> None:
    assert effects_of((200, 0)).unfit == R.UNFIT.index("rewrite")


@pytest.mark.parametrize(
    ("reason", "actions"),
    [
        ("controller", "controller,OUT"),
        ("group", "group:1,OUT"),
        ("policer", "meter:1,OUT"),
        ("none", "resubmit(,3),OUT"),
    ],
    ids=["the controller", "a group", "a meter", "an exit of another list"],
)
def test_actions_that_do_more_than_forward(reason: str, actions: str) -> None:
    lab = Lab("")
    lab.switch.datapath.rules.linker.groups.put(1, [0])
    lab.switch.datapath.rules.linker.meters.put(1, [0] * METER_WORDS)
    lab.switch.add_flows(through(both(actions) + "\ntable=3,actions=ct_clear"))
    Talk(lab).run()
    assert lab.verdicts() == [reason] * 2


def test_an_output_whose_port_varies() -> None:
    assembler = Assembler()
    assembler.output_field(place("nw_ttl"))
    found = effects_of(assembler.finish())
    assert (found.unfit, tuple(FIELDS)[found.parameter]) == (R.UNFIT.index("varying-match"), "nw_ttl")


def test_a_mark_from_what_varies() -> None:
    body = Assembler()
    body.move(place("nw_ttl"), Place(FIELDS["ct_mark"].word, 0, 8))
    assembler = Assembler()
    assembler.ct(1, None, 0, masks=(0xFF, 0, 0), program=tuple(body.words), nat=(1, 2, 3, 4))
    found = effects_of(assembler.finish())
    assert (found.unfit, tuple(FIELDS)[found.parameter]) == (R.UNFIT.index("varying-match"), "nw_ttl")


def test_nested_lists_count() -> None:
    body = Assembler()
    body.dec_ttl()
    assembler = Assembler()
    assembler.clone(body.finish())
    assembler.dec_ttl()
    assembler.set(W_REG, 1, 1)
    assembler.output(0xFFFA)
    assert effects_of(assembler.finish()) == Effects(decrements=2, normals=1)
    assembler.set(W_FLAGS, 0xFFFFF << 16, 0)
    assert effects_of(assembler.finish()).unfit == R.UNFIT.index("rewrite")
