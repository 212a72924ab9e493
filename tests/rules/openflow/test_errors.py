"""Errors name the place, the word and what would be right."""

from __future__ import annotations

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.rules.openflow import FlowSyntaxError, parse_flow, parse_flows
from flowshunt.rules.openflow.errors import EXCERPT


def error_of(text: str, **options: object) -> FlowSyntaxError:
    with pytest.raises(FlowSyntaxError) as caught:
        parse_flow(text, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("text", "word", "message", "hint"),
    [
        ("ip,nw_scr=1.2.3.4,actions=1", "nw_scr", 'unknown field "nw_scr"', "did you mean nw_src?"),
        ("ip,NW_SRC=1.2.3.4,actions=1", "NW_SRC", 'unknown field "NW_SRC"', "write nw_src, in lower case"),
        ("tpc,actions=1", "tpc", 'unknown word "tpc"', "did you mean tcp?"),
        ("NXM_OF_IP_SRC=1,actions=1", "NXM_OF_IP_SRC", "NXM_OF_IP_SRC needs brackets", "NXM_OF_IP_SRC[]=VALUE"),
        ("tun_id=5,actions=1", "tun_id", "not supported yet: field tun_id", ""),
        ("ip", "", "the flow has no actions", "actions=output:1"),
        ("ip,nw_src=10.0.0.256,actions=1", "10.0.0.256", "is not an IPv4 address", "10.0.0.0/8"),
        ("ip,nw_src=10.0.0.0/33,actions=1", "10.0.0.0/33", "no valid mask", "0 to 32"),
        ("ipv6,ipv6_src=1.2.3.4,actions=1", "1.2.3.4", "is not an IPv6 address", "2001:db8::1"),
        ("dl_src=1:2:3,actions=1", "1:2:3", "is not an Ethernet address", "00:11:22:33:44:55"),
        ("priority=65536,actions=1", "65536", "does not fit into 16 bits", "0 to 65535"),
        ("reg0=0x,actions=1", "0x", "is not a number", "0x50"),
        ("reg0= 5,actions=1", "reg0", "reg0 has no value", "without spaces"),
        ("ct_zone=5/7,actions=1", "5/7", "ct_zone can't be masked", ""),
        ("ip,ip_frag=frist,actions=1", "frist", "is not a fragment state", "no, yes, first, later, not_later"),
        ("ct_state=+trk+nwe,actions=1", "nwe", 'unknown ct_state flag "nwe"', "did you mean new?"),
        ("tcp,tcp_flags=+syn+syn,actions=1", "+syn+syn", "twice", ""),
        ("ip,ct_nw_src=1.2.3.4,actions=1", "ct_nw_src", "needs a connection in the match", "ct_state=+trk+est"),
        ("tcp,ip_frag=later,tp_src=5,actions=1", "tp_src", "later fragments have no ports", ""),
        ("in_port=eth9,actions=1", "eth9", 'unknown port "eth9"', "did you mean eth0?"),
        ("table=256,actions=1", "256", 'unknown table "256"', "0 to 254"),
        ("cookie=5/-1,actions=1", "5/-1", "has no mask", "cookie=5"),
        ("out_port=5,actions=1", "out_port", "out_port can't be given here", "new flow"),
        ("actions=outptu:3", "outptu", 'unknown action "outptu"', "did you mean output?"),
        ("actions=drop,1", "drop", "can't be combined", "alone"),
        ("actions=output:65281", "65281", "is not a port to output to", "65279"),
        ("actions=set_tunnel:1", "set_tunnel", "not supported yet: set_tunnel", ""),
        ("actions=encap(nsh)", "encap", "not supported yet: encap", ""),
        ("actions=multipath(1)", "1", "multipath takes 6 arguments, not 1", "write multipath("),
        ("actions=multipath(eth_src,0,hrw,9,0,reg0[1..3])", "reg0[1..3]", "8 values, less than 9 links", "more bits"),
        ("actions=multipath(eth_scr,0,hrw,9,0,reg0[])", "eth_scr", "unknown fields", "did you mean eth_src?"),
        ("actions=bundle(eth_src,0,hrw,ofport,1)", "eth_src,0,hrw,ofport,1", "lacks its members", "members:1,2"),
        ("actions=bundle_load(eth_src,0,hrw,ofport,reg0[1],members:1)", "reg0[1]", "less than 16 bits", "more bits"),
        ("actions=conjunction(1,3/2)", "1,3/2", "there is no clause 3 of 2", "1 to 2"),
        ("actions=conjunction(1,1/2),1", "", "no other action than note", "conj_id=ID"),
        ("actions=output(port=flood,max_len=99)", "port=flood,max_len=99", "can't be truncated", "name a port"),
        ("actions=output(port=1,max_len=9)", "port=1,max_len=9", "less than a header", "at least 14"),
        ("actions=learn(table=1,nonsense=1)", "1", 'unknown argument "nonsense" of learn',
         "a field, load, output, table or the like"),
        ("actions=controller(reason=x)", "x", 'unknown reason "x"',
         "no_match, action, invalid_ttl, action_set, group, packet_out"),
        ("actions=group:0xffffff01", "0xffffff01", "0xffffff01 is not a group", "0 to 0xffffff00"),
        ("actions=resubmit(,)", ",", "needs a port or a table", "resubmit(PORT,TABLE)"),
        ("table=5,actions=goto_table:4", "4", "a later table", "6 to 254, or resubmit(,4)"),
        ("actions=goto_table:5,1", "1", "can't follow goto_table", "behind"),
        ("actions=load:16->reg0[0..3]", "16", "does not fit", "0 to 15"),
        ("actions=load:1->reg0[5..32]", "reg0[5..32]", "is not within reg0", "0 to 31"),
        ("actions=load:1->rge0[]", "rge0", 'unknown field "rge0"', "did you mean reg0?"),
        ("actions=set_field:5", "5", "lacks a destination", "set_field:VALUE[/MASK]->FIELD"),
        ("actions=set_field:80->tcp_dst", "80->tcp_dst", "need not have tcp_dst", "match tcp or tcp6"),
        ("ip actions=set_field:6->nw_proto", "nw_proto", "nw_proto is read-only", ""),
        ("actions=set_field:6->ct_mark", "6->ct_mark", "ct_mark can only be changed by ct", "ct(commit,exec("),
        ("actions=move:reg0[0..7]->reg1[]", "reg0[0..7]->reg1[]", "has 8 bits, but reg1[] has 32", "same width"),
        ("ip actions=ct(force)", "force", "force needs commit", "ct(commit,force"),
        ("ip actions=ct(exec(set_field:1->ct_mark))", "exec(set_field:1->ct_mark)", "exec needs commit", ""),
        ("tcp actions=ct(commit,alg=fpt)", "fpt", 'unknown helper "fpt"', "did you mean ftp?"),
        ("tcp actions=ct(commit,alg=tftp)", "ct", "alg=tftp needs udp", "match udp or udp6"),
        ("ip actions=ct(alg=ftp)", "ct", "alg=ftp needs tcp", "match tcp or tcp6"),
        ("ip actions=ct(comit)", "comit", 'unknown argument "comit" of ct', "did you mean commit?"),
        ("ip actions=ct(zone=reg0)", "reg0", "a zone has 16 bits", "zone=reg0[0..15]"),
        ("ip actions=ct(zone=65536)", "65536", "does not fit into 16 bits", "0 to 65535"),
        ("ip actions=ct(table=255)", "255", "255 is not a table", "0 to 254"),
        ("arp actions=ct(commit)", "ct", "only IP packets can be tracked", "match ip or ipv6"),
        ("ip actions=ct(commit,exec(1))", "1", "can't stand inside exec", "ct_mark or ct_label"),
        ("ip actions=clone(goto_table:3)", "3", "goto_table can't stand inside clone", ""),
        ("ip actions=mod_nw_tos:3", "3", "is not a TOS", "multiple of 4"),
        ("actions=push_vlan:0x1234", "0x1234", "is not the type of a VLAN tag", "0x8100"),
        ("actions=note:0", "0", "is not a string of bytes", "note:00.11.22"),
    ],
)  # fmt: skip
def test_message_word_and_hint(text: str, word: str, message: str, hint: str) -> None:
    error = error_of(text, ports={"eth0": 1})
    assert message in error.message
    assert hint in (error.hint or "")
    assert error.word == word
    assert text[error.column - 1 :].startswith(word)


