"""Which ICMP types are queries, which are errors."""

from __future__ import annotations

from typing import Any

import pytest

from flowshunt.jit import kernel
from flowshunt.packet.icmp import ICMP_ERROR, ICMP_OTHER, ICMP_QUERY, classify
from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6

QUERIES = {PROTO_ICMP: {0, 8, 13, 14, 15, 16}, PROTO_ICMPV6: {128, 129}}
ERRORS = {PROTO_ICMP: {3, 4, 5, 11, 12}, PROTO_ICMPV6: {1, 2, 3, 4}}


@kernel(example=lambda: (0, 0))
def kind_of(protocol: Any, icmp_type: Any) -> Any:
    return classify(protocol, icmp_type)


@pytest.mark.parametrize("protocol", [PROTO_ICMP, PROTO_ICMPV6])
def test_every_type(protocol: int) -> None:
    for icmp_type in range(256):
        expected = (
            ICMP_QUERY
            if icmp_type in QUERIES[protocol]
            else ICMP_ERROR
            if icmp_type in ERRORS[protocol]
            else ICMP_OTHER
        )
        assert kind_of(protocol, icmp_type) == expected
