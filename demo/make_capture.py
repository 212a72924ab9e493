#!/usr/bin/env python3
"""Make demo.pcap: real traffic between two network namespaces, as one of them sees it.

Needs root, iproute2, tcpdump, ping and curl; run it as `sudo python3 demo/make_capture.py [FILE]`. The two namespaces
and the veth pair between them exist only while it runs. Addresses are those of the BlueField page's examples. Every
checksum of the result is verified before it takes the place of the former capture.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import http.server
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLIENT, SERVER, NOBODY = "1.1.1.2", "1.1.1.3", "1.1.1.9"
CLIENT6, SERVER6 = "fd00:1::2", "fd00:1::3"
HTTP, STREAM, DNS, ROCE, CLOSED = 8000, 5001, 53, 4791, 9
PAGE = b"established connections are shunted\n" * 1000
DEADLINE_S = 20

SIOCETHTOOL = 0x8946
ETHTOOL_SETS = {"transmit checksum": 0x17, "scatter-gather": 0x19, "TSO": 0x1F, "GSO": 0x24, "GRO": 0x2C}


def ip(*arguments: str) -> None:
    """Run iproute2's ip; its complaint is the error's text."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces with a veth pair called `eth0` on both sides; gone afterwards, whatever happens."""
    names = f"flowshunt-{os.getpid()}-client", f"flowshunt-{os.getpid()}-server"
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address, address6 in zip(names, (CLIENT, SERVER), (CLIENT6, SERVER6), strict=True):
            mac = f"02:00:00:00:00:{address[-1]:0>2}"
            ip("-n", name, "link", "set", "eth0", "address", mac)
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "address", "add", f"{address6}/64", "dev", "eth0", "nodad")
            ip("-n", name, "link", "set", "lo", "up")
            subprocess.run(["ip", "netns", "exec", name, sys.executable, __file__, "--role", "offloads"], check=True)
            ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", names[0], "neighbour", "add", NOBODY, "lladdr", "02:00:00:00:00:09", "dev", "eth0")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def switch_offloads_off() -> None:
    """Have this namespace's eth0 send frames as they would be on a wire: cut to size, with complete checksums."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in ETHTOOL_SETS.values():
            value = bytearray(struct.pack("II", command, 0))
            # struct ifreq: the name, then a pointer to the command
            address = ctypes.addressof(ctypes.c_char.from_buffer(value))
            fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP16x", b"eth0", address))


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the page."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Server6(http.server.ThreadingHTTPServer):
    """The same for IPv6."""

    address_family = socket.AF_INET6


def serve() -> None:
    """The server's side: web, a sink for a stream, and two that answer datagrams; until it is terminated."""
    for server in (http.server.ThreadingHTTPServer((SERVER, HTTP), Page), Server6((SERVER6, HTTP), Page)):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for port, answer in ((DNS, dns_answer), (ROCE, lambda request: request)):
        threading.Thread(target=answer_datagrams, args=(port, answer), daemon=True).start()
    sink = socket.create_server((SERVER, STREAM))
    print("ready", flush=True)
    connection, _ = sink.accept()
    while connection.recv(65536):
        pass
    threading.Event().wait()


def answer_datagrams(port: int, answer: Callable[[bytes], bytes]) -> None:
    """Answer every datagram to a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((SERVER, port))
        while True:
            request, peer = service.recvfrom(2048)
            service.sendto(answer(request), peer)


def dns_question(number: int, name: str) -> bytes:
    """A query for an A record (RFC 1035, section 4)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!xHH", 1, 1)


