from __future__ import annotations

import struct

import pytest

from flowshunt.control.openflow.errors import ERRORS, ErrorNumber, OpenFlowError, encode_error
from tests.control.openflow.wires import VERSIONS, message


def test_every_error_has_a_number_in_every_version_and_none_stands_for_two() -> None:
    for version in VERSIONS:
        numbers = [known[version] for known in ERRORS.values() if version in known]
        twice = {number for number in numbers if numbers.count(number) > 1}
        # Merged in the old versions, told apart in later ones.
        merged = {1: {ErrorNumber(0, 1, 5)}, 2: {ErrorNumber(0, 1, 5), ErrorNumber(0, 3, 5)}}
        assert twice == merged.get(version, set())
        for name in ERRORS:
            assert OpenFlowError(name).number(version)


@pytest.mark.parametrize(
    ("name", "version", "body"),
    [
        ("OFPFMFC_OVERLAP", 1, struct.pack("!HH", 3, 1)),
        ("OFPFMFC_OVERLAP", 4, struct.pack("!HH", 5, 3)),
        ("OFPFMFC_BAD_TIMEOUT", 1, struct.pack("!HH", 3, 3)),
        ("NXST_NOT_CONFIGURED", 1, struct.pack("!HHIHH", 0xB0C2, 0, 0x2320, 1, 535)),
        ("NXST_NOT_CONFIGURED", 4, struct.pack("!HHI", 0xFFFF, 36, 0x2320)),
        ("OFPBFC_BAD_ID", 4, struct.pack("!HHI", 0xFFFF, 2302, 0x4F4E4600)),
        ("OFPBFC_BAD_ID", 5, struct.pack("!HH", 17, 2)),
        ("OFPBAC_BAD_OUT_GROUP", 1, struct.pack("!HHIHH", 0xB0C2, 0, 0x2320, 2, 9)),
    ],
)
def test_an_error_has_the_form_of_its_version(name: str, version: int, body: bytes) -> None:
    assert encode_error(OpenFlowError(name), version, b"") == body


def test_an_error_repeats_the_request() -> None:
    request = message(4, 14, bytes(range(200)))
    assert encode_error(OpenFlowError("OFPBRC_BAD_LEN"), 4, request) == struct.pack("!HH", 1, 6) + request


def test_an_error_says_what_was_wrong() -> None:
    assert str(OpenFlowError("OFPBMC_BAD_LEN", "a match of 3 bytes")) == "OFPBMC_BAD_LEN: a match of 3 bytes"
