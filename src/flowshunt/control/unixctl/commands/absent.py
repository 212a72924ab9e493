"""Commands about parts of Open vSwitch that this switch does not have: it answers as one with nothing to do.

No revalidators, since packets walk the tables and nothing cached has to be checked; no handlers, bonds, spanning trees,
tunnels or QoS.
"""

from __future__ import annotations

import re

from flowshunt.control.unixctl.commands.dpctl import decimal
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.registry import CommandError, Handler, answers, command, on_worker

_FLOW_LIMIT = 10_000
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_U32 = 0xFFFFFFFF


@on_worker
def show_upcalls(node: Node, arguments: list[str]) -> str:
    """The cache of flows: empty."""
    if not node.bridges:
        return ""
    figures = f"  flows         : (current 0) (avg 0) (max 0) (limit {_FLOW_LIMIT})\n"
    return f"{DATAPATH_NAME}:\n{figures}  dump duration : 1ms\n  ufid enabled : true\n\n  1: (keys 0)\n"


async def set_flow_limit(node: Node, arguments: list[str]) -> str:
    """A limit of the cache, which is accepted and has no effect."""
    return f"set flow_limit to {decimal(arguments[0]) or 0}\n"


@on_worker
def show_packets(node: Node, arguments: list[str]) -> str:
    """Figures of the packet thread, in the lines of a poll-mode driver's."""
    received = tracked = 0
    hits = misses = 0
    for bridge in node.bridges.values():
        figures = bridge.switch.datapath.statistics()
        received += figures["packets"]
        tracked += figures["tracked"]
        first = bridge.switch.datapath.tables().get(0)
        if first is not None:
            hits += first.matches
            misses += first.lookups - first.matches
    rows = [
        f"packets received: {received}",
        f"packet recirculations: {tracked}",
        f"avg. datapath passes per packet: {1 + tracked / received if received else 0:.2f}",
        "phwol hits: 0",
        "mfex opt hits: 0",
        "simple match hits: 0",
        "emc hits: 0",
        "smc hits: 0",
        f"megaflow hits: {hits}",
        "avg. subtable lookups per megaflow hit: 0.00",
        f"miss with success upcall: {misses}",
        "miss with failed upcall: 0",
        "avg. packets per output batch: 0.00",
    ]
    return "main thread:\n" + "".join(f"  {row}\n" for row in rows)


def _none(text: str, answer: str = "") -> Handler:
    """There is nothing of a kind: `answer`, and `text` is the error where one is named."""

    async def handler(node: Node, arguments: list[str]) -> str:
        if arguments:
            raise CommandError(text)
        return answer

    return handler


def _no_monitor(text: str) -> Handler:
    """What a monitor of links should take for true: interface, normal|false|true."""

    async def handler(node: Node, arguments: list[str]) -> str:
        if arguments[-1] not in ("normal", "false", "true"):
            raise CommandError("unknown fault string")
        if len(arguments) > 1:
            raise CommandError(text)
        return "OK\n"

    return handler


def _one_of(names: tuple[str, ...], text: str, wrong: str) -> Handler:
    """A choice of implementations, of which there is one; [-pmd core] name."""

    async def handler(node: Node, arguments: list[str]) -> str:
        words = arguments[2:] if arguments[0] == "-pmd" else arguments
        name = words[0] if words else ""
        if name not in names:
            raise CommandError(wrong.format(name))
        return text.format(name)

    return handler


def _refusal(text: str) -> Handler:
    """What is named is not there, whatever its name."""

    async def handler(node: Node, arguments: list[str]) -> str:
        raise CommandError(text)

    return handler


async def hash_bond(node: Node, arguments: list[str]) -> str:
    """Which of 256 buckets of a bond an address belongs to: mac [vlan] [basis]."""
    if not _MAC.fullmatch(arguments[0]):
        raise CommandError("invalid mac")
    numbers = [int(text) if text.isascii() and text.isdecimal() and len(text) < 11 else -1 for text in arguments[1:]]
    vlan, basis = [*numbers, 0, 0][:2]
    if not 0 <= vlan < 4096:
        raise CommandError("invalid vlan")
    if not 0 <= basis <= _U32:
        raise CommandError("invalid basis")
    return f"{_murmur(vlan << 48 | int(arguments[0].replace(':', ''), 16), basis) & 0xFF}\n"


def _murmur(value: int, basis: int) -> int:
    """MurmurHash3 (32 bits) of a 64-bit number."""
    found = basis
    for word in (value & _U32, value >> 32):
        word = word * 0xCC9E2D51 & _U32
        word = (word << 15 | word >> 17) * 0x1B873593 & _U32
        found ^= word
        found = ((found << 13 | found >> 19) & _U32) * 5 + 0xE6546B64 & _U32
    found ^= 8
    found = (found ^ found >> 16) * 0x85EBCA6B & _U32
    found = (found ^ found >> 13) * 0xC2B2AE35 & _U32
    return found ^ found >> 16


def _has_port(node: Node, name: str) -> bool:
    return any(name in bridge.ports for bridge in node.bridges.values())


async def no_qos(node: Node, arguments: list[str]) -> str:
    """No port has queues."""
    if not _has_port(node, arguments[0]):
        raise CommandError("no such interface")
    return f"QoS not configured on {arguments[0]}\n"


async def no_qos_types(node: Node, arguments: list[str]) -> str:
    """No port could have queues."""
    if not _has_port(node, arguments[0]):
        raise CommandError("no such interface")
    return f"No QoS types supported for interface: {arguments[0]}\n"


