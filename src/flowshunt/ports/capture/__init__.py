"""Capture files: reading, merging, telling their sides, writing.

The life of a packet: `compressed` brings the file's bytes, plain or decompressed, into the one buffer of a `window`; a
kernel of `pcap` or `pcapng` goes over the record headers there and fills `PACKET` records that point into the window;
`linktypes` writes an Ethernet header in front of packets that have none. `reader` holds that together and hands out
batches. `merge` interleaves several readers by time, `sides` tells the two directions of a link apart, `writer` writes.
"""
