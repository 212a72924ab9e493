"""Why connections are offloaded or not: what happened to each on its way to a provider, as text and as JSON.

    stories    listens to a switch and keeps the steps of some connections (of a replay)
    history    keeps the latest steps of all connections, at next to no cost, and tells the stories of some (live)
    paths      a path in words
    describe   a story in words
    document   a story as JSON

May import what `control` may.
"""