COMMANDS = (
    command("revalidator/wait", "", 0, 0, answers("")),
    command("upcall/show", "", 0, 0, show_upcalls),
    command("upcall/set-flow-limit", "flow-limit-number", 1, 1, set_flow_limit),
    command("upcall/disable-megaflows", "", 0, 0, answers("megaflows disabled\n")),
    command("upcall/enable-megaflows", "", 0, 0, answers("megaflows enabled\n")),
    command("upcall/disable-ufid", "", 0, 0, answers("Datapath dumping tersely using UFID disabled\n")),
    command(
        "upcall/enable-ufid",
        "",
        0,
        0,
        answers("Datapath dumping tersely using UFID enabled for supported datapaths\n"),
    ),
    command("dpif-netdev/pmd-stats-show", "[-pmd core] [dp]", 0, 3, show_packets),
    command("dpif-netdev/pmd-stats-clear", "[-pmd core] [dp]", 0, 3, answers("")),
    command(
        "dpif-netdev/pmd-rxq-show",
        "[-pmd core] [-secs secs] [dp]",
        0,
        5,
        answers("Displaying last 60 seconds pmd usage %\n"),
    ),
    command("dpif-netdev/pmd-rxq-rebalance", "[dp]", 0, 1, answers("pmd rxq rebalance requested.\n")),
    command("dpif-netdev/bond-show", "[dp]", 0, 1, answers("")),
    command(
        "dpif-netdev/pmd-perf-show",
        "[-nh] [-it iter-history-len] [-ms ms-history-len] [-pmd core] [dp]",
        0,
        9,
        answers(""),
    ),
    command(
        "dpif-netdev/pmd-perf-log-set",
        "on|off [-b before] [-a after] [-e|-ne] [-us usec] [-q qlen]",
        0,
        10,
        answers(""),
    ),
    command(
        "dpif-netdev/dpif-impl-get", "", 0, 0, answers("Available DPIF implementations:\n  dpif_scalar (pmds: none)\n")
    ),
    command(
        "dpif-netdev/dpif-impl-set",
        "dpif_implementation_name",
        1,
        1,
        _one_of(
            ("dpif_scalar",),
            "DPIF implementation set to {}.\n",
            "DPIF implementation not available: Unknown DPIF implementation {}.",
        ),
    ),
    command(
        "dpif-netdev/miniflow-parser-get",
        "",
        0,
        0,
        answers("Available MFEX implementations:\n  scalar (available: True pmds: none)\n"),
    ),
    command(
        "dpif-netdev/miniflow-parser-set",
        "[-pmd core] miniflow_implementation_name [study_pkt_cnt]",
        1,
        5,
        _one_of(
            ("scalar",),
            "Miniflow extract implementation set to {}.\n",
            "Error: unknown miniflow extract implementation {}.",
        ),
    ),
    command(
        "dpif-netdev/subtable-lookup-info-get",
        "",
        0,
        0,
        answers("Available dpcls implementations:\n  generic (Use count: 0, Priority: 1)\n"),
    ),
    command(
        "dpif-netdev/subtable-lookup-prio-set",
        "[lookup_func] [prio]",
        2,
        2,
        _one_of(
            ("generic",),
            "Lookup priority change affected 0 dpcls ports and 0 subtables.\n",
            "error, subtable lookup function not found",
        ),
    ),
    command(
        "odp-execute/action-impl-show",
        "",
        0,
        0,
        answers("Available Actions implementations:\n  scalar (available: Yes, active: Yes)\n"),
    ),
    command(
        "odp-execute/action-impl-set",
        "name",
        1,
        1,
        _one_of(
            ("scalar",), "Action implementation set to {}.\n", "Error: unknown action implementation, {}, specified!"
        ),
    ),
    command("dpif-dummy/change-port-number", "dp port new-number", 3, 3, _refusal("unknown datapath or not a dummy")),
    command("bond/hash", "mac [vlan] [basis]", 1, 3, hash_bond),
    command("bond/enable-member", "port member", 2, 2, _refusal("no such bond")),
    command("bond/disable-member", "port member", 2, 2, _refusal("no such bond")),
    command("bond/migrate", "port hash member", 3, 3, _refusal("no such bond")),
    command("bond/set-active-member", "port member", 2, 2, _refusal("no such bond")),
    command("bond/list", "", 0, 0, answers("bond\ttype\trecircID\tmembers\n")),
    command("bond/show", "[port]", 0, 1, _none("no such bond")),
    command("lacp/show-stats", "[port]", 0, 1, answers("")),
    command("lacp/show", "[port]", 0, 1, _none("no such lacp object")),
    command("stp/show", "[bridge]", 0, 1, _none("no such stp object")),
    command("stp/tcn", "[bridge]", 0, 1, _none("no such stp object", "OK\n")),
    command("rstp/show", "[bridge]", 0, 1, _none("No such RSTP object")),
    command("rstp/tcn", "[bridge]", 0, 1, _none("No such RSTP object", "OK\n")),
    command("bfd/show", "[interface]", 0, 1, _none("no such bfd object")),
    command("bfd/set-forwarding", "[interface] normal|false|true", 1, 2, _no_monitor("no such BFD object")),
    command("cfm/show", "[interface]", 0, 1, _none("no such CFM object")),
    command("cfm/set-fault", "[interface] normal|false|true", 1, 2, _no_monitor("no such CFM object")),
    command("autoattach/show-isid", "[bridge]", 0, 1, answers("")),
    command("autoattach/statistics", "[bridge]", 0, 1, answers("")),
    command("autoattach/status", "[bridge]", 0, 1, answers("")),
    command("qos/show", "interface", 1, 1, no_qos),
    command("qos/show-types", "interface", 1, 1, no_qos_types),
)
