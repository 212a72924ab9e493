"""The memory of learning: what is noted of the packet that runs, what is told, and the chains of rules that were met.

A packet is *noted* from its beginning on, when it might show a path that was not told lately: the rules that it meets
with the key at each lookup, the connections that it passes, the frame that it causes. At its end a path is *told* if
there is one, and why not otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flowshunt.conntrack.memory import reserve
from flowshunt.datapath.paths.records import LEARNED, N_ZONES, UNFIT
from flowshunt.packet.schema import HEADER_WORDS, KEY_WORDS

MAX_CHAIN = 64
"""Lookups that are noted of a packet; with more it is unfit."""
MAX_CHAINS = 1 << 16
N_ENTRIES = 1 << 20
"""Lookups that all chains may hold together."""
N_LEARNED = 4096
"""Records that wait to be handed out; when they are full, packets wait until they are."""
N_CANDIDATE_WORDS = 1 << 20
TELL_AGAIN_MS = 4000
"""A path that is still the same is told again after this time, so that changes that begin no epoch are noticed."""

UNFIT_HELPER = UNFIT.index("helper")
UNFIT_FRAGMENTS = UNFIT.index("fragments")
UNFIT_OPTIONS = UNFIT.index("ip-options")
UNFIT_OUTPUTS = UNFIT.index("multiple-outputs")
UNFIT_VARYING = UNFIT.index("varying-match")
UNFIT_ZONES = UNFIT.index("too-many-zones")
UNFIT_REWRITE = UNFIT.index("rewrite")
UNFIT_LONG = UNFIT.index("long-chain")

NOTED_NORMAL = 1
"""The frame left by `normal`."""
NOTED_FLOOD = 2
"""A frame was flooded."""

PATH_STATE = np.dtype(
    [
        ("on", np.int64),
        ("home", np.int64),  # of the datapath, see records.HOME_BITS
        ("epoch", np.int64),
        ("verdicts", np.int64),  # counts what makes verdicts on chains void: less than what begins epochs
        # of the packet that runs
        ("noting", np.int64),  # 1 while it is noted
        ("n_lookups", np.int64),
        ("mix", np.int64),  # of the lookups; becomes that of the chain
        ("n_rows", np.int64),
        ("unfit", np.int64),  # the first reason found
        ("passing", np.int64),  # UNFIT_* that holds for this packet, not for those that follow
        ("outputs", np.int64),  # output actions that caused frames
        ("noted", np.int64),  # NOTED_*
        ("out_port", np.int64),
        ("normal_tci", np.int64),  # the tag that `normal` met
        ("normal_vlan", np.int64),  # the VLAN that it took the packet to be in
        # of what is kept
        ("n_learned", np.int64),
        ("stop", np.int64),  # tell.STOP_*: what Python must do before another packet runs
        ("n_chains", np.int64),  # places ever used
        ("n_free_chains", np.int64),  # length of `chain_free`
        ("n_entries", np.int64),
        ("n_candidate_words", np.int64),
        ("candidates_of", np.int64),  # the value of `verdicts` for which `candidates` was begun
        ("station_due_ms", np.int64),  # when the first station on a path may be forgotten
        # counters
        ("packets_noted", np.int64),
        ("told", np.int64),
        ("chains_added", np.int64),
        ("disturbed", np.int64),  # stations on a path that moved or were evicted
    ]
)

TOLD = np.dtype(
    [
        ("mark", np.uint32),  # of generation and epoch
        ("time_ms", np.uint32),  # low bits
    ]
)
"""When a direction of a connection was told last; 8 bytes."""

CHAIN_TOS = 1
"""Rules on the way match, read or write TOS: the path holds for packets of one TOS only."""
CHAIN_TAGS = 2
"""A tag is pushed on the way: what leaves with the tag that it came with may have one of another type."""

CHAIN = np.dtype(
    [
        ("mix", np.int64),  # 0: free
        ("judged", np.int64),  # the value of `verdicts` when it was; 0: never
        ("used_ms", np.int64),
        ("new_eth_src", np.int64),  # what its rules make of the sender before `normal` learns it; -1: as it came
        ("new_vid", np.int32),  # likewise the VLAN of its tag
        ("entries", np.int32),  # first of its `chain_entries`
        ("candidates", np.int32),  # first word of what might match in place of its rules
        ("n_entries", np.uint16),
        ("n_candidates", np.uint16),
        ("life", np.uint16),  # counts the chains that had this place
        ("decrements", np.uint16),  # of the TTL
        ("unfit", np.uint8),
        ("parameter", np.uint8),
        ("flags", np.uint8),  # CHAIN_*
        ("normals", np.uint8),  # `normal` actions
        ("uses_normal", np.uint8),  # the frame leaves by one
    ],
    align=True,
)
"""The rules that a packet met, in order, and what they mean for those that follow it; 64 bytes.

