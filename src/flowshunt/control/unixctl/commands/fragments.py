"""`dpctl/ipf-*`: how fragments are treated, and what became of them."""

from __future__ import annotations

import errno
from dataclasses import replace

from flowshunt.base.errors import UsageError
from flowshunt.control.unixctl.commands.dpctl import decimal, operands, refusal, split, without_datapath
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import Handler, command, on_worker
from flowshunt.datapath.fragments.store import Fragments

_FAMILIES = {"v4": "ipv4", "v6": "ipv6"}
_LEAST = 400
_MOST = 5000
"""What Open vSwitch lets one ask for."""
_COUNTERS = (
    ("accepted", ("accepted",)),
    ("completed", ("completed",)),
    ("expired", ("expired",)),
    ("too small", ("too-small",)),
    ("overlapped", ("overlapping",)),
    ("purged", ("purged", "dropped")),
)


def _change(node: Node, **values: int | bool) -> None:
    node.fragments.configure(replace(node.fragments.settings, **values))  # type: ignore[arg-type]


def _switch(on: bool) -> Handler:
    @on_worker
    def handler(node: Node, arguments: list[str]) -> str:
        (family,) = operands(arguments, 1)
        if family not in _FAMILIES:
            raise refusal("parameter missing: 'v4' for IPv4 or 'v6' for IPv6")
        _change(node, **{_FAMILIES[family]: on})
        return f"{'enabling' if on else 'disabling'} fragmentation reassembly successful\n"

    return handler


@on_worker
def set_least(node: Node, arguments: list[str]) -> str:
    """The smallest fragment that is accepted, but for the last of a datagram."""
    family, text = operands(arguments, 2)
    if family not in _FAMILIES:
        raise refusal("parameter missing: v4 for IPv4 or v6 for IPv6")
    size = decimal(text)
    if size is None:
        raise refusal("parameter missing for minimum fragment size")
    too_small = "requested minimum fragment size too small; see documentation"
    if size < _LEAST:
        raise refusal(too_small, errno.EPERM)
    try:
        _change(node, **{f"min_size_{_FAMILIES[family]}": size})
    except UsageError as error:
        raise refusal(too_small, errno.EPERM) from error
    return "setting minimum fragment size successful\n"


@on_worker
def set_most(node: Node, arguments: list[str]) -> str:
    """How many fragments may wait."""
    (text,) = operands(arguments, 1)
    number = decimal(text)
    if number is None:
        raise refusal("parameter missing for maximum fragments")
    if number > _MOST:
        raise refusal("setting maximum fragments failed", errno.EPERM)
    _change(node, max_fragments=number)
    return "setting maximum fragments successful\n"


@on_worker
def show(node: Node, arguments: list[str]) -> str:
    """Settings and counters, with -m also the datagrams that are not complete."""
    rest, options = split(arguments)
    without_datapath(rest, 1)
    store = node.fragments
    settings, figures = store.settings, store.statistics()
    lines = [
        "Fragmentation Module Status",
        "---------------------------",
        f"v4 enabled: {int(settings.ipv4)}",
        f"v6 enabled: {int(settings.ipv6)}",
        f"max num frags (v4/v6): {settings.max_fragments}",
        f"num frag: {len(store)}",
    ]
    for family, least in (("v4", settings.min_size_ipv4), ("v6", settings.min_size_ipv6)):
        lines.append(f"min {family} frag size: {least}")
        for words, names in _COUNTERS:
            total = sum(figures[f"{_FAMILIES[family]}.{name}"] for name in names)
            lines.append(f"{family} frags {words}: {total}")
    text = "".join(f"        {line}\n" for line in lines)
    if "more" in options:
        text += "\n        Fragment Lists:\n\n" + "".join(f"{line}\n" for line in _datagrams(store))
    return text


def _datagrams(store: Fragments) -> list[str]:
    """The datagrams that are not complete, in the form of Open vSwitch."""
    lines = []
    for one in store.datagrams():
        dl_type = 0x800 if one.family == 4 else 0x86DD
        state = {(True, False): "first frag", (False, True): "last frag", (True, True): "first/last frag"}.get(
            (one.has_first, one.has_last), "other frag"
        )
        lines.append(
            f"(src={one.source},dst={one.destination},recirc_id=0,ip_id={one.identification},dl_type=0x{dl_type:x},"
            f"zone={one.zone},nw_proto={one.protocol},num_fragments={one.n_fragments},state={state})"
        )
    return lines


COMMANDS = (
    command("dpctl/ipf-set-enabled", "[dp] v4|v6", 1, 2, _switch(True)),
    command("dpctl/ipf-set-disabled", "[dp] v4|v6", 1, 2, _switch(False)),
    command("dpctl/ipf-set-min-frag", "[dp] v4|v6 minfragment", 2, 3, set_least),
    command("dpctl/ipf-set-max-nfrags", "[dp] maxfrags", 1, 2, set_most),
    command("dpctl/ipf-get-status", "[dp]", 0, 2, show),
)
