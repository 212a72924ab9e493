"""What can be set of the provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.offload.providers.kernel.links import is_bpf_folder
from flowshunt.offload.providers.values import check_names, number_of, truth_of

NAME = "kernel"
TIMEOUT_MS = 30_000
LIMIT = 131_072
"""Connections; the kernel takes the memory for all of them at once, some 400 bytes each."""
MAX_LIMIT = 4_000_000
PINS = "/sys/fs/bpf/flowshunt"
MODES = ("tc", "xdp")
MODE = "kernel-mode"
"""Option of a port that is to work otherwise than the others."""
_NAMES = ("timeout", "limit", "mode", "peer", "hitless", "pins")


class Options(NamedTuple):
    """`timeout_ms`: a connection silent for so long is handed back. `limit`: connections. `mode`: of ports that do not
    say it. `may_skip`: packets may go straight to the other ends of veth pairs. `is_hitless`: programs outlive the
    process, by pins in the folder `pins`.
    """

    timeout_ms: int = TIMEOUT_MS
    limit: int = LIMIT
    mode: str = MODES[0]
    may_skip: bool = True
    is_hitless: bool = False
    pins: str = PINS

    @property
    def folder(self) -> str | None:
        """Where what the next process needs is pinned."""
        return self.pins if self.is_hitless else None


def options_from(said: Mapping[str, str]) -> Options:
    """What is said by `timeout` (seconds), `limit`, `mode`, `peer`, `hitless` and `pins`; the rest is at its default.

    Makes the folder of pins if they are wanted. Raises UsageError.
    """
    check_names(NAME, said, _NAMES)
    limit = number_of(NAME, said, "limit", LIMIT)
    if limit > MAX_LIMIT:
        raise UsageError(f"kernel: limit is {limit}", hint=f"at most {MAX_LIMIT}")
    options = Options(
        timeout_ms=1000 * number_of(NAME, said, "timeout", TIMEOUT_MS // 1000),
        limit=limit,
        mode=check_mode(said.get("mode", MODES[0])),
        may_skip=truth_of(NAME, said, "peer", "true"),
        is_hitless=truth_of(NAME, said, "hitless"),
        pins=said.get("pins", PINS),
    )
    if options.is_hitless:
        _check_pins(options.pins)
    return options


def check_mode(mode: str) -> str:
    """One of MODES. Raises UsageError for others."""
    if mode in MODES:
        return mode
    hint = "use tc, or xdp for frames of devices whose drivers have it"
    if mode.startswith("xdp-"):
        hint = (
            "use xdp, which works in the driver: a card would need maps of its own, and behind the driver tc is as good"
        )
    raise UsageError(f"kernel: mode is {mode!r}", hint=hint)


def _check_pins(folder: str) -> None:
    """Make a folder for pins. Raises UsageError where there can be none."""
    if not is_bpf_folder(folder):
        hint = f"mount -t bpf bpf {folder}, before the switch gives up its privileges; kernel-pins names another one"
        raise UsageError(f"kernel: {folder} is not in a BPF file system", hint=hint)
    os.makedirs(folder, mode=0o700, exist_ok=True)
