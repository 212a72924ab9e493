"""Explains the way of a packet as Open vSwitch's `ofproto/trace` prints it.

    keys      flow keys as fields, and back
    compose   a frame for a flow that somebody described
    request   what was asked: a flow, a packet, what the tracker is to say
    actions   what a datapath without tables would have to do: `Datapath actions:`
    story     a recording (`datapath.tracing`) told in the words of the rules that it met
    text      a story as text
    document  a story as JSON

May import what `rules.openflow` may.
"""
