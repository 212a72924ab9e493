"""`flowshunt warmup`: compile everything ahead."""

from __future__ import annotations

import importlib
import pkgutil

import flowshunt
from flowshunt.cli import kernels
from flowshunt.jit import JIT


def execute() -> None:
    """Compile what is missing and say what there is, and where."""
    _import_everything()
    warmth = kernels.ready()
    if not JIT:
        print("The JIT is off (NUMBA_DISABLE_JIT): there is nothing to compile.")
        return
    for name in warmth.compiled:
        print(f"compiled  {name}")
    n_there = warmth.total - len(warmth.compiled)
    print(f"{len(warmth.compiled)} kernels compiled, {n_there} were there already.")
    if warmth.directory is None:
        print("They could not be kept: no cache directory can be written to. Set FLOWSHUNT_CACHE_DIR to one that can.")
    else:
        print(f"They are kept in {warmth.directory}")


def _import_everything() -> None:
    """A kernel is known once its module is imported; no list of those with kernels would stay complete."""
    for module in pkgutil.walk_packages(flowshunt.__path__, "flowshunt."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
