"""Whether the records of a fragment store are all where they belong."""

from __future__ import annotations

from flowshunt.datapath.fragments import schema as G
from flowshunt.datapath.tables import Datapath


def check_books(datapath: Datapath) -> None:
    """What was accepted is somewhere, and what is free and what is used is all there is."""
    f = datapath.fragments.arrays
    state = f.state[0]
    for family in G.FAMILIES:
        counts = datapath.fragments.statistics()
        gone = sum(counts[f"{family}.{name}"] for name in ("completed", "expired", "purged", "dropped", "held"))
        assert counts[f"{family}.accepted"] == gone
    used_blocks = used_fragments = n_datagrams = 0
    for family in range(2):
        row = int(f.families["oldest"][family])
        while row:
            record = f.datagrams[row - 1]
            n_datagrams += 1
            blocks, fragment = 0, int(record["fragments"])
            units = 0
            while fragment:
                used_fragments += 1
                units += -(-int(f.fragments["size"][fragment - 1]) // 8)
                block = int(f.fragments["block"][fragment - 1])
                while block:
                    blocks += 1
                    block = int(f.next_block[block - 1])
                fragment = int(f.fragments["next"][fragment - 1])
            assert blocks == record["n_blocks"]
            assert units == record["units"] == sum(int(word).bit_count() for word in f.bits[row - 1])
            used_blocks += blocks
            row = int(record["newer"][0])
    assert (used_blocks, used_fragments, n_datagrams) == (state["n_blocks"], state["n_fragments"], state["n_datagrams"])
    for free, fresh, following, used in (
        ("free_block", "fresh_block", f.next_block, used_blocks),
        ("free_fragment", "fresh_fragment", f.fragments["next"], used_fragments),
        ("free_datagram", "fresh_datagram", f.datagrams["chain"], n_datagrams),
    ):
        n, place = 0, int(state[free])
        while place:
            n += 1
            place = int(following[place - 1])
        assert n + used == state[fresh]
    assert int(f.zones["n_fragments"].sum()) == used_fragments
