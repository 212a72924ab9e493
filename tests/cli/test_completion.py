from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowshunt.cli.main import app

SRC = Path(__file__).resolve().parents[2] / "src"


def completions(*words: str) -> list[str]:
    """What bash would offer for the last of the words."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SRC),
        "_FLOWSHUNT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("flowshunt", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "flowshunt"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_options_and_values_are_completed() -> None:
    assert {"plain,replay", "plain,warmup", "plain,config", "plain,provider"} <= set(completions(""))
    assert completions("replay", "--prof") == ["plain,--profile"]
    assert completions("replay", "--table", "dpctl-") == ["plain,dpctl-more"]
    assert completions("replay", "--flows", "x") == ["file,x"]
    assert completions("config", "ch") == ["plain,check"]


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o nosort"), ("zsh", "#compdef"), ("fish", "--command")]
)
def test_the_script_of_the_users_shell_is_shown(shell: str, word: str) -> None:
    result = CliRunner().invoke(app, ["--show-completion"], env={"SHELL": f"/usr/bin/{shell}"})
    assert result.exit_code == 0
    assert word in result.stdout
    assert f"_FLOWSHUNT_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/flowshunt"),
        ("zsh", ".zfunc/_flowshunt"),
        ("fish", ".config/fish/completions/flowshunt.fish"),
    ],
)
def test_the_script_is_installed_where_the_shell_looks(shell: str, place: str, tmp_path: Path) -> None:
    environment = {"SHELL": shell, "HOME": str(tmp_path), "XDG_DATA_HOME": None, "XDG_CONFIG_HOME": None}
    result = CliRunner().invoke(app, ["--install-completion"], env=environment)
    assert result.exit_code == 0
    assert str(tmp_path / place) in result.stdout
    assert f"_FLOWSHUNT_COMPLETE={shell}_complete" in (tmp_path / place).read_text()


@pytest.mark.parametrize("shell", ["", "/bin/ksh"])
def test_a_shell_that_is_not_known_is_refused_with_a_hint(shell: str) -> None:
    result = CliRunner().invoke(app, ["--show-completion"], env={"SHELL": shell})
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hint: there is completion for bash, zsh, fish" in result.stderr
