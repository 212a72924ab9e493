"""Packets: from bytes to a flow key, and from a changed key back to bytes.

A packet's way through this package: a port fills the first half of its `PACKET` record (where the bytes are, time,
port, what the device knows of checksums and segmentation); `parse` reads the headers once and fills the header words
of its flow key and the second half of the record (offsets, TCP numbers, a verdict); tables and the tracker work on
those. At output `emit.rewrite` copies the frame and writes what the key says differently, if anything does.

- `schema`: the flow key, the packet record, batches, constants. Needs no numba: importable by whoever only names
  fields.
- `parse`, with `network` and `transport` below it: the parser. What makes a packet untrackable is in its docstring.
- `quoted`: the packet inside an ICMP error. `icmp`: which types are queries, which are errors.
- `checksum`: full and incremental checksums, verification. `emit`: rewriting.
- `text`: fields by name and a line of text, for tests and the slow path, in plain Python.

May import: `flowshunt.jit`, numpy. Hands out kernels for other packages' kernels to inline, and `schema` to everyone.
This module itself imports nothing, so that `flowshunt.packet.schema` stays light.
"""
