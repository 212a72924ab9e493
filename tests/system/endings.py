"""Endings of TCP connections, as a program: endings.py serve|half-close|reset ADDRESS PORT.

The server sends back what it gets once its peer has closed its half, and says how each connection ended.
"""

from __future__ import annotations

import socket
import struct
import sys

SIZE = 300_000


def serve(address: str, port: int, n: int) -> None:
    """Take connections one after the other."""
    with socket.create_server((address, port)) as listener:
        print("listening", flush=True)
        for _ in range(n):
            connection, _ = listener.accept()
            data = bytearray()
            try:
                while part := connection.recv(1 << 16):
                    data += part
                    connection.send(b".")
                connection.sendall(bytes(data))
                connection.close()
                print(f"closed after {len(data)}", flush=True)
            except ConnectionResetError:
                print("reset", flush=True)


def talk(connection: socket.socket) -> None:
    """Send so much, in pieces that are answered."""
    for _ in range(SIZE // 1000):
        connection.sendall(bytes(1000))
        connection.recv(1)


def half_close(address: str, port: int) -> None:
    """Close one half, and read everything that comes then."""
    with socket.create_connection((address, port), timeout=60) as connection:
        talk(connection)
        connection.shutdown(socket.SHUT_WR)
        got = 0
        while part := connection.recv(1 << 16):
            got += len(part)
    print(got)


def reset(address: str, port: int) -> None:
    """Break off."""
    connection = socket.create_connection((address, port), timeout=60)
    talk(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        {"half-close": half_close, "reset": reset}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
