"""OpenFlow, the switch's end: 1.0 to 1.5, with the extensions of Nicira (Open vSwitch) and the ONF.

The life of a message, from the socket down and up again:

    controllers  connections that the bridge makes itself, or waits for (`targets`); `snoop`: copies of what they carry
    server       owns the sockets (asyncio); one `Peer` per connection
    connection   the state machine without I/O: hello, framing, bundles, multipart replies, errors
    codec        which bytes are which message; tables of numbers, versions and functions
      flow_mod, flow_stats, flow_removed, packets, groups, meters, ports, queues, tables, switch, monitor, bundle,
      extensions, hello: one module per kind of message, each with its messages as NamedTuples
      match      lists of fields (NXM, OXM), by the table in `fields`; `fixed` has the matches of 1.0 and 1.1
      actions    lists of actions: `action_reader`, `nicira`, `ct`, `learning` and `links` read,
                 `action_writer` writes; `instructions`
      wire, errors: versions, framing, ports; the one exception and every error's numbers
    service      what a switch answers: `changes` carries out flow-mods, `switch_ports` and `traffic` what is asked of
                 ports and packets, `listing` is what is told of flows; `group_table`, `meter_table` and
                 `table_settings` keep groups, meters and what is configured of tables, `roles` and `flushing` do what
                 they say; `flow_monitors` tell of changes, `events` waits for news of packets and time; `parts` is what
                 all of these need of a switch

Flow-mods are read into `rules.openflow.flow.Flow`, the same values that flow texts give, and listings are written from
them: the switch does not know where a flow came from.

Where to put a line: a field into the table of `fields`; an action into the rows of `action_reader`, `nicira` or `ct`
and of `action_writer`; a message into its module and the tables of `codec`; an answer into those of `service`; what the
datapath does beyond flows into `service`, `groups` and `meters`.

Everything that comes in is bounded: a message by its length of 16 bits, nested lists of actions, a multipart request,
the bundles of a connection, what a peer leaves unread. Whatever is malformed raises `OpenFlowError` with the error that
the specifications name, and nothing else.

May import: `rules`, `datapath`, `conntrack`, `packet`, `base`. Hands out: `Server`, `Service`, `Connection`.
"""
