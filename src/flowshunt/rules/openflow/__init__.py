"""OpenFlow rules: flow text to values, values to text, values to the datapath's programs.

`parse_flow` and `parse_flows` read what ovs-ofctl reads and raise FlowSyntaxError, with line, column and what would be
right; `format_flow` prints a flow as `ovs-ofctl dump-flows` does. Between them lie the frozen values of `flow`: what a
control channel decodes to, and what `compile` takes. Parts, in the order in which they use each other:

- `flow`: matches, actions and flows as values.
- `errors`, `values`: messages; numbers, addresses, flags and ports as they are written.
- `fields`: every name of a field, its place in the flow key, its prerequisites.
- `scanner`: keys and values of a text.
- `match`, `setters`, `elsewhere`, `learning`, `links`, `actions`, `parse`: the reader.
- `format`: the printer.

`compile` makes programs of flows, `buckets` of groups; `executor` carries out what programs leave to Python.

May import: `flowshunt.packet.schema`, `flowshunt.base`, and for the last three the datapath. Nothing but these needs
compiled code, and they are not imported from here.
"""

from flowshunt.rules.openflow.errors import FlowSyntaxError, FlowWarning
from flowshunt.rules.openflow.flow import Flow
from flowshunt.rules.openflow.format import format_actions, format_flow, format_match
from flowshunt.rules.openflow.parse import Command, iterate_flows, parse_flow, parse_flows

__all__ = [
    "Command",
    "Flow",
    "FlowSyntaxError",
    "FlowWarning",
    "format_actions",
    "format_flow",
    "format_match",
    "iterate_flows",
    "parse_flow",
    "parse_flows",
]
