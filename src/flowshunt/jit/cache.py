"""Where compiled kernels are kept, and when they are stale.

One file per entry point and type of processor, named after all that it depends on: the fingerprint of the call tree,
the signature and the compiler's target. A file with the right name is never stale, so nothing has to be compared, and
a newer one takes the place of the older.

The files hold pickles and machine code. They are taken only from directories that nobody but their owner can write, the
owner being this user or root; a digest in front of each tells damage from content.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba.core import serialize
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys

from flowshunt.base.log import logger
from flowshunt.jit.fingerprint import fingerprint

_log = logger(__name__)

_DIGEST_SIZE = 32
# Places in what CompileResult._reduce() returns.
_LIBRARY, _DESCRIPTOR, _TYPE_ANNOTATION, _ENVIRONMENTS = 0, 1, 6, 8
_OTHERS_MAY_WRITE = 0o022


def cache_directories() -> list[Path]:
    """Where compiled kernels may be found, best first; those that cannot be trusted are left out.

    `$FLOWSHUNT_CACHE_DIR` alone when it is set; else the package's own directory and the user's cache directory. The
    latter has a folder for each installation.
    """
    chosen = os.environ.get("FLOWSHUNT_CACHE_DIR")
    if chosen:
        places = [Path(chosen)]
    else:
        package = Path(__file__).resolve().parent.parent
        installation = hashlib.blake2b(str(package).encode(), digest_size=6).hexdigest()
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places = [package / "__pycache__" / "kernels", user / "flowshunt" / "kernels" / installation]
    return [place for place in places if _is_trusted(place)]


def cache_directory() -> Path | None:
    """The first of `cache_directories` that can be written.

    None, with a warning in the log, when none of them can: kernels then compile at every start.
    """
    for candidate in cache_directories():
        if _is_writable(candidate):
            return candidate
    _log.warning("no directory to keep compiled kernels in: they compile at every start (set FLOWSHUNT_CACHE_DIR)")
    return None


def _is_trusted(directory: Path) -> bool:
    """Whether the directory is there, or could be made, and only its owner, this user or root, can write to it."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        status = directory.stat()
    except OSError:
        return False
    if status.st_uid in (0, os.geteuid()) and not status.st_mode & _OTHERS_MAY_WRITE:
        return True
    _log.warning("compile cache %s is left alone: others can write to it (owner %d)", directory, status.st_uid)
    return False


def _is_writable(directory: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


@functools.cache
def _places() -> tuple[list[Path], Path | None]:
    """Directories to read and the one to write, settled once per process."""
    return cache_directories(), cache_directory()


class KernelCache(_Cache):  # type: ignore[misc]
    """The cache of one entry point, in the form that Numba's dispatcher asks for.

    `variant` tells apart kernels that are compiled differently from the same source.
    """

    def __init__(self, py_func: Callable[..., Any], variant: str) -> None:
        name = re.sub(r"[^\w.]", "", f"{py_func.__module__}.{py_func.__qualname__}")
        self._base = f"{name}.{sys.implementation.cache_tag}{variant and '-'}{variant}"
        self._fingerprint = fingerprint(py_func)
        self._enabled = True

    @property
    def cache_path(self) -> str | None:
        """The directory that is written to, for Numba's statistics."""
        place = _places()[1]
        return str(place) if place else None

    def enable(self) -> None:
        """Load and save from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Neither load nor save from now on."""
        self._enabled = False

    def flush(self) -> None:
        """Remove what was saved for this entry point, in every version."""
        place = _places()[1]
        if place:
            _remove(place.glob(f"{glob.escape(self._base)}.*"))

    def holds(self, signature: Any, target_context: Any) -> bool:
        """Whether an undamaged result for the signature is there."""
        return self._read(self._file_name(signature, target_context.codegen())) is not None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compile result for a signature; None when there is none or its file is damaged."""
        payload = self._read(self._file_name(sig, target_context.codegen())) if self._enabled else None
        if payload is None:
            return None
        # Machine code needs the runtime's symbols, but not what Numba knows about compiling (refresh(), 0.2 s).
        rtsys.initialize(target_context)
        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compile result and remove those it replaces. A full disk costs a warning, nothing else."""
        place = _places()[1]
        if place is None or not self._enabled:
            return
        if data.library.has_dynamic_globals or data.lifted:
            _log.warning("%s cannot be cached: it refers to memory of this process", self._base)
            return
        target = place / self._file_name(sig, data.codegen)
        try:
            _write(target, serialize.dumps(_needed(data._reduce())))
        except OSError as error:
            _log.warning("compiled kernel not kept: %s", error)
            return
        versions = place.glob(f"{glob.escape(self._processor_base(data.codegen))}.*")
        _remove(version for version in versions if version != target)

    def _processor_base(self, codegen: Any) -> str:
        processor = hashlib.blake2b(repr(codegen.magic_tuple()).encode(), digest_size=4).hexdigest()
        return f"{self._base}.{processor}"

    def _file_name(self, signature: Any, codegen: Any) -> str:
        content = hashlib.blake2b(f"{self._fingerprint}{signature!r}".encode(), digest_size=16).hexdigest()
        return f"{self._processor_base(codegen)}.{content}.kernel"

    def _read(self, name: str) -> bytes | None:
        """The payload of the first undamaged file of that name."""
        for directory in _places()[0]:
            try:
                content = (directory / name).read_bytes()
            except OSError:  # not there, or not ours to read: the same to us
                continue
            digest, payload = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
            if _digest(payload) == digest:
                return payload
            _log.warning("damaged compiled kernel %s: compiling it again", directory / name)
        return None


def _needed(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of a reduced compile result what running it takes: machine code, a fifth of it all.

    Left out are the listing of the source; the bitcode, which serves to link the function into others, as nobody does
    with an entry point (the wrapper's name stays: loading asks whether the bitcode defines it); and the environments of
    inlined functions in which there is no constant to look up.
    """
    parts = list(reduced)
    name, kind, (machine_code, _) = parts[_LIBRARY]
    wrapper = f'define void @"{parts[_DESCRIPTOR].llvm_cpython_wrapper_name}"() {{ ret void }}'
    parts[_LIBRARY] = name, kind, (machine_code, llvm.parse_assembly(wrapper).as_bitcode())
    parts[_TYPE_ANNOTATION] = ""
    parts[_ENVIRONMENTS] = tuple(environment for environment in parts[_ENVIRONMENTS] if environment.consts)
    return tuple(parts)


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_SIZE).digest()


def _write(target: Path, payload: bytes) -> None:
    """Write in one step: another process sees the whole file or none."""
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(_digest(payload) + payload)
        os.replace(temporary, target)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _remove(paths: Iterator[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
