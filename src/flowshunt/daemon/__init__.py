"""The switch as a program that runs: ports that are devices, a thread for packets, sockets for control.

A `Node` is one datapath, what Open vSwitch calls `netdev@ovs-netdev`: bridges, ports and one connection tracker that
all of them share. Two threads: the *worker* owns everything that packets touch, and sleeps while none come; the other
runs asyncio and everything that talks to the outside. What control wants of the datapath it sends over as a *command*,
which runs between two batches.

    device ─> LivePort.receive ─> Bridge.receive ─> Switch.process ─> LivePort.send ─> device
                                        ▲                                   │ patch port
                                        └─────────── a fresh batch ◄────────┘

May import: everything but `flowshunt.cli`. Hands out: `Node`, `Bridge`, `PortInfo`.
"""

from flowshunt.daemon.bridge import Bridge, PortInfo
from flowshunt.daemon.node import Node

__all__ = ["Bridge", "Node", "PortInfo"]
