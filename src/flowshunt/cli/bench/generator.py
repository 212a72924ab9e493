"""Sends 60-byte UDP frames; a program that starts quickly, so it stays clear of numpy.

    generator introduce SOURCE_MAC TARGET_MAC SOURCE TARGET SIDE N_FLOWS
    generator flood     SOURCE_MAC TARGET_MAC SOURCE TARGET N_FLOWS SECONDS PROCESSOR

`introduce` sends one frame of each flow on eth0, slowly enough that a switch can take all of them; side 1 answers side
0. `flood` sends frames of flows at random as fast as the kernel makes them, on one processor: a BPF program of its own
is run on copies of a frame and redirects them to eth0 (BPF_F_TEST_XDP_LIVE_FRAMES), which takes a fraction of the time
of a system call. The other end of eth0 must have generic receive offload on, to take frames in that form. It prints
how many frames it sent, and in how many seconds.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
import time
from ipaddress import IPv4Address

SIZE = 60
FIRST_PORT, SECOND_PORT = 1000, 2000
PORTS = 50_000
"""Flows that differ in the first port alone; each further round has another second port."""
_HEADERS_SIZE = 44
"""Whole words that hold all headers."""
_BURST = 128
_BURST_S = 0.0008
_REPEAT = 1 << 14

# linux/bpf.h
_BPF_PROG_LOAD, _BPF_PROG_TEST_RUN, _PROG_TYPE_XDP, _LIVE_FRAMES = 5, 10, 6, 2
_HELPER_RANDOM, _HELPER_REDIRECT = 7, 23
_SYSTEM_CALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_ATTRIBUTES = 128
_LOG_SIZE = 1 << 16


def frame(source_mac: str, target_mac: str, source: str, target: str, ports: tuple[int, int]) -> bytes:
    """An Ethernet frame of SIZE bytes with a UDP datagram without a checksum."""
    macs = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    header = struct.pack(">BBHHHBBH", 0x45, 0, SIZE - 14, 0, 0x4000, 64, 17, 0) + addresses
    total = sum(struct.unpack(">10H", header)) % 0xFFFF
    header = header[:10] + struct.pack(">H", 0xFFFF - total) + header[12:]
    return macs + b"\x08\x00" + header + struct.pack(">HHHH", *ports, SIZE - 34, 0) + bytes(SIZE - 42)


def ports_of(flow: int) -> tuple[int, int]:
    """Source and destination port of a flow, as side 0 sends it."""
    return FIRST_PORT + flow % PORTS, SECOND_PORT + flow // PORTS


def introduce(source_mac: str, target_mac: str, source: str, target: str, side: str, n_flows: str) -> None:
    """One frame of each flow."""
    base = bytearray(frame(source_mac, target_mac, source, target, (0, 0)))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        due = time.monotonic()
        for flow in range(int(n_flows)):
            if flow % _BURST == 0:
                due += _BURST_S
                time.sleep(max(due - time.monotonic(), 0))
            ports = ports_of(flow)
            struct.pack_into(">HH", base, 34, *(ports if side == "0" else ports[::-1]))
            link.send(base)


# --- the flood -------------------------------------------------------------------------------------------------------


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, value)


def _program(ifindex: int, n_flows: int, headers: bytes) -> bytes:
    """Give the frame its headers, with the ports of a random flow, and send it on a device.

    All of them: it is one that was sent before, and who forwarded it may have changed it in place.
    """
    code = _instruction
    fill = [
        code(0x62, 2, offset=at, value=struct.unpack_from("<i", headers, at)[0]) for at in range(0, len(headers), 4)
    ]
    choose = [
        code(0xBF, 6, 1),  # r6 = context
        code(0x85, value=_HELPER_RANDOM),
        code(0x97, 0, value=n_flows),  # r0 %= flows
        code(0xBF, 7, 0),
        code(0x37, 7, value=PORTS),  # r7 = SECOND_PORT + r0 / PORTS
        code(0x07, 7, value=SECOND_PORT),
        code(0x97, 0, value=PORTS),  # r0 = FIRST_PORT + r0 % PORTS
        code(0x07, 0, value=FIRST_PORT),
        code(0xDC, 0, value=16),  # in network byte order
        code(0xDC, 7, value=16),
        code(0x61, 2, 6, 0),  # r2 = data, r3 = its end
        code(0x61, 3, 6, 4),
        code(0xBF, 4, 2),
        code(0x07, 4, value=SIZE),
        code(0x2D, 4, 3, len(fill) + 2),  # too short: leave it as it is
        *fill,
        code(0x6B, 2, 0, 34),
        code(0x6B, 2, 7, 36),
    ]
    leave = [code(0xB7, 1, value=ifindex), code(0xB7, 2), code(0x85, value=_HELPER_REDIRECT), code(0x95)]
    return b"".join(choose + leave)


class _Bpf:
    """bpf(2)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = _SYSTEM_CALLS.get(platform.machine())

    def __call__(self, command: int, attributes: bytes) -> int:
        if self._number is None:
            raise OSError(38, f"the number of bpf(2) on {platform.machine()} is not known")
        buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
        done: int = self._libc.syscall(self._number, command, buffer, ctypes.c_uint(_ATTRIBUTES))
        if done < 0:
            raise OSError(ctypes.get_errno(), f"bpf(2): {os.strerror(ctypes.get_errno())}")
        return done


def flood(
    source_mac: str, target_mac: str, source: str, target: str, n_flows: str, seconds: str, processor: str
) -> None:
    """As many frames as the kernel makes in the time."""
    os.sched_setaffinity(0, {int(processor)})
    bpf = _Bpf()
    content = frame(source_mac, target_mac, source, target, ports_of(0))
    code = _program(socket.if_nametoindex("eth0"), int(n_flows), content[:_HEADERS_SIZE])
    words, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    program = bpf(
        _BPF_PROG_LOAD,
        struct.pack("<IIQQ", _PROG_TYPE_XDP, len(code) // 8, ctypes.addressof(words), ctypes.addressof(licence)),
    )
    sent = ctypes.create_string_buffer(content, SIZE)
    run = struct.pack(
        "<IIIIQQIIIIQQIII", program, 0, SIZE, 0, ctypes.addressof(sent), 0, _REPEAT, 0, 0, 0, 0, 0, _LIVE_FRAMES, 0, 64
    )
    n = 0
    start = time.monotonic()
    while time.monotonic() - start < float(seconds):
        bpf(_BPF_PROG_TEST_RUN, run)
        n += _REPEAT
    print(n, time.monotonic() - start)
    os.close(program)


if __name__ == "__main__":
    if sys.argv[1] == "introduce":
        introduce(*sys.argv[2:])
    else:
        flood(*sys.argv[2:])
