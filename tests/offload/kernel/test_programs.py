"""What the program makes of single packets, compared with what the datapath makes of them."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flowshunt.base import bpf
from flowshunt.datapath.paths.records import FLOW
from flowshunt.offload.batch import DEL, OPERATION, Batch
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from tests.builders import Packet, batch_of
from tests.datapath.shunt.test_hits import make
from tests.offload.kernel.rights import needs_bpf

pytestmark = needs_bpf

LOOPBACK = 1
XDP_PASS, XDP_REDIRECT = 2, 4
START = 1_000_000
CLIENT4, SERVER4, CLIENT6, SERVER6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
ROUTER = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
HEAD = "table=0,ip,actions=ct(table=1,nat)\ntable=0,ipv6,actions=ct(table=1,nat)\n"
TAIL = "table=1,ct_state=-new+est,actions=resubmit(,2)\n"


def new(nat: str = "") -> str:
    arguments = f",nat({nat})" if nat else ""
    families = ("ipv6", "ip") if not nat else ("ipv6",) if "::" in nat else ("ip",)
    return "".join(f"table=1,{f},ct_state=+new,actions=ct(commit{arguments}),resubmit(,2)\n" for f in families)


def ways(there: str = "", back: str = "") -> str:
    return f"table=2,in_port=1,actions={there}output:2\ntable=2,in_port=2,actions={back}output:1\n"


ROUTE = f"mod_dl_src:{ROUTER[0]},mod_dl_dst:{ROUTER[1]},dec_ttl,"
CASES = {
    "plain": new() + ways(),
    "macs": new() + ways(f"mod_dl_src:{ROUTER[0]},", f"mod_dl_dst:{ROUTER[1]},"),
    "routed": new() + ways(ROUTE, ROUTE),
    "source NAT": new("src=192.0.2.7") + ways(ROUTE, ROUTE),
    "source NAT, port too": new("src=192.0.2.7:40000-40000") + ways(),
    "destination NAT": new("dst=192.0.2.9:8080") + ways(ROUTE, ROUTE),
    "IPv6 source NAT": new("src=[2001:db8::7]:40000-40000") + ways(ROUTE, ROUTE),
    "IPv6 destination NAT": new("dst=2001:db8::9") + ways(),
    "TTL, twice": new() + ways("dec_ttl,dec_ttl,", "dec_ttl,"),
}


class Taking:
    """A share that notes what is installed."""

    def __init__(self, share: Any) -> None:
        self.share = share
        self.flows: list[np.ndarray] = []

    def install(self, flows: np.ndarray) -> None:
        self.flows.append(flows.copy())
        self.share.install(flows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.share, name)

    def __len__(self) -> int:
        return len(self.share)


class Both:
    """One flow in the datapath's table and in the kernel's map."""

    def __init__(self, rules: str, mode: str = "tc", *, match_tos: bool = False, mtu: int = 0) -> None:
        self.mode = mode
        self.hand = make(HEAD + rules + TAIL, match_tos=match_tos, mtu=mtu)
        self.taking = Taking(self.hand.share)
        self.hand.share = self.taking  # type: ignore[assignment]
        self.kernel = Kernel(EveryPort(LOOPBACK, has_frames=mode == "xdp"), limit=16)
        self.kernel.init()
        assert self.kernel.objects is not None
        self.objects = self.kernel.objects

    def through(self, packet: Packet, in_port: int = 1) -> bytes:
        """The frame that leaves by the datapath."""
        result = self.hand.process(batch_of([packet], in_port=in_port, time_ns=START * 1_000_000))
        assert len(result.tx) == 1
        frame = result.tx[0]
        source = result.tx_data if frame["source"] else batch_of([packet]).data
        return bytes(source[frame["data"] : frame["data"] + frame["length"]])

    def open(self, talk: Talk) -> None:
        """Send packets until the flow is known, and give it to the kernel."""
        for _ in range(4):
            talk.answers = self.through(talk.packet())
            self.through(talk.packet(reply=True), 2)
        flows = np.concatenate(self.taking.flows[-1:])
        self.kernel.begin_epoch(int(flows["epoch"][0]))
        self.kernel.install(flows)
        assert flows["error"].tolist() == [0]

    def run(self, frame: bytes, **options: Any) -> bytes | None:
        """The frame as it would be redirected; None: it goes up."""
        before = self.objects.states["packets"].sum()
        if self.mode == "xdp":
            verdict, frame_out = bpf.run_xdp(self.objects.forward_frames, frame)
            passed = self.objects.states["packets"].sum() == before
            assert verdict == (XDP_PASS if passed else XDP_REDIRECT)
            assert not passed or frame_out == frame
        else:
            frame_out = bpf.run_program(self.objects.forward, frame, ifindex=LOOPBACK, **options)[1]
        return frame_out if self.objects.states["packets"].sum() > before else None

    def close(self) -> None:
        self.kernel.close()


class Talk:
    """Packets of one connection; replies go to whoever the other end has heard of."""

    def __init__(self, rng: random.Random, family: int, protocol: str, tag: int = 0) -> None:
        self.rng, self.protocol, self.tag = rng, protocol, tag
        self.addresses = (CLIENT4, SERVER4) if family == 4 else (CLIENT6, SERVER6)
        self.family = family
        self.answers = b""
        self.step = 0

    def packet(self, *, reply: bool = False, **options: Any) -> Packet:
        rng = self.rng
        if reply:
            link, network, ports = self._turned()
        else:
            link, network, ports = Packet().eth(), self.addresses, (1000, 53)
            link = link.vlan(self.tag) if self.tag else link
        checksum = options.pop("checksum", None)
        options.setdefault("ttl" if self.family == 4 else "hop_limit", rng.randint(5, 255))
        over = link.ipv4(*network, **options) if self.family == 4 else link.ipv6(*network, **options)
        payload = rng.randbytes(rng.choice((0, 1, 2, 33, 200)))
        if self.protocol == "udp":
            return over.udp(*ports, checksum=checksum).payload(payload)
        flags = {"syn": self.step == 0, "ack": self.step > 0}
        if self.step == 1:
            flags = {"syn": True, "ack": True}
        self.step += 1
        payload = payload if self.step > 3 else b""
        seq = 1000 + (self.step > 2)
        return over.tcp(*ports, seq=seq, ack_number=1001 if flags["ack"] else 0, **flags).payload(payload)

    def _turned(self) -> tuple[Packet, tuple[str, str], tuple[int, int]]:
        from ipaddress import ip_address

        frame, tag = self.answers, b""
        if frame[12:14] == b"\x81\x00":
            frame, tag = frame[:12] + frame[16:], frame[14:16]
        at, size = (26, 4) if self.family == 4 else (22, 16)
        source, destination = (str(ip_address(frame[at + n * size :][:size])) for n in (0, 1))
        l4 = at + 2 * size
        ports = int.from_bytes(frame[l4 : l4 + 2], "big"), int.from_bytes(frame[l4 + 2 : l4 + 4], "big")
        link = Packet().eth(frame[0:6].hex(":"), frame[6:12].hex(":"))
        link = link.vlan(int.from_bytes(tag, "big") & 0xFFF) if tag else link
        return link, (destination, source), (ports[1], ports[0])


@pytest.fixture
def made() -> Iterator[list[Both]]:
    everything: list[Both] = []
    yield everything
    for both in everything:
        both.close()


def family_of(name: str) -> tuple[int, ...]:
    return (6,) if "IPv6" in name else (4,) if "NAT" in name else (4, 6)


both_modes = pytest.mark.parametrize("mode", ["tc", "xdp"])


@both_modes
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("name", "family"), [(name, f) for name in CASES for f in family_of(name)])
def test_packets_leave_as_the_datapath_would_have_written_them(
    made: list[Both], mode: str, name: str, family: int, protocol: str
) -> None:
    talk = Talk(random.Random(name), family, protocol)
    made.append(both := Both(CASES[name], mode))
    both.open(talk)
    for n in range(40):
        reply = bool(n % 2)
        packet = talk.packet(reply=reply, checksum=0 if n % 10 == 3 and family == 4 else None)
        out = both.run(packet.bytes())
        assert out is not None, both.objects.reasons()
        assert out == both.through(packet, 2 if reply else 1)


@both_modes
def test_the_type_of_service_is_matched_and_written(made: list[Both], mode: str) -> None:
    for family in (4, 6):
        talk = Talk(random.Random(family), family, "udp")
        option = {"tos": 8} if family == 4 else {"traffic_class": 8}
        rules = new() + "table=2,in_port=1,ip,nw_tos=8,actions=mod_nw_tos:184,output:2\n"
        rules += "table=2,in_port=1,ipv6,nw_tos=8,actions=mod_nw_tos:184,output:2\n"
        rules += "table=2,in_port=2,actions=output:1\n"
        made.append(both := Both(rules, mode, match_tos=True))
        original = talk.packet
        talk.packet = lambda original=original, option=option, **more: original(**option | more)  # type: ignore[method-assign]
        both.open(talk)
        for _ in range(10):
            packet = talk.packet()
            out = both.run(packet.bytes())
            assert out is not None, both.objects.reasons()
            assert out == both.through(packet)
        assert both.run(original().bytes()) is None
        assert mode == "xdp" or both.objects.reasons()["tos"] == 1


def tcp(**options: Any) -> Packet:
    flags = options.pop("flags", {"ack": True})
    return Packet().eth().ipv4(CLIENT4, SERVER4, **options).tcp(1000, 53, seq=1001, ack_number=1001, **flags)


GOES_UP = {
    "another port": (Packet().eth().ipv4(CLIENT4, SERVER4).tcp(1001, 53, ack=True), "absent"),
    "ARP": (Packet().eth(eth_type=0x0806).payload(bytes(46)), "not-fit"),
    "ICMP": (Packet().eth().ipv4(CLIENT4, SERVER4).icmp(8, id=1), "not-fit"),
    "a second tag": (Packet().eth().vlan(7).ipv4(CLIENT4, SERVER4).tcp(1000, 53, ack=True), "not-fit"),
    "a fragment": (tcp(mf=True), "fragment"),
    "a later fragment": (tcp(offset=8), "fragment"),
    "IP options": (tcp(options=bytes([1, 1, 1, 0])), "options"),
    "SYN": (tcp(flags={"syn": True, "ack": True}), "tcp-flags"),
    "FIN": (tcp(flags={"fin": True, "ack": True}), "tcp-flags"),
    "RST": (tcp(flags={"rst": True, "ack": True}), "tcp-flags"),
    "no ACK": (tcp(flags={"psh": True}), "tcp-flags"),
    "other MACs": (Packet().eth("02:00:00:00:00:99").ipv4(CLIENT4, SERVER4).tcp(1000, 53, ack=True), "link"),
    "an expiring TTL": (tcp(ttl=1), "ttl"),
    "too big": (tcp().payload(bytes(1000)), "size"),
    "cut off": (tcp().cut(50), "malformed"),
    "a wrong length": (tcp(total=2000), "malformed"),
}


@both_modes
@pytest.mark.parametrize("name", GOES_UP)
def test_what_a_flow_does_not_cover_goes_up_untouched(made: list[Both], name: str, mode: str) -> None:
    made.append(both := Both(CASES["routed"], mode, mtu=500))
    both.open(Talk(random.Random(1), 4, "tcp"))
    packet, reason = GOES_UP[name]
    before = both.objects.reasons()
    assert both.run(packet.bytes()) is None
    after = both.objects.reasons()
    if mode == "tc":
        assert {why: after[why] - before[why] for why in after if after[why] != before[why]} == {reason: 1}
    assert both.run(tcp().bytes()) is not None


def test_gso_packets_go_by_the_size_of_their_segments_and_count_them(made: list[Both]) -> None:
    made.append(both := Both(CASES["routed"], mtu=500))
    both.open(Talk(random.Random(1), 4, "tcp"))
    frame = tcp().payload(bytes(3000)).bytes()
    assert both.run(frame, gso_size=461) is None
    assert both.run(frame, gso_size=460) is not None
    states = both.objects.states
    assert (states["packets"].sum(), states["bytes"].sum(), states["extra_segments"].sum()) == (1, 3040, 6)


@both_modes
def test_padding_counts_in_frames_alone(made: list[Both], mode: str) -> None:
    made.append(both := Both(CASES["plain"], mode))
    both.open(Talk(random.Random(1), 4, "udp"))
    frame = Packet().eth().ipv4(CLIENT4, SERVER4).udp(1000, 53).payload(b"x").pad(17).bytes()
    assert both.run(frame) == frame
    rows = np.zeros(1, np.uint32)
    (usage,) = both.kernel.statistics(rows, rows, START)
    assert [usage[name].tolist() for name in ("packets", "bytes", "frame_bytes")] == [[1, 0], [29, 0], [len(frame), 0]]
    (usage,) = both.kernel.statistics(rows, rows, START)
    assert usage["packets"].tolist() == [0, 0]


@both_modes
def test_another_epoch_or_a_long_silence_sends_packets_up(made: list[Both], mode: str) -> None:
    made.append(both := Both(CASES["plain"], mode))
    both.open(Talk(random.Random(1), 4, "tcp"))
    frame = tcp().bytes()
    rows = np.zeros(1, np.uint32)
    epoch = both.kernel.objects.control["epoch"][0]  # type: ignore[union-attr]
    both.kernel.begin_epoch(int(epoch) + 1)
    is_tc = mode == "tc"
    assert both.run(frame) is None and both.objects.reasons()["epoch"] == is_tc
    both.kernel.renew(rows, rows, int(epoch) + 1)
    assert both.run(frame) is not None
    both.objects.states["last_used_ns"] -= np.uint64(31_000_000_000)
    assert both.run(frame) is None and both.objects.reasons()["idle"] == is_tc
    both.kernel.renew(rows, rows, int(epoch) + 1)
    assert both.run(frame) is not None
    both.kernel.withdraw(rows, rows)
    assert both.run(frame) is None


@both_modes
def test_a_whole_udp_checksum_is_corrected_and_a_wrong_one_stays_wrong(made: list[Both], mode: str) -> None:
    made.append(both := Both(CASES["source NAT"], mode))
    talk = Talk(random.Random(5), 4, "udp")
    both.open(talk)
    for checksum in (None, 0x1234, 1, 0xFFFF):
        packet = talk.packet(checksum=checksum)
        assert both.run(packet.bytes()) == both.through(packet)


@both_modes
@pytest.mark.parametrize(("name", "family"), [("source NAT, port too", 4), ("IPv6 source NAT", 6)])
def test_a_udp_checksum_that_comes_out_as_zero_is_written_otherwise(
    made: list[Both], mode: str, name: str, family: int
) -> None:
    talk = Talk(random.Random(1), family, "udp")
    made.append(both := Both(CASES[name], mode))
    both.open(talk)
    link = Packet().eth()
    over = (link.ipv4(CLIENT4, SERVER4) if family == 4 else link.ipv6(CLIENT6, SERVER6)).udp(1000, 53)
    at = (34 if family == 4 else 54) + 6
    left = both.run(over.payload(bytes(2)).bytes())
    assert left is not None
    packet = over.payload(left[at : at + 2])  # what is missing to a sum of 0xffff, the checksum of which is 0
    out = both.run(packet.bytes())
    assert out is not None and out == both.through(packet)
    assert out[at : at + 2] == b"\xff\xff"


@pytest.mark.parametrize("checksum", [None, 0])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(("name", "family"), [(name, f) for name in CASES for f in family_of(name)])
def test_a_sum_of_the_whole_packet_stays_right(
    made: list[Both], name: str, family: int, protocol: str, checksum: int | None
) -> None:
    talk = Talk(random.Random(name), family, protocol)
    made.append(both := Both(CASES[name]))
    both.open(talk)
    for n in range(10):
        reply = bool(n % 2)
        packet = talk.packet(reply=reply, checksum=checksum)
        try:
            out = both.run(packet.bytes(), has_sum=True)
        except OSError as problem:
            if problem.errno == errno.EINVAL:
                pytest.skip("needs a kernel that tries programs with such a sum (Linux 6.16)")
            raise
        assert out == both.through(packet, 2 if reply else 1)


PUSH, POP = "push_vlan:0x8100,set_field:4101->vlan_vid,", "pop_vlan,"
TAGS = {
    "put on and taken off": (PUSH, POP, 0),
    "exchanged": ("mod_vlan_vid:5,", "mod_vlan_vid:9,", 9),
    "left alone": (ROUTE, ROUTE, 9),
}


@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("family", [4, 6])
def test_tags_in_frames_are_put_on_taken_off_and_exchanged(made: list[Both], name: str, family: int) -> None:
    there, back, tag = TAGS[name]
    made.append(both := Both(new() + ways(there, back), "xdp"))
    talk = Talk(random.Random(name), family, "udp", tag)
    both.open(talk)
    for n in range(10):
        packet = talk.packet(reply=bool(n % 2))
        frame = packet.bytes()
        out = both.run(frame)
        assert out is not None
        assert out == both.through(packet, 1 + n % 2)
        assert both.run(frame[:12] + b"\x81\x00\x00\x07" + frame[12:]) is None


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("name", "family"), [("plain", 4), ("plain", 6), ("source NAT, port too", 4), ("IPv6 source NAT", 6)]
)
def test_a_checksum_that_is_left_to_the_device_is_completed(
    made: list[Both], name: str, family: int, protocol: str
) -> None:
    talk = Talk(random.Random(name), family, protocol)
    made.append(both := Both(CASES[name], "xdp"))
    both.open(talk)
    at = 14 + (20 if family == 4 else 40)
    for _ in range(20):
        packet = talk.packet()
        frame = bytearray(packet.bytes())
        assert both.run(bytes(frame)) == both.through(packet)
        where = at + (6 if protocol == "udp" else 16)
        struct.pack_into("=H", frame, where, pseudo_sum(frame, at, 17 if protocol == "udp" else 6))
        assert both.run(bytes(frame)) == both.through(packet)


def pseudo_sum(frame: bytearray, at: int, protocol: int) -> int:
    """Of addresses, protocol and size, as it lies in memory; `at`: where layer 4 begins."""
    addresses = frame[26:34] if at == 34 else frame[22:54]
    words = struct.unpack(f"={len(addresses) // 2}H", addresses)
    total = sum(words) + socket.htons(protocol) + socket.htons(len(frame) - at)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_two_connections_cannot_have_the_same_packets() -> None:
    kernel = Kernel(EveryPort(), limit=16)
    flows = np.zeros(2, FLOW)
    for n, flow in enumerate(flows):
        flow["rows"][0], flow["n_zones"], flow["epoch"] = n, 1, 1
        for d in range(2):
            flow["paths"][d]["tuple"] = 6 << 8 | (1000 + d) << 32
            flow["paths"][d]["in_port"], flow["paths"][d]["out_port"] = 1 + d, 2 - d
    kernel.install(flows)
    assert flows["error"].tolist() == [0, 17]
    assert kernel.is_forwarding(np.arange(2), np.zeros(2), 1).tolist() == [True, False]
    kernel.withdraw(np.zeros(1, np.uint32), np.zeros(1, np.uint32))
    kernel.install(flows[1:])
    assert flows["error"][1] == 0
    kernel.close()


def test_ports_without_a_device_are_refused_with_the_reason() -> None:
    from flowshunt.offload.reasons import reason

    kernel = Kernel(limit=16)
    flows = np.zeros(1, FLOW)
    flows["paths"]["tuple"] = 6 << 8
    flows["paths"]["in_port"] = flows["paths"]["out_port"] = 1
    kernel.install(flows)
    assert reason(int(flows["reason"][0])).code == "no-device"


def test_a_connection_that_ends_twice_at_once_ends_once() -> None:
    kernel = Kernel(EveryPort(LOOPBACK), limit=4)
    kernel.init()
    flows = np.zeros(2, FLOW)
    flows["rows"][:, 0], flows["generations"][:, 0] = (5, 6), 1
    flows["paths"]["tuple"] = socket.IPPROTO_TCP << 8 | np.arange(1, 5).reshape(2, 2) << 32
    kernel.install(flows)
    assert kernel.flows.n_flows == 2
    ended = np.zeros(4, OPERATION)
    ended["type"], ended["row"], ended["generation"] = DEL, (5, 5, 6, 6), 1
    kernel.batch_submit(Batch(ended, None))
    assert kernel.flows.n_flows == 0
    kernel.install(flows)
    assert flows["error"].tolist() == [0, 0]
    kernel.close()
