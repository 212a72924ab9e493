"""The tracker's compiled code, from the bottom up.

`tuples` (what is compared and hashed), `buckets` (the hash table), `rows` (rows, timers, events), `tcp` and `tcp_linux`
(the two TCP machines), `protocols` (which machine judges a packet), `step` (one packet through the tracker), `entry`
(what Python calls).
"""
