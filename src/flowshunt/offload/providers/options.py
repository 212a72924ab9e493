"""Options of providers in a configuration: `NAME-OPTION=VALUE` beside `hw-offload` and its relatives."""

from __future__ import annotations

from collections.abc import Mapping

from flowshunt.base.errors import UsageError
from flowshunt.base.log import logger
from flowshunt.offload.calls import failures
from flowshunt.offload.framework import Offload

_log = logger(__name__)


def options_of(name: str, config: Mapping[str, str]) -> dict[str, str]:
    """A provider's options in a configuration: `eswitch-num-of-groups` is `num_of_groups` of `eswitch`."""
    prefix = f"{name}-"
    mine = ((key.removeprefix(prefix), value) for key, value in config.items() if key.startswith(prefix))
    return {key.replace("-", "_"): value for key, value in mine}


def set_options(offload: Offload, config: Mapping[str, str]) -> None:
    """Hand their options to registered providers that have a `set_options`, all that there are each time.

    One that does not like them says so by UsageError or OSError, and stays as it was; that is logged, as is whatever
    else it raises.
    """
    for provider in offload.registry:
        take = getattr(provider, "set_options", None)
        if take is None:
            continue
        try:
            take(options_of(provider.name, config))
        except (UsageError, OSError) as error:
            _log.warning("options of offload provider %s: %s", provider.name, error)
        except failures() as failure:
            _log.warning("provider %s: set_options() failed", provider.name, exc_info=failure)
