"""The offload framework: providers are told of connections, and take over the established ones.

The life of a connection here: the tracker's events are drained after each batch of packets and put into rounds
(`order`); the `dispatcher` makes them operations (`batch`) and gives those to every provider by the contract of `api`,
through its `runner`: on the packet thread, or on a worker thread behind a bounded queue. `calls` stands in between, so
that nothing a provider raises, returns or writes gets further than an errno. The answers become marks and reasons
(`attachment`, `reasons`), the highest mark goes into a private slot of the tracker.

- `framework.Offload`: the facade, one per tracker: register, configure, ask. `registry`: names, order, plug-ins.
- `installing`: what is handed to a provider that forwards packets, as a contract. `installer` hands it out once packets
  have shown both directions' paths (`book`), `forwarding` makes the calls, `accounting` adds up what was forwarded.
- `kernels`: what of all this is done for each connection of a batch, compiled.
- `providers`: those that come with Flowshunt. `conformance`: the kit that checks any provider against the contract.

A notification (add, established) and the installation of forwarding state are two things.

May import: `flowshunt.datapath`, `flowshunt.conntrack`, `flowshunt.packet`, `flowshunt.base`. Hands out: `Offload`, and
to provider authors `api`, `batch`, `errors` and `conformance`, all free of Numba.
"""
