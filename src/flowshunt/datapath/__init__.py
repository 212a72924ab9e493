"""The datapath: OpenFlow tables compiled to classifiers, actions as small programs, and the loop that runs both.

A packet goes through one compiled call from its bytes to what leaves:

    loop        parse a chunk of packets, ask for the memory that shunt and tracker will need, then packet by packet:
    shunt         a packet of an established connection that was handed over leaves at once (package `shunt`); else
    interpreter   table 0: classifier -> rule -> program; resubmit, clone and ct(table=N) push frames
    reassembly    a fragment at ct is held, or completes its datagram (package `fragments`)
    fields        set, move, VLAN tags, TTL: changes of the flow key
    output        ports, flooding, `normal` (fdb); a packet whose key was changed is written anew, others are not copied

Where paths are learned (package `paths`), the interpreter notes what an established packet meets, and what that says
about the packets after it is handed out.

Rules arrive compiled (`program.CompiledRule`: masked words and int64 instructions); `rules` keeps them, `changes` are
the kernels that insert and remove them, made of `subtables` and `pool`; `classifier` finds one, `conjunctions` what
several match together. `listing` is what is told of them. `linking` fills in what programs refer to by number (groups,
meters, actions for Python), `choosing` runs groups, meters and the stack, `spreading` multipath and bundle,
`action_sets` what rules write for the end of a packet's way, `timers` knows which rules may be due, `freezing` keeps
packets that pause. `ports` keeps ports and learned stations, `tables.Datapath` is the facade over all of it.

Package `tracing` runs one packet through the interpreter as plain Python, tells what it met, and takes back what it
did.

A packet is never parked: its connection's memory was asked for in the loop's first stages, so ct is a call like
any other, and a batch gives what its packets one by one would.

May import: `flowshunt.conntrack`, `flowshunt.packet`, `flowshunt.jit`, `flowshunt.base`. Hands out: `Datapath`,
`Compiler`, `Result`, `CompiledRule`, `FATES`.
"""
