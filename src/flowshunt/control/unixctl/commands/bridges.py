"""`bridge/*`: the flows of a bridge, as the switch sees them."""

from __future__ import annotations

from flowshunt.control.unixctl.commands.dpctl import in_slices
from flowshunt.control.unixctl.node import Node
from flowshunt.control.unixctl.registry import CommandError, command, on_worker
from flowshunt.datapath.listing import FlowStatistics
from flowshunt.rules.openflow.format import format_flow


async def dump_flows(node: Node, arguments: list[str]) -> str:
    """All flows of a bridge with their counters."""
    rest = [word for word in arguments if word != "--offload-stats"]
    bridge = node.bridges.get(rest[-1]) if rest else None
    if bridge is None:
        raise CommandError("Unknown bridge")
    rules = bridge.switch.datapath.rules
    found = await in_slices(node, rules.statistics)
    now_ms = node.now_ms()
    return "".join(f"{_line(one, now_ms)}\n" for one in found)


def _line(one: FlowStatistics, now_ms: int) -> str:
    flow = one.flow
    table = f"table_id={flow.table}, " if flow.table else ""
    cookie = f"cookie={flow.cookie:#x}, " if flow.cookie else ""
    text = format_flow(flow)
    # format_flow repeats the table and the cookie in the form of ovs-ofctl; what follows them is the same here.
    text = text.removeprefix(cookie).removeprefix(f"table={flow.table}, " if flow.table else "")
    priority = "" if "priority=" in text.partition("actions=")[0] else f"priority={flow.priority},"
    age_s = max(now_ms - one.created_ms, 0) // 1000
    head = f"{table}duration={age_s}s, n_packets={one.packets}, n_bytes={one.bytes}, {cookie}"
    return f"{head}{priority}{text.replace(' actions=', ',actions=')}"


@on_worker
def reconnect(node: Node, arguments: list[str]) -> str:
    """Have the connections to controllers made anew: there are none that the switch makes."""
    if arguments and arguments[0] not in node.bridges:
        raise CommandError("Unknown bridge")
    return ""


COMMANDS = (
    command("bridge/dump-flows", "[--offload-stats] bridge", 1, 2, dump_flows),
    command("bridge/reconnect", "[bridge]", 0, 1, reconnect),
)
