"""Where compiled kernels are kept, and when they are stale.

The driver is Numba's; ours are the place (the package's own directory, else the user's) and the stamp (the
fingerprint of the whole call tree instead of one file's date).
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import CacheImpl, CompileResultCacheImpl, FunctionCache

from flowshunt.jit.fingerprint import fingerprint


def cache_directory() -> Path | None:
    """The first writable of `$FLOWSHUNT_CACHE_DIR`, the package's own directory, the user's cache directory.

    None when none of them can be written: kernels then compile at every start.
    """
    chosen = os.environ.get("FLOWSHUNT_CACHE_DIR")
    own = Path(__file__).resolve().parent.parent / "__pycache__" / "kernels"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowshunt" / "kernels"
    for candidate in [Path(chosen)] if chosen else [own, user]:
        if _is_writable(candidate):
            return candidate
    return None


def _is_writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


class _Locator:
    """Numba's locator protocol: path, stamp and a suffix that tells variants apart."""

    directory: Path | None = None
    variant = ""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_func = py_func
        self._py_file = py_file

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        return str(self.directory)

    def get_source_stamp(self) -> str:
        return fingerprint(self._py_func)

    def get_disambiguator(self) -> str:
        return self.variant


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return str(CacheImpl.get_filename_base(self, f"{self._locator._py_func.__module__}.{fullname}", abiflags))


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's function cache with our place and stamp; a damaged file counts as a miss."""

    _impl_class = _Impl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except (OSError, EOFError, ValueError, TypeError, AttributeError, pickle.UnpicklingError):
            self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def open_cache(py_func: Callable[..., Any], variant: str) -> KernelCache | None:
    """The cache of one entry point, or None when no directory can be written."""
    _Locator.directory = _Locator.directory or cache_directory()
    _Locator.variant = variant
    return KernelCache(py_func) if _Locator.directory else None
