"""Rules: the front ends through which users say what happens to packets.

`openflow` reads and prints flows, and explains packets (`openflow.tracing`); `odp` makes frames of the notation that
datapaths have for flows. Every front end compiles to the datapath's tables. May import: `datapath` and all
that lies below it.
"""
