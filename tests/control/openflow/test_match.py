from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.fields import BY_NUMBER, WIRE_FIELDS
from flowshunt.control.openflow.fixed import (
    decode_match_10,
    decode_match_11,
    encode_match_10,
    encode_match_11,
    fits_match_11,
)
from flowshunt.control.openflow.layouts import MAX_LAYOUTS
from flowshunt.control.openflow.match import (
    LAYOUTS,
    Match,
    decode_fields,
    decode_oxm_match,
    encode_fields,
    encode_oxm_match,
    read_fields,
)
from flowshunt.rules.openflow import parse_flow
from flowshunt.rules.openflow.fields import USER_FIELDS
from tests.control.openflow.wires import VERSIONS
from tests.rules.openflow.flow_strategies import FAMILIES, matches

any_match = st.sampled_from(sorted(FAMILIES)).flatmap(matches)


def triples(text: str) -> tuple[tuple[str, int, int], ...]:
    return parse_flow(f"{text},actions=drop" if text else "actions=drop").match


@given(any_match, st.sampled_from(VERSIONS))
def test_a_match_comes_back_from_the_wire(match: tuple[tuple[str, int, int], ...], version: int) -> None:
    assert decode_fields(encode_fields(match, version)).triples == match
    assert decode_oxm_match(encode_oxm_match(match, version), 0)[0].triples == match


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "in_port=LOCAL",
        "dl_vlan=5",
        "dl_vlan=5,dl_vlan_pcp=3",
        "dl_vlan_pcp=2",
        "vlan_tci=0",
        "vlan_tci=0x1000/0x1000",
        "vlan_tci=0x2000/0x2000",
        "arp,arp_op=2,arp_spa=10.0.0.1,arp_tha=00:00:00:00:00:01",
        "icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::1,nd_sll=00:00:00:00:00:01",
        "xxreg0=0x10000000000000002/0xf000000000000000f",
    ],
)
def test_a_flow_text_says_the_same_over_the_wire(text: str, version: int) -> None:
    assert decode_fields(encode_fields(triples(text), version)).triples == triples(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "in_port=3", "dl_src=00:00:00:00:00:01,dl_dst=ff:ff:ff:ff:ff:ff", "dl_vlan=7,dl_vlan_pcp=2", "vlan_tci=0",
        "ip,nw_src=10.0.0.0/9,nw_dst=1.2.3.4,nw_tos=8", "tcp,tp_src=1,tp_dst=2", "icmp,icmp_type=8,icmp_code=0",
        "arp,arp_spa=10.0.0.0/8,arp_op=1", "udp6,tp_dst=53", "dl_type=0x88cc",
    ],
)  # fmt: skip
def test_the_old_layouts_say_what_they_have_room_for(text: str) -> None:
    match = triples(text)
    assert decode_match_10(encode_match_10(match), 0).triples == match
    assert fits_match_11(match)
    assert decode_match_11(encode_match_11(match), 0)[0].triples == match


@pytest.mark.parametrize("text", ["reg0=1", "tcp,tp_src=1/1", "ipv6,ipv6_src=::1", "vlan_tci=1/1", "ip,nw_ttl=3"])
def test_what_openflow_1_1_has_no_room_for_is_known(text: str) -> None:
    assert not fits_match_11(triples(text))


@given(any_match)
def test_openflow_1_1_loses_nothing_that_fits(match: tuple[tuple[str, int, int], ...]) -> None:
    if fits_match_11(match):
        assert decode_match_11(encode_match_11(match), 0)[0].triples == match


def test_masked_addresses_of_openflow_1_1() -> None:
    match = triples("metadata=5/7,dl_src=00:00:00:00:00:01/00:00:00:00:00:ff,ip,nw_src=1.0.0.1/255.0.0.255")
    assert fits_match_11(match)
    assert decode_match_11(encode_match_11(match), 0)[0].triples == match


def field(number: int, payload: bytes, masked: bool = False) -> bytes:
    return struct.pack("!I", number << 9 | masked << 8 | len(payload)) + payload


