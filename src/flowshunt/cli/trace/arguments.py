"""The arguments of `flowshunt trace`, with their help."""

from __future__ import annotations

import click

from flowshunt.cli.commands import FILE, Option

HELP = """
Explain what rules do to a packet: each table and rule that it meets, what the actions do, and what leaves.

FLOW describes the packet as ovs-ofctl describes flows; what it does not say is zero. With the bytes of a packet
(PACKET, hexadecimal digits) FLOW says where it comes in, and the tracker, which is empty, says what it would say.
Without, each connection is supposed to be new; --ct-next says otherwise, once for each time.

The text is that of ovs-appctl ofproto/trace, which explains packets in a switch that runs. Nothing here can differ from
what a switch does: the code that forwards is the code that explains.

Examples:

    flowshunt trace --flows rules.flows in_port=1,tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tcp_dst=80

    flowshunt trace --flows rules.flows --ct-next trk,est in_port=1,udp

    flowshunt trace --flows rules.flows in_port=1,ip --json | jq -r '.outputs[].port'

    flowshunt trace --set-flow "ip,actions=dec_ttl,output:2" --actions "resubmit(,0)" in_port=1,ip,nw_ttl=1

Exit status: 0, 2 for wrong usage, rules or packets.
"""

PARAMETERS = (
    click.Argument(["flow"]),
    click.Argument(["packet"], required=False),
    Option(
        ["--flows", "flow_files"],
        multiple=True,
        metavar="FILE",
        type=FILE,
        help="Rules, one per line, as ovs-ofctl add-flows reads them; - for standard input; repeat it.",
    ),
    Option(["--set-flow", "flows"], multiple=True, metavar="FLOW", help="One rule, after those of --flows; repeat it."),
    Option(
        ["--ports"],
        metavar="NAME,…",
        default="",
        help="Names of ports, numbered from 1. The numbers that the rules name are there in any case.",
    ),
    Option(
        ["--ct-next"],
        multiple=True,
        metavar="STATE",
        help="What the tracker says, the first time, the second time: trk,est; repeat it.",
    ),
    Option(["--actions"], metavar="ACTIONS", help="Begin with these actions, as a packet-out, not in table 0."),
    Option(["--names"], is_flag=True, help="Show ports by name."),
    Option(["--json"], is_flag=True, help="Print JSON instead of text."),
)
