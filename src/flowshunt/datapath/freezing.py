"""Packets that pause: all that they need to go on is copied, and put back when they do.

What is left of the running programs is copied too, since their rules may go meanwhile; the numbers in them stay valid
because the linker is told to keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flowshunt.datapath import program as P
from flowshunt.datapath import schema as D
from flowshunt.datapath.spreading import after_link

_LENGTHS = {
    P.OP_SET: P.SET_WORDS,
    P.OP_RESUBMIT: P.RESUBMIT_WORDS,
    P.OP_COUNT: P.COUNT_WORDS,
    P.OP_SKIP: P.SKIP_WORDS,
}


class Frozen(NamedTuple):
    """A paused packet. `sets`: what was written to action sets.

    `programs`: what is left of the running list, then of those in `frames`, in their order, then the instructions that
    wrote to action sets.
    """

    machine: np.ndarray
    key: np.ndarray
    tracked: np.ndarray
    frames: np.ndarray
    snapshots: np.ndarray
    kept: np.ndarray
    stack: np.ndarray
    sets: np.ndarray
    programs: tuple[tuple[int, ...], ...]
    in_port: int


def instructions(pool: Sequence[int] | np.ndarray, at: int) -> Iterator[tuple[int, int]]:
    """(operation, place) of the instructions of a list, from place `at` to its END; nested lists are passed over."""
    while True:
        instruction = int(pool[at])
        op = instruction & 0xFF
        yield op, at
        if op == P.OP_END:
            return
        if op == P.OP_CT:
            at += P.CT_WORDS + (instruction >> 32)
        elif op == P.OP_CLONE:
            at += 1 + (instruction >> 8 & 0xFFFFFFFF)
        elif op == P.OP_WRITE:
            at += instruction >> 8
        elif op == P.OP_DEC_TTL:
            at += 1 + (instruction >> 8)
        elif op == P.OP_LINK:
            at = int(after_link(pool, at))
        else:
            at += _LENGTHS.get(op, 1)


def rest_of(pool: np.ndarray, at: int) -> tuple[int, ...]:
    """The words of a program from an instruction on to the END of its list."""
    end = max(place for _, place in instructions(pool, at))
    return tuple(pool[at : end + 1].tolist())


def freeze(work: D.WorkArrays, pool: np.ndarray, in_port: int) -> Frozen:
    """A copy of the packet that waits at a punt."""
    machine = work.machine
    n_frames, n_snapshots = int(machine["frames"][0]), int(machine["snapshots"][0])
    frames = work.frames[:n_frames].copy()
    starts = (int(machine["pc"][0]), *frames[:, D.F_PC].tolist())
    sets = _writes(work, pool, starts)
    return Frozen(
        machine.copy(),
        work.keys[0].copy(),
        work.tracked.copy(),
        frames,
        work.snapshots[:n_snapshots].copy(),
        work.kept[:n_snapshots].copy(),
        work.stack[: int(machine["top"][0])].copy(),
        sets,
        (*(rest_of(pool, start) for start in starts), *(_whole(pool, at) for at in sets[1:, D.S_PC].tolist())),
        in_port,
    )


def _writes(work: D.WorkArrays, pool: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """The writes to action sets, in their rows, if a frame carries one out."""
    has_sets = any(int(pool[start]) & 0xFF == P.OP_RUN_SET for start in starts)
    return work.sets[: int(work.sets[0, 0]) + 1 if has_sets else 1].copy()


def _whole(pool: np.ndarray, at: int) -> tuple[int, ...]:
    """The words of an instruction that says how many they are."""
    return tuple(pool[at : at + (int(pool[at]) >> 8)].tolist())


def thaw(frozen: Frozen, work: D.WorkArrays, at: int, now_ms: int) -> None:
    """Put a packet back, as one that a punt was answered for; its programs lie one behind the other from `at` on.

    Its outputs begin with nothing, and it is the own packet.
    """
    machine = frozen.machine.copy()
    for register in ("tx_start", "size_start", "tx_mark", "size_mark", "mru"):
        machine[register] = 0
    machine["now_ms"], machine["own"], machine["dirty"], machine["punt"] = now_ms, 1, 1, D.PUNT_ANSWERED
    machine["pc"] = at
    frames, sets = frozen.frames.copy(), frozen.sets.copy()
    starts = []
    for program in frozen.programs[:-1]:
        at += len(program)
        starts.append(at)
    frames[:, D.F_PC] = starts[: len(frames)]
    sets[1:, D.S_PC] = starts[len(frames) :]
    frames[:, D.F_OWN] = 1
    frames[:, D.F_SIZE_MARK] = 0
    frames[:, D.F_TX_MARK] = np.minimum(frames[:, D.F_TX_MARK], 0)
    work.machine[:] = machine
    work.tracked[:] = frozen.tracked
    work.frames[: len(frames)] = frames
    work.snapshots[: len(frozen.snapshots)] = frozen.snapshots
    work.kept[: len(frozen.kept)] = frozen.kept
    work.stack[: len(frozen.stack)] = frozen.stack
    work.sets[: len(sets)] = sets
    work.keys[0] = frozen.key
