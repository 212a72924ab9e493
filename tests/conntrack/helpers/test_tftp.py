"""What a TFTP request announces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.conntrack.helpers import BY_NAME, BY_NUMBER, HELPERS
from flowshunt.conntrack.helpers.api import NOTHING, Announcement, Findings
from flowshunt.conntrack.helpers.tftp import Requests


@pytest.mark.parametrize(
    "request_", [b"\0\1rfc1350.txt\0octet\0", b"\0\2x\0netascii\0", b"\0\1f\0octet\0blksize\x001400\0"]
)
def test_a_request_announces_an_answer_to_its_own_port(request_: bytes) -> None:
    assert Requests().inspect(0, 0, request_) == Findings((Announcement(None, 0),))


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\3\0\1data", b"\0\4\0\1", b"\0\5\0\1no\0", b"\1\1f\0octet\0"])
def test_other_messages_announce_nothing(payload: bytes) -> None:
    assert Requests().inspect(0, 0, payload) == NOTHING


def test_a_server_requests_nothing() -> None:
    assert Requests().inspect(1, 0, b"\0\1file\0octet\0") == NOTHING


@pytest.mark.parametrize("payload", [b"\0\1", b"\0\1file", b"\0\1file\0octet", b"\0\1\0octet\0", b"\0\1file\0\0"])
def test_a_request_that_names_no_file_or_mode_is_malformed(payload: bytes) -> None:
    assert Requests().inspect(0, 0, payload) == Findings(malformed=1)


@given(st.binary(max_size=600), st.integers(0, 1))
def test_nothing_that_peers_send_raises(payload: bytes, direction: int) -> None:
    Requests().inspect(direction, 0, payload)


def test_helpers_are_listed_by_name_and_number() -> None:
    assert [(BY_NUMBER[n].name, n) for n in sorted(BY_NUMBER)] == [("ftp", 1), ("tftp", 2)]
    assert {helper.name: (helper.protocol, helper.port) for helper in HELPERS} == {"ftp": (6, 21), "tftp": (17, 69)}
    assert set(BY_NAME) == {"ftp", "tftp"}
