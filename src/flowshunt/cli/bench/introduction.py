"""Makes flows known to whoever forwards them, before they are measured: a program that starts quickly.

    introduction SERVER_NAMESPACE CLIENT_MAC SERVER_MAC TO_SERVER TO_CLIENT SOURCE TARGET N_FLOWS

It runs at the client and has a socket at the server, too. Each flow sends a frame, is answered, and sends again, as who
offloads connections wants to see it. So many frames are on their way at once as come through; what is lost is sent
again, and what does not come through in the end is counted: that number is printed. A frame bears the number of its
flow, so that it is known whatever becomes of its addresses.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping

from flowshunt.cli.bench.frames import PAYLOAD_AT, SIZE, frame, ports_of, probe

ATTEMPTS = 6
"""How often frames are sent before those that did not arrive are given up."""
GIVE_UP_S = 30.0
"""How long one direction of all flows may take."""
FIRST_WINDOW, LEAST_WINDOW, MOST_WINDOW = 256, 32, 1024
"""Frames on their way."""
PATIENCE_S = 0.1
"""How long nothing arrives before what is on its way counts as lost."""

_MAGIC = 0x666C6F77
_NUMBER = struct.Struct(">II")
_ETH_P_IP = 0x0800
_RCVBUFFORCE, _BUFFER = 33, 16 << 20
_NEW_NETWORK = 0x40000000


def open_host(namespace: str | None = None) -> socket.socket:
    """A packet socket on eth0 of this namespace, or of one by name, for IPv4 frames. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if namespace is not None:
            _enter(libc, f"/run/netns/{namespace}")
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        opened.bind(("eth0", _ETH_P_IP))
        return opened
    finally:
        _enter(libc, f"/proc/self/fd/{own}")
        os.close(own)


def _enter(libc: ctypes.CDLL, path: str) -> None:
    namespace = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(namespace, _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(namespace)


def send_all(frames: Mapping[int, bytes], sender: socket.socket, receiver: socket.socket) -> dict[int, bytes]:
    """Send these frames of flows, each until it arrives or is given up; returns what arrived, by flow."""
    arrived: dict[int, bytes] = {}
    deadline = time.monotonic() + GIVE_UP_S
    window = FIRST_WINDOW
    for _ in range(ATTEMPTS):
        todo = [flow for flow in frames if flow not in arrived]
        at = 0
        while at < len(todo) and time.monotonic() < deadline:
            chunk = todo[at : at + window]
            at += len(chunk)
            for flow in chunk:
                sender.send(frames[flow])
            is_complete = _receive(receiver, set(chunk), arrived)
            window = min(2 * window, MOST_WINDOW) if is_complete else max(window // 2, LEAST_WINDOW)
        if len(arrived) == len(frames):
            break
    return arrived


def _receive(receiver: socket.socket, awaited: set[int], arrived: dict[int, bytes]) -> bool:
    """Take frames of flows until all that are awaited are there, or nothing comes any more; returns which it was."""
    while awaited:
        if not select.select([receiver], [], [], PATIENCE_S)[0]:
            return False
        content = receiver.recv(2048)
        if len(content) < SIZE:
            continue
        magic, flow = _NUMBER.unpack_from(content, PAYLOAD_AT)
        if magic == _MAGIC:
            arrived.setdefault(flow, content)
            awaited.discard(flow)
    return True


def _answer(content: bytes, source_mac: str, target_mac: str) -> bytes:
    """The frame that the receiver of one sends back."""
    macs = bytes.fromhex((target_mac + source_mac).replace(":", ""))
    return macs + content[12:26] + content[30:34] + content[26:30] + content[36:38] + content[34:36] + content[38:SIZE]


def main(
    server_namespace: str, client_mac: str, server_mac: str, to_server: str, to_client: str, source: str, target: str,
    n_flows: str,
) -> None:  # fmt: skip
    """Introduce the flows, and print how many did not get through."""
    with open_host() as client, open_host(server_namespace) as server:
        client.send(probe(client_mac))
        server.send(probe(server_mac))
        there = {}
        for flow in range(int(n_flows)):
            content = bytearray(frame(client_mac, to_server, source, target, ports_of(flow)))
            _NUMBER.pack_into(content, PAYLOAD_AT, _MAGIC, flow)
            there[flow] = bytes(content)
        seen = send_all(there, client, server)
        back = {flow: _answer(content, server_mac, to_client) for flow, content in seen.items()}
        answered = send_all(back, server, client)
        again = send_all({flow: there[flow] for flow in answered}, client, server)
    print(int(n_flows) - len(again))


if __name__ == "__main__":
    main(*sys.argv[1:])
