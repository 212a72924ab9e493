"""Profile linux's TCP: the state table as data, and the kernels against the naive machine, segment by segment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowshunt.conntrack import linux_states as L
from flowshunt.conntrack import states as S
from flowshunt.conntrack.kernels import tcp_linux
from flowshunt.conntrack.schema import CONNECTION
from flowshunt.conntrack.timeouts import timeout_row
from flowshunt.jit import kernel
from tests.oracle import nf_tcp
from tests.oracle.frames import ACK, FIN, PSH, RST, SYN, URG, Tcp

SEGMENT = np.dtype(
    [("d", "i8"), ("flags", "i8"), ("seq", "i8"), ("ack", "i8"), ("window", "i8"), ("wscale", "i8"), ("length", "i8")]
)


TIMEOUTS = timeout_row({}).reshape(1, -1)


@kernel(example=lambda: (np.zeros(1, CONNECTION), np.zeros(1, SEGMENT), 1, TIMEOUTS))
def start(conns: Any, segment: Any, loose: Any, timeouts: Any) -> Any:
    s = segment
    if not tcp_linux.valid_new(s["flags"][0], s["seq"][0], s["ack"][0], loose):
        return np.int64(-1)
    return np.int64(
        tcp_linux.create(
            conns, np.int64(0), s["flags"][0], s["seq"][0], s["ack"][0], s["window"][0], s["wscale"][0],
            s["length"][0], timeouts, np.int64(0),
        )
    )  # fmt: skip


@kernel(example=lambda: (np.zeros(1, CONNECTION), np.zeros(1, SEGMENT), 1, TIMEOUTS))
def follow(conns: Any, segment: Any, check: Any, timeouts: Any) -> Any:
    s = segment
    return np.int64(
        tcp_linux.update(
            conns, np.int64(0), s["d"][0], s["flags"][0], s["seq"][0], s["ack"][0], s["window"][0], s["wscale"][0],
            s["length"][0], check, timeouts, np.int64(0),
        )
    )  # fmt: skip


class Kernel:
    """One connection under the kernels, with what the tracker around them does: seen reply, destruction."""

    def __init__(self) -> None:
        self.conns = np.zeros(1, CONNECTION)

    def start(self, segment: Tcp, loose: int = 1) -> int:
        return int(start(self.conns, record(0, segment), loose, TIMEOUTS))

    def follow(self, d: int, segment: Tcp, check: int = 1) -> tuple[int, int]:
        verdict = int(follow(self.conns, record(d, segment), check, TIMEOUTS))
        result, timeout = verdict & S.RESULT_MASK, verdict >> 8 & 0xFF
        if d == 1 and result == S.UPDATE_VALID:
            self.conns["flags"][0] |= S.F_SEEN_REPLY
        return result, timeout

    @property
    def ended(self) -> bool:
        return bool(self.conns["flags"][0] & S.F_DYING)


def record(d: int, segment: Tcp) -> np.ndarray:
    scale = 0xFF if segment.scale is None else segment.scale
    fields = (d, segment.flags, segment.seq, segment.ack, segment.window, scale, segment.length)
    return np.array([fields], SEGMENT)


def segment(
    flags: int, seq: int, ack: int = 0, *, length: int = 0, window: int = 1000, scale: int | None = None
) -> Tcp:
    return Tcp(1, 2, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, window, scale, False, (), length)


TIMEOUT_CLASSES = {"retrans": S.T_LINUX_RETRANS, "unack": S.T_LINUX_UNACK, "at most unack": S.T_LINUX_UNACK}


def expected(state: nf_tcp.State, d: int, outcome: str, timeout: int | str | None) -> tuple[int, int]:
    """The naive machine's answer in the kernels' numbers."""
    if timeout is None:
        timeout_class = S.KEEP_TIMER
    else:
        timeout_class = TIMEOUT_CLASSES[timeout] if isinstance(timeout, str) else S.T_LINUX + timeout
    if outcome == nf_tcp.INVALID:
        return S.UPDATE_INVALID, timeout_class
    if outcome == nf_tcp.REPEAT:
        return S.UPDATE_NEW, timeout_class
    return (S.UPDATE_VALID if d == 1 or state.seen_reply else S.UPDATE_VALID_NEW), timeout_class


def numbers(conns: np.ndarray) -> dict[str, Any]:
    row = conns[0]
    return {
        "state": int(row["state"]),
        "end": row["lo"].tolist(),
        "maxend": row["hi"].tolist(),
        "maxwin": row["window"].tolist(),
        "maxack": [
            int(ack) if flags & tcp_linux.LF_MAX_ACK else None
            for ack, flags in zip(row["max_ack"], row["peer"], strict=True)
        ],
        "scale": row["wscale"].tolist(),
        "flags": row["peer"].tolist(),
        "assured": bool(row["flags"] & S.F_ASSURED),
    }


def naive_numbers(state: nf_tcp.State) -> dict[str, Any]:
    seen = state.seen
    return {
        "state": state.state,
        "end": [s.end for s in seen],
        "maxend": [s.maxend for s in seen],
        "maxwin": [s.maxwin for s in seen],
        "maxack": [s.maxack if s.maxack_set else None for s in seen],
        "scale": [s.scale for s in seen],
        "flags": [
            s.wscale * tcp_linux.LF_WINDOW_SCALE
            | s.close_init * tcp_linux.LF_CLOSE_INIT
            | s.liberal * tcp_linux.LF_LIBERAL
            | s.unacked * tcp_linux.LF_UNACKNOWLEDGED
            | s.maxack_set * tcp_linux.LF_MAX_ACK
            for s in seen
        ],
        "assured": state.assured,
    }


def drive(plan: list[tuple[int, Tcp]], check: int = 1) -> list[str]:
    """Send a plan through both machines and compare after each segment; returns the outcomes."""
    kernels, state = Kernel(), None
    outcomes = []
    for d, tcp in plan:
        if state is None:
            state = nf_tcp.start(tcp) if nf_tcp.flags_are_valid(tcp.flags) else None
            timeout = kernels.start(tcp)
            assert (timeout >= 0) == (state is not None), tcp
            if state is None:
                outcomes.append("refused")
                continue
            outcome, named = nf_tcp.follow(state, 0, tcp, sack=False)
            assert timeout == expected(state, 0, outcome, named)[1]
        else:
            got = kernels.follow(d, tcp, check)
            if nf_tcp.flags_are_valid(tcp.flags):
                outcome, named = nf_tcp.follow(state, d, tcp, sack=False, check=bool(check))
            else:
                outcome, named = nf_tcp.INVALID, None
            assert got == expected(state, d, outcome, named), (d, tcp, outcome, named)
            if d == 1 and outcome in (nf_tcp.ACCEPT, nf_tcp.IGNORE, nf_tcp.KILL):
                state.seen_reply = True
            assert kernels.ended == (outcome == nf_tcp.KILL)
        outcomes.append(outcome)
        if outcome in (nf_tcp.KILL, nf_tcp.REPEAT):
            kernels, state = Kernel(), None
        else:
            assert numbers(kernels.conns) == naive_numbers(state), (d, tcp, outcome)
    return outcomes


# Numbers around which interesting things happen: both initial sequence numbers, the wrap, window edges.
BASES = (0, 1, 1000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
STEPS = (-70000, -66001, -1001, -2, -1, 0, 1, 2, 10, 11, 999, 1000, 1001, 1002, 2001, 66000, 66001, 1 << 20, 1 << 31)
FLAGS = (SYN, SYN | ACK, ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, ACK | URG, SYN | URG, FIN, 0, SYN | FIN)


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[int, Tcp]]:
    """Segments around the two streams' present positions, mostly right, sometimes wild."""
    position = [draw(st.sampled_from(BASES)), draw(st.sampled_from(BASES))]
    plan = []
    for d, flags, seq_step, ack_step, length, window, scale in draw(
        st.lists(
            st.tuples(
                st.integers(0, 1),
                st.sampled_from(FLAGS),
                st.one_of(st.just(0), st.sampled_from(STEPS)),
                st.one_of(st.just(0), st.sampled_from(STEPS)),
                st.sampled_from((0, 0, 1, 10, 1000)),
                st.sampled_from((0, 1, 10, 1000, 65535)),
                st.sampled_from((None, 0, 2, 14, 20)),
            ),
            min_size=1,
            max_size=25,
        )
    ):
        seq = position[d] + seq_step & 0xFFFFFFFF
        ack = position[1 - d] + ack_step & 0xFFFFFFFF
        plan.append((d, segment(flags, seq, ack, length=length, window=window, scale=min_scale(scale))))
        if seq_step == 0:
            position[d] = seq + length + bool(flags & SYN) + bool(flags & FIN) & 0xFFFFFFFF
    return plan


