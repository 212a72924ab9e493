"""What the kernels are held against: a naive tracker, the references beside the captures, and conversations.

`frames`, `pf_tcp`, `nf_tcp` and `naive` take nothing from the package under test. `compare` reads the references,
`tables` brings both trackers' connections into their form, `conversations` makes packets without end.
"""
