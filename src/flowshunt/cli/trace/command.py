"""`flowshunt trace` from its options to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from flowshunt.app import Switch
from flowshunt.base.errors import UsageError
from flowshunt.cli import kernels
from flowshunt.cli.failures import complain
from flowshunt.datapath.schema import PORT_RESERVED_32
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.tracing.document import story_document
from flowshunt.rules.openflow.tracing.explain import Asked, explain
from flowshunt.rules.openflow.tracing.keys import read
from flowshunt.rules.openflow.tracing.request import read_actions, read_flow, read_packet, read_state
from flowshunt.rules.openflow.tracing.story import Group
from flowshunt.rules.openflow.tracing.text import story_text

_MAX_PORT = 0xFF00


class _Bridge(NamedTuple):
    """The rules' switch, as explaining wants to see it."""

    switch: Switch
    name: str = "flows"

    @property
    def datapath(self) -> Datapath:
        """What forwards."""
        return self.switch.datapath

    @property
    def ports(self) -> dict[str, int]:
        """Numbers by name."""
        return dict(self.switch.ports)

    def group(self, number: int) -> Group | None:
        """A file of rules has no groups."""
        return None

    def datapath_port(self, number: int) -> str:
        """The number itself."""
        return str(number)

    def peer(self, number: int) -> None:
        """There is no other bridge."""


def execute(values: dict[str, Any]) -> None:
    """Explain. Raises UsageError for rules, packets and actions that cannot be, OSError for files."""
    if not values["flow_files"] and not values["flows"]:
        raise click.UsageError("say the rules, by --flows or --set-flow; ovs-appctl ofproto/trace asks a switch")
    kernels.ready(quiet=False, thorough=False)
    switch = Switch(max_connections=1 << 12)
    for name in filter(None, values["ports"].split(",")):
        switch.add_port(name)
    for source, text in _texts(values):
        switch.add_flows(text, source, warn=lambda warning: complain(f"warning: {warning}"))
    bridge = _Bridge(switch)
    key = read_flow(values["flow"], bridge.ports)
    actions = None if values["actions"] is None else read_actions(values["actions"], bridge.ports)
    _add_numbers(switch, actions or (), read(key, "in_port"))
    packet = None if values["packet"] is None else read_packet(values["packet"])
    states = tuple(read_state(text) for text in values["ct_next"])
    asked = Asked(bridge, key, packet, packet is not None, states, actions, values["names"])
    story, sources = explain(asked, time.time_ns())
    if values["json"]:
        print(json.dumps(story_document(story, sources), indent=1))
    else:
        print(story_text(story, sources).removesuffix("\n"))


def _texts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path in values["flow_files"]:
        try:
            yield path, sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: byte {error.start} is not UTF-8 text", hint="rules are a text file") from None
    for number, text in enumerate(values["flows"], 1):
        yield f"--set-flow {number}", text


def _add_numbers(switch: Switch, actions: Iterable[F.Action], in_port: int) -> None:
    """Make the ports that are named by number alone."""
    numbers = {in_port, *_outputs(actions)}
    for one in switch.flows():
        numbers |= {value for name, value, _ in one.flow.match if name == "in_port"}
        numbers |= set(_outputs(one.flow.actions))
    for number in sorted(numbers - set(switch.ports.values())):
        if 0 < number < _MAX_PORT:
            switch.datapath.ports.add(number)


def _outputs(actions: Iterable[F.Action]) -> Iterator[int]:
    for action in actions:
        match action:
            case F.Output(int() as port) if port < PORT_RESERVED_32:
                yield port
            case F.Resubmit(int() as port, _):
                yield port
            case F.Enqueue(port, _):
                yield port
            case F.Clone(inner) | F.WriteActions(inner):
                yield from _outputs(inner)
