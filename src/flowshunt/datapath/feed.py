"""Rules made ready for the kernels that insert and find them.

Most of the work of adding rules looks at the rules alone. It is done here, in any thread; what is left for whoever owns
the tables is to say which subtables the masks have (see `changes` for the words).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from flowshunt.datapath import changes
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.schema import CLAUSES
from flowshunt.packet import schema as K

MAX_FEED = 1 << 16
"""Rules in one feed."""
_PART = 1 << 12

Mask = tuple[tuple[int, int], ...]
"""(word, mask) of every word of the key that a match looks at, in the order that all rules of the mask have."""

# Words in the order in which they are expected to tell rules apart; the first one decides most probes.
_ORDER = (
    K.W_NW_DST + 1,
    K.W_NW_SRC + 1,
    K.W_NW_DST,
    K.W_NW_SRC,
    K.W_ND_TARGET + 1,
    K.W_CT_DST + 1,
    K.W_CT_SRC + 1,
    K.W_L4,
    K.W_ETH_DST,
    K.W_ETH_SRC,
    K.W_ARP_SHA,
    K.W_ARP_THA,
    *range(K.W_REG, K.W_REG + 8),
    K.W_PORT,
    K.W_CT_LABEL + 1,
    K.W_METADATA,
)
_RANKS = {word: rank for rank, word in enumerate(_ORDER)}
_LAST = len(_ORDER)
# Parts of words that are much the same for all rules: types and protocol.
_COMMON = {K.W_ETH_DST: 0xFFFF, K.W_L4: 0xFFFFFFFF}


class Feed(NamedTuple):
    """Rules, and the words that say so to a kernel.

    `words`: int64; what stands where a rule's subtable is to be is for `addressed` to say. `heads`: int64, as long as
    `rules`, where each begins in `words`. `masks`: tables and masks; `kinds`: int64, as long as `rules`, the place of
    each one's. `per_table`: how many by table. `is_plain`: none of them has timeouts or something to be filled into its
    program.
    """

    rules: Sequence[CompiledRule]
    words: np.ndarray
    heads: np.ndarray
    kinds: np.ndarray
    masks: tuple[tuple[int, Mask], ...]
    per_table: Mapping[int, int]
    is_plain: bool

    def addressed(self, subtables: Sequence[int], programs: Mapping[int, Sequence[int]]) -> np.ndarray:
        """The words with the subtables of `masks`, and with other programs for some of the rules, of equal length.

        They are the feed's own, which the next call changes.
        """
        words = self.words
        words[self.heads] = subtables[0] if len(subtables) == 1 else np.array(subtables, np.int64)[self.kinds]
        for index, program in programs.items():
            start = int(self.heads[index]) + changes.FEED_HEADER + len(self.rules[index].match)
            words[start : start + len(program)] = program
        return words


def feeds_of(rules: Sequence[CompiledRule]) -> Iterator[Feed]:
    """The feeds that rules make, in order. Clauses of conjunctions are in feeds of their own: see `Rules`."""
    for _, alike in groupby(rules, key=attrgetter("is_clause")):
        run = list(alike)
        for start in range(0, len(run), MAX_FEED):
            yield _feed(run[start : start + MAX_FEED])


def place_of(rule: CompiledRule) -> int:
    """The table that a rule lies in: clauses of conjunctions have their own."""
    return rule.table + CLAUSES if rule.is_clause else rule.table


def arranged(rule: CompiledRule) -> tuple[Mask, list[int]]:
    """The mask of a rule, and its values in the mask's order."""
    match = rule.match
    mask, order = _arrangement(tuple([(word, mask) for word, mask, _ in match]))
    return mask, [match[place][2] for place in order]


def _feed(rules: Sequence[CompiledRule]) -> Feed:
    words: list[int] = []
    done: list[np.ndarray] = []
    n_done = 0
    heads: list[int] = []
    kinds: list[int] = []
    masks: dict[tuple[int, Mask], int] = {}
    known: dict[tuple[int, Mask], tuple[int, tuple[int, ...]]] = {}
    per_table: dict[int, int] = {}
    is_plain = True
    for rule in rules:
        table, priority, match, program, _, idle_ms, hard_ms, keeps_counters, _, late, is_clause = rule
        key = place_of(rule), tuple([(word, mask) for word, mask, _ in match])
        found = known.get(key)
        if found is None:
            mask, order = _arrangement(key[1])
            found = known[key] = masks.setdefault((key[0], mask), len(masks)), order
        number, order = found
        if len(words) >= _PART:  # a long list is turned into an array at one go, and no other thread runs meanwhile
            done.append(np.array(words, np.int64))
            n_done += len(words)
            words = []
        heads.append(n_done + len(words))
        kinds.append(number)
        n_program = len(program) | changes.KEEPS_COUNTERS if keeps_counters else len(program)
        words += (-1, priority, len(order), n_program)
        words += [match[place][2] for place in order]
        words += program
        per_table[table] = per_table.get(table, 0) + 1
        if late or idle_ms or hard_ms or is_clause:
            is_plain = False
    done.append(np.array(words, np.int64))
    places, kinds_ = np.array(heads, np.int64), np.array(kinds, np.int64)
    return Feed(rules, np.concatenate(done), places, kinds_, tuple(masks), per_table, is_plain)


@lru_cache(maxsize=4096)
def _arrangement(mask: Mask) -> tuple[Mask, tuple[int, ...]]:
    """The mask in the order that all rules of it have, and where in `mask` each pair of it stands."""
    order = sorted(range(len(mask)), key=lambda place: _rank(*mask[place]))
    return tuple(mask[place] for place in order), tuple(order)


def _rank(word: int, mask: int) -> tuple[int, int]:
    return (_RANKS.get(word, _LAST) if mask & ~_COMMON.get(word, 0) else _LAST), word
