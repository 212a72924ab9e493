from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.table import Tracker
from flowshunt.datapath.paths.records import FLOW
from flowshunt.datapath.schema import FATES
from flowshunt.datapath.shunt.schema import MAX_OWNERS
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow.compile import FlowCompiler
from flowshunt.rules.openflow.parse import parse_flows
from tests.builders import Packet, batch_of
from tests.datapath.shunt.forwarder import HandForwarder
from tests.datapath.switches import Sent, send

BRIDGE = """
table=0,ip,actions=ct(table=1)
table=0,ipv6,actions=ct(table=1)
table=1,ct_state=+new,actions=ct(commit),resubmit(,2)
table=1,ct_state=+est,actions=resubmit(,2)
table=1,ct_state=+rel,actions=resubmit(,2)
table=2,in_port=1,actions=output:2
table=2,in_port=2,actions=output:1
"""
CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
START = 1_000_000


def make(rules: str = BRIDGE, profile: str = "default", **options: Any) -> HandForwarder:
    datapath = Datapath(Tracker(profile, max_connections=1000, seed=1), compiler=FlowCompiler())
    for port in (1, 2, 3):
        datapath.ports.add(port)
    datapath.add_flows(flow for _, flow in parse_flows(rules))
    return HandForwarder(datapath, datapath.shunt.share("test"), **options)


def query(payload: bytes | int = b"q", **ip: Any) -> Packet:
    return Packet().eth().ipv4(CLIENT, SERVER, **ip).udp(1000, 53).payload(payload)


def answer(payload: bytes | int = b"a", **ip: Any) -> Packet:
    return (
        Packet().eth("02:00:00:00:00:02", "02:00:00:00:00:01").ipv4(SERVER, CLIENT, **ip).udp(53, 1000).payload(payload)
    )


def through(hand: HandForwarder, packet: Packet, in_port: int = 1, time_ms: int = START) -> int:
    """Send a packet; how many hits it was."""
    before = hand.share.hits
    hand.process(batch_of([packet], in_port=in_port, time_ns=time_ms * 1_000_000))
    return hand.share.hits - before


def talk_udp(hand: HandForwarder) -> None:
    for packet, port in ((query(), 1), (answer(), 2), (query(), 1)):
        assert not through(hand, packet, port)
    assert len(hand.share) == 1


def shake_hands(hand: HandForwarder) -> None:
    """A TCP handshake and an acknowledgement each way, after which the connection is shunted."""
    flags = {"ack": True}
    opening = Packet().eth().ipv4(CLIENT, SERVER).tcp(1000, 80, seq=1000, syn=True)
    answered = Packet().eth().ipv4(SERVER, CLIENT).tcp(80, 1000, seq=1000, ack_number=1001, syn=True, ack=True)
    assert not through(hand, opening) and not through(hand, answered, 2)
    for reply in (False, True):
        assert not through(hand, data(reply, **flags), 2 if reply else 1)
    assert len(hand.share) == 1


def data(reply: bool = False, size: int = 0, seq: int = 1, **flags: bool) -> Packet:
    source, destination, ports = (SERVER, CLIENT, (80, 1000)) if reply else (CLIENT, SERVER, (1000, 80))
    packet = Packet().eth().ipv4(source, destination)
    return packet.tcp(*ports, seq=1000 + seq, ack_number=1001, **flags).payload(bytes(size))


def causes(hand: HandForwarder) -> dict[str, int]:
    """Why packets took the long way, as far as any did."""
    prefix = "long-way."
    found = hand.datapath.shunt.statistics()
    return {name.removeprefix(prefix): n for name, n in found.items() if name.startswith(prefix) and n}


def test_an_answered_udp_connection_is_shunted_in_both_directions() -> None:
    hand = make()
    talk_udp(hand)
    assert through(hand, query()) == 1
    assert through(hand, answer(), 2) == 1
    assert send(hand.datapath, query(b"bytes")) == [Sent(2, query(b"bytes").bytes())]
    assert hand.share.hits == 3
    statistics = hand.datapath.statistics()
    assert statistics["shunted"] == 3
    assert statistics["frames-sent"] == statistics["packets"] == 6


