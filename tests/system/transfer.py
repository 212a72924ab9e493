"""Both ends of a TCP transfer, as a program: bytes go there and back, and both ends compare what they got."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys


def content(size: int) -> bytes:
    """The same bytes at both ends."""
    return random.Random(size).randbytes(size)


def receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer when the other end stops."""
    parts = bytearray()
    while len(parts) < size and (part := connection.recv(min(size - len(parts), 1 << 16))):
        parts += part
    return bytes(parts)


def serve(address: str, port: int) -> None:
    """Take one connection, send back what it sends, and say who it was and whether all was right."""
    listener = socket.create_server(
        (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET, backlog=1
    )
    listener.settimeout(60)
    print("listening", flush=True)
    connection, peer = listener.accept()
    connection.settimeout(60)
    size = int.from_bytes(receive(connection, 8), "big")
    data = receive(connection, size)
    connection.sendall(data)
    is_right = hashlib.sha256(data).digest() == hashlib.sha256(content(size)).digest()
    receive(connection, 1)
    print(json.dumps({"client": peer[0], "client_port": peer[1], "size": len(data), "is_right": is_right}))


def fetch(address: str, port: int, size: int) -> None:
    """Send, and get back; fails when it is not the same."""
    with socket.create_connection((address, port), timeout=60) as connection:
        data = content(size)
        connection.sendall(size.to_bytes(8, "big") + data)
        if receive(connection, size) != data:
            raise SystemExit("other bytes came back")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        fetch(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
