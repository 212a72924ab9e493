"""Both ends of a conversation in UDP, as a program: the client sends numbered datagrams at a pace, the server answers.

The server says, at the end of its input, when it got each datagram and when that was sent, in seconds, as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def serve(address: str, port: int) -> None:
    """Answer until standard input ends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    got: list[tuple[float, float]] = []
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, port))
        print("listening", flush=True)
        while True:
            ready = select.select([server, sys.stdin], [], [])[0]
            if server in ready:
                data, peer = server.recvfrom(1 << 16)
                got.append((time.monotonic(), float(data[:32])))
                server.sendto(data[:32], peer)
            elif ready:
                break
    print(json.dumps(got))


def send(address: str, port: int, size: int, interval_s: float) -> None:
    """Send until standard input ends; says how many were answered."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    n = answers = 0
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        while True:
            client.send(f"{time.monotonic():<32}".encode().ljust(size))
            n += 1
            ready = select.select([client, sys.stdin], [], [], interval_s)[0]
            if sys.stdin in ready:
                break
            if ready:
                answers += len(client.recv(64)) > 0
                time.sleep(interval_s)
    print(json.dumps([n, answers]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
