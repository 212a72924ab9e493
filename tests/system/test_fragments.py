"""Fragments from hosts and from hands: put together for rules that track, and sent on as fragments."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

import pytest

from flowshunt.jit import JIT
from tests.builders import fragments as F
from tests.builders.packets import Packet
from tests.system.lab import TOOLS, Lab, mac
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS)
FLAGS = ("--enable-dummy",)
"""For `time/warp`."""
ADDRESSES = {4: ("10.1.1.1", "10.1.1.2"), 6: ("fc00::1", "fc00::2")}
of_both_families = pytest.mark.parametrize("family", ADDRESSES)
RULES = """\
in_port=1,{ip},actions=ct(commit,zone=9{nat}),2
in_port=2,{ip},ct_state=-trk,actions=ct(zone=9{bare},table=1)
table=1,in_port=2,ct_state=+trk+est,{ip},actions=1
"""


def rules(family: int, nat: str = "") -> str:
    return RULES.format(ip="ip" if family == 4 else "ipv6", nat=nat, bare=",nat" if nat else "")


def status(lab: Lab) -> dict[str, int]:
    """What dpctl/ipf-get-status counts."""
    lines = [line.split(": ") for line in lab.appctl("dpctl/ipf-get-status").splitlines()]
    return {line[0].strip(): int(line[1]) for line in lines if len(line) == 2}


class Counted:
    """How much the counters of one family grow."""

    def __init__(self, lab: Lab, family: int) -> None:
        self._lab = lab
        self._family = family
        self._before = status(lab)

    def __getitem__(self, name: str) -> int:
        word = f"v{self._family} frags {name}"
        return status(self._lab)[word] - self._before[word]

    def wait_for(self, name: str, n: int) -> None:
        poll(lambda: self[name] >= n)
        assert self[name] == n


@pytest.fixture
def fragments(lab: Lab) -> Iterator[Lab]:
    """The lab, whose limits are as before in the end."""
    yield lab
    lab.appctl("dpctl/ipf-set-max-nfrags", "1000")
    lab.appctl("dpctl/ipf-set-min-frag", "v4", "1200")
    lab.appctl("dpctl/ipf-set-min-frag", "v6", "1280")


def datagram(family: int, size: int, port: int = 7, fill: bytes = b"z") -> bytes:
    """A UDP datagram from host 1 to host 2, in one frame."""
    packet = Packet().eth(mac(1), mac(2))
    packet = packet.ipv4(*ADDRESSES[4]) if family == 4 else packet.ipv6(*ADDRESSES[6])
    return packet.udp(5000, port).payload(fill * size).bytes()


def send(lab: Lab, frames: Iterable[bytes]) -> None:
    raw = lab.raw(1)
    for frame in frames:
        raw.send(frame)


def server(lab: Lab, family: int) -> socket.socket:
    return lab.listen(2, 7, socket.SOCK_DGRAM, ADDRESSES[family][1])


@of_both_families
@pytest.mark.parametrize("size", [2000, 9000, 40_000] if JIT else [2000])
def test_large_pings_pass(lab: Lab, family: int, size: int) -> None:
    lab.rules(rules(family))
    counted = Counted(lab, family)
    lab.ping(1, ADDRESSES[family][1], "-s", str(size))
    in_each = counted["accepted"] // 6
    assert counted["accepted"] == counted["completed"] == 6 * in_each > 6
    assert lab.packets("table=1") == 3
    assert len(lab.connections("zone=9")) == 1


@of_both_families
def test_large_datagrams_are_translated(lab: Lab, family: int) -> None:
    one = "10.1.1." if family == 4 else "fc00::"
    lab.know(2, f"{one}240", 1)
    lab.rules(rules(family, f",nat(src={one}240)"))
    there = server(lab, family)
    here = lab.listen(1, 5000, socket.SOCK_DGRAM, ADDRESSES[family][0])
    content = bytes(range(250)) * 20
    here.sendto(content, (ADDRESSES[family][1], 7))
    received, peer = there.recvfrom(9000)
    assert (received, peer[:2]) == (content, (f"{one}240", 5000))
    there.sendto(content[::-1], peer)
    assert here.recv(9000) == content[::-1]


@of_both_families
@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_their_order_does_not_matter(lab: Lab, family: int, order: tuple[int, ...]) -> None:
    lab.rules(rules(family))
    there = server(lab, family)
    pieces = F.fragments_of_size(datagram(family, 3800), 1500, id=100 + order[0] * 9 + order[1])
    assert len(pieces) == 3
    send(lab, (pieces[k] for k in order))
    assert there.recv(9000) == b"z" * 3800


@of_both_families
def test_those_that_overlap_are_dropped(lab: Lab, family: int) -> None:
    lab.rules(rules(family))
    there = server(lab, family)
    counted = Counted(lab, family)
    whole = datagram(family, 3800)
    pieces = [
        F.fragment(whole, 0, 1440, id=200),
        F.fragment(whole, 1400, 2840, id=200),
        F.fragment(whole, 2840, 3808, id=200),
    ]
    send(lab, pieces)
    counted.wait_for("overlapped", 1)
    send(lab, F.fragments_of_size(datagram(family, 3000, fill=b"n"), 1500, id=201))
    assert there.recv(9000) == b"n" * 3000


@of_both_families
def test_those_that_are_too_small_are_dropped(fragments: Lab, family: int) -> None:
    lab = fragments
    lab.rules(rules(family))
    there = server(lab, family)
    counted = Counted(lab, family)
    send(lab, F.fragments_of_size(datagram(family, 2000), 700, id=300))
    poll(lambda: counted["too small"] > 0)
    assert counted["completed"] == 0
    said = lab.appctl("dpctl/ipf-set-min-frag", f"v{family}", "600")
    assert said == "setting minimum fragment size successful\n"
    send(lab, F.fragments_of_size(datagram(family, 2000, fill=b"n"), 700, id=301))
    assert there.recv(9000) == b"n" * 2000


@of_both_families
def test_no_more_wait_than_may(fragments: Lab, family: int) -> None:
    """Open vSwitch refuses the next; here the oldest make room."""
    lab = fragments
    lab.rules(rules(family))
    there = server(lab, family)
    assert lab.appctl("dpctl/ipf-set-max-nfrags", "4") == "setting maximum fragments successful\n"
    counted = Counted(lab, family)
    send(lab, (F.fragments_of_size(datagram(family, 3000), 1500, id=400 + n)[0] for n in range(10)))
    poll(lambda: counted["accepted"] == 10)
    assert status(lab)["num frag"] <= 4
    send(lab, F.fragments_of_size(datagram(family, 2000, fill=b"n"), 1500, id=450))
    assert there.recv(9000) == b"n" * 2000


@of_both_families
def test_what_is_never_complete_expires(lab: Lab, family: int) -> None:
    lab.rules(rules(family))
    lab.appctl("time/warp", "70000")
    poll(lambda: status(lab)["num frag"] == 0)
    counted = Counted(lab, family)
    send(lab, F.fragments_of_size(datagram(family, 3000), 1500, id=500)[1:2])
    poll(lambda: f"ip_id={500}," in lab.appctl("dpctl/ipf-get-status", "-m"))
    assert lab.appctl("time/warp", "70000") == "warped\n"
    counted.wait_for("expired", 1)
    poll(lambda: f"ip_id={500}," not in lab.appctl("dpctl/ipf-get-status", "-m"))


def test_rules_without_ct_see_fragments_as_they_are(lab: Lab) -> None:
    lab.rules(
        "priority=9,in_port=1,ip,ip_frag=first,actions=2\npriority=8,in_port=1,ip,ip_frag=later,actions=2\n"
        "priority=1,in_port=1,ip,ip_frag=no,actions=2\npriority=1,in_port=2,ip,actions=1"
    )
    lab.ping(1, "10.1.1.2", "-s", "4000")
    lab.ping(1, "10.1.1.2")
    assert [lab.packets(f"in_port=1,ip,ip_frag={kind}") for kind in ("first", "later", "no")] == [3, 6, 3]


@of_both_families
def test_fragments_in_vlans(lab: Lab, family: int) -> None:
    """A second bridge tracks what the first one has tagged; hosts see no tag."""
    ip = "ip" if family == 4 else "ipv6"
    lab.vsctl(
        *("add-br", "br1", "--", "set", "bridge", "br1", "fail-mode=secure", "datapath_type=netdev"),
        *("--", "add-port", "br0", "to1", "--", "set", "interface", "to1", "type=patch", "options:peer=to0"),
        *("--", "add-port", "br1", "to0", "--", "set", "interface", "to0", "type=patch", "options:peer=to1"),
        *("--", "--if-exists", "del-port", "br0", "p2", "--", "add-port", "br1", "p2"),
    )
    try:
        lab.rules(
            f"in_port=p1,{ip},actions=push_vlan:0x8100,set_field:4197->vlan_vid,to1\nin_port=to1,dl_vlan=101,{ip},actions=pop_vlan,p1"
        )
        lab.rules(
            f"in_port=to0,dl_vlan=101,{ip},ct_state=-trk,actions=ct(commit,zone=9,table=1)\n"
            f"table=1,ct_state=+trk,{ip},dl_vlan=101,actions=pop_vlan,p2\n"
            f"in_port=p2,{ip},actions=push_vlan:0x8100,set_field:4197->vlan_vid,resubmit(,3)\n"
            f"table=3,{ip},dl_vlan=101,actions=ct(zone=9,table=2)\n"
            f"table=2,ct_state=+est+rpl+trk,{ip},dl_vlan=101,actions=to0",
            bridge="br1",
        )
        lab.ping(1, ADDRESSES[family][1], "-s", "4000")
        assert lab.packets("table=2", bridge="br1") == 3
        assert len(lab.connections("zone=9")) == 1
    finally:
        lab.vsctl(
            *("del-br", "br1", "--", "del-port", "br0", "to1", "--", "add-port", "br0", "p2"),
            *("--", "set", "interface", "p2", "ofport_request=2"),
        )
