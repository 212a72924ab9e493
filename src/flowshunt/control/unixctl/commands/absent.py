"""Commands about parts of Open vSwitch that this switch does not have: it answers as one with nothing to do.

No revalidators, since packets walk the tables and nothing cached has to be checked; no handlers, bonds, spanning trees,
tunnels or QoS.
"""

from __future__ import annotations

from flowshunt.control.unixctl.commands.dpctl import decimal
from flowshunt.control.unixctl.node import DATAPATH_NAME, Node
from flowshunt.control.unixctl.registry import CommandError, answers, command, on_worker

_FLOW_LIMIT = 10_000
_TABLE_HEAD = "IP                                            MAC                 Bridge\n" + "=" * 74 + "\n"


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


async def no_bond(node: Node, arguments: list[str]) -> str:
    """There is no bond, whatever its name."""
    if arguments:
        raise CommandError("no such bond")
    return ""


async def no_qos(node: Node, arguments: list[str]) -> str:
    """No port has queues."""
    return f"QoS not configured on {arguments[0]}\n"


async def no_qos_types(node: Node, arguments: list[str]) -> str:
    """No port could have queues."""
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
    command("bond/list", "", 0, 0, answers("bond\ttype\trecircID\tmembers\n")),
    command("bond/show", "[port]", 0, 1, no_bond),
    command("lacp/show", "[port]", 0, 1, answers("")),
    command("lacp/show-stats", "[port]", 0, 1, answers("")),
    command("stp/show", "[bridge]", 0, 1, answers("")),
    command("rstp/show", "[bridge]", 0, 1, answers("")),
    command("bfd/show", "[interface]", 0, 1, answers("")),
    command("cfm/show", "[interface]", 0, 1, answers("")),
    command("autoattach/status", "[bridge]", 0, 1, answers("")),
    command("qos/show", "interface", 1, 1, no_qos),
    command("qos/show-types", "interface", 1, 1, no_qos_types),
    command("tnl/ports/show", "-v", 0, 1, answers("Listening ports:\n")),
    command("tnl/arp/show", "", 0, 0, answers(_TABLE_HEAD)),
    command("tnl/arp/flush", "", 0, 0, answers("OK\n")),
    command("tnl/neigh/show", "", 0, 0, answers(_TABLE_HEAD)),
    command("tnl/neigh/flush", "", 0, 0, answers("OK\n")),
    command("ovs/route/show", "", 0, 0, answers("Route Table:\n")),
)
