from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.control.openflow.actions import decode_actions, encode_actions
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.instructions import decode_instructions, encode_instructions
from flowshunt.packet.schema import FIELDS, VLAN_PRESENT
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow import parse_flow
from flowshunt.rules.openflow.match import Facts, facts_of
from tests.control.openflow.wires import VERSIONS, through_the_wire, without_flags
from tests.rules.openflow.flow_strategies import whole_flows

NX = bytes.fromhex("00002320")


def facts(text: str) -> Facts:
    return facts_of({place: (value, mask) for place, value, mask in parse_flow(text + ",actions=drop").match})


IP = facts("ip")


class Expected:
    """What a list of actions is when it comes back: the same, said with what a version has."""

    def __init__(self, version: int, tagged: bool) -> None:
        self.version = version
        self.tagged = tagged

    def list_of(self, actions: tuple[F.Action, ...]) -> tuple[F.Action, ...]:
        return tuple(found for action in actions for found in self.one(action))

    def one(self, action: F.Action) -> list[F.Action]:
        match action:
            case F.Note(data):
                return [F.Note(data + bytes(-(len(data) + 10) % 8 if len(data) > 6 else 6 - len(data)))]
            case F.Clone(actions):
                tagged = self.tagged
                inner = self.list_of(actions)
                self.tagged = tagged
                return [F.Clone(inner)]
            case F.ClearActions() | F.WriteActions() if self.version == 1:
                return []
            case F.WriteActions(actions):
                tagged = self.tagged
                inner = self.list_of(actions)
                self.tagged = tagged
                return [F.WriteActions(inner)]
            case F.PushVlan():
                self.tagged = True
                return [] if self.version == 1 else [action]
            case F.PopVlan():
                self.tagged = False
            case F.GotoTable(table) if self.version == 1:
                return [F.Resubmit(None, table)]
            case F.Ct():
                return [replace(action, exec=self.list_of(action.exec))]
            case F.SetField():
                return self.set(action)
        return [action]

    def set(self, action: F.SetField) -> list[F.Action]:
        dest, value = action.dest, action.value
        shape = (dest.field, dest.start, dest.width)
        if (shape == ("vlan_tci", 0, 13) and value & VLAN_PRESENT) or (shape == ("vlan_tci", 12, 4) and value & 1):
            return self.tag(action)
        if self.version == 1 and self.tagged and shape in (("vlan_tci", 0, 12), ("vlan_tci", 13, 3)):
            return self.tag(
                F.SetField(F.Subfield("vlan_tci", 0, 13), value | VLAN_PRESENT, 0x1FFF)
                if dest.start == 0
                else F.SetField(F.Subfield("vlan_tci", 12, 4), value << 1 | 1, 0xF)
            )
        whole = dest.width == FIELDS[dest.field].width
        if dest.width > 64 and (self.version < 3 or (not whole and self.version < 6)):
            low = 64
            parts = []
            for start in range(0, dest.width, low):
                n = min(low, dest.width - start)
                bits = value >> start & (1 << n) - 1
                parts.append(F.SetField(F.Subfield(dest.field, dest.start + start, n), bits, (1 << n) - 1))
            return list(parts)
        return [action]

    def tag(self, action: F.SetField) -> list[F.Action]:
        if self.version == 1:
            self.tagged = True
            return [action]
        push: list[F.Action] = [] if self.tagged else [F.PushVlan(0x8100)]
        self.tagged = True
        if action.dest.start == 0:
            return push + [F.SetField(F.Subfield("vlan_tci", 0, 12), action.value & 0xFFF, 0xFFF)]
        return push + [F.SetField(F.Subfield("vlan_tci", 13, 3), action.value >> 1, 7)]


def is_wide_number(action: F.Action) -> bool:
    if isinstance(action, F.Clone):
        return any(map(is_wide_number, action.actions))
    return isinstance(action, F.Output) and isinstance(action.port, F.Subfield) and action.port.width > 64


@given(whole_flows(), st.sampled_from(VERSIONS))
def test_a_flow_comes_back_from_the_wire(flow: F.Flow, version: int) -> None:
    flow = without_flags(flow)
    flow = replace(flow, actions=tuple(a for a in flow.actions if not is_wide_number(a)))
    tagged = any(place == "vlan_tci" and value & mask & VLAN_PRESENT for place, value, mask in flow.match)
    expected = replace(flow, actions=Expected(version, tagged).list_of(flow.actions))
    assert through_the_wire(flow, version).flow == expected


