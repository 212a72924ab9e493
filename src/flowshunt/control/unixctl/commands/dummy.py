"""`netdev-dummy/*`: frames for dummy ports, and their state."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_interface

from flowshunt.control.unixctl.node import Bridge, Node
from flowshunt.control.unixctl.registry import CommandError, Handler, command, on_worker
from flowshunt.ports.dummy import DummyPort
from flowshunt.rules.odp import OdpError, frame

MAX_FRAME = 65_549
"""The largest IP packet with an Ethernet header."""
_LEAST_HEX = 2 * 14
_MAX_QUEUES = 1


def _dummies(node: Node, name: str | None = None) -> Iterator[tuple[Bridge, str]]:
    """Bridge and name of the dummy ports, or of the one of that name."""
    for bridge in node.bridges.values():
        for port in bridge.ports.values():
            if port.ofport > 0 and name in (None, port.name) and isinstance(bridge.device(port.name), DummyPort):
                yield bridge, port.name


@on_worker
def receive(node: Node, arguments: list[str]) -> str:
    """Frames for a dummy port: name [--qid N] frame [frame...] [--len N]."""
    found = next(_dummies(node, arguments[0]), None)
    if found is None:
        raise CommandError("no such dummy netdev")
    bridge, name = found
    words = arguments[1:]
    if words[0] == "--qid":
        if len(words) < 2 or not words[1].isdecimal() or int(words[1]) >= _MAX_QUEUES:
            raise CommandError("bad rx queue id.")
        words = words[2:]
    frames = []
    while words:
        text = words.pop(0)
        size = None
        if words and words[0] == "--len":
            if len(words) < 2 or not words[1].isdecimal() or not 0 < int(words[1]) <= MAX_FRAME:
                raise CommandError("bad packet length")
            size = int(words[1])
            words = words[2:]
        frames.append(_frame(text, size))
    if bridge.ports[name].admin_up:
        for one in frames:
            bridge.inject(name, one)
    return ""


def _frame(text: str, size: int | None) -> bytes:
    digits = "".join(text.split())
    try:
        data = bytes.fromhex(digits) if len(digits) >= _LEAST_HEX else None
    except ValueError:
        data = None
    try:
        data = frame(text, size) if data is None else data
    except OdpError as error:
        raise CommandError(f"syntax error at {error}") from error
    if len(data) > MAX_FRAME:
        raise CommandError(f"a frame of more than {MAX_FRAME} bytes")
    return data


@on_worker
def set_admin_state(node: Node, arguments: list[str]) -> str:
    """Switch one dummy port, or all, on or off."""
    word = arguments[-1].lower()
    if word not in ("up", "down"):
        raise CommandError("Invalid Admin State")
    found = list(_dummies(node, arguments[0] if len(arguments) > 1 else None))
    if len(arguments) > 1 and not found:
        raise CommandError("Unknown Dummy Interface")
    for bridge, name in found:
        bridge.set_admin_state(name, word == "up")
    return "OK\n"


def _give_address(version: int, wrong: str) -> Handler:
    """An address for a dummy port: it is looked at, and has no effect."""

    async def handler(node: Node, arguments: list[str]) -> str:
        name, text = arguments
        if await node.call(lambda: next(_dummies(node, name), None)) is None:
            raise CommandError("Unknown Dummy Interface")
        try:
            right = ip_interface(text).version == version
        except ValueError:
            right = False
        if not right:
            raise CommandError(f"{text}: {wrong}")
        return "OK\n"

    return handler


async def connection_state(node: Node, arguments: list[str]) -> str:
    """Dummy ports are connected to nothing."""
    return "".join(f"{name}: unknown\n" for name in arguments)


COMMANDS = (
    command("netdev-dummy/ip4addr", "[netdev] ipaddr/mask-prefix-len", 2, 2, _give_address(4, "invalid IP address")),
    command("netdev-dummy/ip6addr", "[netdev] ip6addr", 2, 2, _give_address(6, "invalid IPv6 address")),
    command("netdev-dummy/receive", "name [--qid queue_id] packet|flow [--len packet_len]", 2, None, receive),
    command("netdev-dummy/set-admin-state", "[netdev] up|down", 1, 2, set_admin_state),
    command("netdev-dummy/conn-state", "[netdev]", 0, 1, connection_state),
)
