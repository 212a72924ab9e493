"""Rules: the front ends through which users say what happens to packets.

`openflow` reads and prints flows; every front end compiles to the datapath's tables. May import: `datapath` and all
that lies below it.
"""
