"""Talking to a switch that runs, over its unixctl socket."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from flowshunt.base.errors import UsageError
from flowshunt.base.sockets import default_rundir, short_name
from flowshunt.control.jsonrpc import Decoder, JsonRpcError, Reply, Request, encode

MAX_ANSWER = 1 << 32
_SOCKET = re.compile(r"(?:flowshunt|ovs-vswitchd)\.([0-9]+)\.ctl")
_TIMEOUT_S = 60.0
_READ_SIZE = 1 << 20


def find_socket(place: str | None) -> Path:
    """The socket of the one switch that runs. `place`: a socket, or the directory where it is. Raises UsageError."""
    if place is not None and not Path(place).is_dir():
        return Path(place)
    ovs = Path(os.environ.get("OVS_RUNDIR") or "/var/run/openvswitch")
    directories = [Path(place)] if place is not None else [default_rundir(), ovs]
    found = [path for directory in directories for path in sorted(directory.glob("*.ctl")) if _is_alive(path)]
    if not found:
        where = " or ".join(str(directory) for directory in directories)
        raise UsageError(f"no switch runs in {where}", hint="flowshunt run, or --socket")
    if len(found) > 1:
        raise UsageError(f"several switches run: {', '.join(map(str, found))}", hint="choose by --socket")
    return found[0]


def _is_alive(path: Path) -> bool:
    name = _SOCKET.fullmatch(path.name)
    return name is not None and Path(f"/proc/{name.group(1)}").exists()


def ask(path: Path, name: str, *arguments: str) -> str:
    """What a command answers. Raises UsageError with its error, or when the switch does not answer."""
    decoder = Decoder(MAX_ANSWER)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(_TIMEOUT_S)
            with short_name(path) as address:
                link.connect(address)
            link.sendall(encode(Request(name, list(arguments), 1)))
            while data := link.recv(_READ_SIZE):
                for message in decoder.feed(data):
                    if isinstance(message, Reply):
                        return _result(message)
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror or problem}") from None
    except JsonRpcError as problem:
        raise UsageError(f"{path}: {problem}") from None
    raise UsageError(f"{path}: the switch has ended")


def _result(reply: Reply) -> str:
    if reply.error is not None:
        raise UsageError(str(reply.error).strip())
    return str(reply.result)
