"""Turns an offload of a device off, as `ethtool -K` does: offloads.py DEVICE tx|sg|tso|gso|gro."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys

_SIOCETHTOOL = 0x8946
_SETTERS = {"tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}


def main(device: str, feature: str) -> None:
    """Set it to 0."""
    value = array.array("B", struct.pack("@II", _SETTERS[feature], 0))
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control.fileno(), _SIOCETHTOOL, struct.pack("@16sP16x", device.encode(), address))


if __name__ == "__main__":
    main(*sys.argv[1:])
