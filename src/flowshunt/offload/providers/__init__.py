"""The providers that come with Flowshunt, and finding any provider by name. Imports nothing before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.offload.api import Provider
from flowshunt.offload.errors import RegistrationError
from flowshunt.offload.framework import Offload
from flowshunt.offload.registry import Available, Settings, plugins

_BUILT_IN = {
    "dummy": "flowshunt.offload.providers.dummy:Dummy",
    "dummy-array": "flowshunt.offload.providers.dummy:ArrayDummy",
}
_FOR_TESTS = frozenset(_BUILT_IN)
_log = logger(__name__)


def built_in() -> list[Available]:
    """What can be registered without installing anything; those for tests only when a priority names them."""
    return [
        Available(name, "built in", _maker(place), for_tests=name in _FOR_TESTS) for name, place in _BUILT_IN.items()
    ]


def available() -> list[Available]:
    """Built-in providers, then plug-ins; a plug-in with the name of a built-in one is left out."""
    ours = built_in()
    return ours + [plugin for plugin in plugins() if plugin.name not in _BUILT_IN]


def register_available(offload: Offload, settings: Settings) -> None:
    """Register all that is available and not registered yet; those for tests only when the priority names them.

    One that cannot be made or registered is logged, and left out.
    """
    for entry in available():
        if entry.name in offload.registry or (entry.for_tests and entry.name not in settings.priority):
            continue
        try:
            offload.register(entry.load(), is_plugin=entry.is_plugin)
        except RegistrationError as error:
            _log.warning("offload provider %s is left out: %s", entry.name, error)


def factory_of(name: str) -> Callable[[], Provider]:
    """What makes a provider: of a name in `available`, or of `module:class`. Raises UsageError when there is none."""
    for entry in available():
        if entry.name == name:
            return entry.load
    if ":" in name:
        try:
            return _class(name)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"no offload provider {name!r}: {error}", hint="give module:class") from error
    known = ", ".join(entry.name for entry in available())
    raise UsageError(f"no offload provider {name!r}", hint=f"there are {known}; or give module:class")


def _class(place: str) -> Callable[[], Provider]:
    module, _, name = place.partition(":")
    made: Callable[[], Provider] = getattr(import_module(module), name)
    return made


def _maker(place: str) -> Callable[[], Provider]:
    return lambda: _class(place)()