def test_a_hit_is_counted_by_ports_entry_and_fate_and_has_the_ct_state_of_the_path() -> None:
    hand = make()
    talk_udp(hand)
    ports = hand.datapath.ports.arrays
    before = ports.ports.copy()
    frame = query(40).pad(10).bytes()
    result = hand.process(batch_of([frame] * 3))
    assert result.ct_state.tolist() == [0x22] * 3
    assert [FATES[fate] for fate in result.fate] == ["output"] * 3
    assert (ports.ports["rx_packets"] - before["rx_packets"]).tolist() == [3, 0, 0]
    assert (ports.ports["tx_bytes"] - before["tx_bytes"]).tolist() == [0, 3 * len(frame), 0]
    (row,) = (connection.id for connection in hand.tracker.connections())
    (usage,) = hand.share.usage(np.array([row]), np.array([0]), START + 5)
    assert usage["packets"].tolist() == [3, 0]
    assert usage["bytes"].tolist() == [3 * 68, 0]
    assert usage["frame_bytes"].tolist() == [3 * len(frame), 0]
    assert usage["last_used_ms"].tolist() == [START, START]
    assert usage["counted_ms"] == START + 5
    (again,) = hand.share.usage(np.array([row]), np.array([0]), START + 6)
    assert again["packets"].tolist() == [0, 0]
    assert again["last_used_ms"].tolist() == [START, START]


@pytest.mark.parametrize(
    ("packet", "cause"),
    [
        (query(ttl=1), "ttl"),
        (query(100), "size"),
        (query(options=bytes([1, 1, 1, 0])), "options"),
        (query(tos=4), "tos"),
        (query(mf=True), "not-fit"),
        (Packet().eth("02:00:00:00:00:99").ipv4(CLIENT, SERVER).udp(1000, 53).payload(b"q"), "link"),
        (Packet().eth().vlan(7).ipv4(CLIENT, SERVER).udp(1000, 53).payload(b"q"), "link"),
        (Packet().eth().ipv4(CLIENT, SERVER).udp(1001, 53).payload(b"q"), "absent"),
        (Packet().eth().ipv4(CLIENT, SERVER).icmp(8, id=1), "not-fit"),
        (query().cut(40), "not-fit"),
    ],
)
def test_what_a_path_does_not_cover_takes_the_long_way(packet: Packet, cause: str) -> None:
    rules = BRIDGE.replace("actions=output", "actions=dec_ttl,output")
    hand = make(rules, match_tos=True, mtu=100)
    talk_udp(hand)
    assert through(hand, query(72)) == 1
    before = causes(hand)
    assert not through(hand, packet)
    after = causes(hand)
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)} == {
        cause: 1
    }


def test_the_segments_of_a_gso_packet_are_measured_not_the_whole() -> None:
    hand = make(mtu=1500)
    shake_hands(hand)
    for segment_size, hits in ((1460, 1), (1461, 0)):
        batch = batch_of([data(size=20_000, ack=True)], time_ns=START * 1_000_000)
        batch.packets["gso_size"] = segment_size
        before = hand.share.hits
        hand.process(batch)
        assert hand.share.hits - before == hits


@pytest.mark.parametrize("flags", [{"syn": True}, {"fin": True, "ack": True}, {"rst": True}, {"psh": True}])
def test_segments_that_open_or_close_and_those_without_ack_are_for_the_tracker(flags: dict[str, bool]) -> None:
    hand = make()
    shake_hands(hand)
    assert through(hand, data(ack=True)) == 1
    assert not through(hand, data(**flags))
    assert causes(hand)["tcp-flags"] == 1


def test_a_flag_that_the_tracker_has_not_seen_yet_is_shown_to_it_once() -> None:
    hand = make()
    shake_hands(hand)
    assert not through(hand, data(size=5, ack=True, psh=True))
    assert through(hand, data(size=5, seq=6, ack=True, psh=True)) == 1
    (connection,) = hand.tracker.connections()
    assert hand.tracker.arrays.conns["tcp_flags"][connection.id].tolist() == [0x1A, 0x12]


@pytest.mark.parametrize("reply", [False, True])
def test_after_a_fin_the_connection_comes_back_for_good_in_both_directions(reply: bool) -> None:
    hand = make()
    shake_hands(hand)
    batch = batch_of([data(reply, ack=True, fin=True), data(reply, seq=2, ack=True)], in_port=2 if reply else 1)
    batch.packets["time_ns"] = START * 1_000_000
    hand.process(batch)  # the FIN ends it within the batch
    assert hand.share.hits == 0
    assert not through(hand, data(not reply, ack=True), 1 if reply else 2)
    assert len(hand.share) == 0
    assert hand.datapath.shunt.statistics()["killed"] == 1


