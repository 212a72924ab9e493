"""Named NICs: what is publicly known of them, as TOML files beside this module, or as a file of the user's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.offload.eswitch.settings import RANGES, EswitchSettings, check_name, parse_value

_UNKNOWN: dict[str, int | None] = {name: None for name, limits in RANGES.items() if limits.optional}
_MAX_SIZE = 1 << 20


class Profile(NamedTuple):
    """A NIC: its full name, and its settings. What is not known of it limits nothing in the model."""

    name: str
    title: str
    settings: EswitchSettings
    known: tuple[str, ...]
    """The settings that the file gives; the others are the model's own."""


def profile_names() -> tuple[str, ...]:
    """The profiles that come with Flowshunt."""
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name[-5:] == ".toml")
    )


def read_profile(name: str) -> Profile:
    """A profile by its name, or of a file whose path ends in `.toml`.

    Raises UsageError for what is no profile, OSError for a file that cannot be read.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if path.exists() and not path.is_file():  # reading what is none may never end
            raise UsageError(f"{name} is no file")
        if path.stat().st_size > _MAX_SIZE:
            raise UsageError(f"{name} is too large for a profile")
        return _parse(path.stem, path.read_bytes(), name)
    if name not in profile_names():
        raise UsageError(f"eswitch has no profile {name!r}", hint=f"there are {', '.join(profile_names())}, and files")
    return _parse(name, (_folder() / f"{name}.toml").read_bytes(), name)


def settings_from(options: Mapping[str, str]) -> EswitchSettings:
    """Settings by their names, over those of the `profile` if there is one, else the model's defaults.

    Raises UsageError for what there is not and for values out of range, OSError for a file that cannot be read.
    """
    values = dict(options)
    profile = values.pop("profile", None)
    settings = EswitchSettings() if profile is None else read_profile(profile).settings
    return settings.with_values({name: parse_value(name, text) for name, text in values.items()})


def _folder() -> Any:
    return files("flowshunt.offload.eswitch") / "profiles"


def _parse(name: str, content: bytes, source: str) -> Profile:
    try:
        document = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{source} is no TOML file: {error}") from error
    table = document.pop("eswitch", None)
    title = document.pop("title", name)
    if document or not isinstance(table, Mapping) or not isinstance(title, str):
        what = f" besides {', '.join(map(repr, document))}" if document else ""
        raise UsageError(f"{source} is no profile", hint=f"it has a title and a section [eswitch]{what}")
    for key in table:
        check_name(key)
    return Profile(name, title, EswitchSettings().with_values({**_UNKNOWN, **table}), tuple(table))
