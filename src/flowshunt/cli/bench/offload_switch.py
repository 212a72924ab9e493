"""Turns generic receive offload of a device on or off, as `ethtool -K` does: `offload_switch DEVICE on|off`."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys

_SIOCETHTOOL, _SET_GRO = 0x8946, 0x2C


def main(device: str, state: str) -> None:
    """Set it."""
    value = array.array("B", struct.pack("@II", _SET_GRO, state == "on"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("@16sP16x", device.encode(), value.buffer_info()[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