def nx(subtype: int, body: bytes) -> bytes:
    body += bytes(-(len(body) + 10) % 8)
    return struct.pack("!HH", 0xFFFF, 10 + len(body)) + NX + struct.pack("!H", subtype) + body


def standard(kind: int, body: bytes) -> bytes:
    body += bytes(-(len(body) + 4) % 8)
    return struct.pack("!HH", kind, 4 + len(body)) + body


REG0 = struct.pack("!I", 0x00010004)
CT_STATE = struct.pack("!I", 0x0001D204)
CT_MARK = struct.pack("!I", 0x0001D604)


def multipath(fields: int, algorithm: int, last: int, packed: int, dest: bytes = REG0) -> bytes:
    return nx(10, struct.pack("!HH2xHHI2xH", fields, 0, algorithm, last, 0, packed) + dest)


def bundle(
    subtype: int, algorithm: int, fields: int, *, kind: int = 2, n: int = 1, member: int = 1, packed: int = 0,
    dest: bytes = bytes(4),
) -> bytes:  # fmt: skip
    return nx(
        subtype, struct.pack("!HHHIHH", algorithm, fields, 0, kind, n, packed) + dest + struct.pack("!4xH", member)
    )


@pytest.mark.parametrize(
    ("version", "action", "error"),
    [
        (1, b"\0\0\0", "OFPBAC_BAD_LEN"),
        (1, b"\0\0\0\0\0\0\0\0", "OFPBAC_BAD_LEN"),
        (1, b"\0\0\0\x0c" + bytes(8), "OFPBAC_BAD_LEN"),
        (1, b"\0\0\0\x10" + bytes(4), "OFPBAC_BAD_LEN"),
        (1, standard(0, bytes(12)), "OFPBAC_BAD_LEN"),
        (1, standard(12, b""), "OFPBAC_BAD_TYPE"),
        (4, standard(11, b""), "OFPBAC_BAD_TYPE"),
        (4, standard(26, b"\x88\xe7"), "OFPBAC_BAD_TYPE"),
        (2, standard(25, REG0 + bytes(4)), "OFPBAC_BAD_TYPE"),
        (4, standard(28, bytes(12)), "OFPBAC_BAD_TYPE"),
        (4, standard(29, bytes(4)), "OFPBAC_BAD_TYPE"),
        (1, struct.pack("!HHI", 0xFFFF, 8, 0x2320), "OFPBAC_BAD_LEN"),
        (1, struct.pack("!HHI8x", 0xFFFF, 16, 0x1234), "OFPBAC_BAD_VENDOR"),
        (1, nx(9, bytes(14)), "OFPBAC_BAD_VENDOR_TYPE"),
        (4, nx(46, bytes(14)), "OFPBAC_BAD_VENDOR_TYPE"),
        (1, nx(34, struct.pack("!BBI", 2, 2, 1)), "NXBAC_BAD_CONJUNCTION"),
        (1, nx(34, struct.pack("!BBI", 0, 1, 1)), "NXBAC_BAD_CONJUNCTION"),
        (1, nx(34, struct.pack("!BBI", 0, 65, 1)), "NXBAC_BAD_CONJUNCTION"),
        (1, multipath(7, 0, 1, 31), "OFPBAC_BAD_ARGUMENT"),
        (1, multipath(0, 4, 1, 31), "OFPBAC_BAD_ARGUMENT"),
        (1, multipath(0, 0, 8, 2), "OFPBAC_BAD_ARGUMENT"),
        (1, multipath(0, 0, 1, 31, CT_STATE), "OFPBAC_BAD_SET_ARGUMENT"),
        (1, multipath(0, 0, 1, 63), "OFPBAC_BAD_SET_LEN"),
        (1, bundle(12, 2, 0), "OFPBAC_BAD_ARGUMENT"),
        (1, bundle(12, 0, 7), "OFPBAC_BAD_ARGUMENT"),
        (1, bundle(12, 0, 0, kind=4), "OFPBAC_BAD_ARGUMENT"),
        (1, bundle(12, 0, 0, n=5), "OFPBAC_BAD_LEN"),
        (1, bundle(12, 0, 0, member=0xFF00), "OFPBAC_BAD_OUT_PORT"),
        (1, bundle(12, 0, 0, packed=31), "NXBAC_MUST_BE_ZERO"),
        (1, bundle(13, 0, 0, packed=14, dest=REG0), "OFPBAC_BAD_ARGUMENT"),
        (1, bundle(13, 0, 0, packed=15, dest=CT_STATE), "OFPBAC_BAD_SET_ARGUMENT"),
        (1, nx(21, struct.pack("!H4x8x", 0)), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(21, struct.pack("!H4xH6x", 5, 0)), "OFPBAC_BAD_LEN"),
        (1, nx(21, struct.pack("!HIQ", 1, 1, 0)), "NXBAC_MUST_BE_ZERO"),
        (1, nx(39, struct.pack("!HI", 0xFFFB, 100)), "OFPBAC_BAD_OUT_PORT"),
        (1, nx(39, struct.pack("!HI", 1, 13)), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(999, b""), "OFPBAC_BAD_VENDOR_TYPE"),
        (1, struct.pack("!HHHH", 0, 8, 0xFFF0, 0), "OFPBAC_BAD_OUT_PORT"),
        (4, standard(0, struct.pack("!IH6x", 0x10000, 0)), "OFPBAC_BAD_OUT_PORT"),
        (1, standard(1, b"\x10\x00"), "OFPBAC_BAD_ARGUMENT"),
        (1, standard(2, b"\x08"), "OFPBAC_BAD_ARGUMENT"),
        (1, standard(8, b"\x01"), "OFPBAC_BAD_ARGUMENT"),
        (4, standard(17, b"\x08\x00"), "OFPBAC_BAD_ARGUMENT"),
        (4, standard(25, CT_STATE + bytes(4)), "OFPBAC_BAD_SET_ARGUMENT"),
        (4, standard(25, CT_MARK + bytes(4)), "OFPBAC_BAD_SET_ARGUMENT"),
        (4, standard(25, struct.pack("!II", 0x8001FF04, 5)), "OFPBAC_BAD_SET_TYPE"),
        (4, standard(25, struct.pack("!III", 0x00010108, 1, 1)), "OFPBAC_BAD_SET_MASK"),
        (6, standard(25, struct.pack("!III", 0x00010108, 2, 1)), "OFPBAC_BAD_SET_ARGUMENT"),
        (4, standard(25, struct.pack("!IQ", 0x00010008, 1)), "OFPBAC_BAD_SET_LEN"),
        (4, standard(25, struct.pack("!IH", 0x80001A02, 5)), "OFPBAC_MATCH_INCONSISTENT"),
        (4, standard(25, struct.pack("!III", 0x00010004, 2, 1)), "NXBAC_MUST_BE_ZERO"),
        (1, nx(7, struct.pack("!H", 5 << 6 | 31) + REG0 + bytes(8)), "OFPBAC_BAD_SET_LEN"),
        (1, nx(7, struct.pack("!H", 3) + REG0 + struct.pack("!Q", 16)), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(6, struct.pack("!HHH", 0, 0, 0) + REG0 + REG0), "OFPBAC_BAD_SET_LEN"),
        (1, nx(6, struct.pack("!HHH", 8, 0, 0) + REG0 + CT_STATE), "OFPBAC_BAD_SET_ARGUMENT"),
        (1, nx(14, struct.pack("!HBBBB", 1, 2, 0, 0, 1)), "NXBAC_MUST_BE_ZERO"),
        (1, nx(15, struct.pack("!H4sHIH", 15, REG0, 0, 0, 1)), "NXBAC_MUST_BE_ZERO"),
        (1, nx(35, struct.pack("!HIHB3xH", 2, 0, 0, 255, 0)), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(35, struct.pack("!HIHB3xH", 8, 0, 0, 255, 0)), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(35, struct.pack("!H4sHB3xH", 1, REG0, 7, 255, 0)), "OFPBAC_BAD_SET_LEN"),
        (1, nx(35, struct.pack("!HIHB3xH", 1, 0, 0, 255, 0) + nx(43, b"")), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(35, bytes(8) + b"\xff" + bytes(5) + nx(7, b"\0\x1f" + CT_MARK + bytes(8))), "OFPBAC_BAD_ARGUMENT"),
        (1, nx(37, bytes(6) + b"\0\0\0\3" + bytes(4)), "OFPBPC_BAD_LEN"),
        (1, nx(37, bytes(6) + b"\0\x09\0\4" + bytes(4)), "OFPBPC_BAD_TYPE"),
    ],
)  # fmt: skip
def test_wrong_actions_get_the_error_that_the_standard_names(version: int, action: bytes, error: str) -> None:
    with pytest.raises(OpenFlowError) as caught:
        decode_actions(action, version, IP)
    assert caught.value.name == error


