"""Reading the references, and counting what is equal."""

from __future__ import annotations

from pathlib import Path

from tests.oracle.compare import Answer, Entry, Reference, compare, compare_tables, read_reference

OVS = """\
1: new|trk
2: est|rpl|trk @3
3: est|rpl|trk
4: held
5: inv|trk
T tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(src=10.0.0.2,dst=10.0.0.1,sport=2,dport=1),zone=5,id=0,\
status=0,timeout=30,protoinfo=(state_orig=SYN_SENT,state_reply=CLOSED,flags_orig=0,flags_reply=0)
T EXPIRED udp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(src=10.0.0.2,dst=10.0.0.1,sport=2,dport=1),id=0
T icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=7,type=8,code=0),reply=(src=10.0.0.2,dst=10.0.0.1,id=7,type=0,code=0),id=0
T 50,orig=(src=fe80::1,dst=fe80::2,sport=0,dport=0),reply=(src=fe80::2,dst=fe80::1,sport=0,dport=0),id=0,status=0
"""

KERNEL = """\
1: new|trk [NEW,tcp=SYN_SENT]
2: est|rpl|trk assured [UPD,assured]
3: nohook [~UPD]
4: untracked
5: inv|trk DROPPED
T ipv4     2 tcp      6 119 TIME_WAIT src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 src=10.0.0.2 dst=10.0.0.1 sport=2 \
dport=1 [ASSURED] mark=0 use=1
T ipv6     10 unknown  50 599 src=fe80:0::1 dst=fe80::2 [UNREPLIED] src=fe80::2 dst=fe80::1 mark=0 use=1
# time=rt capture_duration=1.0
"""


def reference(tmp_path: Path, suffix: str, text: str) -> Reference:
    (tmp_path / f"some.{suffix}").write_text(text)
    return read_reference(tmp_path, "some", suffix)


def test_fragments_are_told_by_held_by_their_datagram_and_by_completing_one(tmp_path: Path) -> None:
    answers = reference(tmp_path, "ovs", OVS).answers
    assert [answer.fragment for answer in answers] == [False, True, True, True, False]
    assert [answer.state for answer in answers] == ["new|trk", "est|rpl|trk @3", "est|rpl|trk", "held", "inv|trk"]


def test_what_the_kernel_never_tracked_is_set_aside(tmp_path: Path) -> None:
    answers = reference(tmp_path, "kernel", KERNEL).answers
    assert [answer.aside for answer in answers] == [None, None, "nohook", "untracked", "DROPPED"]
    assert answers[1] == Answer("est|rpl|trk")


def test_tables_hold_what_has_not_expired(tmp_path: Path) -> None:
    assert reference(tmp_path, "ovs", OVS).table == {
        Entry(6, "10.0.0.1", "10.0.0.2", 1, 2, None, 5, "SYN_SENT/CLOSED"),
        Entry(1, "10.0.0.1", "10.0.0.2", 0, 0, (8, 0, 7)),
        Entry(50, "fe80::1", "fe80::2", 0, 0),
    }
    assert reference(tmp_path, "kernel", KERNEL).table == {
        Entry(6, "10.0.0.1", "10.0.0.2", 1, 2, None, 0, "TIME_WAIT"),
        Entry(50, "fe80::1", "fe80::2", 0, 0),
    }


def test_only_what_both_could_judge_is_counted(tmp_path: Path) -> None:
    result = compare(reference(tmp_path, "ovs", OVS), ["new|trk", "inv|trk", "inv|trk", "inv|trk", "new|trk"])
    assert (result.equal, result.total) == (1, 2)
    assert result.differences == [(5, "inv|trk", "new|trk")]
    states = ["new|trk", "est|rpl|trk @3", "est|rpl|trk", "inv|trk", "inv|trk"]
    result = compare(reference(tmp_path, "ovs", OVS), states, fragments=True)
    assert (result.equal, result.total, result.differences) == (4, 5, [(4, "held", "inv|trk")])
    result = compare(reference(tmp_path, "kernel", KERNEL), ["new|trk", "inv|trk", "inv|trk", "inv|trk", "new|trk"])
    assert (result.equal, result.total) == (1, 2)
    assert result.kinds() == {("est|rpl|trk", "inv|trk"): 1}


def test_tables_are_compared_in_both_directions(tmp_path: Path) -> None:
    known = reference(tmp_path, "ovs", OVS)
    other = Entry(17, "10.0.0.1", "10.0.0.2", 1, 2)
    tables = compare_tables(known, {*list(known.table)[:2], other})
    assert (tables.equal, tables.total, len(tables.missing), tables.extra) == (2, 4, 1, [other])
