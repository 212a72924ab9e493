"""The shunt: established connections go from port to port, past the tables and the tracker.

One table for all who want packets forwarded (*owners*: a software fast path, the model of a NIC). A *flow* is one
connection with both its directions, an *entry* each: what a packet must look like, where it leaves and what becomes of
it. The batch loop looks every packet up before the tables:

    schema      the records: entries in two cache lines, one compared whole, the other written at each hit
    places      the hash table of entries, keyed by the tracker's symmetric tuple hash
    lookup      stages of the loop: find the entry, judge the packet, leave
    checking    for owners that ask for it: checksums and TCP windows as the tracker judges them
    settle      what the tracker must know of the hits before it sees a packet of the connection again; ends
    entry       what Python calls on the memory
    table       the facade: `Shunt`, and a `Share` of it for each owner

A packet that an entry does not cover in every respect takes the long way, and finds the tracker as if all packets
before it had done so, too: its connections' timers are *settled* first. Windows are not followed unless the owner asks
for it; an entry is dead at once when the tracker says that its connection has changed state, mark or label, or ended.
"""