@pytest.mark.parametrize("change", ["mark", "label", "flush"])
def test_a_changed_connection_is_not_hit_any_more(change: str) -> None:
    hand = make()
    talk_udp(hand)
    (connection,) = hand.tracker.connections()
    name = connection.id, connection.generation
    hand._watch = lambda events: None  # type: ignore[method-assign]
    if change == "mark":
        hand.tracker.set_mark(*name, 7)
    elif change == "label":
        hand.tracker.set_label(*name, 7)
    else:
        hand.tracker.flush()
    assert not send(hand.datapath, query()) or hand.share.hits == 0
    assert hand.datapath.shunt.statistics()["killed"] == 1


def test_a_mark_set_by_a_packet_ends_hits_within_the_batch() -> None:
    rules = BRIDGE.replace(
        "ct_state=+est,actions=", "ct_state=+est,actions=ct(commit,exec(move:NXM_NX_REG0[]->NXM_NX_CT_MARK[])),"
    )
    rules = rules.replace("table=0,ip,actions=", "table=0,ip,actions=move:NXM_OF_IP_TOS[]->NXM_NX_REG0[0..7],")
    hand = make(rules, match_tos=True)
    talk_udp(hand)
    hand.process(batch_of([query(), query(tos=8), query()], time_ns=START * 1_000_000))
    assert hand.share.hits == 1
    assert {connection.mark for connection in hand.tracker.connections()} == {0}


def test_a_new_epoch_sends_all_the_long_way_until_they_are_renewed() -> None:
    hand = make()
    talk_udp(hand)
    hand.datapath.shunt.set_epoch(1)
    assert not send(hand.datapath, query()) or not hand.share.hits
    assert causes(hand)["epoch"] == 1
    (row,) = (connection.id for connection in hand.tracker.connections())
    hand.share.renew(np.array([row]), np.array([0]), hand.epoch)
    assert through(hand, query()) == 1


def test_after_a_silence_one_packet_takes_the_long_way_and_the_next_is_a_hit() -> None:
    hand = make()
    shake_hands(hand)
    assert through(hand, data(ack=True), time_ms=START + 29_999) == 1
    assert not through(hand, data(ack=True), time_ms=START + 59_999)
    assert causes(hand)["idle"] == 1
    assert through(hand, data(ack=True), time_ms=START + 60_000) == 1


def test_a_connection_that_would_have_expired_is_over_when_its_next_packet_comes() -> None:
    """UDP lives 30 s after a packet: also after one that the tracker has not seen."""
    hand = make()
    talk_udp(hand)
    for after_ms, state in ((20_000, 0x22), (49_999, 0x22), (79_999, 0x21)):
        result = hand.process(batch_of([query()], time_ns=(START + after_ms) * 1_000_000))
        assert result.ct_state.tolist() == [state]
    assert hand.share.hits == 2


def test_a_withdrawn_connection_goes_on_with_the_time_that_it_was_used_last() -> None:
    hand = make()
    talk_udp(hand)
    assert through(hand, query(), time_ms=START + 20_000) == 1
    hand.withdraw_all()
    assert len(hand.share) == 0
    (connection,) = hand.tracker.connections()
    assert connection.timeout_ms == 30_000
    assert not through(hand, query(), time_ms=START + 20_001)


NAT = """
table=0,ip,in_port=1,actions=ct(nat,table=1)
table=0,ip,in_port=2,actions=ct(nat,table=1)
table=1,ip,in_port=1,ct_state=+new,actions=ct(commit,nat(src=192.0.2.1:5000-5000)),resubmit(,2)
table=1,ct_state=+est,actions=resubmit(,2)
table=2,ip,in_port=1,actions=dec_ttl,set_field:02:00:00:00:00:aa->eth_src,push_vlan:0x8100,set_field:4107->vlan_vid,output:2
table=2,ip,in_port=2,actions=dec_ttl,strip_vlan,set_field:32->nw_tos,output:1
"""


