"""OVSDB: the switch that a real ovsdb-server describes, and that tells it how it is.

The life of a change that ovs-vsctl makes:

    idl          the database's replica (PyPI `ovs`, of which only `ovs.db.idl` is used), driven by asyncio
    schema       which columns are read, which only written; the schema itself comes from the server
    model        what the replica says, as plain values: `read` gives a `Wanted`
    reconcile    the difference between two of them as a list of actions
    apply        actions carried out on the node, in slices between batches of packets
    writer       how things are, back into the database, with `cur_cfg` in the same transaction
    service      all of it together; the lock, reconnecting, statistics in intervals

While the database is away the switch goes on as it is; when it is back, only what differs is touched.

May import: `rules`, `datapath`, `conntrack`, `base`, `control.jsonrpc`. Hands out: `Service`.
"""
