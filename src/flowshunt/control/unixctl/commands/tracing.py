"""`ofproto/trace`: what becomes of a packet, told by the interpreter that would forward it.

Nothing is left behind: no learned address, no connection, no counter. With -generate the packet runs a second time, for
real, but nothing is sent: it is learned from, tracked, and shown to controllers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.control.unixctl.commands.datapath import numbered
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.node import Bridge as NodeBridge
from flowshunt.control.unixctl.registry import CommandError, command, on_worker
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.schema import OUTSIDE_TABLE
from flowshunt.datapath.tables import Datapath
from flowshunt.packet.schema import HEADER_WORDS, PACKET, W_PORT, Batch
from flowshunt.rules.openflow import flow as F
from flowshunt.rules.openflow.compile import compile_actions
from flowshunt.rules.openflow.tracing.compose import compose
from flowshunt.rules.openflow.tracing.explain import Asked, Bridge, explain
from flowshunt.rules.openflow.tracing.keys import read, write
from flowshunt.rules.openflow.tracing.request import (
    Words,
    is_odp,
    is_packet,
    read_actions,
    read_flow,
    read_odp,
    read_packet,
    read_words,
)
from flowshunt.rules.openflow.tracing.story import Group
from flowshunt.rules.openflow.tracing.text import story_text

_DATAPATHS = (DATAPATH_NAME, "ovs-netdev", "netdev", "ovs-dummy")


class _Seen:
    """A bridge of the node, as explaining wants to see it."""

    def __init__(self, node: Node, bridge: NodeBridge) -> None:
        self._node = node
        self._bridge = bridge

    @property
    def name(self) -> str:
        """Its name."""
        return self._bridge.name

    @property
    def datapath(self) -> Datapath:
        """What forwards."""
        return self._bridge.switch.datapath

    @cached_property
    def ports(self) -> dict[str, int]:
        """Numbers by name."""
        return {port.name: port.ofport for port in self._bridge.ports.values() if port.ofport > 0}

    @cached_property
    def _in_datapath(self) -> dict[int, int]:
        return {port.ofport: number for name, number, port in numbered(self._node) if name == self.name}

    def group(self, number: int) -> Group | None:
        """A group of it."""
        return self._bridge.group(number)

    def datapath_port(self, number: int) -> str:
        """The number in the datapath."""
        return str(self._in_datapath.get(number, number))

    def peer(self, number: int) -> tuple[Bridge, int] | None:
        """Where a patch port leads to."""
        here = next((port for port in self._bridge.ports.values() if port.ofport == number), None)
        if here is None or here.type != "patch":
            return None
        for bridge in self._node.bridges.values():
            there = bridge.ports.get(here.options.get("peer", ""))
            if there is not None and there.type == "patch" and there.options.get("peer") == here.name:
                return (_Seen(self._node, bridge), there.ofport) if there.ofport > 0 else None
        return None


def _asked(node: Node, words: Words) -> Asked:
    """What the words ask for. Raises UsageError and CommandError."""
    rest = list(words.rest)
    if len(rest) > 3:
        raise CommandError("too many arguments")
    packet: bytes | None = None
    if not words.generate and len(rest) > 1:
        if len(rest) > 2 or is_packet(rest[-1]):
            packet = read_packet(rest.pop())
        elif not is_odp(rest[-1]) and rest[0] not in node.bridges and is_odp(rest[0]):
            read_packet(rest[-1])
    if len(rest) > 2:
        raise CommandError("too many arguments")
    if not rest:
        raise CommandError("Syntax error")
    if is_odp(rest[-1]):
        if len(rest) == 2 and rest[0] not in _DATAPATHS:
            raise CommandError("Cannot find the datapath")
        bridge, key, frame = _of_datapath(node, rest[-1])
    elif len(rest) == 1:
        raise CommandError(f"syntax error at {rest[0]} (or the bridge name was omitted)")
    else:
        if rest[0] not in node.bridges:
            raise CommandError(f"{rest[0]}: unknown bridge")
        bridge = _Seen(node, node.bridges[rest[0]])
        key, frame = read_flow(rest[1], bridge.ports), None
    is_real = packet is not None or words.generate
    if words.generate and frame is None:
        frame = compose(key)
    return Asked(bridge, key, packet or frame, is_real, words.ct_next, None, words.names)


def _of_datapath(node: Node, text: str) -> tuple[_Seen, tuple[int, ...], bytes]:
    flow = read_odp(text)
    for name, number, port in numbered(node):
        if flow.in_port in (str(number), port.name):
            fields = {**flow.fields, "in_port": port.ofport}
            return _Seen(node, node.bridges[name]), write(fields.items()), flow.frame
    raise CommandError(f"no OpenFlow port for datapath port {flow.in_port}")


def _told(node: Node, asked: Asked, generate: bool) -> str:
    found = explain(asked, node.now_ms() * 1_000_000)
    if generate:
        _run(node, asked)
    return story_text(found.story, found.sources).removesuffix("\n") + "\n"


def _run(node: Node, asked: Asked) -> None:
    """The packet for real, but for what it sends."""
    assert asked.frame is not None
    now_ns = node.now_ms() * 1_000_000
    in_port = read(asked.key, "in_port")
    fields = [(word, -1, asked.key[word]) for word in range(HEADER_WORDS, W_PORT) if asked.key[word]]
    fields += [(word, -1, asked.key[word]) for word in range(W_PORT + 1, len(asked.key)) if asked.key[word]]
    datapath = asked.bridge.datapath
    if asked.actions is None and not fields:
        packets = np.zeros(1, PACKET)
        packets["length"] = packets["wire_length"] = len(asked.frame)
        packets["in_port"], packets["time_ns"] = in_port, now_ns
        datapath.process(Batch(np.frombuffer(bytearray(asked.frame), np.uint8), packets))
        return
    actions = (F.Resubmit(table=0),) if asked.actions is None else asked.actions
    program, late = compile_actions(actions)
    datapath.send_out(asked.frame, in_port, CompiledRule(OUTSIDE_TABLE, 0, (), program, late=late), now_ns, fields)


def _guarded(function: Callable[[Node, list[str]], str]) -> Callable[[Node, list[str]], str]:
    """What the user got wrong, without the hints that the tools of Open vSwitch do not print."""

    def run(node: Node, arguments: list[str]) -> str:
        try:
            return function(node, arguments)
        except UsageError as error:
            raise CommandError(error.what) from error

    return run


@on_worker
@_guarded
def trace(node: Node, arguments: list[str]) -> str:
    """A packet from the first table on."""
    words = read_words(arguments)
    return _told(node, _asked(node, words), words.generate)


@on_worker
@_guarded
def trace_actions(node: Node, arguments: list[str]) -> str:
    """A packet through actions of its own, as a controller's packet-out."""
    words = read_words(arguments[:-1], consistent=True)
    asked = _asked(node, words)
    actions = read_actions(arguments[-1], asked.bridge.ports)
    return _told(node, asked._replace(actions=actions), words.generate)


_USAGE = "{[dp_name] odp_flow | bridge br_flow} [OPTIONS...] [-generate|packet]"

COMMANDS = (
    command("ofproto/trace", _USAGE, 1, None, trace),
    command("ofproto/trace-packet-out", f"[-consistent] {_USAGE} actions", 2, None, trace_actions),
)