def test_a_hit_leaves_the_same_bytes_as_the_long_way_with_nat_tags_macs_tos_and_ttl() -> None:
    hand, plain = make(NAT, match_tos=True), make(NAT)
    back = (
        Packet()
        .eth()
        .vlan(11)
        .ipv4(SERVER, "192.0.2.1", ttl=9)
        .tcp(80, 5000, seq=1000, ack_number=1001, syn=True, ack=True)
    )
    opening = Packet().eth().ipv4(CLIENT, SERVER).tcp(1000, 80, seq=1000, syn=True)
    there = data(size=99, ack=True)
    reply = Packet().eth().vlan(11).ipv4(SERVER, "192.0.2.1", ttl=9).tcp(80, 5000, seq=1001, ack_number=1100, ack=True)
    for packet, port in ((opening, 1), (back, 2), (there, 1), (reply, 2), (there, 1), (reply, 2)):
        batch = batch_of([packet], in_port=port, time_ns=START * 1_000_000)
        hand.process(batch)
        send(plain.datapath, packet, port)
    assert len(hand.share) == 1
    hits = hand.share.hits
    for packet, port in ((there, 1), (reply, 2), (data(size=3, seq=100, ack=True), 1)):
        assert send(hand.datapath, packet, port) == send(plain.datapath, packet, port) != []
    assert hand.share.hits == hits + 3


def test_ipv6_is_shunted() -> None:
    hand = make(BRIDGE.replace("actions=output", "actions=dec_ttl,output"))

    def packet(a: str, b: str, ports: tuple[int, int], **ip: int) -> Packet:
        return Packet().eth().ipv6(a, b, **ip).udp(*ports).payload(b"six")

    there, back = packet("2001:db8::1", "2001:db8::2", (7, 8)), packet("2001:db8::2", "2001:db8::1", (8, 7))
    for one, port in ((there, 1), (back, 2), (there, 1)):
        assert not through(hand, one, port)
    expected = packet("2001:db8::1", "2001:db8::2", (7, 8), hop_limit=63).bytes()
    assert send(hand.datapath, there) == [Sent(2, expected)]
    assert hand.share.hits == 1
    optional = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").hop_by_hop().udp(7, 8).payload(b"six")
    assert not through(hand, optional)
    assert causes(hand)["options"] == 1


def test_both_zones_of_a_path_end_the_flow_and_are_kept_alive_by_it() -> None:
    rules = """
table=0,ip,actions=ct(table=1,zone=1)
table=1,ip,actions=ct(commit,zone=1),ct(table=2,zone=2)
table=2,ip,actions=ct(commit,zone=2),resubmit(,3)
table=3,in_port=1,actions=output:2
table=3,in_port=2,actions=output:1
"""
    hand = make(rules, zones=(1, 2))
    talk_udp(hand)
    assert through(hand, query(), time_ms=START + 20_000) == 1
    hand.datapath.tracker.sweep(START + 49_999)
    assert len(hand.tracker) == 2
    second = next(connection for connection in hand.tracker.connections() if connection.zone == 2)
    hand.tracker.flush(zone=2)
    hand._withdraw()
    assert second.generation == 0
    assert len(hand.share) == 0
    assert not through(hand, query(), time_ms=START + 49_999)


# --- installing ------------------------------------------------------------------------------------------------------


def installed_flow(hand: HandForwarder) -> np.ndarray:
    """The flow that `hand` will install, taken from it."""
    flows: list[np.ndarray] = []
    install: Callable[[np.ndarray], None] = hand.share.install
    hand.share.install = lambda flow: (flows.append(flow.copy()), install(flow))[1]  # type: ignore[method-assign, func-returns-value]
    talk_udp(hand)
    hand.share.install = install  # type: ignore[method-assign]
    return flows[0]


def test_installing_again_replaces_and_goes_on_counting() -> None:
    hand = make()
    flow = installed_flow(hand)
    assert through(hand, query()) == 1
    flow["paths"]["out_port"][0, 0] = 3
    hand.share.install(flow)
    assert flow["error"][0] == 0
    assert len(hand.share) == 1
    assert [frame.port for frame in send(hand.datapath, query())] == [3]
    usage = hand.share.withdraw(flow["rows"][:, 0], flow["generations"][:, 0])
    assert usage["packets"].tolist() == [[2, 0]]
    assert [frame.port for frame in send(hand.datapath, query())] == [2]


def test_flows_that_cannot_be_are_refused_with_an_errno_and_nothing_changes() -> None:
    hand = make()
    flow = installed_flow(hand)
    other = hand.datapath.shunt.share("other", limit=1)
    other.install(flow)
    assert flow["error"][0] == errno.EEXIST
    for change, value, error in (
        ("n_zones", 0, errno.EINVAL),
        ("n_zones", 5, errno.EINVAL),
        ("generations", 9, errno.ENOENT),
        ("rows", 1 << 30, errno.ENOENT),
        ("rows", 999, errno.ENOENT),
    ):
        wrong = flow.copy()
        wrong[change] = value
        hand.share.install(wrong)
        assert wrong["error"][0] == error
    for field, bad in (("out_port", 1 << 20), ("tuple", 1 << 8)):
        wrong = flow.copy()
        wrong["paths"][field][0, 1] = bad
        hand.share.install(wrong)
        assert wrong["error"][0] == errno.EINVAL
    assert len(hand.share) == len(hand.datapath.shunt) == 1
    assert through(hand, query()) == 1


