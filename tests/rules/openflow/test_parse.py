"""Whole flows and files: what stands beside match and actions, commands, white space, and speed."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from flowshunt.rules.openflow import Flow, FlowSyntaxError, FlowWarning, parse_flow, parse_flows
from flowshunt.rules.openflow.flow import ALL_TABLES, Output


def test_what_stands_beside_match_and_actions() -> None:
    flow = parse_flow(
        "table=3,priority=0x10,cookie=0x5,idle_timeout=60,hard_timeout=70,importance=9,send_flow_rem,check_overlap,"
        "reset_counts,no_packet_counts,no_byte_counts,actions=1"
    )
    assert flow == Flow(
        actions=(Output(1),), table=3, priority=16, cookie=5, idle_timeout=60, hard_timeout=70, importance=9,
        flags=frozenset(("send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts")),
    )  # fmt: skip


def test_what_is_left_open_has_the_usual_values() -> None:
    assert parse_flow("actions=drop") == Flow()
    assert parse_flow("table=255,actions=drop").table == 0
    assert Flow().priority == 32768


def test_the_output_of_dump_flows_reads_back() -> None:
    text = (
        " cookie=0x0, duration=5.3s, table=1, n_packets=7, n_bytes=8, idle_timeout=9, idle_age=1, hard_age=2, "
        "priority=5,ip,in_port=3 actions=ct(commit),NORMAL"
    )
    assert parse_flow(text) == parse_flow("table=1,idle_timeout=9,priority=5,ip,in_port=3,actions=ct(commit),normal")


@pytest.mark.parametrize(
    "text",
    [
        "ip,in_port=1,actions=1,2",
        " , ip in_port:1\taction = 1 , 2 ,,",
        "ip(),in_port(1) actions=1 2",
        "in_port=1 ip\r\nactions=1\n2",
    ],
)
def test_white_space_and_separators_as_ovs_ofctl_takes_them(text: str) -> None:
    assert parse_flow(text) == parse_flow("ip,in_port=1,actions=1,2")


def test_a_missing_parenthesis_is_taken_with_a_warning() -> None:
    told: list[FlowWarning] = []
    assert parse_flow("ip,actions=ct(commit", warn=told.append) == parse_flow("ip,actions=ct(commit)")
    assert [(warning.line, warning.column) for warning in told] == [(1, 12)]
    assert "closing parenthesis" in str(told[0])


def test_a_port_named_like_the_word_actions() -> None:
    assert parse_flow("in_port=actions,actions=2", ports={"actions": 7}).match == (("in_port", 7, 0xFFFFFFFF),)


def test_deletions_select_and_have_no_actions() -> None:
    flow = parse_flow("tcp,cookie=0x1ff/0xff,out_port=p0,out_group=5", command="del", ports={"p0": 4})
    assert (flow.cookie, flow.cookie_mask, flow.out_port, flow.out_group) == (0xFF, 0xFF, 4, 5)
    assert (flow.table, flow.actions) == (ALL_TABLES, ())
    assert parse_flow("", command="del").match == ()
    assert parse_flow("out_port=any,out_group=all", command="del").out_group == 0xFFFFFFFC
    assert parse_flow("priority=5", command="del_strict").priority == 5


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ip,actions=1", "del"),
        ("priority=5", "del"),
        ("cookie=5", "del"),
        ("idle_timeout=5", "del_strict"),
        ("importance=5,actions=1", "mod"),
        ("out_port=5,actions=1", "mod"),
        ("ip", "mod"),
    ],
)
def test_words_that_do_not_belong_to_the_command(text: str, command: str) -> None:
    with pytest.raises(FlowSyntaxError):
        parse_flow(text, command=command)  # type: ignore[arg-type]


def test_modifications_tell_a_cookie_to_set_from_one_to_select_by() -> None:
    flow = parse_flow("cookie=1/3,cookie=7,ip,actions=1", command="mod")
    assert (flow.cookie, flow.cookie_mask, flow.new_cookie, flow.table) == (1, 3, 7, ALL_TABLES)
    assert parse_flow("ip,actions=1", command="mod").new_cookie is None


FILE = """\
# all of it
table=0,ip actions=1   # to the first

  add tcp,actions=2
modify,udp,actions=3
modify_strict priority=5,actions=4
delete tcp
delete
delete_strict priority=5\r
"""


def test_a_file_gives_commands_and_flows() -> None:
    found = parse_flows(FILE)
    assert [command for command, _ in found] == ["add", "add", "mod", "mod_strict", "del", "del", "del_strict"]
    assert found[0][1] == parse_flow("ip,actions=1")
    assert found[2][1] == parse_flow("udp,actions=3", command="mod")
    assert found[5][1] == parse_flow("", command="del")
    assert found[6][1].priority == 5


def test_the_command_for_lines_without_one_can_be_chosen() -> None:
    ((command, flow),) = parse_flows("tcp", command="del")
    assert (command, flow) == ("del", parse_flow("tcp", command="del"))


def test_errors_and_warnings_in_a_file_name_the_line() -> None:
    told: list[FlowWarning] = []
    with pytest.raises(FlowSyntaxError) as caught:
        parse_flows("# first\ntp_dst=5,actions=1\n\n add ip,actions=p9 # no", source="f.txt", warn=told.append)
    assert (caught.value.source, caught.value.line, caught.value.column) == ("f.txt", 4, 17)
    assert [str(warning)[:9] for warning in told] == ["f.txt:2:1"]


def realistic(n: int) -> str:
    """Flows as a virtual network's controller writes them."""
    draw = random.Random(7)
    lines = []
    for i in range(n):
        port, address = draw.randrange(65536), ".".join(str(draw.randrange(256)) for _ in range(4))
        mac = ":".join(f"{draw.randrange(256):02x}" for _ in range(6))
        lines.append(
            (
                f"table=0,priority={port},in_port=p{i % 90},dl_src={mac},dl_vlan={i % 4096},ip,nw_src={address},"
                f"nw_dst={address}/24,actions=ct(table=1,zone={port})",
                f"table=1,priority={port},ct_state=+trk+new,tcp,nw_dst={address},tp_dst={port},actions=ct(commit,zone=5,"
                f"exec(set_field:{port:#x}->ct_mark)),set_field:{port}->reg0,resubmit(,2)",
                f"cookie={i:#x}, table=2,tcp,tp_dst={port}/0xfff0,nw_src={address}/8 actions=mod_dl_dst:{mac},dec_ttl,"
                f"output:{i % 90}",
                f"table=3,udp6,ipv6_src=2001:db8::{port:x},tp_dst={port} actions=load:{port:#x}->NXM_NX_REG1[0..15],"
                f"move:NXM_NX_REG1[]->NXM_NX_REG2[],output:p{i % 90}",
                f"table=4,arp,arp_tpa={address},arp_op=1,actions=normal",
            )[i % 5]
        )
    return "\n".join(lines)


def test_ten_thousand_flows_take_less_than_a_second_and_a_half_of_cpu_time() -> None:
    text, ports = realistic(10_000), {f"p{n}": n for n in range(90)}
    times = []
    for _ in range(3):
        start = time.process_time()
        assert len(parse_flows(text, ports)) == 10_000
        times.append(time.process_time() - start)
    assert min(times) < 1.5


def test_reading_flows_does_not_import_the_compiler() -> None:
    code = "import sys, flowshunt.rules.openflow; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
