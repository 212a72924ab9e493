"""Giving up what root may do and a switch does not need, and being another user.

A switch needs few of root's capabilities (capabilities(7)), and no file of root's once it is set up.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import struct
from dataclasses import dataclass

from flowshunt.base.errors import InputError, UsageError
from flowshunt.base.log import logger

# linux/capability.h
NAMES = {
    6: "CAP_SETGID", 7: "CAP_SETUID", 8: "CAP_SETPCAP", 12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 23: "CAP_SYS_NICE",
    38: "CAP_PERFMON", 39: "CAP_BPF",
}  # fmt: skip
"""The capabilities that matter here."""
SETGID, SETUID, SETPCAP, NET_ADMIN, NET_RAW, SYS_NICE, PERFMON, BPF = NAMES
PURPOSES = {
    NET_ADMIN: "network devices cannot be made or set",
    NET_RAW: "network devices cannot be opened",
    SYS_NICE: "packets wait for other programs",
    BPF: "nothing is offloaded into the kernel",
    PERFMON: "programs in the kernel are a little slower",
}
"""What is kept, and what is not there without."""

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 24, 8, 38
_LAST = 63
_LOG = logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to be."""

    name: str
    uid: int
    gid: int


def find_account(spec: str) -> Account:
    """Of `USER`, `USER:GROUP`, `USER:` (his own group, too) or `:GROUP` (the present user).

    Raises UsageError for one that is not there.
    """
    user, _, group = spec.partition(":")
    if not user and not group:
        raise UsageError(f"{spec!r} names no user", hint="USER or USER:GROUP")
    try:
        entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise UsageError(f"user {user or os.geteuid()} not found") from None
    try:
        gid = grp.getgrnam(group).gr_gid if group else entry.pw_gid
    except KeyError:
        raise UsageError(f"group {group} not found") from None
    return Account(entry.pw_name, entry.pw_uid, gid)


def permitted() -> frozenset[int]:
    """The capabilities that this thread may use."""
    held, _ = _held(_library())
    mask = held[1] | held[4] << 32
    return frozenset(number for number in range(_LAST + 1) if mask >> number & 1)


def drop_privileges(account: Account | None = None) -> frozenset[int]:
    """Be `account`, if it is given, and keep the capabilities of PURPOSES only, for this thread and those it starts.

    Returns those that are missing. Without root nothing is given up. Raises UsageError when somebody else than root is
    to become another user, InputError, which names what is missing, when the system refuses.
    """
    libc = _library()
    before = permitted()
    if os.geteuid() != 0:
        if account is not None and (account.uid, account.gid) != (os.geteuid(), os.getegid()):
            raise UsageError(f"only root can become user {account.name}")
        return frozenset(PURPOSES) - before
    for capability in range(_LAST + 1):
        if capability not in PURPOSES:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL beyond the last one there is
    if account is not None:
        _become(libc, account, before)
    _keep(libc)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise InputError(f"cannot give up privileges: {os.strerror(ctypes.get_errno())}")
    return frozenset(PURPOSES) - permitted()


def tell_missing(missing: frozenset[int]) -> None:
    """Log what will not work."""
    for number in sorted(missing & {NET_ADMIN, NET_RAW}):
        _LOG.warning("%s is missing: %s", NAMES[number], PURPOSES[number])
    for number in sorted(missing - {NET_ADMIN, NET_RAW}):
        _LOG.info("%s is missing: %s", NAMES[number], PURPOSES[number])


def _become(libc: ctypes.CDLL, account: Account, before: frozenset[int]) -> None:
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as problem:
        missing = ", ".join(NAMES[number] for number in (SETGID, SETUID) if number not in before)
        what = f"{missing} is missing" if missing else problem.strerror
        raise InputError(f"cannot become user {account.name}: {what}") from None


def _keep(libc: ctypes.CDLL) -> None:
    """Of what this thread may do, go on with what is in PURPOSES, and leave nothing to programs that it starts."""
    held, header = _held(libc)
    mask = sum(1 << capability for capability in PURPOSES)
    for first, part in ((0, mask & 0xFFFFFFFF), (3, mask >> 32)):
        kept = held[first + 1] & part
        held[first], held[first + 1], held[first + 2] = kept, kept, 0
    if libc.capset(header, held) != 0:
        raise InputError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")


def _held(libc: ctypes.CDLL) -> tuple[ctypes.Array[ctypes.c_uint32], bytes]:
    """Effective, permitted and inheritable capabilities, the low 32 of each and then the rest, and their header."""
    header = struct.pack("=Ii", _VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) != 0:
        raise InputError(f"cannot ask for capabilities: {os.strerror(ctypes.get_errno())}")
    return held, header


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
