"""The system call bpf(2), as far as AF_XDP and floods of frames need it: maps, XDP programs, their links."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

XSK_MAP = 17
XDP_NATIVE, XDP_GENERIC = 1 << 2, 1 << 1
"""How a program is attached: in the driver, or behind it."""

_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _TEST_RUN, _LINK_CREATE = 0, 2, 5, 10, 28
_PROG_TYPE_XDP, _ATTACH_XDP, _LIVE_FRAMES = 6, 37, 2
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361, "s390x": 351}
_SIZE = 128

_libc = ctypes.CDLL(None, use_errno=True)


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction of 8 bytes; `value` is signed."""
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def _call(command: int, attributes: bytes) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, _SIZE)
    result = int(_libc.syscall(number, command, buffer, ctypes.c_uint(_SIZE)))
    if result < 0:
        problem = ctypes.get_errno()
        raise OSError(problem, f"bpf(2): {os.strerror(problem)}")
    return result


def create_map(type_: int, key_size: int, value_size: int, length: int) -> int:
    """A map; returns its file descriptor. Raises OSError."""
    return _call(_MAP_CREATE, struct.pack("=4I", type_, key_size, value_size, length))


def update_map(map_fd: int, key: int, value: int) -> None:
    """Set an entry whose key and value are 32-bit numbers. Raises OSError."""
    one, other = ctypes.c_uint32(key), ctypes.c_uint32(value)
    _call(_MAP_UPDATE, struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(one), ctypes.addressof(other), 0))


def load_xdp(instructions: bytes) -> int:
    """An XDP program; returns its file descriptor. Raises OSError."""
    code, licence = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    return _call(_PROG_LOAD, struct.pack("=IIQQ", _PROG_TYPE_XDP, len(instructions) // 8, *addresses))


def attach_xdp(program_fd: int, ifindex: int, mode: int) -> int:
    """Attach a program to a device; it is there as long as the returned descriptor is open. Raises OSError."""
    return _call(_LINK_CREATE, struct.pack("=4I", program_fd, ifindex, _ATTACH_XDP, mode))


def run_live(program_fd: int, frame: bytes, times: int) -> None:
    """Have the kernel run an XDP program on copies of a frame, and do with them what it says. Raises OSError."""
    content = ctypes.create_string_buffer(frame, len(frame))
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII", program_fd, 0, len(frame), 0, ctypes.addressof(content), 0, times, 0, 0, 0, 0, 0,
        _LIVE_FRAMES, 0, 64,
    )  # fmt: skip
    _call(_TEST_RUN, attributes)
