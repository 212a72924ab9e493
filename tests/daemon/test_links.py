"""Devices that come, go and change, heard of through a real netlink socket in a namespace of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.daemon import links
from flowshunt.daemon.links import Link, follow_links, parse
from flowshunt.daemon.node import Node
from flowshunt.daemon.ports import open_dummy

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")),
    reason="needs root, unshare and ip (Debian: util-linux, iproute2)",
)
SCRIPT = """
import asyncio, subprocess, sys, time
from flowshunt.daemon import links

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    heard = []
    links.BUFFER_SIZE = 8192
    following = asyncio.create_task(links.follow_links(heard.append))

    async def until(check):
        async with asyncio.timeout(30):
            while not check():
                await asyncio.sleep(0.01)
        assert not following.done()

    await until(lambda: heard == [None])
    ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    await until(lambda: {each.name for each in heard if each} == {"one", "two"})
    index = next(each.ifindex for each in heard if each and each.name == "one")
    ip("link", "set", "one", "name", "other")
    await until(lambda: links.Link(index, "other") in heard)
    for n in range(60):  # more than there is room for, while nobody reads
        ip("link", "set", "other", "mtu", str(1000 + n))
    await until(lambda: heard.count(None) > 1)
    del heard[:]
    ip("link", "del", "other")
    await until(lambda: links.Link(index, "other") in heard or None in heard)
    print("well")

asyncio.run(main())
"""


@needs_namespaces
def test_what_happens_to_devices_is_heard_and_what_was_lost_is_known() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout == "well\n", done.stderr


class Broken:
    """A socket that can't be read, for one reason after the other."""

    def __init__(self, *problems: int) -> None:
        self.problems = list(problems)

    def fileno(self) -> int:
        return -1

    def gettimeout(self) -> float:
        return 0.0

    def close(self) -> None:
        return None


def test_a_socket_that_fails_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = [Broken(errno.ENOBUFS, errno.ENOBUFS, errno.EIO), Broken(errno.EBADF), Broken(errno.ENOBUFS)]
    opened: list[Broken] = []

    def subscribe() -> Broken:
        opened.append(sockets[len(opened)])
        return opened[-1]

    async def receive(loop: object, heard: Broken, size: int) -> bytes:
        await asyncio.sleep(0)
        if not heard.problems:
            await asyncio.Event().wait()
        raise OSError(heard.problems.pop(0), "broken")

    monkeypatch.setattr(links, "_subscribe", subscribe)
    monkeypatch.setattr(links, "RETRY_S", 0.0)
    monkeypatch.setattr(asyncio.BaseEventLoop, "sock_recv", receive, raising=False)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_recv", receive)
    heard: list[Link | None] = []

    async def whole() -> None:
        following = asyncio.create_task(follow_links(heard.append))
        async with asyncio.timeout(20):
            while len(heard) < 6:
                await asyncio.sleep(0.01)
        following.cancel()

    asyncio.run(whole())
    assert heard == [None] * 6, "at each start, and at each loss"


def test_a_fault_while_following_is_logged_and_it_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    n_started = 0

    async def broken(changed: object) -> None:
        nonlocal n_started
        n_started += 1
        if n_started < 3:
            raise ValueError("nobody thought of this")
        await asyncio.Event().wait()

    monkeypatch.setattr("flowshunt.daemon.node.follow_links", broken)
    monkeypatch.setattr("flowshunt.daemon.node.RETRY_S", 0.0)
    tmp_path.chmod(0o700)

    async def whole() -> None:
        node = Node(tmp_path, open_port=open_dummy, has_devices=True)
        await node.start()
        async with asyncio.timeout(20):
            while n_started < 3:
                await asyncio.sleep(0.01)
        await node.stop()

    asyncio.run(whole())
    assert "devices are followed anew" in caplog.text


def message(kind: int, index: int, name: str) -> bytes:
    attribute = struct.pack("=HH", 4 + len(name) + 1, 3) + name.encode() + b"\0"
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 1, index, 0, 0) + attribute
    body += b"\0" * (-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_messages_are_taken_apart() -> None:
    data = message(16, 5, "eth0") + message(3, 0, "done") + message(17, 6, "a")
    assert list(parse(data)) == [Link(5, "eth0"), Link(6, "a")]
    assert list(parse(data[:-1])) == [Link(5, "eth0")]


@given(st.binary(max_size=200))
def test_nonsense_is_read_over(data: bytes) -> None:
    for link in parse(message(16, 5, "eth0")[:32] + data):
        assert isinstance(link, Link)
