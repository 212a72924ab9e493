"""`flowshunt replay`: a capture through the switch, on the capture's clock.

The life of a run: `options` hold what the user asked for; `session` builds switch and source from them; `run` takes
batch after batch from the source through the switch, feeds the `outputs` that want every packet, and counts in a
`tally`; `report` turns switch, tracker and tally into one plain value; `render` prints it for people, `document` as
JSON, `connections` lists the table.

Nothing here depends on the size of a batch or on the wall clock, so the same input gives the same output.

May import: everything below, `flowshunt.app` and `flowshunt.ports.capture` only inside functions: they bring numba.
"""
