"""A UDP service that sends back what it gets, and a client that asks it so many times."""

from __future__ import annotations

import socket
import sys


def serve(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((address, port))
        print("listening", flush=True)
        while True:
            service.sendto(*service.recvfrom(2048))


def ask(address: str, port: int, times: int, source_port: int = 0) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.bind(("", source_port))
        client.connect((address, port))
        for n in range(times):
            client.send(b"%d" % n)
            assert client.recv(2048) == b"%d" % n


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
