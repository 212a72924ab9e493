"""Where packets come from and where they go: memory, captures, and live devices.

A *port* hands out batches (`flowshunt.packet.schema.Batch`: one byte buffer, one `PACKET` record per packet) and takes
frames to transmit. All ports look the same (`api.Port`), so that the datapath, the replay and the tests don't know
which kind they have:

- `memory.MemoryPort`: bytes in, bytes out, for tests and the Python API.
- `af_packet`, `af_xdp`, `tap`, `patch`, `dummy`: the ports of a running switch, see `live` for what these take and
  give. `finishing` cuts GSO packets and completes checksums for those that take plain frames only; `recorder` keeps
  captures.
- `capture`: pcap and pcapng files, also compressed, read in bounded memory; merged by time; written.

A batch lives in the port's own buffer, filled in place by kernels; nothing is copied per packet. It is valid until the
port is asked for the next one.

May import: `flowshunt.packet`, `flowshunt.jit`, `flowshunt.base`. Hands out: `Port`, `PortError`, `CaptureError`,
`MemoryPort`, and the names of `flowshunt.ports.capture`.
"""

from flowshunt.ports.api import CaptureError, Port, PortError
from flowshunt.ports.memory import MemoryPort, Transmitted

__all__ = ["CaptureError", "MemoryPort", "Port", "PortError", "Transmitted"]
