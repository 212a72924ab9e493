"""A forwarder by hand: it learns paths by comparing what went in with what came out, and installs them.

Made for rules whose verdict does not depend on anything that varies between the packets of a connection; those that
match on TOS are told by `match_tos`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flowshunt.conntrack import schema as C
from flowshunt.conntrack.holding import Holding
from flowshunt.conntrack.kernels.entry import find_row
from flowshunt.conntrack.linux_states import ESTABLISHED
from flowshunt.conntrack.states import (
    CS_ESTABLISHED,
    CS_INVALID,
    CS_REPLY,
    F_SEEN_REPLY,
    OTHER_BIDIRECTIONAL,
    PEER_ESTABLISHED,
)
from flowshunt.datapath.paths import records as R
from flowshunt.datapath.schema import SOURCE_BATCH
from flowshunt.datapath.shunt.table import Share
from flowshunt.datapath.tables import Datapath, Result
from flowshunt.packet import schema as P
from flowshunt.packet.parse import parse_batch

_LOW32 = 0xFFFFFFFF


def keys_of(batch: P.Batch) -> np.ndarray:
    """The flow keys of a batch, as parsed."""
    keys = np.zeros((len(batch.packets), P.KEY_WORDS), np.int64)
    parse_batch(batch.data, batch.packets, keys, len(batch.packets))
    return keys


def frames_out(batch: P.Batch, result: Result) -> P.Batch:
    """What left, as a batch."""
    data = np.concatenate([batch.data, result.tx_data])
    packets = np.zeros(len(result.tx), P.PACKET)
    packets["data"] = result.tx["data"] + np.where(result.tx["source"] == SOURCE_BATCH, 0, len(batch.data))
    packets["length"] = packets["wire_length"] = result.tx["length"]
    return P.Batch(data, packets)


def tuple_word(key: Any, family: int) -> int:
    """Tuple word of a UDP or TCP packet, zone 0."""
    l4 = int(key[P.W_L4])
    return l4 & ~_LOW32 | ((l4 >> 24) & 0xFF) << 8 | (0x80 if family == 6 else 0)


def path_between(before: Any, after: Any, family: int, in_port: int, out_port: int, match_tos: bool) -> np.ndarray:
    """The path of a packet whose key was `before` when it came and `after` when it left."""
    path = np.zeros((), R.PATH)
    flags = R.MATCH_TOS if match_tos else 0
    path["source"], path["destination"] = before[P.W_NW_SRC : P.W_NW_SRC + 2], before[P.W_NW_DST : P.W_NW_DST + 2]
    path["tuple"] = tuple_word(before, family)
    path["eth_src"] = (int(before[P.W_ETH_SRC]) >> 16) & 0xFFFFFFFFFFFF
    path["eth_dst"] = (int(before[P.W_ETH_DST]) >> 16) & 0xFFFFFFFFFFFF
    path["vlan_tci"] = int(before[P.W_ETH_SRC]) & 0xFFFF
    path["in_port"], path["out_port"] = in_port, out_port
    for name, word, flag in (("eth_src", P.W_ETH_SRC, R.REWRITE_ETH_SRC), ("eth_dst", P.W_ETH_DST, R.REWRITE_ETH_DST)):
        new = (int(after[word]) >> 16) & 0xFFFFFFFFFFFF
        if new != path[name]:
            path[f"new_{name}"] = new
            flags |= flag
    for name, word, flag in (
        ("source", P.W_NW_SRC, R.REWRITE_SOURCE),
        ("destination", P.W_NW_DST, R.REWRITE_DESTINATION),
    ):
        if (after[word : word + 2] != before[word : word + 2]).any():
            path[f"new_{name}"] = after[word : word + 2]
            flags |= flag
    tag = int(before[P.W_ETH_SRC]) & 0xFFFF, int(before[P.W_FLAGS]) & 0xFFFF
    new_tag = int(after[P.W_ETH_SRC]) & 0xFFFF, int(after[P.W_FLAGS]) & 0xFFFF
    if tag != new_tag:
        path["new_vlan_tci"], path["new_vlan_tpid"] = new_tag
        flags |= R.REWRITE_VLAN
    old, new = int(before[P.W_L4]), int(after[P.W_L4])
    if (old ^ new) >> 32:
        path["new_source_port"], path["new_destination_port"] = (new >> 48) & 0xFFFF, (new >> 32) & 0xFFFF
        flags |= R.REWRITE_PORTS
    path["ttl_decrements"] = ((old >> 8) & 0xFF) - ((new >> 8) & 0xFF)
    path["tos"] = (old >> 16) & 0xFF if match_tos else 0
    if (old ^ new) & 0xFF0000:
        path["new_tos"] = (new >> 16) & 0xFF
        flags |= R.REWRITE_TOS
    path["flags"] = flags
    return path


class HandForwarder:
    """Learns from every batch and installs in a share; answers `due` events; withdraws what ends."""

    def __init__(
        self, datapath: Datapath, share: Share, zones: tuple[int, ...] = (0,), *, match_tos: bool = False, mtu: int = 0
    ) -> None:
        """`zones`: of the packet as it comes in, and of the packet as it leaves if there is a second one."""
        self.datapath, self.share, self.zones = datapath, share, zones
        self.tracker = datapath.tracker
        self.holding = Holding(self.tracker)
        self.match_tos, self.mtu = match_tos, mtu
        self.errors: list[int] = []
        self.usage: dict[tuple[int, int], np.ndarray] = {}
        self._paths: dict[tuple[tuple[int, int], ...], dict[int, tuple[np.ndarray, int, int]]] = {}
        self._installed: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
        self._leader: dict[tuple[int, int], tuple[int, int]] = {}
        self._ended: list[tuple[int, int]] = []
        self.tracker.observe(self._watch)

    def process(self, batch: P.Batch) -> Result:
        """`Datapath.process`, then learn from what it did."""
        result = self.datapath.process(batch)
        self._withdraw()
        self._learn(batch, result)
        return result

    @property
    def epoch(self) -> int:
        return int(self.datapath.shunt.arrays.state["epoch"][0])

    def withdraw_all(self) -> None:
        """Give everything back."""
        self._ended += list(self._installed)
        self._withdraw()

    def flush(self) -> None:
        """End all flows; their connections are held on, with the timers that the packets gave them."""
        for row, generation, usage in zip(*self.share.flush(), strict=True):
            self._account((int(row), int(generation)), usage)

    def _watch(self, events: np.ndarray) -> None:
        for event in events:
            name = int(event["row"]), int(event["generation"])
            leader = self._leader.get(name)
            if leader is None:
                continue
            if event["kind"] == C.EVENT_DUE:
                usage = self.share.usage(*_pair([leader]), int(event["time_ms"]))
                self._account(leader, usage[0])
                used = usage["last_used_ms"].max(axis=1)
                self.holding.answer_due(*_pair([name]), used, np.array([event["time_ms"]]))
            elif event["kind"] in (C.EVENT_DESTROYED, C.EVENT_STATE, C.EVENT_MARK, C.EVENT_LABEL):
                self._ended.append(leader)

    def _withdraw(self) -> None:
        for leader in self._ended:
            rows = self._installed.pop(leader, None)
            if rows is None:
                continue
            self._account(leader, self.share.withdraw(*_pair([leader]))[0])
            self.holding.release(*_pair(list(rows)))
            for row in rows:
                self._leader.pop(row, None)
            self._paths.pop(rows, None)
        self._ended.clear()

    def _account(self, leader: tuple[int, int], usage: Any) -> None:
        total = self.usage.setdefault(leader, np.zeros((3, 2), np.int64))
        for n, name in enumerate(("packets", "bytes", "frame_bytes")):
            total[n] += usage[name]

    def _learn(self, batch: P.Batch, result: Result) -> None:
        if not len(result.tx):
            return
        out = frames_out(batch, result)
        before, after = keys_of(batch), keys_of(out)
        sent = np.bincount(result.tx["packet"], minlength=len(batch.packets))
        first = np.searchsorted(result.tx["packet"], np.arange(len(batch.packets)))
        for i in np.flatnonzero(sent == 1):
            state = int(result.ct_state[i])
            record = batch.packets[i]
            proto = (int(before[i, P.W_L4]) >> 24) & 0xFF
            fit = proto in (P.PROTO_TCP, P.PROTO_UDP) and not before[i, P.W_L4] & P.FRAG_ANY and not record["options"]
            if not state & CS_ESTABLISHED or state & CS_INVALID or not fit:
                continue
            tx = result.tx[first[i]]
            self._note(before[i], after[first[i]], record, int(tx["port"]), state)

    def _note(self, before: Any, after: Any, record: Any, out_port: int, state: int) -> None:
        family = int(record["family"])
        found = [
            int(find_row(self.tracker.arrays, key.reshape(1, -1), tuple_word(key, family) | zone << 16, 0))
            for zone, key in zip(self.zones, (before, after), strict=False)
        ]
        if min(found) < 0 or not all(self._is_established(row >> 1) for row in found):
            return
        if bool(state & CS_REPLY) != bool(found[-1] & 1):  # of an earlier connection of that tuple
            return
        conns = self.tracker.arrays.conns
        ways = sorted({(row >> 1, int(conns["generation"][row >> 1]), row & 1) for row in found})
        rows = tuple((row, generation) for row, generation, _ in ways)
        direction = ways[0][2]
        path = path_between(before, after, family, int(record["in_port"]), out_port, self.match_tos)
        path["mtu"] = self.mtu
        known = self._paths.setdefault(rows, {})
        stale = direction in known and known[direction][0] != path
        known[direction] = path, state, self.epoch
        confirmed = len(known) == 2 and known[0][2] == known[1][2]
        if confirmed and (stale or self._leader.get(rows[0]) is None or self._is_dead(rows[0])):
            self._install(rows, known)

    def _is_established(self, row: int) -> bool:
        record = self.tracker.arrays.conns[row]
        if (int(record["tuple"]) >> 8) & 0xFF == P.PROTO_UDP:
            answered = record["flags"] & F_SEEN_REPLY
            return bool(record["state"] == OTHER_BIDIRECTIONAL or (self.tracker.profile == "linux" and answered))
        if self.tracker.profile == "linux":
            return bool(record["state"] == ESTABLISHED)
        return bool((record["peer"] == PEER_ESTABLISHED).all())

    def _is_dead(self, leader: tuple[int, int]) -> bool:
        arrays = self.datapath.shunt.arrays
        flow = int(arrays.flow_of[leader[0]]) - 1
        return flow < 0 or int(arrays.entries["port_epoch"][2 * flow]) & _LOW32 != self.epoch

    def _install(self, rows: tuple[tuple[int, int], ...], known: dict[int, tuple[np.ndarray, int, int]]) -> None:
        flow = np.zeros(1, R.FLOW)
        flow["now_ms"], flow["epoch"] = self.tracker.now_ms, self.epoch
        for d in range(2):
            flow["paths"][0, d], flow["ct_state"][0, d] = known[d][0], known[d][1]
        for z, (row, generation) in enumerate(rows):
            flow["rows"][0, z], flow["generations"][0, z] = row, generation
        flow["n_zones"] = len(rows)
        flow["max_idle_ms"] = 30_000
        self.share.install(flow)
        self.errors.append(int(flow["error"][0]))
        if not self.errors[-1]:
            self.holding.hold(*_pair(list(rows)))
            self._installed[rows[0]] = rows
            self._leader.update(dict.fromkeys(rows, rows[0]))


def _pair(names: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row for row, _ in names], np.int64), np.array([g for _, g in names], np.int64)
