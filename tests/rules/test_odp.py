"""Frames from the text of datapath flows."""

from __future__ import annotations

import pytest

from flowshunt.rules.odp import OdpError, frame


def test_tags_may_lie_in_tags_but_not_very_many() -> None:
    assert frame("encap(" * 9 + "eth_type(0x0800)" + ")" * 9)[-6:] == bytes.fromhex("810000000800")
    with pytest.raises(OdpError):
        frame("encap(" * 10 + "eth_type(0x0800)" + ")" * 10)
