"""Recorded conversations: what ovs-ofctl sent is read, what a real switch answered is what we write."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import Any

import pytest

from flowshunt.control.openflow import (
    bundle,
    codec,
    extensions,
    groups,
    meters,
    monitor,
    packets,
    ports,
    queues,
    switch,
)
from flowshunt.control.openflow.connection import Request
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.flow_removed import FlowRemoved
from flowshunt.control.openflow.flow_stats import FlowEntry, FlowReply
from flowshunt.control.openflow.tables import TableCounters, TableFeaturesReply, TableStatsReply
from flowshunt.rules.openflow import parse_flow
from flowshunt.rules.openflow.flow import Output
from tests.control.openflow.wires import VERSIONS, connected

OVS_OFCTL = shutil.which("ovs-ofctl")
Vectors = dict[str, list[tuple[str, bytes]]]


def decode(data: bytes, table_ids: bool = True) -> Any:
    version, kind, size, _ = struct.unpack_from("!BBHI", data)
    assert size == len(data)
    return codec.decode(version, kind, data[8:], table_ids)


def encode(message: Any, version: int, xid: int = 1) -> list[bytes]:
    """The messages of a reply."""
    connection = connected(version)
    connection.reply(Request(version, xid, None, b""), message)
    data = connection.data_to_send()
    found = []
    while data:
        size = int.from_bytes(data[2:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def answer(vectors: Vectors, name: str, kind: int) -> bytes:
    """The switch's last answer of a type."""
    return [data for way, data in vectors[name] if way == "<" and data[1] == kind][-1]


def test_all_that_the_tool_sends_is_read(vectors: Vectors) -> None:
    n = 0
    for name, messages in vectors.items():
        for way, data in messages:
            if way == "<" or data[1] == codec.TYPE_HELLO:
                continue
            message = decode(data)
            n += 1
            if isinstance(message, bundle.BundleAdd):
                kind, raw = bundle.inner_message(message.data, data[0], int.from_bytes(data[4:8], "big"))
                codec.decode(data[0], kind, raw[8:])
            assert message is not None, name
    assert n > 300


def test_what_the_tool_asks_for_is_understood(vectors: Vectors) -> None:
    def sent(name: str) -> list[Any]:
        return [decode(data) for way, data in vectors[name] if way == ">" and data[1] != codec.TYPE_HELLO]

    assert extensions.FlushZone(5) in sent("default|ct-flush-zone")
    assert extensions.Flush(5) in sent("OF15|ct-flush zone")
    assert meters.MeterMod("add", 1, 1, (meters.Band(1, 1000, 0),)) in sent("OF13|add-meter")
    assert meters.MeterMod("delete", 0, meters.METER_ALL, ()) in sent("OF15|del-meters")
    assert switch.ConfigRequest() in sent("default|get-frags")
    assert ports.PortMod(1, bytes.fromhex("aa55aa550001"), 16, 16) in sent("default|mod-port")
    assert queues.QueueStatsRequest(None, None) in sent("OF13|queue-stats")
    assert groups.GroupStatsRequest(None, nicira=True) in sent("default|dump-group-stats")
    buckets = tuple(groups.Bucket((Output(port),), 1, id=port - 1) for port in (1, 2))
    for name in ("default|add-group", "OF15|add-group"):
        assert groups.GroupMod("add", "select", 1, buckets) in sent(name)
    for name in ("default|packet-out", "OF13|packet-out", "OF15|packet-out"):
        out = next(message for message in sent(name) if isinstance(message, packets.PacketOut))
        assert (out.in_port, out.actions, out.data[12:]) == (1, (Output(2),), b"\x08\x00")
    watched = sent("OF15|monitor watch")
    flags = frozenset(("initial", "add", "delete", "modify", "actions", "own"))
    assert any(isinstance(m, monitor.MonitorRequest) and m.monitors[0].flags == flags for m in watched)


def test_ports_are_described_as_a_real_switch_does(vectors: Vectors) -> None:
    described = [
        ports.PortDescription(0xFFFE, "ctBr", bytes.fromhex("a2c43e9ef747")),
        ports.PortDescription(1, "p0", bytes.fromhex("aa55aa550001")),
        ports.PortDescription(2, "p1", bytes.fromhex("aa55aa550002")),
    ]
    for name, version in (("default", 1), ("OF13", 4), ("OF15", 6)):
        real = answer(vectors, f"{name}|dump-ports-desc", 17 if version == 1 else 19)
        xid = int.from_bytes(real[4:8], "big")
        assert encode(ports.PortDescriptionReply(described), version, xid) == [real]


