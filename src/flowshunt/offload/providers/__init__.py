"""The providers that come with Flowshunt, and finding any provider by name. Imports nothing before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.offload.api import Provider
from flowshunt.offload.calls import failures
from flowshunt.offload.framework import Offload
from flowshunt.offload.registry import Available, Settings, plugins
from flowshunt.offload.sharing import Shares

_BUILT_IN = {
    "flowtable": "flowshunt.offload.providers.flowtable:Flowtable",
    "eswitch": "flowshunt.offload.eswitch.provider:Eswitch",
    "kernel": "flowshunt.offload.providers.kernel.provider:Kernel",
    "dummy": "flowshunt.offload.providers.dummy:Dummy",
    "dummy-array": "flowshunt.offload.providers.dummy:ArrayDummy",
}
_FOR_TESTS = frozenset({"dummy", "dummy-array"})
_WHEN_NAMED = _FOR_TESTS | {"eswitch", "kernel"}
_SHARING = frozenset({"flowtable", "eswitch"})
"""Made with the datapath's table of entries, if there is one."""
_log = logger(__name__)


def built_in() -> list[Available]:
    """What can be registered without installing anything."""
    return [
        Available(name, "built in", _maker(name), for_tests=name in _FOR_TESTS, when_named=name in _WHEN_NAMED)
        for name in _BUILT_IN
    ]


def available() -> list[Available]:
    """Built-in providers, then plug-ins; a plug-in with the name of a built-in one is left out."""
    ours = built_in()
    return ours + [plugin for plugin in plugins() if plugin.name not in _BUILT_IN]


def register_available(offload: Offload, settings: Settings, shares: Shares | None = None) -> None:
    """Register all that is available and not registered yet; some only when the priority names them.

    `shares`: the datapath's table of entries, for those that forward through it. One that cannot be made or registered
    is logged, and left out.
    """
    for entry in available():
        if entry.name in offload.registry or (entry.when_named and entry.name not in settings.priority):
            continue
        try:
            provider = entry.load() if entry.name not in _SHARING else _class(_BUILT_IN[entry.name])(shares)
            offload.register(provider, is_plugin=entry.is_plugin)
        except UsageError as error:
            _log.warning("offload provider %s is left out: %s", entry.name, error)
            if shares is not None and entry.name not in offload.registry:
                shares.release(entry.name)


def make(name: str, options: Mapping[str, str], shares: Shares | None = None) -> Provider:
    """A provider by its name in `available`, or as `module:class`, with options as text.

    Built-in ones say theirs in `from_options`; any other gets them by its `set_options`, as from a configuration.
    Raises UsageError for a provider that there is not, and for options that it does not have; OSError for a file that
    an option names.
    """
    if name in _SHARING:
        module, _, class_name = _BUILT_IN[name].partition(":")
        provider: Provider = getattr(import_module(module), class_name).from_options(shares, options)
        return provider
    provider = _made(name, factory_of(name))
    if options:
        take = getattr(provider, "set_options", None)
        if take is None:
            raise UsageError(f"the offload provider {name!r} has no options", hint=f"give just {name}")
        take(dict(options))
    return provider


def _made(name: str, factory: Callable[[], Provider]) -> Provider:
    try:
        return factory()
    except UsageError:
        raise
    except failures() as failure:
        what = f"offload provider {name!r} cannot be made: {type(failure).__name__}: {failure}"
        raise UsageError(what, hint="it is made without arguments") from failure


def factory_of(name: str) -> Callable[[], Provider]:
    """What makes a provider: of a name in `available`, or of `module:class`. Raises UsageError when there is none.

    Without a datapath, one that forwards through its table of entries gets a table that no packet passes, and one that
    forwards between devices has one by the number of every port.
    """
    if name in _SHARING:
        return lambda: _class(_BUILT_IN[name])(_class("flowshunt.offload.conformance.entries:Entries")())
    if name == "kernel":
        return lambda: _class(_BUILT_IN[name])(_class("flowshunt.offload.providers.kernel.ports:EveryPort")())
    for entry in available():
        if entry.name == name:
            return entry.load
    known = ", ".join(entry.name for entry in available())
    hint = f"there are {known}; or give module:class"
    if ":" in name:
        try:
            return _class(name)
        except failures() as failure:  # a module runs when it is imported, and may raise anything
            raise UsageError(f"no offload provider {name!r}: {failure}", hint=hint) from failure
    raise UsageError(f"no offload provider {name!r}", hint=hint)


def _class(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    made: Callable[..., Any] = getattr(import_module(module), name)
    return made


def _maker(name: str) -> Callable[[], Provider]:
    return lambda: _class(_BUILT_IN[name])()
