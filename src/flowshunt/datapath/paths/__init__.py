"""Paths: what a packet's way through the tables says about the packets that follow it.

    learn        called by the interpreter: notes lookups, connections and the output of a packet that might tell a path
    tell         at its end: finds its chain of rules, and writes the record, if the chain is judged
    verdicts     reads match and actions of a chain's rules, and of those that might match in their place
    chains       the chains, for Python; room for new ones
    accounting   what was forwarded elsewhere, added to rules, tables and stations
    joined       several datapaths of one tracker as if they were one

`table.Paths` is the facade (`Datapath.paths`): learning on and off, observers of records, epochs. `records` are the
records of paths and flows, which packages above fill in and hand on; `schema` is the memory of it all.

May import what the datapath imports, and of the datapath itself schema, programs, rules, ports and the learning switch.
"""