def test_counters_have_the_form_of_a_real_switch(vectors: Vectors) -> None:
    real = answer(vectors, "OF13|dump-ports 1", 19)
    seconds, nanoseconds = struct.unpack("!II", real[-8:])
    counters = ports.PortCounters(1, 0, 0, 0, 0, duration_ns=seconds * 10**9 + nanoseconds)
    counters = counters._replace(rx_dropped=None, tx_dropped=None, rx_errors=None, tx_errors=None)
    assert encode(ports.PortStatsReply([counters]), 4, 4) == [real]
    idle = [queues.QueueCounters(port, 0) for port in (0xFFFE, 1, 2)]
    for name, version in (("default", 1), ("OF13", 4), ("OF15", 6)):
        real = answer(vectors, f"{name}|queue-stats", 17 if version == 1 else 19)
        assert encode(queues.QueueStatsReply(idle), version, 2) == [real]


def test_flows_are_listed_as_a_real_switch_does(vectors: Vectors) -> None:
    """The last flow of each recorded listing; the others have NAT."""
    flow = parse_flow("table=1,ip,ct_state=+trk+est,actions=drop")
    for name, version, size in (("default", 1, 0x48), ("OF13", 4, 0x48), ("OF15", 6, 0x68)):
        real = answer(vectors, f"{name}|dump-flows", 17 if version == 1 else 19)
        entry = real[-size:]
        assert int.from_bytes(entry[:2], "big") == size
        if version < 6:
            seconds, nanoseconds = struct.unpack_from("!II", entry, 4)
        else:
            seconds, nanoseconds = struct.unpack_from("!II", entry, 56)
        duration = seconds * 10**9 + nanoseconds
        idle = struct.unpack_from("!II", entry, 68) if version == 6 else (0, 0)
        line = FlowEntry(flow, 0, 0, duration, idle[0] * 10**9 + idle[1], 0)
        (ours,) = encode(FlowReply([line], nicira=version == 1), version)
        assert ours[-size:] == entry


def test_groups_meters_and_errors_are_written_as_a_real_switch_does(vectors: Vectors) -> None:
    buckets = tuple(groups.Bucket((Output(port),), 1, id=port - 1) for port in (1, 2))
    mod = groups.GroupMod("add", "select", 1, buckets)
    for name, version in (("default", 1), ("OF15", 6)):
        real = answer(vectors, f"{name}|dump-groups", 17 if version == 1 else 19)
        assert encode(groups.GroupDescriptionReply([mod], nicira=version == 1), version, 2) == [real]
    assert encode(groups.GroupDescriptionReply([mod]), 4, 2) == [answer(vectors, "OF13|dump-groups", 19)]
    real = answer(vectors, "OF13|dump-group-stats", 19)
    seconds, nanoseconds = struct.unpack("!II", real[48:56])
    counters = groups.GroupCounters(1, 0, 0, 0, seconds * 10**9 + nanoseconds, ((0, 0), (0, 0)))
    assert encode(groups.GroupStatsReply([counters]), 4, 6) == [real]
    meter = meters.MeterMod("add", 1, 1, (meters.Band(1, 1000, 1000),))
    assert encode(meters.MeterConfigReply([meter]), 4, 2) == [answer(vectors, "OF13|dump-meters", 19)]
    features = meters.MeterFeatures(0x40000, 2, 15, 8)
    assert encode(features, 4, 2) == [answer(vectors, "OF13|meter-features", 19)]
    assert encode(extensions.TlvTableReply(), 1, 2) == [answer(vectors, "default|dump-tlv-map", 4)]


def test_features_and_errors_are_those_of_a_real_switch(vectors: Vectors) -> None:
    real = answer(vectors, "OF13|show", 6)
    ours = encode(switch.Features(0xA2C43E9EF747, 254), 4, 2)[0]
    capabilities = int.from_bytes(real[24:28], "big") & ~(1 << 3)  # it has groups, too
    assert ours == real[:24] + capabilities.to_bytes(4, "big") + real[28:]
    for name in ("default", "OF13", "OF15"):
        question = [data for way, data in vectors[f"{name}|dump-ipfix-bridge"] if way == ">"][-1]
        connection = connected(question[0])
        connection.receive_data(question)
        assert connection.next_event() is None
        assert connection.data_to_send() == answer(vectors, f"{name}|dump-ipfix-bridge", 1)


