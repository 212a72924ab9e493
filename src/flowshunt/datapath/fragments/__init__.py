"""IP fragments: put together where a packet meets ct, and fragmented again where it leaves.

A fragment that comes to a ct action is *held*; the one that completes its datagram goes on in place of all of them, as
one whole packet (see the interpreter), and leaves in fragments no larger than the largest that came. Fragments that
never meet ct pass untouched.

    schema      memory and settings
    rows        records: datagrams, their fragments, blocks of payload; the hash table, the lists by age, the bounds
    receive     what to do with one fragment: held, complete, or refused, and why
    whole       the datagram as one frame
    split       a frame as fragments
    store       the facade: settings, statistics, expiry

All memory is reserved at the start. When a bound is reached, the oldest datagrams of the zone that takes the most make
room (docs/adr/0008-fragments.md), so a flood of first fragments costs its own zone's datagrams first and no other
packet anything.

May import: `flowshunt.conntrack`, `flowshunt.packet`, `flowshunt.jit`, `flowshunt.base`, and nothing of the datapath.
Hands out: `Fragments`, `FragmentSettings`, and kernels for the interpreter and the output.
"""
