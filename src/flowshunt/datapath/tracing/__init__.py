"""Tracing: what a packet would meet, told by the interpreter itself, without a trace left behind.

    journal   the datapath's arrays as kernels see them; every write is remembered and taken back
    record    what is told: parts of a packet's way, and what happened in them
    recorder  stands between the interpreter's kernels and notes what they do
    run       one packet through the plain form of the interpreter (`jit.plain`), and everything back as it was

The code that explains a packet is the code that forwards it, so the two cannot differ. It runs on the packet thread in
one piece, a thousand times slower than compiled, and gives up after `run.MOST_SECONDS`.
"""
