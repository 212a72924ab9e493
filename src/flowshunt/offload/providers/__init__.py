"""The providers that come with Flowshunt. Imports nothing of them before they are made."""

from __future__ import annotations

from importlib import import_module

from flowshunt.offload.api import Provider
from flowshunt.offload.registry import Available

_BUILT_IN = {
    "dummy": "flowshunt.offload.providers.dummy:Dummy",
    "dummy-array": "flowshunt.offload.providers.dummy:ArrayDummy",
    "unruly": "flowshunt.offload.providers.unruly:Unruly",
}
_FOR_TESTS = frozenset(_BUILT_IN)


def built_in() -> list[Available]:
    """What can be registered without installing anything; those for tests only when a priority names them."""
    return [
        Available(name, "built in", lambda place=place: make(place), for_tests=name in _FOR_TESTS)  # type: ignore[misc]
        for name, place in _BUILT_IN.items()
    ]


def make(place: str) -> Provider:
    """A provider from `module:class`. Raises ImportError or AttributeError when there is none."""
    module, _, name = place.partition(":")
    provider: Provider = getattr(import_module(module), name)()
    return provider
