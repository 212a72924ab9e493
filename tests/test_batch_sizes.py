"""Working on 1, 32 or 256 packets at a time gives the same packets, states, counters and connections."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flowshunt import Switch
from flowshunt.ports.capture import open_capture
from flowshunt.ports.capture.sides import infer_sides

C1 = """
table=0,arp,action=normal
table=0,ip,ct_state=-trk,action=ct(table=1)
table=1,priority=1,ip,ct_state=+trk+new,action=ct(commit),normal
table=1,priority=1,ip,ct_state=+trk+est,action=normal
"""

ZONES = """
table=0,priority=9,arp,actions=normal
table=0,priority=5,ip,actions=ct(zone=5,table=1)
table=0,priority=5,ipv6,actions=ct(commit,zone=7,table=3)
table=1,ip,ct_state=+new+trk,actions=ct(commit,zone=5,exec(load:0x55->NXM_NX_CT_MARK[])),ct(zone=6,table=2)
table=1,ip,ct_state=+est+trk,actions=ct(zone=6,table=2)
table=2,ip,ct_state=+new+trk,actions=ct(commit,zone=6,force),dec_ttl,normal
table=2,ip,ct_state=+est+trk,actions=normal
table=3,actions=set_field:02:00:00:00:00:77->eth_dst,normal
"""

SEVERAL = """
table=0,ip,actions=ct(zone=1,table=1),ct(commit,zone=2,exec(set_field:0x7->ct_mark)),resubmit(,2),normal
table=0,ipv6,actions=ct(commit),ct(commit,zone=3),output:2,dec_ttl,output:1
table=1,ct_state=+trk+new,ip,actions=ct(commit,zone=1,exec(set_field:0x1/0x1->ct_label)),output:2
table=1,ct_state=+trk+est,ct_label=0x1,ip,actions=mod_vlan_vid:9,output:1
table=2,ip,actions=ct(zone=2,table=3)
table=3,ct_mark=7,ip,actions=mod_nw_tos:4,output:2
"""

NAT = """
table=0,priority=5,ip,actions=ct(zone=1,nat,table=1)
table=0,priority=5,ipv6,actions=ct(commit,zone=1,nat(src=2001:db8:9::1-2001:db8:9::3)),ct(zone=2,nat,table=3)
table=1,ip,ct_state=+new+trk,actions=ct(commit,zone=1,nat(src=10.99.0.1-10.99.0.3:5000-5040)),ct(zone=2,table=2)
table=1,ip,ct_state=-new+trk,actions=ct(zone=2,nat,table=2)
table=2,ip,ct_state=+new+trk,actions=ct(commit,zone=2,nat(dst=10.98.0.1-10.98.0.9,random)),dec_ttl,normal
table=2,ip,ct_state=-new+trk,actions=ct(zone=2,nat,table=3)
table=3,actions=ct(commit,zone=3,nat,force),normal
"""

CAPTURES = sorted(path.name for path in (Path(__file__).resolve().parents[2] / "shared" / "captures").glob("*.pcap"))


def run(path: Path, rules: str, profile: str, batch_size: int) -> str:
    """A digest of all that a switch says about a capture."""
    switch = Switch(profile, batch_size=batch_size, max_connections=100_000)
    switch.tracker.arrays.state["key"] = 1, 2, 3, 4  # the same choices each time; nothing is in the table yet
    switch.add_port("inside")
    switch.add_port("outside")
    switch.add_flows(rules)
    with open_capture(str(path)) as reader:
        sides = infer_sides(reader.batches(4096))
    digest = hashlib.blake2b()
    with open_capture(str(path)) as reader:
        for batch in reader.batches(4096):
            sides.assign(batch)
            result = switch.process(batch)
            digest.update(result.ct_state.tobytes() + result.fate.tobytes() + repr(result.joined.tolist()).encode())
            for frame in result.tx:
                data = result.tx_data if frame["source"] else batch.data
                start = int(frame["data"])
                digest.update(f"{frame['port']} {frame['packet']} {frame['time_ns']}".encode())
                digest.update(data[start : start + int(frame["length"])].tobytes())
    switch.tracker.sweep(switch.tracker.now_ms)
    for connection in switch.tracker.connections():
        digest.update(
            repr((connection.original, connection.reply, connection.states, connection.zone, connection.mark)).encode()
        )
        digest.update(repr((connection.packets, connection.bytes, connection.timeout_ms, connection.label)).encode())
    digest.update(repr([(flow.packets, flow.bytes) for flow in switch.flows()]).encode())
    digest.update(repr((switch.statistics(), switch.tracker.statistics())).encode())
    return digest.hexdigest()


@pytest.mark.needs_jit
@pytest.mark.skipif(not CAPTURES, reason="the captures are not here: put them into ../shared/captures")
@pytest.mark.parametrize("profile", ["default", "linux"])
@pytest.mark.parametrize("rules", [C1, ZONES, SEVERAL, NAT], ids=["c1", "zones", "several-ct", "nat"])
def test_batch_sizes_agree_on_every_capture(captures: Path, rules: str, profile: str) -> None:
    different = []
    for name in CAPTURES:
        one, *others = (run(captures / name, rules, profile, size) for size in (1, 32, 256))
        if any(other != one for other in others):
            different.append(name)
    assert not different


@pytest.mark.parametrize("rules", [C1, ZONES, SEVERAL, NAT], ids=["c1", "zones", "several-ct", "nat"])
def test_batch_sizes_agree_on_the_demo_capture(repository: Path, rules: str) -> None:
    demo = repository / "demo" / "demo.pcap"
    assert len({run(demo, rules, "default", size) for size in (1, 32, 256)}) == 1
