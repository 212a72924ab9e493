"""The flags of ovs-vswitchd, in all the ways that they may be written, and its pid file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowshunt.cli.vswitchd.arguments import ArgumentError, Options, parse
from flowshunt.cli.vswitchd.detaching import DaemonError, PidFile, holder_of
from flowshunt.cli.vswitchd.main import run

ENVIRONMENT = {"OVS_RUNDIR": "/r", "OVS_LOGDIR": "/l"}


def test_without_flags_the_defaults_of_debian_hold() -> None:
    options = parse([], {})
    assert options == Options("unix:/var/run/openvswitch/db.sock", Path("/var/run/openvswitch"))


def test_the_flags_of_open_vswitchs_own_tests_are_understood() -> None:
    text = "--disable-system --detach --no-chdir --pidfile --log-file -vvconn -vofproto_dpif -vunixctl"
    words = text.split()
    assert parse(words, ENVIRONMENT) == Options(
        "unix:/r/db.sock",
        Path("/r"),
        pid_file=Path("/r/ovs-vswitchd.pid"),
        detaches=True,
        changes_directory=False,
        log_file=Path("/l/ovs-vswitchd.log"),
        verbose=["vconn", "ofproto_dpif", "unixctl"],
    )


def test_values_and_the_database_are_taken() -> None:
    words = ["--pidfile=x.pid", "--log-file=/a/b", "--enable-dummy=override", "--unixctl", "/s", "-v", "tcp:[::1]:6640"]
    options = parse([*words, "--verbose=ANY:off", "--overwrite", "--mlockall", "--monitor"], ENVIRONMENT)
    assert (options.pid_file, options.log_file, options.dummy) == (Path("/r/x.pid"), Path("/a/b"), "override")
    assert (options.unixctl, options.database, options.verbose) == (Path("/s"), "tcp:[::1]:6640", ["", "ANY:off"])
    assert options.overwrites_pid_file
    assert not parse(["--unixctl=none"], ENVIRONMENT).has_unixctl


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bogus"], "ovs-vswitchd: unrecognized option '--bogus'"),
        (["-x"], "ovs-vswitchd: invalid option -- 'x'"),
        (["--detach=1"], "ovs-vswitchd: option '--detach' doesn't allow an argument"),
        (["--unixctl"], "ovs-vswitchd: option '--unixctl' requires an argument"),
        (["--p"], "ovs-vswitchd: option '--p' is ambiguous"),
        (["a", "b"], "ovs-vswitchd: at most one non-option argument accepted; use --help for usage"),
    ],
)
def test_wrong_flags_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArgumentError, match="ovs-vswitchd"):
        parse(words, ENVIRONMENT)
    assert run(words) == 1
    assert capsys.readouterr().err == f"{message}\n"


def test_version_and_help_need_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ovs-vswitchd (Flowshunt) ")
    assert run(["--detach", "--help"]) == 0
    assert "--overwrite-pidfile" in capsys.readouterr().out


def test_a_pid_file_is_locked_by_the_process_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.pid"
    file = PidFile(path)
    # It must not be read in this process: closing any of its descriptors would give up the lock.
    script = (
        "import sys; from pathlib import Path\n"
        "from flowshunt.cli.vswitchd.detaching import DaemonError, PidFile, holder_of\n"
        "path = Path(sys.argv[1])\nprint(path.read_text().strip(), holder_of(path))\n"
        "try: PidFile(path)\nexcept DaemonError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == f"{os.getpid()} {os.getpid()}\novs-vswitchd: {path}: already running as pid {os.getpid()}, aborting\n"
    )
    file.remove()
    assert not path.exists()


def test_a_pid_file_that_nobody_holds_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text("1\n")
    assert holder_of(path) == 0
    file = PidFile(path)
    assert path.read_text() == f"{os.getpid()}\n"
    path.unlink()
    path.write_text("somebody else's\n")
    file.remove()
    assert path.exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DaemonError, match="create failed"):
        PidFile(tmp_path / "file" / "x.pid")
