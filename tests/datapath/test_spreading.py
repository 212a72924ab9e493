"""Multipath, bundle and truncated output."""

from __future__ import annotations

from collections import Counter

import pytest

from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow.links import ALGORITHMS, HASH_FIELDS, MEMBER_ALGORITHMS
from flowshunt.rules.openflow.parse import parse_flow
from tests.builders import Packet
from tests.datapath.switches import send, switch, udp

N_PACKETS = 200


def with_flows(*texts: str) -> Datapath:
    return switch(*map(parse_flow, texts), ports=range(1, 10))


def tcp(source: str, destination: str, sport: int, dport: int) -> Packet:
    return Packet().eth().ipv4(source, destination).tcp(sport, dport, ack=True)


def conversations(n: int = N_PACKETS) -> list[Packet]:
    return [tcp(f"10.0.0.{k}", f"10.9.0.{255 - k}", 1000 + k, 80) for k in range(n)]


def ports_of(datapath: Datapath, packets: list[Packet]) -> list[int | None]:
    sent = [send(datapath, packet, in_port=9) for packet in packets]
    return [frames[0].port if frames else None for frames in sent]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n_links", [1, 2, 5, 8])
def test_multipath_uses_all_links_about_equally(algorithm: str, n_links: int) -> None:
    datapath = with_flows(
        f"ip,actions=multipath(symmetric_l3l4,7,{algorithm},{n_links},0,reg0[0..15]),resubmit(,1)",
        *(f"table=1,reg0={link},actions=output:{link + 1}" for link in range(8)),
    )
    used = Counter(ports_of(datapath, conversations()))
    assert set(used) == set(range(1, n_links + 1))
    assert min(used.values()) > N_PACKETS / n_links / 3


@pytest.mark.parametrize("fields", [name for name in HASH_FIELDS if name.startswith("symmetric")])
def test_both_directions_take_the_same_link(fields: str) -> None:
    datapath = with_flows(
        f"ip,actions=multipath({fields},7,hrw,8,0,reg0[4..19]),move:reg0[4..19]->reg1[0..15],resubmit(,1)",
        *(f"table=1,reg1={link},actions=output:{link + 1}" for link in range(8)),
    )
    back = [
        Packet().eth(source="02:00:00:00:00:02", destination="02:00:00:00:00:01")
        .ipv4(f"10.9.0.{255 - k}", f"10.0.0.{k}").tcp(80, 1000 + k, ack=True)
        for k in range(30)
    ]  # fmt: skip
    there = [
        Packet().eth(source="02:00:00:00:00:01", destination="02:00:00:00:00:02")
        .ipv4(f"10.0.0.{k}", f"10.9.0.{255 - k}").tcp(1000 + k, 80, ack=True)
        for k in range(30)
    ]  # fmt: skip
    assert ports_of(datapath, there) == ports_of(datapath, back)


@pytest.mark.parametrize(
    ("fields", "other", "differs"),
    [
        ("eth_src", tcp("10.0.0.1", "10.0.0.2", 5, 6), False),
        ("nw_src", tcp("10.0.0.1", "10.0.0.9", 5, 6), False),
        ("nw_dst", tcp("10.0.0.9", "10.0.0.2", 5, 6), False),
        ("symmetric_l3", tcp("10.0.0.1", "10.0.0.2", 7, 8), False),
        ("nw_src", tcp("10.0.0.9", "10.0.0.2", 5, 6), True),
        ("nw_dst", tcp("10.0.0.1", "10.0.0.9", 5, 6), True),
        ("symmetric_l4", tcp("10.0.0.1", "10.0.0.2", 5, 7), True),
        ("symmetric_l3l4", tcp("10.0.0.1", "10.0.0.2", 5, 7), True),
    ],
)  # fmt: skip
def test_what_is_hashed_decides(fields: str, other: Packet, differs: bool) -> None:
    found = []
    for packet in (tcp("10.0.0.1", "10.0.0.2", 5, 6), other):
        texts = [f"priority={n},ip,in_port={n},actions=multipath({fields},{n},modulo_n,65536,0,reg0[0..15]),"
                 "move:reg0[0..15]->tcp_src,output:9" for n in range(1, 9)]  # fmt: skip
        datapath = with_flows(*(text.replace("ip,", "tcp,") for text in texts))
        found.append([send(datapath, packet, in_port=n)[0].frame[34:36] for n in range(1, 9)])
    assert (found[0] != found[1]) == differs


def test_udp_ports_count_only_where_asked_for() -> None:
    for fields, differs in (("symmetric_l3l4", False), ("symmetric_l3l4+udp", True)):
        datapath = with_flows(
            f"udp,actions=multipath({fields},1,modulo_n,65536,0,reg0[0..15]),move:reg0[0..15]->udp_src,2"
        )
        frames = [send(datapath, udp(sport=sport))[0].frame[34:36] for sport in (1000, 1001)]
        assert (frames[0] != frames[1]) == differs


@pytest.mark.parametrize("algorithm", MEMBER_ALGORITHMS)
def test_a_bundle_passes_over_ports_that_are_down_or_not_there(algorithm: str) -> None:
    datapath = with_flows(f"ip,actions=bundle(symmetric_l3l4,0,{algorithm},ofport,members:77,3,4,5)")
    before = ports_of(datapath, conversations())
    assert set(before) == ({3} if algorithm == "active_backup" else {3, 4, 5})
    version = datapath.ports.version
    datapath.ports.set_up(3, False)
    assert datapath.ports.version > version
    after = ports_of(datapath, conversations())
    assert set(after) == ({4} if algorithm == "active_backup" else {4, 5})
    if algorithm == "hrw":
        assert all(old in (3, new) for old, new in zip(before, after, strict=True))
    datapath.ports.remove(4)
    datapath.ports.set_up(5, False)
    assert set(ports_of(datapath, conversations(9))) == {None}
    datapath.ports.set_up(3, True)
    assert set(ports_of(datapath, conversations(9))) == {3}


def test_bundle_load_gives_the_port_or_none() -> None:
    datapath = with_flows(
        "in_port=9,ip,actions=set_field:0xffffffff->reg0,bundle_load(eth_src,0,active_backup,ofport,reg0[],members:3),"
        "resubmit(,1)",
        "table=1,reg0=3,actions=output:NXM_NX_REG0[]",
        "table=1,reg0=0xffff,actions=output:7",
    )
    assert ports_of(datapath, conversations(1)) == [3]
    datapath.ports.set_up(3, False)
    assert ports_of(datapath, conversations(1)) == [7]


def test_truncated_output_leaves_the_packet_whole_for_others() -> None:
    datapath = with_flows(
        "actions=output(port=2,max_len=20),3,output(port=4,max_len=1000),output(port=in_port,max_len=14)"
    )
    frame = udp()
    sent = send(datapath, frame, in_port=1)
    whole = next(s.frame for s in sent if s.port == 3)
    assert [(s.port, s.frame) for s in sent] == [(2, whole[:20]), (3, whole), (4, whole), (1, whole[:14])]
    result = datapath.process(_batch(frame))
    assert result.tx["cut"].tolist() == [1, 0, 0, 1]


def test_a_truncated_output_of_a_changed_packet_is_changed() -> None:
    datapath = with_flows("ip,actions=mod_nw_src:9.9.9.9,output(port=2,max_len=30)")
    (sent,) = send(datapath, udp())
    assert (len(sent.frame), sent.frame[26:30]) == (30, bytes((9, 9, 9, 9)))


def _batch(packet: Packet) -> object:
    from tests.builders import batch_of

    return batch_of([packet], in_port=1, time_ns=10**15)