def test_clones_may_not_lie_too_deep() -> None:
    action = b""
    for _ in range(16):
        action = nx(42, bytes(6) + action)
    assert decode_actions(action, 1, IP)
    with pytest.raises(OpenFlowError) as caught:
        decode_actions(nx(42, bytes(6) + action), 1, IP)
    assert caught.value.name == "OFPBAC_TOO_MANY"


def test_what_the_flows_packets_need_not_have_cannot_be_set() -> None:
    set_port = standard(25, struct.pack("!IH", 0x80001A02, 5))
    assert decode_actions(set_port, 4, facts("tcp"))
    assert decode_actions(set_port, 4, None)
    set_vlan = standard(25, struct.pack("!IH", 0x80000C02, 0x1005))
    push = standard(17, b"\x81\x00")
    assert decode_actions(set_vlan, 4, facts("dl_vlan=5"))
    assert decode_actions(push + set_vlan, 4, IP)
    for data, error in (
        (standard(18, b"") + set_vlan, "OFPBAC_MATCH_INCONSISTENT"),
        (standard(25, struct.pack("!IH", 0x80000C02, 5)), "OFPBAC_BAD_SET_ARGUMENT"),
    ):
        with pytest.raises(OpenFlowError) as caught:
            decode_actions(data, 4, facts("dl_vlan=5"))
        assert caught.value.name == error


