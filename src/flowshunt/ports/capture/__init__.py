"""Capture files: reading, merging, telling their sides, writing.

The life of a packet: `compressed` brings the file's bytes, plain or decompressed, into the one buffer of a `window`; a
kernel of `pcap` or `pcapng` goes over the record headers there and fills `PACKET` records that point into the window;
`linktypes` writes an Ethernet header in front of packets that have none. `reader` holds that together and hands out
batches. `merge` interleaves several readers by time, `sides` tells the two directions of a link apart, `writer` writes.
"""

from flowshunt.ports.capture.linktypes import link_type_name
from flowshunt.ports.capture.merge import Merge, merge
from flowshunt.ports.capture.port import CapturePort
from flowshunt.ports.capture.reader import CaptureReader, open_capture
from flowshunt.ports.capture.sides import SideInference, Sides, infer_sides
from flowshunt.ports.capture.writer import PcapngWriter, PcapWriter

__all__ = [
    "CapturePort",
    "CaptureReader",
    "Merge",
    "PcapWriter",
    "PcapngWriter",
    "SideInference",
    "Sides",
    "infer_sides",
    "link_type_name",
    "merge",
    "open_capture",
]
