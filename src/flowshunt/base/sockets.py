"""Sockets that no one else may use."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def private_socket(path: Path) -> socket.socket:
    """A unix stream socket bound to `path` with mode 0600, in place of one that was left over there. Raises OSError."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        # The mask is that of all threads and tasks: it is back before any of them has its turn.
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError:
        bound.close()
        raise
    return bound
