"""Connections are written down while a switch runs, and at its end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from flowshunt.daemon import Node, restart, snapshot
from flowshunt.daemon.kernel import KernelPorts
from flowshunt.daemon.ports import open_dummy


def test_the_last_writing_waits_for_the_one_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, order = threading.Event(), threading.Event(), []
    write = snapshot.write

    def slow(*arguments: Any) -> None:
        order.append("begins")
        begun.set()
        assert go_on.wait(20)
        write(*arguments)
        order.append("is done")

    async def work() -> None:
        tmp_path.chmod(0o700)
        node = Node(tmp_path, open_port=open_dummy)
        await node.start()
        ending = asyncio.Event()
        keeping = asyncio.create_task(restart.keep_connections(node, ending))
        assert await asyncio.to_thread(begun.wait, 20)
        ending.set()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await keeping
        await node.stop()

    monkeypatch.setattr(Node, "is_hitless", True)
    monkeypatch.setattr(snapshot, "write", slow)
    asyncio.run(work())
    assert order == ["begins", "is done"] * 2
    assert snapshot.read(restart.place_in(tmp_path), "default").entries == []


def test_nothing_is_written_before_what_was_there_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        tmp_path.chmod(0o700)
        node = Node(tmp_path, open_port=open_dummy)
        await node.start()
        await node.call(lambda: node.configure_offload({}))
        assert node.is_restoring and node.is_holding
        node.is_holding = True  # flows are waited for
        async with restart.keeping(node):
            await node.take_over()
            assert node.is_holding
        assert not restart.place_in(tmp_path).exists()
        node.is_holding = False
        assert node.is_holding
        async with restart.keeping(node):
            await node.take_over()
            assert not node.is_holding
        assert restart.place_in(tmp_path).exists()
        node.leave_nothing()
        async with restart.keeping(node):
            pass
        assert not restart.place_in(tmp_path).exists()
        await node.stop()

    monkeypatch.setattr(KernelPorts, "is_hitless", True)
    asyncio.run(work())
