"""`flowshunt bench`: measurements that a user can repeat on a machine of his own.

`live` puts ways of forwarding side by side in one run: `rows` builds each of them from namespaces and cables (`lab`),
`measures` sends real TCP, pings and floods of small frames (`frames`) through, in turns: `introduction` makes their
flows known, `generator` floods. `figures` keeps and shows what came out. Whoever adds a way of forwarding adds a row.

May import: what `cli` may. Hands out: nothing.
"""