def test_an_error_is_the_callers_and_a_value_error() -> None:
    error = error_of("foo actions=1")
    assert isinstance(error, UsageError)
    assert isinstance(error, ValueError)


def test_the_text_shows_the_place() -> None:
    error = error_of("ip,nw_scr=1.2.3.4,actions=1", source="flows.txt", line=3)
    assert (error.source, error.line, error.column) == ("flows.txt", 3, 4)
    assert str(error).split("\n") == [
        'flows.txt:3:4: unknown field "nw_scr": did you mean nw_src?',
        "  ip,nw_scr=1.2.3.4,actions=1",
        "     ^^^^^^",
    ]


def test_columns_count_within_nested_actions_and_lines() -> None:
    error = error_of("ip,\nactions=1,clone(2,\n ct(commit,exec(set_field:x->ct_mark)))")
    assert (error.line, error.word) == (3, "x")
    assert str(error).endswith("\n  " + " " * 26 + "^")


def test_of_a_long_line_only_the_surroundings_are_shown() -> None:
    error = error_of("actions=" + "1," * 500 + "foo," + "2," * 500)
    lines = str(error).split("\n")
    assert all(len(line) <= EXCERPT + 2 for line in lines[1:])
    at = lines[2].index("^")
    assert lines[1][at : at + 3] == "foo"


def test_what_is_not_printable_is_not_printed() -> None:
    text = str(error_of("ip,\x1b[31m=5\x00,actions=1"))
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("command", ["bogus", "", "delete"])
def test_unknown_commands_are_the_programs_mistake(command: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        parse_flow("actions=1", command=command)  # type: ignore[arg-type]


def test_all_mistakes_of_a_text_are_told_up_to_ten() -> None:
    lines = ["tcp,actions=1", "ip,nw_src=1.2.3.400,actions=1", "udp,actions=2", "tcp,actions=outptu:1"]
    with pytest.raises(FlowSyntaxError) as caught:
        parse_flows("\n".join(lines), source="rules")
    assert [(mistake.line, mistake.column) for mistake in (caught.value, *caught.value.others)] == [(2, 11), (4, 13)]
    said = str(caught.value)
    assert said.index("rules:2:11: ") < said.index("rules:4:13: ")
    assert len(said.splitlines()) == 6
    with pytest.raises(FlowSyntaxError) as caught:
        parse_flows("nonsense\n" * 100)
    assert len(caught.value.others) == 9
