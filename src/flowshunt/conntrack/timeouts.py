"""Timeouts of both profiles, by class, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowshunt.conntrack import states as S

_SECOND = 1000
_MINUTE = 60 * _SECOND
_DAY = 24 * 60 * _MINUTE

DEFAULT_MS = {
    S.T_TCP_FIRST_PACKET: 30 * _SECOND,
    S.T_TCP_OPENING: 30 * _SECOND,
    S.T_TCP_ESTABLISHED: _DAY,
    S.T_TCP_CLOSING: 15 * _MINUTE,
    S.T_TCP_FIN_WAIT: 45 * _SECOND,
    S.T_TCP_CLOSED: 30 * _SECOND,
    S.T_OTHER_FIRST: 60 * _SECOND,
    S.T_OTHER_MULTIPLE: 60 * _SECOND,
    S.T_OTHER_BIDIRECTIONAL: 30 * _SECOND,
    S.T_ICMP_FIRST: 60 * _SECOND,
    S.T_ICMP_REPLY: 30 * _SECOND,
    S.T_UDP_FIRST: 60 * _SECOND,
    S.T_UDP_SINGLE: 60 * _SECOND,
    S.T_UDP_MULTIPLE: 30 * _SECOND,
}
"""Open vSwitch's userspace tracker."""

LINUX_MS = {
    S.T_LINUX + 1: 120 * _SECOND,  # SYN_SENT
    S.T_LINUX + 2: 60 * _SECOND,  # SYN_RECV
    S.T_LINUX + 3: 5 * _DAY,  # ESTABLISHED
    S.T_LINUX + 4: 120 * _SECOND,  # FIN_WAIT
    S.T_LINUX + 5: 60 * _SECOND,  # CLOSE_WAIT
    S.T_LINUX + 6: 30 * _SECOND,  # LAST_ACK
    S.T_LINUX + 7: 120 * _SECOND,  # TIME_WAIT
    S.T_LINUX + 8: 10 * _SECOND,  # CLOSE
    S.T_LINUX + 9: 120 * _SECOND,  # SYN_SENT2
    S.T_LINUX_RETRANS: 5 * _MINUTE,
    S.T_LINUX_UNACK: 5 * _MINUTE,
    S.T_LINUX_UDP: 30 * _SECOND,
    S.T_LINUX_UDP_STREAM: 120 * _SECOND,
    S.T_LINUX_ICMP: 30 * _SECOND,
    S.T_LINUX_GENERIC: 10 * _MINUTE,
    S.T_LINUX_SCTP + 1: 10 * _SECOND,  # CLOSED
    S.T_LINUX_SCTP + 2: 3 * _SECOND,  # COOKIE_WAIT
    S.T_LINUX_SCTP + 3: 3 * _SECOND,  # COOKIE_ECHOED
    S.T_LINUX_SCTP + 4: 210 * _SECOND,  # ESTABLISHED
    S.T_LINUX_SCTP + 5: 3 * _SECOND,  # SHUTDOWN_SENT
    S.T_LINUX_SCTP + 6: 3 * _SECOND,  # SHUTDOWN_RECD
    S.T_LINUX_SCTP + 7: 3 * _SECOND,  # SHUTDOWN_ACK_SENT
    S.T_LINUX_SCTP + 8: 30 * _SECOND,  # HEARTBEAT_SENT
}
"""Linux, nf_conntrack."""

POLICY_CLASSES: dict[str, tuple[int, ...]] = {
    "tcp_syn_sent": (S.T_TCP_FIRST_PACKET, S.T_LINUX + 1),
    "tcp_syn_recv": (S.T_TCP_OPENING, S.T_LINUX + 2),
    "tcp_established": (S.T_TCP_ESTABLISHED, S.T_LINUX + 3),
    "tcp_fin_wait": (S.T_TCP_CLOSING, S.T_LINUX + 4),
    "tcp_close_wait": (S.T_LINUX + 5,),
    "tcp_last_ack": (S.T_LINUX + 6,),
    "tcp_time_wait": (S.T_TCP_FIN_WAIT, S.T_LINUX + 7),
    "tcp_close": (S.T_TCP_CLOSED, S.T_LINUX + 8),
    "tcp_syn_sent2": (S.T_LINUX + 9,),
    "tcp_retransmit": (S.T_LINUX_RETRANS,),
    "tcp_unack": (S.T_LINUX_UNACK,),
    "udp_first": (S.T_UDP_FIRST, S.T_OTHER_FIRST),
    "udp_single": (S.T_UDP_SINGLE, S.T_OTHER_MULTIPLE, S.T_LINUX_UDP),
    "udp_multiple": (S.T_UDP_MULTIPLE, S.T_OTHER_BIDIRECTIONAL, S.T_LINUX_UDP_STREAM),
    "icmp_first": (S.T_ICMP_FIRST, S.T_LINUX_ICMP),
    "icmp_reply": (S.T_ICMP_REPLY,),
}
"""Names of a timeout policy (table CT_Timeout_Policy of Open vSwitch's database), and what each sets in both profiles.

As in Open vSwitch over its own tracker and over Linux's: each has names that set nothing there, and over its own the
ones for UDP hold for every protocol but TCP and ICMP.
"""
MAX_TIMEOUT_S = (1 << 32) - 1


def timeout_row(policy: Mapping[str, int]) -> np.ndarray:
    """int64 (N_TIMEOUTS,): the profiles' own timeouts, but for what `policy` says, seconds by name."""
    row = np.zeros(S.N_TIMEOUTS, np.int64)
    for timeout_class, milliseconds in {**DEFAULT_MS, **LINUX_MS}.items():
        row[timeout_class] = milliseconds
    for name, seconds in policy.items():
        for timeout_class in POLICY_CLASSES[name]:
            row[timeout_class] = seconds * _SECOND
    return row