def min_scale(scale: int | None) -> int | None:
    """The parser of frames caps the option, so the machine is not asked to."""
    return None if scale is None else min(scale, 14)


class TestStateTable:
    def test_every_cell_is_in_exactly_one_rule(self) -> None:
        cells = [(rule.direction, rule.kind, state) for rule in L.RULES for state in rule.states]
        assert len(cells) == len(set(cells)) == 2 * L.N_SEGMENTS * L.N_STATES

    def test_the_dense_table_says_what_the_naive_one_says(self) -> None:
        special = {nf_tcp.IV: L.INVALID, nf_tcp.IG: L.IGNORED}
        for direction in range(2):
            for kind in range(L.N_SEGMENTS):
                for state in range(L.N_STATES):
                    want = nf_tcp.TABLE[direction][kind][state]
                    got = L.TRANSITIONS[L.cell(direction, kind, state)]
                    assert got == special.get(want, want), (direction, L.SEGMENT_NAMES[kind], L.LINUX_NAMES[state])

    def test_every_rule_has_a_reason(self) -> None:
        assert all(len(rule.why) > 10 for rule in L.RULES)

    def test_a_cell_with_two_rules_is_refused(self) -> None:
        with pytest.raises(ValueError, match="two rules for SYN in NONE"):
            L.compile_rules((*L.RULES, L.Rule(L.ORIGINAL, L.SYN, (L.NONE,), L.CLOSE, "once more")))

    def test_a_cell_without_a_rule_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no rule for cells"):
            L.compile_rules(L.RULES[1:])

    def test_the_table_cannot_be_written(self) -> None:
        with pytest.raises(ValueError, match="read-only"):
            L.TRANSITIONS[0] = 1


