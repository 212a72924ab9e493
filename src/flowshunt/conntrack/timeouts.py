"""Timeouts of both profiles, by class, in milliseconds."""

from __future__ import annotations

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
}
"""Linux, nf_conntrack."""


def timeout_table(n_policies: int = 1) -> np.ndarray:
    """int64 (n_policies, N_TIMEOUTS): every policy starts with the profiles' own values."""
    table = np.zeros((n_policies, S.N_TIMEOUTS), np.int64)
    for timeout_class, milliseconds in {**DEFAULT_MS, **LINUX_MS}.items():
        table[:, timeout_class] = milliseconds
    return table
