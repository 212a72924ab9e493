"""A model of a smart NIC's switch, as an offload provider: what would such a NIC do with this traffic?

Purpose: the limits that users of such NICs know (flow groups by traffic pattern, a maximum of offloaded connections,
an ageing of its own, the pace of insertion) decide which connections are forwarded past the tables; what is forwarded
really passes through the datapath's table of entries, so that hits and misses are counted, not computed.

`settings` and `profiles` say what a NIC is; `groups` is the arithmetic of its tables; `model` knows which connections
are in them and when one gets in; `waiting` keeps those that are on their way; `provider` carries out what the model
decides. Only `provider` touches the datapath, through `offload.sharing`. Imports `offload` and what lies below it.

A connection's way: `provider.install` -> protocol and pattern -> `model.admit` (group, room, maximum, queue) ->
at once, or after waiting, into the table -> idle for the ageing time, withdrawn, or its group emptied by its end.
"""