A chain's number is its place and, from CHAIN_BITS on, its life.
"""
CHAIN_BITS = 16

MISS = 0xFFFFFFFF
"""In place of a rule: the table had none that matched."""
ENTRY_WORDS = 2
E_RULE, E_GENERATION = range(ENTRY_WORDS)
"""An entry: table << 32 | rule or MISS; the rule's generation."""

N_WORDS = 3
C_POSITION, C_FIELD, C_MATCH, C_TOS_MASK, C_TOS_VALUE, C_TRIPLES = range(6)
"""A candidate: lookup of the chain; place of the varying field that it matches, in packet.schema.FIELDS, or
TOS_ALONE; how many (word, mask, value) follow; its match on TOS (mask and value, in place); those that must be equal.
"""
TOS_ALONE = -1

R_ROW, R_GENERATION, R_DIRECTION = range(3)


class PathArrays(NamedTuple):
    """Everything that learning keeps; part of the datapath's WorkArrays, under the same names.

    `paths`: PATH_STATE (1,). `lookups`: int64 (MAX_CHAIN, ENTRY_WORDS) and `lookup_keys`: int64 (MAX_CHAIN, KEY_WORDS),
    the packet's entries and its key at each. `final_key`: int64 (1, HEADER_WORDS), its headers as they left. `passed`:
    int64 (N_ZONES, 3), connections passed: R_*. `learned`: LEARNED (n,). `told`: TOLD (capacity of the tracker, 2).
    `chains`: CHAIN (n,), `chain_slots`: int32 (power of two > n,), place + 1 by mix. `chain_free`: int32 (n,), a stack.
    `chain_entries`: int64 (n, ENTRY_WORDS). `candidates`: int64 (n,).
    """

    paths: np.ndarray
    lookups: np.ndarray
    lookup_keys: np.ndarray
    final_key: np.ndarray
    passed: np.ndarray
    learned: np.ndarray
    told: np.ndarray
    chains: np.ndarray
    chain_slots: np.ndarray
    chain_free: np.ndarray
    chain_entries: np.ndarray
    candidates: np.ndarray


NEVER_MS = (1 << 63) - 1


def make_paths(
    n_rows: int,
    n_chains: int = MAX_CHAINS,
    n_entries: int = N_ENTRIES,
    n_learned: int = N_LEARNED,
    n_candidate_words: int = N_CANDIDATE_WORDS,
) -> PathArrays:
    """Nothing learned, learning off, for a tracker of `n_rows` connections. Memory is committed as it is used."""
    state = np.zeros(1, PATH_STATE)
    state["epoch"] = state["verdicts"] = 1
    state["station_due_ms"] = NEVER_MS
    n_slots = 1 << (2 * n_chains - 1).bit_length()
    return PathArrays(
        state,
        np.zeros((MAX_CHAIN, ENTRY_WORDS), np.int64),
        np.zeros((MAX_CHAIN, KEY_WORDS), np.int64),
        np.zeros((1, HEADER_WORDS), np.int64),
        np.zeros((N_ZONES, 3), np.int64),
        reserve(LEARNED, n_learned),
        reserve(TOLD, n_rows, 2),
        reserve(CHAIN, n_chains),
        reserve(np.int32, n_slots),
        reserve(np.int32, n_chains),
        reserve(np.int64, n_entries, ENTRY_WORDS),
        reserve(np.int64, n_candidate_words),
    )
