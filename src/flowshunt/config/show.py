"""The settings there are, as a TOML file whose comments describe them."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_args, get_origin

from flowshunt.config import model
from flowshunt.config.read import settings_of

_WIDTH = 100


def text() -> str:
    """A commented TOML file with every setting at its default; what has none is commented out."""
    parts = [
        _section("tracker", model.TrackerSection),
        _section("zone.default", model.ZoneSection, "# [zone.N] with N from 0 to 65535 says the same of one zone."),
        _timeouts(),
        _section("fragments", model.FragmentsSection),
        _section("switch", model.SwitchSection),
        _section("replay", model.ReplaySection),
        _section("offload", model.OffloadSection),
        _section("run", model.RunSection),
        _unnamed("bridge.NAME", model.BridgeSection),
        _unnamed("bridge.NAME.port.DEVICE", model.PortSection),
    ]
    return "\n\n".join(parts) + "\n"


def descriptions(kind: type[Any]) -> dict[str, str]:
    """The text under each field of a section's class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, following in zip(body.body, body.body[1:], strict=False):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


def _section(name: str, kind: type[Any], note: str | None = None) -> str:
    described, types = descriptions(kind), settings_of(kind)
    lines = [f"# {kind.__doc__}", *([note] if note else []), f"[{name}]"]
    for field in fields(kind):
        lines += _comment(described[field.name] + _limits(types[field.name]))
        lines.append(f"# {field.name} =" if field.default is None else f"{field.name} = {_value(field.default)}")
    return "\n".join(lines)


def _unnamed(name: str, kind: type[Any]) -> str:
    """A section that there is any number of, and none at first."""
    first, *rest = _section(name, kind).splitlines()
    return "\n".join([first, *(line if line.startswith("#") else f"# {line}" for line in rest)])


def _timeouts() -> str:
    lines = ["# Timeouts in seconds, for zones to name; what is left out is as zone.default or the profile has it."]
    return "\n".join([*lines, "# [timeout.NAME]", *(f"# {name} =" for name in model.TIMEOUT_NAMES)])


def _limits(wanted: Any) -> str:
    parts = [wanted, *get_args(wanted)]
    annotated = next((part for part in parts if get_origin(part) is Annotated), None)
    for limit in get_args(annotated)[1:] if annotated is not None else ():
        if isinstance(limit, model.Range):
            return f" From {limit.least} to {limit.most}."
    return ""


def _comment(words: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(words, _WIDTH))


def _value(default: Any) -> str:
    assert default is not MISSING
    return json.dumps(default)
