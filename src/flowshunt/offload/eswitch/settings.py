"""What can be set of the modelled NIC, and reading it from text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from flowshunt.base.errors import UsageError

NO_LIMIT = "none"
"""How text says that a limit is not there."""


class Range(NamedTuple):
    """The least and the largest value, both allowed, and whether the value may be left open."""

    least: int
    most: int
    optional: bool = False


def _setting(default: int | None, least: int, most: int, *, optional: bool = False) -> Any:
    return field(default=default, metadata={"range": Range(least, most, optional)})


@dataclass(frozen=True, slots=True)
class EswitchSettings:
    """Limits and pace of a NIC's switch. All may change while it runs; see `model.Model.configure` for when they do."""

    table_entries: int = _setting(4_000_000, 2, 1 << 28)
    """Entries of the flow table, of which a connection takes one per direction. Changes when the table is empty."""
    num_of_groups: int = _setting(4, 1, 1024)
    """Big flow groups; each holds entries of one traffic pattern, table_entries/(num_of_groups+1) of them. Changes when
    the table is empty."""
    ct_max_offloaded_conns: int | None = _setting(1_000_000, 0, (1 << 32) - 1, optional=True)
    """Connections at a time; left open: as many as the groups hold. Those above a lowered maximum stay."""
    ageing_s: int = _setting(30, 1, 1 << 20)
    """Seconds without a packet in either direction after which a connection is handed back."""
    insertion_rate: int | None = _setting(None, 1, 1 << 30, optional=True)
    """Connections that get into the table per second; left open: any number at once."""
    insertion_queue: int = _setting(65_536, 0, 1 << 22)
    """Connections that may wait for that; those that come when it is full are refused."""
    insertion_latency_ms: int = _setting(0, 0, 1 << 20)
    """Milliseconds from a connection's turn until packets hit its entries."""
    statistics_delay_ms: int = _setting(0, 0, 1 << 20)
    """Milliseconds for which counters stay as they were once told. The time of the last packet is told exactly."""

    def __post_init__(self) -> None:
        for name, limits in RANGES.items():
            value = getattr(self, name)
            if value is None and limits.optional:
                continue
            if type(value) is not int or not limits.least <= value <= limits.most:
                open_too = f", or {NO_LIMIT}" if limits.optional else ""
                hint = f"use a number from {limits.least} to {limits.most}{open_too}"
                raise UsageError(f"eswitch: {name} is {value!r}", hint=hint)
        if self.table_entries <= self.num_of_groups:
            what = f"eswitch: {self.table_entries} table_entries make {self.num_of_groups} groups without an entry"
            raise UsageError(what, hint="each group has table_entries/(num_of_groups+1)")

    @property
    def group_size(self) -> int:
        """Entries of one group."""
        return self.table_entries // (self.num_of_groups + 1)

    def with_values(self, values: Mapping[str, int | None]) -> EswitchSettings:
        """These settings with some replaced. Raises UsageError for unknown names and values out of range."""
        for name in values:
            check_name(name)
        changes: dict[str, Any] = dict(values)
        return replace(self, **changes)


RANGES: dict[str, Range] = {entry.name: entry.metadata["range"] for entry in fields(EswitchSettings)}
"""The settings by name, in order, with what they may be."""


def check_name(name: str) -> None:
    """Raise UsageError unless there is such a setting."""
    if name not in RANGES:
        near = get_close_matches(name, RANGES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RANGES)}"
        raise UsageError(f"eswitch has no setting {name!r}", hint=hint)


def parse_value(name: str, text: str) -> int | None:
    """The value of a setting: digits, `_` between them allowed, with k (thousand) or M (million); `none`: left open.

    Raises UsageError. Whether the value is in range is checked when it is set.
    """
    check_name(name)
    word = text.strip()
    if word == NO_LIMIT:
        return None
    scale = {"k": 1_000, "M": 1_000_000}.get(word[-1:], 1)
    digits = word[:-1] if scale > 1 else word
    if not digits.replace("_", "").isdecimal() or not digits.isascii() or len(digits) > 20:
        raise UsageError(f"eswitch: {name} is {text!r}", hint="use a number such as 800000, 800k or 4M")
    return int(digits.replace("_", "")) * scale
