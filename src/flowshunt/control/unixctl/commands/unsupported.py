"""`dpctl/*` about flows and ports of the datapath, which come from rules and bridges and cannot be had otherwise.

What scripts look up is answered as by a datapath without flows; what would change it is refused.
"""

from __future__ import annotations

import errno
import re

from flowshunt.control.unixctl.commands.dpctl import operands, refusal, split, without_datapath
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.registry import CommandError, Handler, command

_MARKS = re.compile("[(),]")
_UFID = re.compile(r"ufid:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ACTION_NAMES = frozenset(
    (
        "set", "push_vlan", "pop_vlan", "push_mpls", "pop_mpls", "ct", "ct_clear", "recirc", "hash", "userspace",
        "clone", "sample", "trunc", "meter", "check_pkt_len", "drop", "push_eth", "pop_eth", "lb_output",
    )
)  # fmt: skip


def _refuses(text: str, number: int = errno.EOPNOTSUPP) -> Handler:
    async def handler(node: Node, arguments: list[str]) -> str:
        raise refusal(text, number)

    return handler


async def no_such_flow(node: Node, arguments: list[str]) -> str:
    """There is no flow of the datapath to delete."""
    without_datapath(split(arguments).rest, 2)
    raise CommandError(f"{refusal('deleting flow', errno.ENOENT)}\nPerhaps you need to specify a UFID?")


async def no_such_ufid(node: Node, arguments: list[str]) -> str:
    """Nor one to show."""
    (text,) = operands(arguments, 1)
    if not _UFID.fullmatch(text):
        raise refusal("parsing flow ufid", errno.EINVAL)
    raise refusal("getting flow", errno.ENOENT)


async def change_interfaces(node: Node, arguments: list[str]) -> str:
    """Ports of the datapath are those of bridges."""
    if arguments[0] != DATAPATH_NAME:
        raise refusal("opening datapath", errno.EINVAL)
    raise refusal(f"{arguments[1]}: ports come and go with bridges", errno.EOPNOTSUPP)


async def delete_interface(node: Node, arguments: list[str]) -> str:
    """Of the names that are no ports, it says so."""
    if arguments[0] != DATAPATH_NAME:
        raise refusal("opening datapath", errno.EINVAL)
    names = {port for bridge in node.bridges.values() for port in bridge.ports}
    if arguments[1] not in names:
        raise refusal(f"no port named {arguments[1]}", 0)
    return await change_interfaces(node, arguments)


async def show_caches(node: Node, arguments: list[str]) -> str:
    """The datapath has none."""
    without_datapath(split(arguments).rest, 1)
    return f"{DATAPATH_NAME}:\n"


async def parse_actions(node: Node, arguments: list[str]) -> str:
    """Actions of a datapath as they were written, when they are some."""
    if not all(_is_action(word) for word in _top_level(",".join(arguments))):
        raise refusal("odp_actions_from_string", errno.EINVAL)
    return "".join(f"{word}\n" for word in arguments)


def _is_action(word: str) -> bool:
    return word.isdecimal() or word.partition("(")[0] in _ACTION_NAMES


def _top_level(text: str) -> list[str]:
    """The parts between commas that are in no parentheses."""
    parts, start, depth = [], 0, 0
    for mark in _MARKS.finditer(text):
        if mark.group() == "(":
            depth += 1
        elif mark.group() == ")":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]] if depth == 0 else ["?"]


_CHANGE = _refuses("updating flow table")

COMMANDS = (
    command("dpctl/add-flow", "[dp] flow actions", 2, 4, _CHANGE),
    command("dpctl/mod-flow", "[dp] flow actions", 2, 4, _CHANGE),
    command("dpctl/add-flows", "[dp] file", 1, 3, _CHANGE),
    command("dpctl/mod-flows", "[dp] file", 1, 3, _CHANGE),
    command("dpctl/del-flow", "[dp] flow", 1, 3, no_such_flow),
    command("dpctl/get-flow", "[dp] ufid", 1, 3, no_such_ufid),
    command("dpctl/add-if", "dp iface...", 2, None, change_interfaces),
    command("dpctl/set-if", "dp iface...", 2, None, change_interfaces),
    command("dpctl/del-if", "dp iface...", 2, None, delete_interface),
    command("dpctl/cache-get-size", "[dp]", 0, 1, show_caches),
    command("dpctl/cache-set-size", "dp cache <size>", 3, 3, _refuses("Setting caches not supported")),
    command("dpctl/parse-actions", "actions", 1, None, parse_actions),
    command("dpctl/normalize-actions", "actions", 2, None, _refuses("normalizing actions")),
)