def dns_answer(question: bytes) -> bytes:
    """The server's own address, whatever the question."""
    record = struct.pack("!HHHIH", 0xC00C, 1, 1, 300, 4) + socket.inet_aton(SERVER)
    return question[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + question[12:] + record


def exchange(port: int, message: bytes, source_port: int) -> None:
    """One datagram and its answer; a refusal is part of the show."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.bind((CLIENT, source_port))
        client.connect((SERVER, port))
        client.send(message)
        with contextlib.suppress(ConnectionRefusedError):
            client.recv(2048)


def visit() -> None:
    """The client's side, one thing after the other; ends by leaving a stream open until its input ends."""
    subprocess.run(["ping", "-c", "5", "-i", "0.2", SERVER], check=True, stdout=subprocess.DEVNULL)
    for number, name in enumerate(("www.example.org", "example.com", "flowshunt.example")):
        exchange(DNS, dns_question(number, name), 40000 + number)
    for url in [f"http://{SERVER}:{HTTP}/"] * 3 + [f"http://[{SERVER6}]:{HTTP}/"]:
        subprocess.run(["curl", "-sS", "-o", os.devnull, url], check=True)
    subprocess.run(["ping", "-6", "-c", "3", "-i", "0.2", SERVER6], check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(ConnectionRefusedError), socket.socket() as refused:
        refused.connect((SERVER, CLOSED))
    exchange(CLOSED, b"is anybody there?", 40009)
    for number in range(6):
        exchange(ROCE, struct.pack("!BBHII", 0x64, 0, 0xFFFF, 0x11, number) + bytes(244), 49152)
    unanswered = socket.socket()
    unanswered.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        unanswered.connect((NOBODY, 443))
    stream = socket.socket()
    stream.bind((CLIENT, 51888))
    stream.connect((SERVER, STREAM))
    for _ in range(20):
        stream.sendall(PAGE[:3000])
        time.sleep(0.05)
    print("done", flush=True)
    sys.stdin.read()


ROLES = {"offloads": switch_offloads_off, "serve": serve, "visit": visit}


def start(namespace: str, role: str) -> subprocess.Popen[str]:
    """Run a role in a namespace and wait until it says that it is ready, or done."""
    command = ["ip", "netns", "exec", namespace, sys.executable, __file__, "--role", role]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise SystemExit(f"{role} failed with exit status {process.wait()}")
    return process


def record(file: Path) -> None:
    """Let the two talk while tcpdump listens on the server's side."""
    with namespaces() as (client, server), contextlib.ExitStack() as processes:
        # In immediate mode nothing is left in the kernel's buffer when tcpdump ends.
        options = ["-i", "eth0", "-s", "0", "-U", "--immediate-mode", "-Z", "root", "-w", str(file)]
        command = ["ip", "netns", "exec", server, "tcpdump", *options]
        tcpdump = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        processes.callback(tcpdump.kill)
        assert tcpdump.stderr is not None
        while "listening on" not in (line := tcpdump.stderr.readline()):
            if not line:
                raise SystemExit(f"tcpdump ended with exit status {tcpdump.wait()}")
        processes.callback(start(server, "serve").kill)
        processes.callback(start(client, "visit").kill)
        wait_until_quiet(file)
        tcpdump.terminate()
        tcpdump.wait(DEADLINE_S)


def wait_until_quiet(file: Path) -> None:
    """Until half a second has brought nothing new into the file."""
    deadline = time.monotonic() + DEADLINE_S
    size = -1
    while file.stat().st_size != size and time.monotonic() < deadline:
        size = file.stat().st_size
        time.sleep(0.5)


def frames(content: bytes) -> Iterator[bytes]:
    """The frames of a little-endian pcap file."""
    at = 24
    while at < len(content):
        captured, on_wire = struct.unpack_from("<8xII", content, at)
        assert captured == on_wire, "a frame was cut"
        yield content[at + 16 : at + 16 + captured]
        at += 16 + captured


def ones_complement_sum(data: bytes) -> int:
    """The sum of RFC 1071; 0xffff over data that includes its valid checksum."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksums_are_valid(frame: bytes) -> bool:
    """Whether the IPv4 header and the TCP, UDP, ICMP or ICMPv6 message add up; other frames do."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        header, length, protocol = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0], packet[9]
        if ones_complement_sum(packet[:header]) != 0xFFFF:
            return False
        addresses = packet[12:20]
    elif kind == b"\x86\xdd":
        header, length, protocol = 40, 40 + struct.unpack_from("!H", packet, 4)[0], packet[6]
        addresses = packet[8:40]
        if protocol == 0:  # hop-by-hop options, in front of multicast listener reports
            header, protocol = 40 + 8 * (packet[41] + 1), packet[40]
    else:
        return True
    message = packet[header:length]
    pseudo = b"" if protocol == 1 else addresses + struct.pack("!II", len(message), protocol)
    return ones_complement_sum(pseudo + message) == 0xFFFF


def main() -> None:
    """Record, check, and put the capture in its place."""
    parser = argparse.ArgumentParser(description="record the demo capture (needs root)")
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("demo.pcap"))
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.role:
        ROLES[chosen.role]()
        return
    if os.geteuid() != 0:
        raise SystemExit("namespaces need root: sudo python3 demo/make_capture.py")
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "demo.pcap"
        record(recorded)
        content = recorded.read_bytes()
        bad = [number for number, frame in enumerate(frames(content), 1) if not checksums_are_valid(frame)]
        if bad:
            raise SystemExit(f"packets with a wrong checksum: {bad}")
        chosen.file.write_bytes(content)
    print(f"{chosen.file}: {sum(1 for _ in frames(content))} packets, {len(content)} bytes, all checksums valid")


if __name__ == "__main__":
    main()
