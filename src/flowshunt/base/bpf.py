"""The system call bpf(2), by way of ctypes: maps, programs and links, as file descriptors.

All functions raise OSError with the system's errno. Keys and values are contiguous arrays of the map's record types.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct

import numpy as np

HASH, ARRAY, XSK_MAP = 1, 2, 17
"""Types of maps."""
MMAPABLE = 1 << 10
ANY = 0
"""An update may replace what is there."""
CLASSIFIER, XDP = 3, 6
"""Types of programs."""
XDP_GENERIC, XDP_NATIVE = 1 << 1, 1 << 2
"""How an XDP program is attached: behind the driver, or in it."""
XDP_HAS_FRAGS = 1 << 5
"""An XDP program takes frames of several buffers, as they are where the MTU is large."""

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE = 0, 1, 2, 3
_PROG_LOAD, _PIN, _GET, _TEST_RUN = 5, 6, 7, 10
_UPDATE_BATCH, _DELETE_BATCH = 26, 27
_LINK_CREATE, _LINK_UPDATE = 28, 29
_XDP_LINK, _TCX_INGRESS = 37, 46
_LIVE_FRAMES, _COMPLETE = 1 << 1, 1 << 2
_LOG_SIZE = 1 << 20
_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "loongarch64": 280, "s390x": 351}
_SKB_SIZE = 192
_MAX_OUT = 1 << 17

_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: bytes | bytearray) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known on {platform.machine()}")
    buffer = (ctypes.c_char * len(attributes)).from_buffer(bytearray(attributes))
    result = int(_libc.syscall(number, command, buffer, len(attributes)))
    if isinstance(attributes, bytearray):
        attributes[:] = bytes(buffer)
    if result < 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
    return result


def _name(text: str) -> bytes:
    return text.encode()[:15].ljust(16, b"\0")


# --- maps ------------------------------------------------------------------------------------------------------------


def create_map(type_: int, key_size: int, value_size: int, length: int, *, flags: int = 0, name: str = "") -> int:
    """A map for `length` entries, its memory taken at once."""
    return _call(_MAP_CREATE, struct.pack("=7I16s", type_, key_size, value_size, length, flags, 0, 0, _name(name)))


def mapped(map_fd: int, dtype: np.dtype, length: int) -> np.ndarray:
    """The records of an array that is MMAPABLE, shared with the kernel: as long as the result, whoever closes the map.

    Their size must be a multiple of 8 bytes.
    """
    size = -(-dtype.itemsize * length // mmap.PAGESIZE) * mmap.PAGESIZE
    return np.frombuffer(mmap.mmap(map_fd, size), dtype, length)


def close_all(fds: list[int]) -> None:
    """Close descriptors, and empty the list."""
    while fds:
        os.close(fds.pop())


def update(map_fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Set one entry."""
    one, other = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _call(_UPDATE, struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(one), ctypes.addressof(other), flags))


def delete(map_fd: int, key: bytes) -> None:
    """Remove one entry; ENOENT: there is none."""
    one = ctypes.create_string_buffer(key, len(key))
    _call(_DELETE, struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(one), 0, 0))


def lookup(map_fd: int, key: bytes, value_size: int) -> bytes | None:
    """An entry's value."""
    one, other = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    try:
        _call(_LOOKUP, struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(one), ctypes.addressof(other), 0))
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return None
        raise
    return other.raw


def update_batch(map_fd: int, keys: np.ndarray, values: np.ndarray, flags: int = ANY) -> tuple[int, int]:
    """Set entries in order; returns how many were set before the first failure, and its errno (0: all were)."""
    return _batch(_UPDATE_BATCH, map_fd, keys, values.ctypes.data, flags)


def delete_batch(map_fd: int, keys: np.ndarray) -> tuple[int, int]:
    """Remove entries in order; returns how many before the first failure, and its errno."""
    return _batch(_DELETE_BATCH, map_fd, keys, 0, 0)


def _batch(command: int, map_fd: int, keys: np.ndarray, values: int, flags: int) -> tuple[int, int]:
    if len(keys) == 0:
        return 0, 0
    attributes = bytearray(struct.pack("=QQQQIIQQ", 0, 0, keys.ctypes.data, values, len(keys), map_fd, flags, 0))
    problem = 0
    try:
        _call(command, attributes)
    except OSError as failure:
        problem = failure.errno or errno.EIO
    return struct.unpack_from("=I", attributes, 32)[0], problem


# --- programs --------------------------------------------------------------------------------------------------------


def instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One instruction of 8 bytes; `value` is signed."""
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


def load_program(instructions: bytes, license_: str, name: str, type_: int = CLASSIFIER, flags: int = 0) -> int:
    """A program; `flags`: XDP_HAS_FRAGS. What the verifier says of one that it refuses is the exception's text."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(license_.encode())

    def load(log_size: int, log: int) -> int:
        return _call(
            _PROG_LOAD,
            struct.pack(
                "=IIQQIIQII16sII", type_, len(instructions) // 8, ctypes.addressof(code),
                ctypes.addressof(license_text), 1 if log_size else 0, log_size, log, 0, flags, _name(name), 0, 0,
            ),
        )  # fmt: skip

    try:
        return load(0, 0)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EINVAL):
            raise
        first = problem
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        return load(_LOG_SIZE, ctypes.addressof(log))
    except OSError:
        said = log.value.decode(errors="replace").strip().splitlines()[-8:]
        raise OSError(first.errno, f"the kernel refuses program {name}: " + "\n".join(said)) from None


def run_program(
    program_fd: int, frame: bytes, *, ifindex: int = 0, gso_size: int = 0, has_sum: bool = False
) -> tuple[int, bytes]:
    """Have a classifier see a frame that comes in on a device; returns its verdict, and the frame as it left it.

    Nothing is sent or redirected. `gso_size`: of its segments. `has_sum`: the kernel has a sum of all of it, as from a
    card that computes one (CHECKSUM_COMPLETE). Raises OSError: with that EBADMSG when it is not right any more
    afterwards, EINVAL before Linux 6.16.
    """
    context = bytearray(_SKB_SIZE)
    struct.pack_into("=I", context, 40, ifindex)
    if gso_size:
        struct.pack_into("=I", context, 164, -(-len(frame) // gso_size))
        struct.pack_into("=I", context, 176, gso_size)
    return _run(program_fd, frame, context, _COMPLETE if has_sum else 0)


def run_xdp(program_fd: int, frame: bytes) -> tuple[int, bytes]:
    """The same with an XDP program; the device is the loopback one."""
    return _run(program_fd, frame, bytearray())


def _run(program_fd: int, frame: bytes, context: bytearray, flags: int = 0) -> tuple[int, bytes]:
    given = ctypes.create_string_buffer(frame, len(frame))
    taken = ctypes.create_string_buffer(_MAX_OUT)
    about = (ctypes.c_char * len(context)).from_buffer(context)
    attributes = bytearray(
        struct.pack(
            "=IIIIQQIIIIQQII", program_fd, 0, len(frame), _MAX_OUT, ctypes.addressof(given), ctypes.addressof(taken),
            1, 0, len(context), 0, ctypes.addressof(about) if context else 0, 0, flags, 0,
        )
    )  # fmt: skip
    _call(_TEST_RUN, attributes)
    verdict, _, size = struct.unpack_from("=iII", attributes, 4)
    return verdict, taken.raw[:size]


def run_live(program_fd: int, frame: bytes, times: int) -> None:
    """Have an XDP program see so many copies of a frame, and the kernel do with them what it says."""
    content = ctypes.create_string_buffer(frame, len(frame))
    attributes = struct.pack(
        "=IIIIQQIIIIQQIII", program_fd, 0, len(frame), 0, ctypes.addressof(content), 0, times, 0, 0, 0, 0, 0,
        _LIVE_FRAMES, 0, 64,
    )  # fmt: skip
    _call(_TEST_RUN, attributes)


# --- links and pins --------------------------------------------------------------------------------------------------


def link_ingress(program_fd: int, ifindex: int) -> int:
    """Attach a classifier to a device's ingress (tcx, since Linux 6.6): it is there as long as the descriptor."""
    return _call(_LINK_CREATE, struct.pack("=IIIIIxxxxQ20x", program_fd, ifindex, _TCX_INGRESS, 0, 0, 0))


def link_xdp(program_fd: int, ifindex: int, mode: int) -> int:
    """Attach an XDP program to a device: it is there as long as the descriptor. `mode`: XDP_NATIVE or XDP_GENERIC."""
    return _call(_LINK_CREATE, struct.pack("=4I", program_fd, ifindex, _XDP_LINK, mode))


def update_link(link_fd: int, program_fd: int) -> None:
    """Put another program in the place of a link's; no packet misses both."""
    _call(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def pin(fd: int, path: str) -> None:
    """Keep a map, program or link beyond its process, under a path of a BPF file system."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _call(_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def get(path: str) -> int:
    """A descriptor of what is pinned."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _call(_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
