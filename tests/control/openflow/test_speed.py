"""Ten thousand flows have to go in and out within a second each; this asks for a third of that, on any machine."""

from __future__ import annotations

import time

from flowshunt.control.openflow.connection import Request
from flowshunt.control.openflow.flow_stats import FlowEntry, FlowReply
from flowshunt.rules.openflow import parse_flow
from tests.control.openflow.wires import connected, flow_mod

N = 3000
FLOWS = [
    parse_flow(
        f"table=1,tcp,nw_src=10.0.{n >> 8}.{n & 255},tp_dst={n},ct_state=+trk+est,"
        f"actions=ct(commit,zone={n % 100},exec(set_field:{n}->ct_mark)),output:{n % 200 + 1}"
    )
    for n in range(N)
]


def test_flow_mods_are_read_quickly() -> None:
    connection = connected(4)
    data = b"".join(flow_mod(flow, 4) for flow in FLOWS)
    started = time.process_time()
    n = 0
    for at in range(0, len(data), 65536):
        connection.receive_data(data[at : at + 65536])
        while connection.next_event() is not None:
            n += 1
    assert n == N
    assert time.process_time() - started < 1


def test_flows_are_listed_quickly() -> None:
    connection = connected(6)
    started = time.process_time()
    connection.reply(Request(6, 1, None, b""), FlowReply([FlowEntry(flow, 1, 2, 3, 4, 5) for flow in FLOWS]))
    assert len(connection.data_to_send()) > 150 * N
    assert time.process_time() - started < 1