ETH_TYPE_IP = field(0x8000 << 7 | 5, b"\x08\x00")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (b"\x80\x00\x0a", "OFPBMC_BAD_LEN"),
        (field(0x8000 << 7 | 5, b"\x08\x00")[:-1], "OFPBMC_BAD_LEN"),
        (field(0x8000 << 7 | 5, b"\x08"), "OFPBMC_BAD_LEN"),
        (field(0x8000 << 7 | 100, b"\x00"), "OFPBMC_BAD_FIELD"),
        (field(0x8000 << 7 | 38, bytes(8)), "OFPBMC_BAD_FIELD"),
        (field(0xFFFF << 7 | 42, b"\x00\x00\x00\x01\x00\x00"), "OFPBMC_BAD_FIELD"),
        (field(0x8000 << 7 | 11, b"\x0a\x00\x00\x01"), "OFPBMC_BAD_PREREQ"),
        (ETH_TYPE_IP + ETH_TYPE_IP, "OFPBMC_DUP_FIELD"),
        (field(1 << 7, b"\0\0\0\1\0\0\0\2", True), "OFPBMC_BAD_WILDCARDS"),
        (field(0x8000 << 7 | 5, b"\x08\x00\xff\x00", True), "OFPBMC_BAD_MASK"),
        (field(0x8000 << 7, b"\0\1\0\0"), "OFPBMC_BAD_VALUE"),
        (ETH_TYPE_IP + field(0x8000 << 7 | 8, b"\x40"), "OFPBMC_BAD_VALUE"),
        (ETH_TYPE_IP + field(1 << 7 | 26, b"\x08"), "OFPBMC_BAD_VALUE"),
        (ETH_TYPE_IP + field(1 << 7 | 120, bytes(4)), "OFPBMC_BAD_PREREQ"),
        (field(0x8000 << 7 | 44, b"\0\1\x08\0"), "OFPBMC_BAD_VALUE"),
        (field(1 << 7 | 30, bytes(9)), "OFPBMC_BAD_LEN"),
        (field(1 << 7 | 30, bytes(8)) * 2, "OFPBMC_DUP_FIELD"),
    ],
)
def test_wrong_fields_get_the_error_that_the_standard_names(fields: bytes, error: str) -> None:
    with pytest.raises(OpenFlowError) as caught:
        decode_fields(fields)
    assert caught.value.name == error


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\0\1\0\4", "OFPBMC_BAD_LEN"),
        (b"\0\2\0\4\0\0\0\0", "OFPBMC_BAD_TYPE"),
        (b"\0\1\0\3\0\0\0\0", "OFPBMC_BAD_LEN"),
        (b"\0\1\0\x09\0\0\0\0", "OFPBMC_BAD_LEN"),
    ],
)
def test_wrong_matches_get_the_error_that_the_standard_names(data: bytes, error: str) -> None:
    with pytest.raises(OpenFlowError) as caught:
        decode_oxm_match(data, 0)
    assert caught.value.name == error


def test_prerequisites_may_come_later_and_masks_of_nothing_say_nothing() -> None:
    later = field(0x8000 << 7 | 11, b"\x0a\x00\x00\x01") + ETH_TYPE_IP
    assert decode_fields(later).triples == triples("ip,nw_src=10.0.0.1")
    assert decode_fields(field(1 << 7, bytes(8), True)).triples == ()
    assert decode_fields(field(1 << 7, b"\0\0\0\5\xff\xff\xff\xff", True)).triples == triples("reg0=5")
    assert decode_fields(field(0x8000 << 7 | 44, bytes(4))).triples == ()


def test_the_onf_field_of_1_3_is_read() -> None:
    fields = ETH_TYPE_IP + field(0x8000 << 7 | 10, b"\6") + field(0xFFFF << 7 | 42, b"\x4f\x4e\x46\x00\x00\x02")
    assert decode_fields(fields).triples == triples("tcp,tcp_flags=syn")


def test_a_cookie_stands_among_the_fields_of_nxm() -> None:
    match = decode_fields(field(1 << 7 | 30, struct.pack("!QQ", 5, 7), True) + ETH_TYPE_IP)
    assert (match.cookie, match.cookie_mask, match.triples) == (5, 7, triples("ip"))


def test_every_field_that_users_can_name_is_on_the_wire_and_no_number_is_used_twice() -> None:
    numbers = [n for wire in WIRE_FIELDS.values() for n in (wire.nxm, wire.oxm) if n >= 0]
    assert len(numbers) == len(set(numbers)) == len(BY_NUMBER)
    places = {wire.field.place for wire in WIRE_FIELDS.values()}
    assert places == {field.place for field in USER_FIELDS.values()}


def _read(reader: Callable[[bytes], Match], data: bytes) -> Match | str:
    try:
        return reader(data)
    except OpenFlowError as error:
        return error.name


@given(any_match, st.sampled_from(VERSIONS), st.lists(st.integers(0, 1 << 12), max_size=4))
def test_a_list_of_known_layout_says_what_it_says_field_by_field(
    match: tuple[tuple[str, int, int], ...], version: int, flipped: list[int]
) -> None:
    data = encode_fields(match, version)
    assert decode_fields(data).triples == match
    number = int.from_bytes(data, "big")
    for bit in flipped:
        number ^= 1 << bit % (8 * len(data)) if data else 0
    other = number.to_bytes(len(data), "big")
    found = _read(decode_fields, other)
    assert found == _read(lambda data: read_fields(data, []), other)
    assert found == _read(decode_fields, other)


def test_layouts_of_one_size_are_few() -> None:
    for state in range(256):
        with contextlib.suppress(OpenFlowError):
            decode_fields(field(1 << 7 | 105, struct.pack("!II", state, state), masked=True))
    assert decode_fields(field(1 << 7 | 105, struct.pack("!II", 0x21, 0x21), masked=True)).triples == (
        ("ct_state", 0x21, 0x21),
    )
    assert max(map(len, LAYOUTS.by_size.values())) <= MAX_LAYOUTS
