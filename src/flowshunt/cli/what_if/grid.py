"""The grid: providers, and values that are tried for their options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from flowshunt.base.errors import UsageError

MAX_POINTS = 1000
OPEN = "none"
"""The value of a limit that is left open."""


class Setting(NamedTuple):
    """An option of a provider, which counts in other units when `per` is not 1: connections of two entries each."""

    option: str
    per: int = 1

    def value(self, text: str) -> str:
        """A tried value, in the option's own unit."""
        return str(max(int(text) // self.per, 1)) if self.per > 1 and text.isdecimal() else text


class Knob(NamedTuple):
    """What several providers have under names of their own: its name, its column, and their settings."""

    name: str
    title: str
    settings: Mapping[str, Setting]


KNOBS = (
    Knob("table-size", "table size", {"eswitch": Setting("table_entries"), "flowtable": Setting("limit", 2)}),
    Knob("ageing", "ageing", {"eswitch": Setting("ageing_s"), "flowtable": Setting("timeout")}),
    Knob("insertion-rate", "insertions/s", {"eswitch": Setting("insertion_rate")}),
)


class Axis(NamedTuple):
    """Values, as text, of what providers have as `settings` says; others do not have it."""

    title: str
    values: tuple[str, ...]
    settings: Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider as the user named it: `eswitch:bluefield-2`, its name `eswitch`, and the options that were given."""

    label: str
    name: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """A provider and a value for each axis that it has, by the axis's title."""

    offer: Offer
    values: Mapping[str, str]
    options: tuple[tuple[str, str], ...]
    """All its options."""


def knob(name: str, values: Sequence[str]) -> Axis:
    """The axis of a knob."""
    found = next(entry for entry in KNOBS if entry.name == name)
    return Axis(found.title, tuple(values), found.settings)


def points(offers: Sequence[Offer], axes: Sequence[Axis]) -> list[Point]:
    """All combinations: provider by provider, the last axis changing fastest.

    Raises UsageError for an axis that no provider has, for two axes of one option, and for too many points.
    """
    names = {offer.name for offer in offers}
    for axis in axes:
        if not names & axis.settings.keys():
            has = " and ".join(sorted(axis.settings))
            raise UsageError(f"none of the providers has a setting for {axis.title}", hint=f"{has} has one")
    for offer in offers:
        options = [axis.settings[offer.name].option for axis in _of(offer, axes)]
        twice = next((option for option in options if options.count(option) > 1), None)
        if twice is not None:
            raise UsageError(f"{offer.name}.{twice} is varied twice", hint="give all its values at once")
    counts = [_product(len(axis.values) for axis in _of(offer, axes)) for offer in offers]
    if sum(counts) > MAX_POINTS:
        raise UsageError(f"{sum(counts)} points are too many", hint=f"try at most {MAX_POINTS} at a time")
    return [point for offer in offers for point in _points(offer, _of(offer, axes))]


def _points(offer: Offer, axes: Sequence[Axis]) -> Iterator[Point]:
    for values in product(*(axis.values for axis in axes)):
        settings = [(axis.settings[offer.name], value) for axis, value in zip(axes, values, strict=True)]
        tried = {setting.option: setting.value(value) for setting, value in settings}
        given = tuple((key, value) for key, value in offer.options if key not in tried)
        titles = {axis.title: value for axis, value in zip(axes, values, strict=True)}
        yield Point(offer, titles, (*given, *tried.items()))


def _of(offer: Offer, axes: Sequence[Axis]) -> list[Axis]:
    return [axis for axis in axes if offer.name in axis.settings]


def _product(numbers: Iterable[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result
