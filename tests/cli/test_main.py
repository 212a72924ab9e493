from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowshunt.cli.main import app

SRC = Path(__file__).resolve().parents[2] / "src"


def flowshunt(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; only for what stops before there is a switch."""
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    return result.exit_code, result.stdout, result.stderr


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["replay", "--help"], ["warmup", "--help"], ["provider", "check", "--help"]],
)
def test_help_and_version_come_without_numba(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"sys.argv = ['flowshunt', *{arguments!r}]\n"
        "atexit.register(lambda: print('loaded:', sorted({'numba', 'numpy'} & set(sys.modules))))\n"
        "from flowshunt.cli import main\n"
        "main()\n"
    )
    output = python(code)
    assert "loaded: []" in output
    assert "flowshunt" in output


def test_asking_a_switch_that_runs_takes_no_numba() -> None:
    modules = "flowshunt.cli.conntrack.command, flowshunt.cli.shown"
    assert python(f"import sys, {modules}\nprint({{'numba', 'numpy'}} & set(sys.modules))") == "set()\n"


def test_help_teaches_with_examples() -> None:
    status, out, _ = flowshunt("--help")
    assert status == 0
    assert "flowshunt replay capture.pcap --flows rules.flows --table conntrack" in out
    status, out, _ = flowshunt("replay", "--help")
    assert status == 0
    for word in ("Exit status", "--port", "NAME=FILE", "--inside", "--set-flow", "conntrack-extended", "dpctl-more"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        ([], "no capture given", "--port NAME=FILE"),
        (["a.pcap", "--port", "p0=b.pcap"], "exclude each other", "its --port"),
        (["--port", "p0=a.pcap", "--inside", "10.0.0.0/8"], "--inside is about the sides", "sides are known"),
        (["--port", "p0=a.pcap", "--port", "p0=b.pcap"], "two ports are called p0", "its own name"),
        (["a.pcap", "--sides", "x,x"], "two ports are called x", "its own name"),
        (["a.pcap", "--table", "proc", "--json", "-"], "--table and --json cannot share", "to a file"),
        (["a.pcap", "--write-port", "p9=out.pcap"], "no port p9", "inside, outside"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_a_hint(arguments: list[str], problem: str, hint: str) -> None:
    status, out, err = flowshunt("replay", *arguments)
    assert (status, out) == (2, "")
    assert problem in err
    assert hint in err.split("hint: ")[1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a.pcap", "--port", "p0"], "'p0' is not NAME=FILE"),
        (["a.pcap", "--inside", "10.0.0.0/40"], "a network looks like 192.168.0.0/16"),
        (["a.pcap", "--sides", "x"], "'x' is not NAME,NAME"),
        (["a.pcap", "--batch", "257"], "257 is not in the range 1<=x<=256"),
        (["a.pcap", "--limit", "0"], "0 is not in the range x>=1"),
        (["a.pcap", "--table", "xml"], "'xml' is not one of"),
        (["a.pcap", "--no-such-option"], "No such option"),
        (["a.pcap", "b.pcap"], "unexpected extra argument"),
    ],
)
def test_arguments_that_cannot_be_read_are_refused(arguments: list[str], problem: str) -> None:
    status, out, err = flowshunt("replay", *arguments)
    assert (status, out) == (2, "")
    assert problem in " ".join(err.replace("│", " ").split())


def test_help_shows_options_in_groups_and_leaves_examples_on_their_lines() -> None:
    result = CliRunner().invoke(app, ["replay", "--help"], terminal_width=60)
    for heading in ("Positional arguments:", "Packets from:", "The switch:", "Output:", "Options:"):
        assert f"\n{heading}\n" in result.stdout
    example = "      flowshunt replay --port p0=wire.pcap --port pf0hpf=host.pcap --flows rules.flows --table dpctl"
    assert example in result.stdout.splitlines()
