"""`flowshunt top` from its options to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowshunt.cli.daemon_client import ask, find_socket
from flowshunt.cli.layout import Section, write_plain, write_rich
from flowshunt.cli.top.rates import rates
from flowshunt.cli.top.screen import sections


def _samples(place: Path, interval: float) -> Iterator[dict[str, Any]]:
    """Rates, one after the other, `interval` seconds apart."""
    before = json.loads(ask(place, "switch/sample"))
    while True:
        time.sleep(interval)
        after = json.loads(ask(place, "switch/sample"))
        yield rates(before, after)
        before = after


def execute(socket: str | None, interval: float, *, once: bool, as_json: bool) -> None:
    """Show rates until Ctrl-C, or once. Raises UsageError when the switch does not answer, or ends."""
    found = _samples(find_socket(socket), interval)
    try:
        if as_json or once or not sys.stdout.isatty():
            _print(found, once=once, as_json=as_json)
        else:
            _show(found)
    except KeyboardInterrupt:
        return


def _print(found: Iterator[dict[str, Any]], *, once: bool, as_json: bool) -> None:
    """One after the other, a blank line between; or an object on each line."""
    for number, now in enumerate(found):
        if as_json:
            print(json.dumps(now))
        else:
            if number:
                print()
            write_plain(sections(now), sys.stdout)
        sys.stdout.flush()
        if once:
            return


def _show(found: Iterator[dict[str, Any]]) -> None:
    """On a terminal, each in the place of the one before."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with Live(Text("measuring"), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        for now in found:
            live.update(Text.from_ansi(_drawn(sections(now), console.width)), refresh=True)


def _drawn(content: list[Section], width: int) -> str:
    from rich.console import Console

    console = Console(width=width, force_terminal=True, highlight=False)
    with console.capture() as captured:
        write_rich(content, console)
    return captured.get()