def test_a_limit_is_kept_and_can_be_changed() -> None:
    hand = make()
    hand.share.limit = 0
    for packet, port in ((query(), 1), (answer(), 2), (query(), 1)):
        through(hand, packet, port)
    assert hand.errors == [errno.ENOSPC] * len(hand.errors) != []
    assert hand.share.n_flows == 0
    hand.share.limit = 1
    through(hand, query())
    assert hand.share.n_flows == 1
    with pytest.raises(UsageError):
        hand.share.limit = -1


def test_idle_flows_are_handed_back_with_their_last_usage() -> None:
    hand = make()
    flow = installed_flow(hand)
    through(hand, query(), time_ms=START + 10)
    rows, generations, usage = hand.share.idle(START + 29_999 + 10, 30_000, 100)
    assert len(rows) == len(generations) == len(usage) == 0
    rows, generations, usage = hand.share.idle(START + 30_000 + 10, 30_000, 100)
    assert (rows.tolist(), generations.tolist()) == (flow["rows"][:, 0].tolist(), [0])
    assert usage["packets"].tolist() == [[1, 0]]
    assert not through(hand, query(), time_ms=START + 20)


def test_unknown_flows_are_no_error_and_flushing_empties_one_share_only() -> None:
    hand = make()
    talk_udp(hand)
    other = hand.datapath.shunt.share("other")
    nobody = np.array([-1, 5, 1 << 40]), np.array([0, 0, 0])
    assert not other.withdraw(*nobody)["packets"].any()
    assert not other.usage(*nobody, START)["last_used_ms"].any()
    other.renew(*nobody, 7)
    assert len(other.flush()[0]) == 0
    assert through(hand, query()) == 1
    assert len(hand.share.flush()[0]) == 1
    assert not through(hand, query())


def test_wrong_use_is_told() -> None:
    hand = make()
    with pytest.raises(UsageError):
        hand.share.install(np.zeros(1, np.int64))
    with pytest.raises(UsageError):
        hand.share.install(np.zeros(4, FLOW)[::2])
    with pytest.raises(UsageError):
        hand.datapath.shunt.share("test")
    for n in range(MAX_OWNERS - 1):
        hand.datapath.shunt.share(str(n))
    with pytest.raises(UsageError):
        hand.datapath.shunt.share("one more")


# --- checked flows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["checksum", "sequence"])
def test_a_checked_flow_sends_what_is_not_plainly_valid_to_the_tracker(what: str) -> None:
    hand = make()
    hand.share.check = True
    shake_hands(hand)
    assert through(hand, data(size=10, ack=True)) == 1
    if what == "checksum":
        wrong = Packet().eth().ipv4(CLIENT, SERVER).tcp(1000, 80, seq=1011, ack_number=1001, ack=True, checksum=1)
    else:
        wrong = data(size=10, seq=1_000_000, ack=True)
    result = hand.process(batch_of([wrong], time_ns=START * 1_000_000))
    assert result.ct_state.tolist() == [0x30]
    assert len(result.tx) == 0
    assert causes(hand)["checked"] == hand.share.statistics()["refused"] == 1
    assert through(hand, data(size=10, seq=11, ack=True)) == 1
    assert hand.share.statistics()["unchecked"] == 0


def test_an_unchecked_flow_lets_it_pass_and_counts_it() -> None:
    hand = make()
    shake_hands(hand)
    assert through(hand, data(size=10, seq=1_000_000, ack=True)) == 1
    assert hand.share.statistics()["unchecked"] == 1


def test_linux_sees_the_packet_that_makes_a_udp_connection_a_stream() -> None:
    hand = make(profile="linux")
    talk_udp(hand)
    assert through(hand, query(), time_ms=START + 2000) == 1
    assert not through(hand, query(), time_ms=START + 2001)
    assert causes(hand)["stream"] == 1
    assert through(hand, query(), time_ms=START + 2002) == 1
    (connection,) = hand.tracker.connections()
    assert connection.assured
