"""Which flows have which places in the map, against a dictionary."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator

import numpy as np
import pytest

from flowshunt.base import bpf
from flowshunt.datapath.paths.records import FLOW
from flowshunt.offload import reasons as R
from flowshunt.offload.providers.kernel.ports import EveryPort
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.offload.providers.kernel.records import VALUE
from flowshunt.packet.schema import PROTO_UDP
from tests.offload.kernel.rights import needs_bpf

pytestmark = needs_bpf

LIMIT = 24
_IPV4 = 0xFFFF << 32


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel(EveryPort(), limit=LIMIT)
    made.init()
    yield made
    made.close()


def flows(*wanted: tuple[int, int, int]) -> np.ndarray:
    """A FLOW for each row, generation and client's port; replies of a client's port go to a server's of its own."""
    found = np.zeros(len(wanted), FLOW)
    for flow, (row, generation, port) in zip(found, wanted, strict=True):
        flow["rows"][0], flow["generations"][0], flow["n_zones"], flow["max_idle_ms"] = row, generation, 1, 30_000
        there, back = flow["paths"]
        there["source"][1] = back["destination"][1] = _IPV4 | 0x0A000001
        there["destination"][1] = back["source"][1] = _IPV4 | 0x0A000002
        there["tuple"], back["tuple"] = port << 48 | 80 << 32 | PROTO_UDP << 8, 80 << 48 | port << 32 | PROTO_UDP << 8
        there["in_port"] = back["out_port"] = 1
        there["out_port"] = back["in_port"] = 2
    return found


def is_in_map(kernel: Kernel, port: int) -> bool:
    """Whether the map has the path of a client's port, there."""
    assert kernel.objects is not None
    key = np.zeros(1, np.dtype([("ifindex", "=u4"), ("tci", "=u2"), ("kind", "u1", 2), ("rest", "u1", 36)]))
    key["ifindex"], key["kind"] = 1, (PROTO_UDP, 4)
    words = key["rest"][0].view(">u2")
    words[6:8], words[14:16], words[16:18] = (0x0A00, 1), (0x0A00, 2), (port, 80)
    return bpf.lookup(kernel.objects._flows, key.tobytes(), VALUE.itemsize) is not None


def withdraw(kernel: Kernel, *connections: tuple[int, int]) -> None:
    rows, generations = np.array(connections, np.uint32).T
    kernel.withdraw(rows, generations)


def test_what_another_flow_has_is_refused_until_that_ends(kernel: Kernel) -> None:
    first, second = flows((1, 1, 1000)), flows((2, 1, 1000))
    kernel.install(first)
    kernel.install(second)
    assert (first["error"][0], second["error"][0]) == (0, errno.EEXIST)
    assert second["reason"][0] == R.HELD_ELSEWHERE
    assert kernel.flows.n_flows == 1
    withdraw(kernel, (1, 1))
    assert not is_in_map(kernel, 1000)
    kernel.install(second)
    assert second["error"][0] == 0
    assert is_in_map(kernel, 1000)


def test_a_connection_that_comes_twice_at_once_has_the_last_of_its_paths(kernel: Kernel) -> None:
    both = flows((1, 1, 1000), (2, 1, 2000), (1, 1, 3000))
    kernel.install(both)
    assert not both["error"].any()
    assert kernel.flows.n_flows == 2
    assert [is_in_map(kernel, port) for port in (1000, 2000, 3000)] == [False, True, True]


def test_more_than_there_is_room_for(kernel: Kernel) -> None:
    many = flows(*((row, 1, 1000 + row) for row in range(LIMIT + 3)))
    kernel.install(many)
    assert many["error"].tolist() == [0] * LIMIT + [errno.ENOSPC] * 3
    assert set(many["reason"][LIMIT:].tolist()) == {R.TABLE_FULL}
    withdraw(kernel, (5, 1))
    kernel.install(many[LIMIT:])
    assert many["error"][LIMIT:].tolist() == [0, errno.ENOSPC, errno.ENOSPC]


def test_it_has_what_a_dictionary_has(kernel: Kernel) -> None:
    rng = random.Random(7)
    model: dict[int, tuple[int, int]] = {}  # generation and port, by row
    for _ in range(300):
        wanted = [
            (rng.randrange(40), rng.randrange(1, 3), 1000 + rng.randrange(30)) for _ in range(rng.randrange(1, 9))
        ]
        given = flows(*wanted)
        kernel.install(given)
        for (row, generation, port), error in zip(wanted, given["error"].tolist(), strict=True):
            model.pop(row, None)
            if error == 0:
                model[row] = generation, port
        ports = sorted(port for _, port in model.values())
        assert [port for port in range(1000, 1030) if is_in_map(kernel, port)] == ports
        assert kernel.flows.n_flows == len(model)
        if model:
            row = rng.choice(list(model))
            generation, port = model[row]
            withdraw(kernel, (row, 3 - generation))
            assert is_in_map(kernel, port)
            withdraw(kernel, (row, generation))
            assert not is_in_map(kernel, port)
            del model[row]
