"""A trace says what the switch does: random rules and packets, told and then sent."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.app import Switch
from flowshunt.base.errors import UsageError
from flowshunt.datapath.tables import Datapath
from flowshunt.datapath.tracing import run
from flowshunt.datapath.tracing.run import Tracer
from flowshunt.packet.schema import FIELDS
from flowshunt.rules.openflow.tracing.explain import Asked, explain
from flowshunt.rules.openflow.tracing.keys import header_places, read, write
from flowshunt.rules.openflow.tracing.request import read_flow
from flowshunt.rules.openflow.tracing.story import Group
from flowshunt.rules.openflow.tracing.text import story_text
from tests.builders import Packet, batch_of
from tests.datapath.switches import Sent, send_batch

START_MS = 1_700_000_000_000
TABLES = 4
LEADING = ("0", "1", "2", "3")
MATCHES = (
    "", "ip", "tcp", "udp", "arp", "ipv6", "in_port=1", "in_port=2,ip", "ip,nw_src=10.0.0.0/30", "ip,nw_dst=10.0.0.2",
    "udp,tp_dst=5", "udp,tp_dst=4/0xfffc", "reg0=1", "ip,nw_ttl=63", "dl_vlan=7", "metadata=3",
    "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
)  # fmt: skip
TRACKED = (
    "ct_state=+trk+new,ip", "ct_state=+trk+est,ip", "ct_state=-trk,ip", "ct_mark=5,ct_state=+trk,ip",
    "ct_state=+inv+trk",
)  # fmt: skip
ACTIONS = (
    "output:1",
    "output:2",
    "output:3",
    "output:9",
    "normal",
    "flood",
    "all",
    "in_port",
    "resubmit(,1)",
    "resubmit(,2)",
    "resubmit(,3)",
    "resubmit(2,3)",
    "mod_dl_dst:00:00:00:00:00:09",
    "mod_nw_src:10.0.0.7",
    "dec_ttl",
    "mod_vlan_vid:7",
    "strip_vlan",
    "load:1->NXM_NX_REG0[]",
    "move:NXM_OF_IP_DST[0..7]->NXM_NX_REG1[8..15]",
    "exit",
    "clone(mod_nw_src:10.9.9.9,output:2)",
    "clone(resubmit(,2),output:1)",
    "output:NXM_NX_REG0[0..15]",
    "push:NXM_NX_REG0[],pop:NXM_NX_REG2[]",
    "check_pkt_larger(80)->NXM_NX_REG3[0]",
    "note:01.02",
    "multipath(symmetric_l4,1,modulo_n,3,0,NXM_NX_REG0[])",
    "multipath(symmetric_l3l4,1,hrw,3,0,NXM_NX_REG0[0..3])",
    "multipath(nw_src,1,iter_hash,3,0,NXM_OF_IN_PORT[])",
    "bundle(eth_src,0,hrw,ofport,members:1,2,3)",
    "bundle_load(symmetric_l3,0,hrw,ofport,NXM_NX_REG0[],members:9,2,3)",
    "output(port=2,max_len=40)",
    "dec_ttl(0,3)",
)
CONJUNCTIONS = """
table=0,priority=3,udp,actions=conjunction(1,1/2)
table=0,priority=3,ip,nw_src=10.0.0.0/30,actions=conjunction(2,1/2)
table=0,priority=3,in_port=1,actions=conjunction(1,2/2),conjunction(2,2/2)
table=0,conj_id=1,udp,actions=output:2
table=0,priority=1,conj_id=2,ip,tp_dst=5,actions=resubmit(,1)
"""  # fmt: skip
SETS = (
    "",
    "",
    "clear_actions",
    "write_actions(output:3)",
    "write_actions(dec_ttl,output:2,mod_dl_dst:00:00:00:00:00:08)",
    "clear_actions,write_actions(push_vlan:0x8100,in_port)",
    "write_actions(resubmit(,3))",
    "write_actions(move:NXM_OF_IP_DST[0..7]->NXM_NX_REG1[8..15])",
)  # fmt: skip
TRACKING = (
    "ct(table=1)", "ct(table=2,zone=5)", "ct(commit)", "ct(commit,zone=5,exec(load:5->NXM_NX_CT_MARK[]),table=3)",
    "ct(commit,nat(src=10.0.0.100),table=2)", "ct(nat,table=3)", "ct_clear", "controller",
    "learn(table=3,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
)  # fmt: skip


def rules(matches: tuple[str, ...], actions: tuple[str, ...]) -> st.SearchStrategy[str]:
    """A text of flows whose actions lead to later tables only: others may lead round thousands of times."""

    def line(table: int, priority: int, match: str, done: list[str], written: str) -> str:
        kept = [
            action
            for action in (*done, *[written] * bool(written))
            if not any(f"{before})" in action or f"table={before}," in action for before in LEADING[: table + 1])
        ]
        return f"table={table},priority={priority}{',' * bool(match)}{match},actions={','.join(kept) or 'drop'}"

    one = st.builds(
        line,
        st.integers(0, TABLES - 1),
        st.integers(1, 5),
        st.sampled_from(matches),
        st.lists(st.sampled_from(actions), max_size=4),
        st.sampled_from(SETS),
    )
    lines = st.lists(one, min_size=1, max_size=14).map("\n".join)
    return st.builds(str.__add__, lines, st.sampled_from(("", CONJUNCTIONS)))


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, Packet]:
    """An input port and a packet; the same few addresses and ports come again and again."""
    hosts = st.integers(1, 4)
    packet = Packet().eth(f"00:00:00:00:00:0{draw(hosts)}", f"00:00:00:00:00:0{draw(hosts)}")
    if draw(st.booleans()) and draw(st.booleans()):
        packet = packet.vlan(draw(st.sampled_from((0, 7))))
    kind = draw(st.sampled_from(("udp", "udp", "tcp", "tcp", "icmp", "arp", "udp6")))
    ends = (f"10.0.0.{draw(hosts)}", f"10.0.0.{draw(hosts)}")
    ports = (draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    match kind:
        case "udp":
            packet = packet.ipv4(*ends).udp(*ports)
        case "tcp":
            syn, ack = draw(st.sampled_from(((True, False), (True, True), (False, True))))
            packet = packet.ipv4(*ends).tcp(*ports, syn=syn, ack=ack)
        case "icmp":
            packet = packet.ipv4(*ends).icmp(8, id=draw(hosts))
        case "arp":
            packet = packet.arp(*ends)
        case "udp6":
            packet = packet.ipv6(f"fd00::{draw(hosts)}", f"fd00::{draw(hosts)}").udp(*ports)
    return draw(st.integers(1, 3)), packet


class Seen(NamedTuple):
    """A switch as a bridge without groups and patch ports."""

    switch: Switch
    name: str = "br0"

    @property
    def datapath(self) -> Datapath:
        return self.switch.datapath

    @property
    def ports(self) -> dict[str, int]:
        return dict(self.switch.ports)

    def group(self, number: int) -> Group | None:
        return None

    def datapath_port(self, number: int) -> str:
        return str(number)

    def peer(self, number: int) -> None:
        return None


def switch(flows: str) -> Switch:
    made = Switch(seed=1, max_connections=1000)
    for name in ("p1", "p2", "p3"):
        made.add_port(name)
    for flow in flows.splitlines():
        with suppress(UsageError):  # an action whose protocol the match lacks
            made.add_flows(flow)
    return made


def digest(one: Switch) -> str:
    """Of all memory that a packet could change."""
    tables, ports, tracker = one.datapath.rules.arrays, one.datapath.ports.arrays, one.tracker.arrays
    n_rules, used = int(tables.state["n_rules"][0]), int(tables.state["pool_used"][0])
    parts = (
        tables.rules[:n_rules], tables.pool[:used], tables.tables, tables.state, *ports, tracker.state,
        tracker.conns[:64], tracker.exts[:64], tracker.wheel, tracker.buckets[:512], tracker.events[:64],
        tracker.counters[:4096], tracker.zones, one.datapath._output.counters, one.datapath._output.fates,
    )  # fmt: skip
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@settings(max_examples=60)
@given(rules(MATCHES + TRACKED, ACTIONS + TRACKING), st.lists(packets(), min_size=1, max_size=6))
def test_what_is_told_is_what_happens(flows: str, sequence: list[tuple[int, Packet]]) -> None:
    one = switch(flows)
    for n, (in_port, packet) in enumerate(sequence):
        now_ns = (START_MS + 10 * n) * 1_000_000
        batch = batch_of([packet], in_port=in_port, time_ns=now_ns)
        one.process(batch_of([], time_ns=now_ns))
        before = digest(one)
        with Tracer() as tracer:
            told = tracer.trace(one.datapath, packet.bytes(), in_port, now_ns)
        story = explain(Asked(Seen(one), write([("in_port", in_port)]), packet.bytes(), is_real=True), now_ns)
        assert story_text(story.story, story.sources)
        assert digest(one) == before
        frames = [Sent(frame.port, frame.data) for frame in told.frames]
        (sent,) = send_batch(one.datapath, batch)
        assert frames == sent
        assert (told.fate, told.ct_state) == (one.datapath._output.fate[0], one.datapath._output.ct_state[0])


@settings(max_examples=80)
@given(rules(MATCHES, ACTIONS), packets(), st.randoms(use_true_random=False))
def test_packets_with_the_same_megaflow_fare_alike(flows: str, sample: tuple[int, Packet], random: object) -> None:
    one = switch(flows)
    in_port, packet = sample
    first = explain(Asked(Seen(one), write([("in_port", in_port)]), packet.bytes()), START_MS * 1_000_000).story
    chapter = first.chapters[0]
    mask, key = tuple(chapter.part.mask), chapter.part.key
    if chapter.failure:
        return
    values = [("in_port", in_port), ("vlan_tpid", read(key, "vlan_tpid"))]
    for place in header_places(key):
        width = FIELDS[place].width
        kept = (1 << width) - 1 if place in ("eth_type", "nw_frag", "nw_proto", "vlan_tci") else read(mask, place)
        other = random.getrandbits(width)  # type: ignore[attr-defined]
        values.append((place, read(key, place) & kept | other & ~kept))
    second = explain(Asked(Seen(one), write(values)), START_MS * 1_000_000).story
    assert second.chapters[0].actions == chapter.actions


def test_ct_next_goes_to_recirculations_in_the_order_in_which_they_are_told() -> None:
    flows = """
    table=0,ip,actions=ct(table=1),ct(table=2)
    table=1,ip,actions=ct(table=3)
    table=2,ip,actions=output:2
    table=3,ip,actions=output:3
    """
    one = switch(flows)
    states = (0x22, 0x2A, 0x30)  # est, est|rpl, inv
    asked = Asked(Seen(one), read_flow("in_port=1,udp", one.ports), ct_next=states)
    chapters = explain(asked, START_MS * 1_000_000).story.chapters
    found = [
        (chapter.part.cause.instruction[0] >> 16 & 0xFF, read(chapter.part.key, "ct_state"))
        for chapter in chapters[1:]
        if chapter.part.cause
    ]
    assert found == [(1, 0x22), (2, 0x2A), (3, 0x30)]


def test_a_flow_as_it_was_printed_can_be_asked_again() -> None:
    one = switch("tcp,actions=output:2")
    asked = Asked(
        Seen(one), read_flow("in_port=1,tcp,ct_state=trk|new,dl_vlan=7,nw_src=10.0.0.1,tcp_flags=syn", one.ports)
    )
    text = story_text(explain(asked, 0).story, {})
    printed = text.partition("Flow: ")[2].partition("\n")[0]
    assert read_flow(printed, one.ports) == asked.key


@pytest.mark.parametrize(
    ("asked", "tos"), [("nw_tos=16", 16), ("nw_tos=0,nw_ecn=2", 2), ("nw_ecn=1", 1), ("ip_dscp=1", 4)]
)
def test_parts_of_the_type_of_service_can_be_asked(asked: str, tos: int) -> None:
    assert read(read_flow(f"in_port=1,ip,{asked}", {}), "nw_tos") == tos


def test_a_way_that_takes_too_long_is_given_up_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    one = switch("ip,actions=ct(commit),normal")
    monkeypatch.setattr(run, "MOST_SECONDS", -1.0)
    before = digest(one)
    with pytest.raises(UsageError, match="too long to be told"):
        explain(Asked(Seen(one), read_flow("in_port=1,udp", one.ports)), START_MS * 1_000_000)
    assert digest(one) == before