class TestFlags:
    def test_valid_combinations_are_the_naive_ones(self) -> None:
        for flags in range(256):
            tcp = segment(flags, 1)
            expected_valid = nf_tcp.flags_are_valid(flags) and nf_tcp.start(tcp) is not None
            assert (Kernel().start(tcp) >= 0) == expected_valid, flags

    def test_without_loose_only_a_syn_begins_a_connection(self) -> None:
        assert Kernel().start(segment(SYN, 1), loose=0) == S.T_LINUX + L.SYN_SENT
        assert Kernel().start(segment(ACK, 1), loose=0) == -1
        assert Kernel().start(segment(ACK, 1), loose=1) == S.T_LINUX_UNACK


HANDSHAKE = [
    (0, segment(SYN, 100, scale=2)),
    (1, segment(SYN | ACK, 500, 101, scale=3)),
    (0, segment(ACK, 101, 501)),
]


class TestStories:
    def test_a_connection_is_opened_used_and_closed(self) -> None:
        story = [
            *HANDSHAKE,
            (0, segment(ACK | PSH, 101, 501, length=10)),
            (1, segment(ACK, 501, 111)),
            (0, segment(FIN | ACK, 111, 501)),
            (1, segment(FIN | ACK, 501, 112)),
            (0, segment(ACK, 112, 502)),
        ]
        assert drive(story) == [nf_tcp.ACCEPT] * 8

    def test_the_states_on_the_way_are_the_kernels_own(self) -> None:
        kernels = Kernel()
        kernels.start(HANDSHAKE[0][1])
        states = [int(kernels.conns["state"][0])]
        for d, tcp in [*HANDSHAKE[1:], (1, segment(FIN | ACK, 501, 101)), (0, segment(ACK, 101, 502))]:
            kernels.follow(d, tcp)
            states.append(int(kernels.conns["state"][0]))
        assert states == [L.SYN_SENT, L.SYN_RECV, L.ESTABLISHED, L.FIN_WAIT, L.CLOSE_WAIT]

    def test_a_reset_that_answers_a_syn_ends_the_connection(self) -> None:
        assert drive([HANDSHAKE[0], (1, segment(RST | ACK, 0, 101))]) == [nf_tcp.ACCEPT, nf_tcp.KILL]

    def test_a_reset_off_the_exact_number_leaves_the_state(self) -> None:
        kernels = Kernel()
        kernels.start(HANDSHAKE[0][1])
        for d, tcp in HANDSHAKE[1:]:
            kernels.follow(d, tcp)
        assert kernels.follow(1, segment(RST, 600)) == (S.UPDATE_VALID, S.T_LINUX + L.CLOSE)
        assert kernels.conns["state"][0] == L.ESTABLISHED
        assert kernels.follow(1, segment(RST, 501)) == (S.UPDATE_VALID, S.T_LINUX + L.CLOSE)
        assert kernels.conns["state"][0] == L.CLOSE

    def test_a_syn_in_a_live_connection_is_ignored_until_it_is_answered(self) -> None:
        story = [*HANDSHAKE, (0, segment(SYN, 9000, scale=1)), (1, segment(SYN | ACK, 7000, 9001, scale=4))]
        assert drive([*story, (0, segment(ACK, 9001, 7001))]) == [
            *[nf_tcp.ACCEPT] * 3,
            nf_tcp.IGNORE,
            *[nf_tcp.ACCEPT] * 2,
        ]

    def test_both_sides_open_at_once(self) -> None:
        story = [
            (0, segment(SYN, 100)),
            (1, segment(SYN, 500)),
            (0, segment(SYN | ACK, 100, 501)),
            (1, segment(SYN | ACK, 500, 101)),
            (0, segment(ACK, 101, 501)),
        ]
        drive(story)
        kernels = Kernel()
        kernels.start(story[0][1])
        for d, tcp in story[1:]:
            kernels.follow(d, tcp)
        assert kernels.conns["state"][0] == L.ESTABLISHED

    def test_a_port_used_again_after_the_end_makes_a_new_connection(self) -> None:
        story = [
            *HANDSHAKE,
            (0, segment(FIN | ACK, 101, 501)),
            (1, segment(FIN | ACK, 501, 102)),
            (0, segment(ACK, 102, 502)),
            (0, segment(SYN, 50000)),
        ]
        assert drive(story)[-1] == nf_tcp.REPEAT

    def test_the_third_repetition_of_an_acknowledgement_shortens_the_timeout(self) -> None:
        again = (0, segment(ACK, 101, 501))
        kernels = Kernel()
        kernels.start(HANDSHAKE[0][1])
        timeouts = [kernels.follow(d, tcp)[1] for d, tcp in [*HANDSHAKE[1:], again, again, again]]
        full = S.T_LINUX + L.ESTABLISHED
        assert timeouts == [S.T_LINUX + L.SYN_RECV, full, full, full, S.T_LINUX_RETRANS]
        drive([*HANDSHAKE, again, again, again, again])

    @pytest.mark.parametrize(("length", "outcome"), [(998, nf_tcp.IGNORE), (999, nf_tcp.INVALID)])
    def test_up_to_a_window_too_much_is_ignored_and_more_is_invalid(self, length: int, outcome: str) -> None:
        beyond = (0, segment(ACK, 1102, 501, length=length))
        assert drive([*HANDSHAKE, beyond])[-1] == outcome

    def test_a_reset_numbered_zero_answers_the_syn_whatever_came_before(self) -> None:
        wrong, right = segment(RST | ACK, 5000, 0x40000000), segment(RST | ACK, 0, 101)
        assert drive([HANDSHAKE[0], (1, wrong), (1, right)])[1:] == [nf_tcp.INVALID, nf_tcp.KILL]

    def test_unchecked_windows_make_nothing_invalid(self) -> None:
        far = (0, segment(ACK, 0x40000000, 501, length=10))
        assert drive([*HANDSHAKE, far])[-1] == nf_tcp.INVALID
        assert drive([*HANDSHAKE, far], check=0)[-1] == nf_tcp.ACCEPT

    def test_a_challenge_ack_does_not_end_the_connection(self) -> None:
        story = [
            *HANDSHAKE,
            (0, segment(FIN | ACK, 101, 501)),
            (1, segment(FIN | ACK, 501, 102)),
            (0, segment(SYN, 90000)),
            (1, segment(ACK, 502, 102)),
        ]
        assert drive(story)[-2:] == [nf_tcp.IGNORE, nf_tcp.IGNORE]


@settings(max_examples=400)
@given(plans(), st.integers(0, 1))
def test_any_conversation_goes_as_in_the_naive_machine(plan: list[tuple[int, Tcp]], check: int) -> None:
    drive(plan, check)


@settings(max_examples=400)
@given(plans())
def test_any_conversation_after_a_handshake_goes_as_in_the_naive_machine(plan: list[tuple[int, Tcp]]) -> None:
    near = [
        (d, Tcp(1, 2, (t.seq if i % 3 else (101, 501)[d]), (t.ack if i % 2 else (501, 101)[d]), t.flags, t.window,
                t.scale, False, (), t.length))
        for i, (d, t) in enumerate(plan)
    ]  # fmt: skip
    drive([*HANDSHAKE, *near])
