"""Sockets that no one else may use."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flowshunt.base.sockets import private_socket


def test_a_socket_is_private_and_the_mask_stays(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_socket(tmp_path / "here"), private_socket(tmp_path / "here") as again:
            assert stat.S_IMODE((tmp_path / "here").stat().st_mode) == 0o600
            assert again.getsockname() == str(tmp_path / "here")
        with pytest.raises(OSError, match="No such file"):
            private_socket(tmp_path / "nowhere" / "here")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
