"""The connection tracker: who talks to whom, in which state, since when and for how long.

The life of a packet here: its tuple is hashed (`hash_parsed`) and its bucket asked for, a little later the bucket
suggests a connection (`suggest`), a little later again the packet is judged (`track`): looked up in its zone, taken
into the protocol's state machine, counted, timed; or, when it may and shall, made into a connection of its own. What
changed goes into the event array.

- `schema` and `states`: the records, numbers and names; `timeouts`; `linux_states` and `sctp_states`, the TCP
  and SCTP tables of profile linux.
- `kernels`: the compiled steps, of which the datapath calls those in `kernels.step`.
- `holding`: for a module that lets packets pass unseen: expiry asks it first, windows are not checked.
- `changes`: events for readers who may be slow.
- `table`: the facade `Tracker`; `connection`: the immutable snapshots that it hands out; `listing`: snapshots as text,
  and back from JSON; `restore`: snapshots back into a table.

Knows nothing of rules, ports or offload: modules observe its events and keep their own data in private slots. May
import `packet`, `jit` and `base`.
"""