# --- what the tool makes of our messages ------------------------------------------------------------------------------

FLOW = parse_flow("table=3,priority=7,tcp,nw_src=10.0.0.0/8,tp_dst=80,actions=mod_nw_tos:8,output:2,resubmit(,4)")
ENTRY = FlowEntry(FLOW, 5, 600, 7_000_000_000, 1_000_000_000, 7_000_000_000)
PORT = ports.PortDescription(3, "eth3", b"\0\1\2\3\4\5", config=1, state=1, speed=1000)


def printed(data: bytes) -> str:
    assert OVS_OFCTL is not None
    done = subprocess.run([OVS_OFCTL, "ofp-print", data.hex()], capture_output=True, text=True, timeout=20, check=True)
    assert not done.stderr
    return done.stdout


needs_ofctl = pytest.mark.skipif(OVS_OFCTL is None, reason="needs ovs-ofctl (Debian: openvswitch-common)")


@needs_ofctl
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("message", "first", "expected"),
    [
        (FlowReply([ENTRY]), 1, "table=3, n_packets=5, n_bytes=600"),
        (switch.Features(0xABC, 254, (PORT,)), 1, "dpid:0000000000000abc"),
        (switch.Config(0, 128), 1, "miss_send_len=128"),
        (switch.Description("we", "none", "1.0", "two", "three"), 1, "Serial Num: two"),
        (switch.RoleReply("primary", 5), 3, "role=primary"),
        (switch.RoleReply("secondary", 5, nicira=True), 1, "role=secondary"),
        (switch.AsyncConfig((1, 3), (7, 7), (0, 15)), 4, "PORT_STATUS: add delete modify"),
        (ports.PortDescriptionReply([PORT]), 1, "3(eth3): addr:00:01:02:03:04:05"),
        (ports.PortStatsReply([ports.PortCounters(3, 1, 2, 3, 4, 5, 6, 7, 8)]), 1, "rx pkts=1, bytes=3, drop=5"),
        (queues.QueueStatsReply([queues.QueueCounters(3, 4, 5, 6, 7)]), 1, "queue 4: bytes=5, pkts=6, errors=7"),
        (TableStatsReply([TableCounters(n, n, 20, 10) for n in range(3)]), 1, "active=2, lookup=20, matched=10"),
        (TableFeaturesReply(3), 4, "goto_table"),
        (groups.GroupStatsReply([groups.GroupCounters(9, 1, 2, 3, 4, ((5, 6),))]), 2, "group_id=9"),
        (groups.GroupDescriptionReply([groups.GroupMod("add", "all", 9, (groups.Bucket((Output(1),), 3, 4, 5),))]), 2,
         "group_id=9,type=all,bucket="),
        (groups.GroupFeatures(1, 2, (3, 4, 5, 6), (1, 1, 1, 1)), 3, "max_groups=0x3"),
        (meters.MeterStatsReply([meters.MeterCounters(4, 1, 2, 3, 5_000_000_000, ((6, 7),))]), 4,
         "meter:4 flow_count:1 packet_in_count:2 byte_in_count:3 duration:5s"),
        (extensions.TlvTableReply((extensions.TlvMap(0xFFFF, 1, 4, 2),)), 1, "0xffff"),
        (monitor.MonitorReply([monitor.FlowUpdate("added", FLOW)]), 1, "event=ADDED table=3"),
        (monitor.MonitorReply([monitor.FlowUpdate("deleted", FLOW, 2)]), 1, "event=DELETED reason=delete table=3"),
        (monitor.MonitorReply([monitor.FlowUpdate("abbreviated", None, xid=0x1234)]), 1, "event=ABBREV xid=0x1234"),
        (bundle.BundleControl(7, 4, 3), 5, "type=COMMIT_REPLY"),
        (codec.EchoReply(b""), 1, "OFPT_ECHO_REPLY"),
        (codec.BarrierReply(), 1, "OFPT_BARRIER_REPLY"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | str) else None,
)  # fmt: skip
def test_the_tool_reads_what_we_write(message: Any, first: int, expected: str, version: int) -> None:
    if version < first:
        pytest.skip("the version has no such message")
    if isinstance(message, groups.GroupFeatures) and version == 3:
        pytest.skip("the same as in 1.3")
    for data in encode(message, version):
        assert expected in printed(data)


