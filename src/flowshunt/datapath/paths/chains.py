"""The table of chains, for Python: which rules they are made of, verdicts, room for new ones."""

from __future__ import annotations

import numpy as np

from flowshunt.datapath.paths.schema import C_FIELD, CHAIN_BITS, E_GENERATION, E_RULE, MISS
from flowshunt.datapath.paths.verdicts import Verdict, refusal
from flowshunt.datapath.schema import WorkArrays

_PLACE = (1 << CHAIN_BITS) - 1


class Chains:
    """The chains that a datapath's packets met."""

    def __init__(self, work: WorkArrays) -> None:
        self._work = work
        self._state = work.paths

    def __len__(self) -> int:
        """Chains that are known."""
        return int(self._state["n_chains"][0]) - int(self._state["n_free_chains"][0])

    def entries(self, chain: int) -> list[tuple[int, int | None, int]] | None:
        """Table, rule (None: none matched) and generation of each lookup of a chain; None: it is gone."""
        record = self._work.chains[chain & _PLACE]
        if not record["mix"] or int(record["life"]) != chain >> CHAIN_BITS:
            return None
        first = int(record["entries"])
        found = []
        for words in self._work.chain_entries[first : first + int(record["n_entries"])].tolist():
            rule = words[E_RULE] & MISS
            found.append((words[E_RULE] >> 32, None if rule == MISS else rule, words[E_GENERATION]))
        return found

    def set_verdict(self, chain: int, verdict: Verdict) -> None:
        """Note what a chain means, until rules change."""
        state, record = self._state, self._work.chains[chain & _PLACE]
        if state["candidates_of"][0] != state["verdicts"][0]:
            state["candidates_of"] = state["verdicts"]
            state["n_candidate_words"] = 0
        first, n = int(state["n_candidate_words"][0]), len(verdict.candidates)
        if first + n > len(self._work.candidates):
            verdict, n = refusal(verdict.candidates[C_FIELD]), 0
        self._work.candidates[first : first + n] = verdict.candidates[:n]
        state["n_candidate_words"] += n
        record["candidates"] = first
        record["n_candidates"] = verdict.n_candidates
        record["unfit"] = verdict.unfit
        record["parameter"] = verdict.parameter
        record["flags"] = verdict.flags
        record["decrements"] = verdict.decrements
        record["normals"] = min(verdict.normals, 0xFF)
        record["judged"] = state["verdicts"][0]

    def collect(self) -> int:
        """Forget the half of the chains that were used longest ago; numbers of the others stay. Returns how many."""
        work, state = self._work, self._state
        n = int(state["n_chains"][0])
        live = np.flatnonzero(work.chains["mix"][:n])
        by_age = live[np.argsort(work.chains["used_ms"][live], kind="stable")]
        gone, kept = by_age[: (len(by_age) + 1) // 2], by_age[(len(by_age) + 1) // 2 :]
        work.chains["mix"][gone] = 0
        work.chains["life"][gone] += 1
        n_free = int(state["n_free_chains"][0])
        work.chain_free[n_free : n_free + len(gone)] = gone
        state["n_free_chains"] = n_free + len(gone)
        self._pack(kept[np.argsort(work.chains["entries"][kept])])
        return len(gone)

    def _pack(self, kept: np.ndarray) -> None:
        """Move the entries of chains, given in the order of their entries, to the front; find them by mix again."""
        work = self._work
        sizes = work.chains["n_entries"][kept].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        old = np.repeat(work.chains["entries"][kept] - starts[:-1], sizes) + np.arange(starts[-1])
        work.chain_entries[: len(old)] = work.chain_entries[old]
        work.chains["entries"][kept] = starts[:-1]
        self._state["n_entries"] = len(old)
        work.chain_slots[:] = 0
        last = len(work.chain_slots) - 1
        for place, mixed in zip(kept.tolist(), work.chains["mix"][kept].tolist(), strict=True):
            slot = mixed & last
            while work.chain_slots[slot]:
                slot = (slot + 1) & last
            work.chain_slots[slot] = place + 1
