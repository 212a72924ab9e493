"""`flowshunt explain`: why connections of a capture are offloaded, or are not: the story of each.

`stories` listens while the capture is replayed, `describe` puts what happened into words, `document` into JSON;
`command` is all of it from options to exit status.
"""
