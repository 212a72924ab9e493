"""Giving up what root may do and a switch does not need."""

from __future__ import annotations

import ctypes
import os
import struct

from flowshunt.base.errors import InputError

# linux/capability.h
_NET_ADMIN, _NET_RAW, _SYS_NICE, _PERFMON, _BPF = 12, 13, 23, 38, 39
KEPT = (_NET_ADMIN, _NET_RAW, _SYS_NICE, _PERFMON, _BPF)
"""Devices and their settings, packet sockets, the packet thread's priority, and the kernel's programs for offloads."""

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_LAST = 63


def drop_privileges() -> None:
    """Keep the capabilities of KEPT only, for this thread and those that it starts. Without root nothing happens.

    Raises InputError when the system refuses.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST + 1):
        if capability not in KEPT:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL beyond the last one there is
    mask = sum(1 << capability for capability in KEPT)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()
    if libc.capget(header, held) != 0:
        raise InputError(f"cannot ask for capabilities: {os.strerror(ctypes.get_errno())}")
    for first, part in ((0, low), (3, high)):
        permitted = held[first + 1] & part
        held[first], held[first + 1], held[first + 2] = permitted, permitted, 0
    if libc.capset(header, held) != 0 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise InputError(f"cannot give up capabilities: {os.strerror(ctypes.get_errno())}")
