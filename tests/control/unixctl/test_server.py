"""The socket: who may use it, and what becomes of those who misuse it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.base.sockets import prepare_directory
from tests.control.unixctl.appctl import Lab, needs_appctl, run


@needs_appctl
def test_the_socket_is_private_and_commands_are_listed(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        assert lab.path.stat().st_mode & 0o777 == 0o600
        text = await lab.says("list-commands")
        assert text.startswith("The available commands are:\n")
        assert "  dpctl/dump-conntrack    [-m] [-s] [dp] [zone=N]\n" in text
        assert "  list-commands           \n" in text
        assert text.splitlines()[1:] == sorted(text.splitlines()[1:])
        assert await lab.says("version") == "flowshunt 0\n"

    run(tmp_path, work)
    assert not (tmp_path / "x.ctl").exists()


@needs_appctl
def test_wrong_commands_get_the_errors_of_ovs_appctl(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        valid = 'is not a valid command (use "list-commands" to see a list of valid commands)'
        assert await lab.refuses("nosuch") == f'"nosuch" {valid}'
        assert await lab.refuses("version", "x") == '"version" command takes at most 0 arguments'
        assert await lab.refuses("fdb/stats-show") == '"fdb/stats-show" command requires at least 1 arguments'

    run(tmp_path, work)


@needs_appctl
def test_a_peer_that_speaks_nonsense_is_cut_off_and_others_are_served(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        reader, writer = await asyncio.open_unix_connection(str(lab.path))
        writer.write(b'{"method":"version","params":[],"id":1}garbage')
        answered = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answered in (b"", b'{"result":"flowshunt 0\\n","error":null,"id":1}')
        assert await lab.says("version") == "flowshunt 0\n"

    run(tmp_path, work)


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="others can write"):
        prepare_directory(tmp_path)
    tmp_path.chmod(0o755)
    prepare_directory(tmp_path)
    prepare_directory(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