@needs_ofctl
@pytest.mark.parametrize("version", VERSIONS)
def test_the_tool_reads_our_events(version: int) -> None:
    connection = connected(version)
    frame = bytes.fromhex("0000000000010000000000020800") + bytes(46)
    packet = packets.PacketIn(frame, 100, 1, 3, 5, (("in_port", 2, 0xFFFFFFFF), ("reg0", 7, 0xFFFFFFFF)), b"user", b"")
    for form in (0, 1, 2):
        connection.packet_in_form = form
        connection.notify(packet)
        text = printed(connection.data_to_send())
        assert "total_len=100 " in text and "in_port=2" in text and "(via action)" in text
        assert ("reg0=0x7" in text) == (form > 0 or version > 2)
        assert ("userdata=75.73.65.72" in text) == (form == 2)
    connection.packet_in_form = 0
    connection.notify(FlowRemoved(ENTRY, 2))
    assert "tcp,nw_src=10.0.0.0/8,tp_dst=80 reason=delete" in printed(connection.data_to_send()).replace(
        "priority=7,", ""
    )
    connection.notify(ports.PortStatus(2, PORT))
    assert "MOD: 3(eth3): addr:00:01:02:03:04:05" in printed(connection.data_to_send())


# --- malformed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "kind", "body", "error"),
    [
        (4, 5, b"\0", "OFPBRC_BAD_LEN"),
        (4, 6, b"", "OFPBRC_BAD_TYPE"),
        (4, 10, b"", "OFPBRC_BAD_TYPE"),
        (4, 4, b"\0\0\x23", "OFPBRC_BAD_LEN"),
        (4, 4, bytes(8), "OFPBRC_BAD_VENDOR"),
        (4, 4, struct.pack("!II", 0x2320, 999), "OFPBRC_BAD_SUBTYPE"),
        (4, 4, struct.pack("!II", 0x2320, 12) + b"\0\0\0\2", "OFPBRC_BAD_SUBTYPE"),
        (1, 4, struct.pack("!II", 0x2320, 12) + b"\0\0\0\1", "OFPBRC_EPERM"),
        (4, 18, b"\0", "OFPBRC_BAD_LEN"),
        (4, 18, struct.pack("!HH4x", 99, 0), "OFPBRC_BAD_STAT"),
        (4, 18, struct.pack("!HH4x", 14, 0), "OFPBRC_BAD_STAT"),
        (4, 18, struct.pack("!HH4xII", 0xFFFF, 0, 1, 2), "OFPBRC_BAD_VENDOR"),
        (4, 18, struct.pack("!HH4xII", 0xFFFF, 0, 0x2320, 0), "OFPBRC_BAD_SUBTYPE"),
        (4, 18, struct.pack("!HH4xI", 0xFFFF, 0, 0x2320), "OFPBRC_BAD_LEN"),
        (4, 18, struct.pack("!HH4xI4x", 4, 0, 0x10000), "OFPBRC_BAD_PORT"),
        (4, 9, struct.pack("!HH", 8, 0), "OFPSCFC_BAD_FLAGS"),
        (4, 24, struct.pack("!I4xQ", 4, 0), "OFPRRFC_BAD_ROLE"),
        (4, 29, struct.pack("!HHI", 3, 1, 1), "OFPMMFC_BAD_COMMAND"),
        (4, 29, struct.pack("!HHI", 0, 3, 1), "OFPMMFC_BAD_FLAGS"),
        (4, 29, struct.pack("!HHI", 0, 1, 0), "OFPMMFC_INVALID_METER"),
        (4, 29, struct.pack("!HHIHHII4x", 0, 1, 1, 9, 16, 0, 0), "OFPMMFC_BAD_BAND"),
        (4, 15, struct.pack("!HBxI", 3, 0, 1), "OFPGMFC_BAD_COMMAND"),
        (4, 15, struct.pack("!HBxI", 0, 4, 1), "OFPGMFC_BAD_TYPE"),
        (4, 15, struct.pack("!HBxI", 0, 0, 0xFFFFFFFC), "OFPGMFC_INVALID_GROUP"),
        (4, 15, struct.pack("!HBxI", 0, 2, 1), "OFPGMFC_INVALID_GROUP"),
        (4, 15, struct.pack("!HBxIHHII4x", 0, 0, 1, 12, 0, 0, 0), "OFPGMFC_BAD_BUCKET"),
        (4, 15, struct.pack("!HBxIHHII4x", 0, 0, 1, 16, 0, 0x10000, 0), "OFPGMFC_BAD_WATCH"),
        (4, 16, struct.pack("!I4x6s2xIII4x", 1, bytes(6), 2, 2, 0), "OFPPMFC_BAD_CONFIG"),
        (5, 28, struct.pack("!HHI", 99, 8, 0), "OFPBPC_BAD_TYPE"),
        (5, 28, struct.pack("!HHI", 0xFFFF, 8, 0), "OFPBPC_BAD_EXPERIMENTER"),
        (5, 28, struct.pack("!HHI", 0, 12, 0), "OFPBPC_BAD_LEN"),
        (5, 33, struct.pack("!IHH", 0, 1, 0), "OFPBFC_BAD_TYPE"),
        (5, 33, struct.pack("!IHH", 0, 0, 8), "OFPBFC_BAD_FLAGS"),
        (4, 13, struct.pack("!IIH6x", 0, 1, 8), "OFPBAC_BAD_LEN"),
        (4, 13, struct.pack("!IIH6x", 0, 0x10000, 0), "OFPBRC_BAD_PORT"),
        (6, 13, struct.pack("!IH2xHH4x", 0, 0, 1, 4), "OFPBRC_BAD_PORT"),
        (4, 4, struct.pack("!IIQ", 0x2320, 29, 1 << 32), "NXBRC_MUST_BE_ZERO"),
        (4, 4, struct.pack("!IIQHHI", 0x2320, 32, 0, 9, 8, 0), "OFPBPC_BAD_TYPE"),
        (4, 4, struct.pack("!IIQHHIHHI", 0x2320, 32, 0, 2, 8, 0, 2, 8, 0), "OFPBPC_DUP_TYPE"),
        (4, 4, struct.pack("!IIH6xHBBH2x", 0x2320, 24, 0, 1, 1, 3, 0), "NXTTMFC_BAD_OPT_LEN"),
        (4, 4, struct.pack("!IIH6xHBBH2x", 0x2320, 24, 0, 1, 1, 4, 64), "NXTTMFC_BAD_FIELD_IDX"),
        (5, 18, struct.pack("!HH4xIIIHBBHH4x", 16, 0, 0, 0xFFFFFFFF, 0, 0, 0, 0, 1, 4), "OFPMOFC_BAD_FLAGS"),
        (4, 14, bytes(39), "OFPBRC_BAD_LEN"),
        (4, 14, struct.pack("!QQBBHHHIIIHH", 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0) + b"\0\1\0\4" + bytes(4),
         "OFPFMFC_BAD_COMMAND"),
        (4, 14, struct.pack("!QQBBHHHIIIHH", 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0) + b"\0\1\0\4" + bytes(4),
         "OFPFMFC_BAD_TABLE_ID"),
        (4, 14, struct.pack("!QQBBHHHIIIHH", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0) + b"\0\1\0\4" + bytes(4),
         "OFPFMFC_BAD_FLAGS"),
    ],
)  # fmt: skip
def test_malformed_messages_get_the_error_that_the_standard_names(
    version: int, kind: int, body: bytes, error: str
) -> None:
    with pytest.raises(OpenFlowError) as caught:
        codec.decode(version, kind, body)
    assert caught.value.name == error


def test_a_tuple_to_flush_is_read() -> None:
    source = bytes(10) + b"\xff\xff\x0a\0\0\1"
    inner = struct.pack("!HH16s4xHHH2x", 0, 20, source, 3, 8, 80)
    body = struct.pack("!IIB7x", 0x2320, 32, 6) + struct.pack("!HH4x", 0, 8 + len(inner)) + inner
    expected = extensions.Flush(None, 6, extensions.FlushTuple(source=source, destination_port=80))
    assert codec.decode(4, 4, body) == expected


def test_only_messages_of_a_switch_are_written() -> None:
    with pytest.raises(TypeError, match="FeaturesRequest"):
        codec.encode(switch.FeaturesRequest(), 4)
