"""Numbers and names of states, results, flags and timeout classes, for both profiles."""

from __future__ import annotations

# ct_state bits as OpenFlow users see them (REQUIREMENTS row B1).
CS_NEW = 0x01
CS_ESTABLISHED = 0x02
CS_RELATED = 0x04
CS_REPLY = 0x08
CS_INVALID = 0x10
CS_TRACKED = 0x20
CS_SNAT = 0x40
CS_DNAT = 0x80
CS_HELD = 0x100
"""Not a bit of OpenFlow's: the packet is a fragment that the tracker keeps, so it has no state of its own."""

CT_STATE_NAMES = (
    (CS_NEW, "new"),
    (CS_ESTABLISHED, "est"),
    (CS_RELATED, "rel"),
    (CS_REPLY, "rpl"),
    (CS_INVALID, "inv"),
    (CS_TRACKED, "trk"),
    (CS_SNAT, "snat"),
    (CS_DNAT, "dnat"),
)
"""Bits and names in the order in which Open vSwitch prints them."""

_KERNEL_2015 = (
    (CS_NEW, 0x01),
    (CS_ESTABLISHED, 0x02),
    (CS_RELATED, 0x04),
    (CS_INVALID, 0x20),
    (CS_REPLY, 0x40),
    (CS_TRACKED, 0x80),
)


def to_kernel_2015(ct_state: int) -> int:
    """OpenFlow's ct_state bits in the numbering of the Linux patch of August 2015 (OVS_CS_F_*).

    snat and dnat did not exist there and are dropped.
    """
    return sum(kernel for openflow, kernel in _KERNEL_2015 if ct_state & openflow)


def from_kernel_2015(bits: int) -> int:
    """The reverse of `to_kernel_2015`; bits that it does not know are dropped."""
    return sum(openflow for openflow, kernel in _KERNEL_2015 if bits & kernel)


def ct_state_text(ct_state: int) -> str:
    """Flag names joined by `|`, as Open vSwitch prints ct_state; `-` for a packet never tracked, `held` for CS_HELD."""
    if ct_state & CS_HELD:
        return "held"
    return "|".join(name for bit, name in CT_STATE_NAMES if ct_state & bit) or "-"


# What an update of a protocol's state machine says about the packet.
UPDATE_INVALID = 0
UPDATE_VALID = 1
UPDATE_VALID_NEW = 2
UPDATE_NEW = 3
RESULT_MASK = 0xFF
STATE_CHANGED = 1 << 16
WHY_SHIFT = 24
"""From this bit on, beside UPDATE_INVALID: the counter of the reason (`schema.C_*`)."""

# What of a TCP segment is held against the windows.
CHECK_NOTHING = 0
CHECK_ALL = 1
CHECK_RESETS = 2
"""Liberal: only a RST outside the window is invalid (nf_conntrack_tcp_be_liberal)."""

# Flags of a connection.
F_SEEN_REPLY = 1
F_ASSURED = 2
F_HAS_LABEL = 4
F_LIBERAL = 8
F_SEQ_CHECK_OFF = 16
F_DYING = 32
F_LIVE = 64
F_NAT = 128
"""The reply tuple is not the original one turned round; it is in the extension, and has a second hash entry."""

# What a module watches of a connection (`watch`).
WATCH_REPLY = 1
"""The next packet in the reply direction is a `reply` event again."""
WATCH_HELD = 2
"""Packets may pass unseen; a `due` event comes in place of expiry."""

HELPER_NAMES = ("", "ftp", "tftp")
"""Helpers by their number in EXT records; 0 is none."""

# States of one TCP peer, named as dpctl/dump-conntrack prints them; the order is part of the machine.
PEER_NAMES = (
    "CLOSED",
    "LISTEN",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "CLOSE_WAIT",
    "FIN_WAIT_1",
    "CLOSING",
    "LAST_ACK",
    "FIN_WAIT_2",
    "TIME_WAIT",
)
(
    PEER_CLOSED,
    PEER_LISTEN,
    PEER_SYN_SENT,
    PEER_SYN_RECV,
    PEER_ESTABLISHED,
    PEER_CLOSE_WAIT,
    PEER_FIN_WAIT_1,
    PEER_CLOSING,
    PEER_LAST_ACK,
    PEER_FIN_WAIT_2,
    PEER_TIME_WAIT,
) = range(len(PEER_NAMES))

# States of protocols without a machine of their own.
OTHER_FIRST = 0
OTHER_MULTIPLE = 1
OTHER_BIDIRECTIONAL = 2
ICMP_FIRST = 0
ICMP_REPLY = 1

# Timeout classes: index into the timeout table.
T_TCP_FIRST_PACKET = 0
T_TCP_OPENING = 1
T_TCP_ESTABLISHED = 2
T_TCP_CLOSING = 3
T_TCP_FIN_WAIT = 4
T_TCP_CLOSED = 5
T_OTHER_FIRST = 6
T_OTHER_MULTIPLE = 7
T_OTHER_BIDIRECTIONAL = 8
T_ICMP_FIRST = 9
T_ICMP_REPLY = 10
T_UDP_FIRST = 11
T_UDP_SINGLE = 12
T_UDP_MULTIPLE = 13
T_LINUX = 32
"""linux: TCP states start here, in the kernel's order."""
T_LINUX_RETRANS = 42
T_LINUX_UNACK = 43
T_LINUX_UDP = 44
T_LINUX_UDP_STREAM = 45
T_LINUX_ICMP = 46
T_LINUX_GENERIC = 47
T_LINUX_SCTP = 48
"""linux: SCTP states start here, in the kernel's order."""
N_TIMEOUTS = 57
KEEP_TIMER = 0xFF

LINUX_NAMES = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)
"""TCP states of profile linux, by number, as /proc/net/nf_conntrack prints them."""

SCTP_NAMES = (
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)
"""SCTP states of profile linux, by number, as /proc/net/nf_conntrack prints them."""
