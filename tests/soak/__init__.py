"""The soak: `python -m tests.soak --packets 100000000`. Random traffic without an oracle, held to invariants alone.

`traffic` makes packets in bulk and answers what leaves the switch, `invariants` says what must always hold, and what at
the end. Not part of the gate: it runs as long as it is told to.
"""
