"""`flowshunt what-if`: one capture against a grid of providers and their limits.

`grid` makes the points, `measuring` replays the capture for one of them, `command` goes through them all; `render`,
`chart` and `document` show the results as text, as a chart, and as JSON.
"""