def test_old_actions_pass_over_flows_without_their_header() -> None:
    assert decode_actions(standard(6, bytes(4)), 1, facts("arp")) == ()
    assert decode_actions(standard(9, bytes(2)), 1, facts("icmp")) == ()
    assert decode_actions(standard(8, b"\x08"), 1, facts("arp")) == ()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "action",
    [
        F.Controller(), F.Controller(100), F.Controller(100, 7, 2), F.Controller(userdata=b"\1\2\3", pause=True),
        F.Controller(128, 3, 0, b"abc", True, 9), F.Group(5), F.SetQueue(3), F.SetQueue(None), F.Exit(),
    ],
)  # fmt: skip
def test_what_the_datapath_cannot_do_yet_comes_back_too(action: F.Action, version: int) -> None:
    assert decode_actions(encode_actions((action,), version, IP), version, IP) == (action,)


NAT_ADDRESS = struct.pack("!2xHHI", 1, 1, 0x01010101)


@pytest.mark.parametrize(
    ("nat", "error"),
    [
        (struct.pack("!2xHH", 3, 0), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHH", 32, 0), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHH", 1, 64), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHH", 1, 4), "OFPBAC_BAD_LEN"),
        (struct.pack("!2xHHQQ", 1, 1, 1, 1), "OFPBAC_BAD_LEN"),
        (struct.pack("!2xHHI4x", 1, 2, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHHHH", 1, 0x30, 1, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHHIHH", 1, 0x31, 1, 9, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHHII", 1, 3, 9, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHHI", 25, 1, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHHI", 0, 1, 1), "OFPBAC_BAD_ARGUMENT"),
        (struct.pack("!2xHH16s", 1, 4, b"x" * 16), "OFPBAC_MATCH_INCONSISTENT"),
        (struct.pack("!2xHHIB3x", 1, 1, 1, 1), "NXBAC_MUST_BE_ZERO"),
    ],
)
def test_wrong_nat_gets_the_error_that_the_standard_names(nat: bytes, error: str) -> None:
    for commit in (0, 1):
        ct = struct.pack("!HIHB3xH", commit, 0, 0, 255, 0)
        with pytest.raises(OpenFlowError) as caught:
            decode_actions(nx(35, ct + nx(36, nat)), 1, IP)
        assert caught.value.name == error


def test_nat_stands_in_ct_once_and_changes_addresses_only_with_commit() -> None:
    ct = struct.pack("!HIHB3xH", 1, 0, 0, 255, 0)
    for action in (
        nx(36, NAT_ADDRESS),
        nx(35, ct + nx(36, NAT_ADDRESS) * 2),
        nx(35, bytes(8) + b"\xff" + bytes(5) + nx(36, NAT_ADDRESS)),
        nx(35, ct[:-2] + b"\0\x16"),
    ):
        with pytest.raises(OpenFlowError) as caught:
            decode_actions(action, 1, IP)
        assert caught.value.name == "OFPBAC_BAD_ARGUMENT"
    with pytest.raises(OpenFlowError) as caught:
        decode_actions(nx(35, ct[:-2] + b"\0\x15"), 1, IP)
    assert caught.value.name == "OFPBAC_MATCH_INCONSISTENT"


@pytest.mark.parametrize(
    "text",
    [
        "ip,actions=ct(nat)", "ip,actions=ct(commit,nat(src))", "ip,actions=ct(commit,nat(dst=1.1.1.1))",
        "ip,actions=ct(commit,nat(src=1.1.1.1-1.1.1.9:5000-6000,random),exec(load:1->NXM_NX_CT_MARK[]))",
        "ipv6,actions=ct(commit,nat(src=fc00::1,hash,persistent))",
        "tcp6,actions=ct(commit,nat(dst=[fc00::1]-[fc00::9]:80),alg=ftp)", "udp,actions=ct(commit,alg=tftp)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", VERSIONS)
def test_nat_and_helpers_come_back_from_the_wire(text: str, version: int) -> None:
    flow = parse_flow(text)
    assert through_the_wire(flow, version).flow == flow


def test_an_address_of_zeros_is_none() -> None:
    ct = struct.pack("!HIHB3xH", 1, 0, 0, 255, 0)
    assert decode_actions(nx(35, ct + nx(36, struct.pack("!2xHHI", 1, 1, 0))), 1, IP) == (
        parse_flow("ip,actions=ct(commit,nat(src))").actions
    )


def test_enqueue_and_meter_have_their_own_ways() -> None:
    assert decode_actions(encode_actions((F.Enqueue(3, 4),), 1, IP), 1, IP) == (F.Enqueue(3, 4),)
    later = (F.SetQueue(4), F.Output(3), F.SetQueue(None))
    assert decode_actions(encode_actions((F.Enqueue(3, 4),), 4, IP), 4, IP) == later
    actions = (F.Meter(7), F.Output(1))
    for version in (4, 5, 6):
        assert decode_instructions(encode_instructions(actions, version, IP), 0, version, IP, 0) == actions


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\0\1\0", "OFPBIC_BAD_LEN"),
        (b"\0\1\0\x0c" + bytes(8), "OFPBIC_BAD_LEN"),
        (b"\0\1\0\x10" + bytes(12), "OFPBIC_BAD_LEN"),
        (b"\0\7\0\x08" + bytes(4), "OFPBIC_UNKNOWN_INST"),
        (b"\xff\xff\0\x08" + bytes(4), "OFPBIC_BAD_EXPERIMENTER"),
        (b"\0\5\0\x10" + bytes(12), "OFPBIC_BAD_LEN"),
        (b"\0\3\0\x08" + bytes(4) + b"\0\3\0\x08" + bytes(4), "OFPBIC_DUP_INST"),
        (b"\0\3\0\x18" + bytes(4) + b"\xff\xff\0\x10\0\0\x23\x20\0\x11" + bytes(6), "OFPBAC_BAD_TYPE"),
        (b"\0\1\0\x08\5\0\0\0" * 2, "OFPBIC_DUP_INST"),
        (b"\0\1\0\x08\1\0\0\0", "OFPBIC_BAD_TABLE_ID"),
        (b"\0\1\0\x08\xff\0\0\0", "OFPBIC_BAD_TABLE_ID"),
    ],
)
def test_wrong_instructions_get_the_error_that_the_standard_names(data: bytes, error: str) -> None:
    with pytest.raises(OpenFlowError) as caught:
        decode_instructions(data, 0, 4, IP, 1)
    assert caught.value.name == error


def test_write_metadata_is_setting_the_field() -> None:
    data = struct.pack("!HH4xQQ", 2, 24, 0x12, 0xFF) + b"\0\1\0\x08\5\0\0\0"
    expected = parse_flow("actions=write_metadata:0x12/0xff,goto_table:5").actions
    assert decode_instructions(data, 0, 4, IP, 0) == expected
