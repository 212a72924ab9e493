"""The framework's compiled code: what is done for each connection of a batch, in a few calls whatever its size.

What is rare (a withdrawal, a refusal) comes out as a verdict or a list, and is Python's.

- `book`: places of waiting paths, and who is on the way.
- `telling`: the tracker's events become operations, and the answers to those become states of an attachment.
- `pairing`: paths that packets have shown, noted in the book, and what becomes of connections of which both are known.
- `offering`: flows for forwarders, and who holds what.
- `schema`: the records that these work on.
"""
