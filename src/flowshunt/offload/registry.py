"""Which providers there are, and in which order they are asked."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from flowshunt.base.log import logger
from flowshunt.offload.api import MANDATORY, OPTIONAL, Provider
from flowshunt.offload.calls import failures, has
from flowshunt.offload.errors import RegistrationError, errno_name, errno_of

GROUP = "flowshunt.offload_providers"
"""Entry points of installed providers: their name, and a class (or function without arguments) that makes one."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """The knobs, as `other_config` of Open_vSwitch and the configuration file name them."""

    enabled: bool = False
    """`hw-offload`: whether providers are told of connections. May change at run time."""
    priority: tuple[str, ...] = ()
    """`hw-offload-priority`: names, first asked first. Those not listed come after, in the order of registration."""

    @classmethod
    def from_other_config(cls, config: Mapping[str, str]) -> Settings:
        """From a database's strings: `hw-offload=true`, `hw-offload-priority=eswitch,flowtable`. Others are ignored."""
        listed = config.get("hw-offload-priority", "").split(",")
        names = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
        return cls(config.get("hw-offload", "false").strip().lower() == "true", names)


class Registry:
    """Providers by name, in the order in which they are asked. One thread uses it."""

    def __init__(self, priority: tuple[str, ...] = ()) -> None:
        self.priority = priority
        self._providers: dict[str, Provider] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    def __len__(self) -> int:
        return len(self._providers)

    def __iter__(self) -> Iterator[Provider]:
        """Providers in priority order."""
        rank = {name: place for place, name in enumerate(self.priority)}
        return iter(sorted(self._providers.values(), key=lambda provider: rank.get(provider.name, len(rank))))

    def __getitem__(self, name: str) -> Provider:
        """Raises KeyError for a name that is not registered."""
        return self._providers[name]

    def register(self, provider: Provider) -> None:
        """Check a provider, call its init(), and add it.

        Raises RegistrationError, and adds nothing, with EINVAL for what is no provider, EEXIST for a name that is
        taken, and the errno of init() when that raises.
        """
        problem = problem_of(provider)
        if problem:
            raise RegistrationError(errno.EINVAL, problem, hint="see docs/providers.md")
        if provider.name in self._providers:
            _log.warning("an offload provider %s is registered already", provider.name)
            raise RegistrationError(errno.EEXIST, f"an offload provider {provider.name!r} is registered already")
        if has(provider, "init"):
            try:
                provider.init()  # type: ignore[attr-defined]
            except failures() as failure:
                error = errno_of(failure)
                _log.warning("provider %s: init() failed", provider.name, exc_info=failure)
                what = f"offload provider {provider.name!r}: init() failed with {errno_name(error)}: {failure}"
                raise RegistrationError(error, what) from failure
        self._providers[provider.name] = provider

    def unregister(self, name: str) -> Provider | None:
        """Remove a provider and return it; an unknown one is logged, and None."""
        provider = self._providers.pop(name, None)
        if provider is None:
            _log.warning("no offload provider %s is registered", name)
        return provider


def problem_of(provider: object) -> str | None:
    """What keeps an object from being a provider, in words; None: nothing."""
    name = getattr(provider, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"{name!r} is no name of an offload provider: letters, digits, _ - and ., at most 64"
    missing = [callback for callback in MANDATORY if not callable(getattr(provider, callback, None))]
    if missing:
        return f"offload provider {name!r} has no {', '.join(missing)}"
    wrong = [callback for callback in OPTIONAL if has(provider, callback) and not callable(getattr(provider, callback))]
    if wrong:
        return f"offload provider {name!r}: {', '.join(wrong)} cannot be called"
    limit = getattr(provider, "queue_limit", None)
    if limit is not None and (type(limit) is not int or limit < 0):
        return f"offload provider {name!r}: queue_limit is {limit!r}; it must be a number of operations, or None"
    return None


# --- what is installed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Available:
    """A provider that could be registered."""

    name: str
    source: str
    """`built in`, or the distribution that brings it."""
    load: Callable[[], Provider]
    """Makes one. Raises RegistrationError when it cannot be made."""
    is_plugin: bool = False
    for_tests: bool = False
    when_named: bool = False
    """Only used when `hw-offload-priority` names it."""


def plugins() -> list[Available]:
    """Installed third-party providers by name; of two with one name, the first found."""
    found: dict[str, Available] = {}
    for point in entry_points(group=GROUP):
        distribution = point.dist.name if point.dist is not None else "unknown"
        available = Available(point.name, distribution, lambda point=point: _load(point), is_plugin=True)  # type: ignore[misc]
        if found.setdefault(point.name, available) is not available:
            _log.warning("two plug-ins bring an offload provider %s; that of %s is left out", point.name, distribution)
    return [found[name] for name in sorted(found)]


def _load(point: EntryPoint) -> Provider:
    try:
        provider: Provider = point.load()()
    except failures() as failure:
        what = f"offload provider {point.name!r} ({point.value}) cannot be made: {type(failure).__name__}: {failure}"
        raise RegistrationError(errno_of(failure), what) from failure
    return provider
