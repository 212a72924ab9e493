"""What an operator wants of the naive tracker: limits, timeouts, how strictly TCP is judged."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.oracle import nf_tcp

PF_NAMES = {
    "first": "tcp_syn_sent", "opening": "tcp_syn_recv", "established": "tcp_established", "closing": "tcp_fin_wait",
    "fin_wait": "tcp_time_wait", "closed": "tcp_close",
}  # fmt: skip
"""Open vSwitch's timeout classes of TCP, as CT_Timeout_Policy calls them."""
NF_NAMES: dict[int | str, str] = {
    nf_tcp.SYN_SENT: "tcp_syn_sent", nf_tcp.SYN_RECV: "tcp_syn_recv", nf_tcp.ESTABLISHED: "tcp_established",
    nf_tcp.FIN_WAIT: "tcp_fin_wait", nf_tcp.CLOSE_WAIT: "tcp_close_wait", nf_tcp.LAST_ACK: "tcp_last_ack",
    nf_tcp.TIME_WAIT: "tcp_time_wait", nf_tcp.CLOSE: "tcp_close", nf_tcp.SYN_SENT2: "tcp_syn_sent2",
    "retrans": "tcp_retransmit", "unack": "tcp_unack",
}  # fmt: skip
"""nf_conntrack's."""
OTHER_NAMES = ("udp_first", "udp_single", "udp_multiple", "icmp_first", "icmp_reply")
UNLIMITED = 1 << 62


@dataclass
class Policies:
    """Settings; a zone that says nothing has what None says."""

    capacity: int = UNLIMITED
    limits: dict[int | None, int] = field(default_factory=dict)
    timeouts: dict[int | None, dict[str, int]] = field(default_factory=dict)
    liberal: set[int] = field(default_factory=set)
    loose: bool = True
    early_drop: bool = False

    @property
    def has_limits(self) -> bool:
        return self.capacity != UNLIMITED or bool(self.limits)

    def limit(self, zone: int) -> int:
        """How many connections a zone may have."""
        return self.limits.get(zone, self.limits.get(None, UNLIMITED))

    def seconds(self, zone: int, name: str, otherwise: int) -> int:
        """A timeout of a zone; `otherwise`: the profile's."""
        return self.timeouts.get(zone, {}).get(name, self.timeouts.get(None, {}).get(name, otherwise))


def draw_policies(random: random.Random) -> Policies:
    """Small tables, short times, odd settings."""
    names = [*PF_NAMES.values(), *NF_NAMES.values(), *OTHER_NAMES]

    def timeouts() -> dict[str, int]:
        return {name: random.choice((1, 5, 29, 100, 301, 7200)) for name in random.sample(names, 8)}

    return Policies(
        capacity=random.choice((UNLIMITED, 20, 60)),
        limits=random.choice(({}, {None: 15}, {0: 10, 1: 3}, {None: 8, 7: 30})),
        timeouts=random.choice(({}, {0: timeouts()}, {None: timeouts(), 1: timeouts(), 7: timeouts()})),
        liberal=set(random.sample((0, 1, 7), random.choice((0, 0, 1)))),
        loose=random.random() < 0.8,
        early_drop=random.random() < 0.5,
    )
