"""Has eth0 drop frames for a station before the kernel makes packets of them, as what counts frames: `sink MAC`.

It says `there` when it does, and does so until it is ended. Other frames pass.
"""

from __future__ import annotations

import signal
import struct
import sys

from flowshunt.base.bpf import XDP, XDP_NATIVE, instruction, link_xdp, load_program
from flowshunt.ports.devices import look_up

_DROP, _PASS = 1, 2


def main(mac: str) -> None:
    """Drop them."""
    words = struct.unpack("=3H", bytes.fromhex(mac.replace(":", "")))
    compare = [
        part
        for n, word in enumerate(words)
        for part in (instruction(0x69, 4, 2, 2 * n), instruction(0x55, 4, offset=2 * (2 - n) + 1, value=word))
    ]
    code = [
        instruction(0xB7, 0, value=_PASS),
        instruction(0x61, 2, 1, 0),  # r2 = data, r3 = its end
        instruction(0x61, 3, 1, 4),
        instruction(0xBF, 4, 2),
        instruction(0x07, 4, value=14),
        instruction(0x2D, 4, 3, len(compare) + 1),  # too short
        *compare,
        instruction(0xB7, 0, value=_DROP),
        instruction(0x95),
    ]
    program = load_program(b"".join(code), "Apache-2.0", "sink", XDP)
    link = link_xdp(program, look_up("eth0").ifindex, XDP_NATIVE)
    print("there", flush=True)
    while link >= 0:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
