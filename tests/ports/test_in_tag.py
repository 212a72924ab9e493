"""A ring whose packets say in a tag which port they came from."""

from __future__ import annotations

import numpy as np

from flowshunt.ports.receiving import IN_TAG, LARGE_SIZE, RECEIVE_COUNTERS, SLOT_SIZE, make_receive_arrays, receive_ring

_USER, _VLAN, _TPID = 1, 1 << 4, 1 << 6


def test_the_number_is_taken_from_the_tag_and_the_frame_is_without_it() -> None:
    ring = make_receive_arrays(np.zeros(3 * SLOT_SIZE + LARGE_SIZE, np.uint8), 0, IN_TAG, 3, 1)
    for slot, (status, tag) in enumerate(((_USER | _VLAN | _TPID, 0x88A8_1234), (_USER, 0), (_USER | _VLAN, 0xFFFF))):
        words = ring.words[slot * SLOT_SIZE // 4 :]
        words[:4], words[6] = (status, 60, 60, 80 << 16 | 66), tag
        ring.data[slot * SLOT_SIZE + 66 :][:60] = slot + 1
    assert receive_ring(ring, 5) == 2
    packets = ring.packets[:2]
    assert packets["in_port"].tolist() == [0x1234, 0xFFFF]
    assert packets["length"].tolist() == [60, 60]
    assert [ring.data[at] for at in packets["data"]] == [1, 3]
    assert dict(zip(RECEIVE_COUNTERS, ring.counters.tolist(), strict=True))["rx_lost"] == 1
