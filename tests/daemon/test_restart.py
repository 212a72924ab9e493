"""Connections are written down while a switch runs, and at its end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from flowshunt.daemon import Node, restart, snapshot
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

    monkeypatch.setattr(snapshot, "write", slow)
    asyncio.run(work())
    assert order == ["begins", "is done"] * 2
    assert snapshot.read(restart.place_in(tmp_path), "default") == []
