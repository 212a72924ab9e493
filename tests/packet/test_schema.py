"""The layout that everyone builds on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import flowshunt.packet.schema as schema
from flowshunt.packet.schema import FIELDS, HEADER_WORDS, KEY_WORDS, PACKET, VERDICTS, W_REG, Field

# Views of the same bits under several names.
_HEADER = {"nw_src": "ipv6_src", "nw_dst": "ipv6_dst", "ct_nw_src": "ct_ipv6_src", "ct_nw_dst": "ct_ipv6_dst"}


def bits(field: Field) -> set[int]:
    """The places of a field's bits, counted from the first word's least significant one."""
    if field.width <= 64:
        return {64 * field.word + field.shift + n for n in range(field.width)}
    return set(range(64 * field.word, 64 * field.word + 128))


def test_fields_lie_within_the_key_and_do_not_overlap() -> None:
    single = {
        name: bits(place)
        for name, place in FIELDS.items()
        if name not in _HEADER and not name.startswith(("xreg", "xxreg"))
    }
    for name, places in single.items():
        assert max(places) < 64 * KEY_WORDS, name
    for (first, a), (second, b) in combinations(single.items(), 2):
        assert not a & b, f"{first} and {second}"


def test_ipv4_addresses_are_the_low_part_of_the_wide_form() -> None:
    for narrow, wide in _HEADER.items():
        assert bits(FIELDS[narrow]) == set(range(64 * (FIELDS[wide].word + 1), 64 * (FIELDS[wide].word + 1) + 32))


def test_registers_pair_up_with_the_even_one_on_top() -> None:
    for n in range(8):
        assert bits(FIELDS[f"xreg{n}"]) == bits(FIELDS[f"reg{2 * n}"]) | bits(FIELDS[f"reg{2 * n + 1}"])
        assert min(bits(FIELDS[f"reg{2 * n}"])) > max(bits(FIELDS[f"reg{2 * n + 1}"]))
    for n in range(4):
        assert bits(FIELDS[f"xxreg{n}"]) == bits(FIELDS[f"xreg{2 * n}"]) | bits(FIELDS[f"xreg{2 * n + 1}"])
    assert FIELDS["reg0"].word == W_REG


def test_header_fields_come_first() -> None:
    pipeline = ("in_port", "ct_", "metadata", "reg", "xreg", "xxreg", "conj_id")
    for name, place in FIELDS.items():
        assert (place.word >= HEADER_WORDS) == name.startswith(pipeline), name


def test_a_packet_record_is_a_cache_line() -> None:
    assert PACKET.itemsize == 64


def test_every_verdict_has_its_constant() -> None:
    for number, name in enumerate(VERDICTS):
        assert getattr(schema, "VERDICT_" + name.upper().replace("-", "_")) == number


def test_the_schema_needs_no_numba(run_python: Callable[..., object]) -> None:
    run_python("-c", "import sys, flowshunt.packet, flowshunt.packet.schema; assert 'numba' not in sys.modules")
