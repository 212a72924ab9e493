"""Completion of the command line by bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from flowshunt.base.errors import UsageError

_SHELLS = ("bash", "zsh", "fish")


def script(command: click.Command, name: str) -> str:
    """What the user's shell has to read so that it completes `command`, called by `name`.

    Raises UsageError when $SHELL names no shell that there is a script for.
    """
    completion = get_completion_class(_shell())
    if completion is None:
        raise AssertionError("click knows these shells")
    return completion(command, {}, name, f"_{name}_complete".upper()).source()


def install(command: click.Command, name: str) -> str:
    """Write the script where the user's shell looks for it; returns what to tell the user.

    Raises UsageError as `script` does, OSError when the file cannot be written.
    """
    shell = _shell()
    text = script(command, name)
    place = _place(shell, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    told = f"Completion for {shell} is in {place}; a new shell reads it."
    if shell == "zsh":
        told += f"\nFor that, .zshrc needs: fpath+=({place.parent}); autoload -Uz compinit; compinit"
    if shell == "bash":
        told += "\nFor that, the package bash-completion has to be there."
    return told


def _shell() -> str:
    shell = os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _SHELLS:
        raise UsageError(
            f"no completion for the shell {shell!r}" if shell else "$SHELL does not say which shell to complete for",
            hint=f"there is completion for {', '.join(_SHELLS)}: SHELL=bash flowshunt --show-completion",
        )
    return shell


def _place(shell: str, name: str) -> Path:
    if shell == "zsh":
        return Path.home() / ".zfunc" / f"_{name}"
    if shell == "fish":
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(base) / "fish" / "completions" / f"{name}.fish"
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "bash-completion" / "completions" / name
