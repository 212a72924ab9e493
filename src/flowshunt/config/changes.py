"""What to do about a tracker so that it is set as a new configuration says: a list of actions, made by comparing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flowshunt.base.errors import UsageError
from flowshunt.config.model import Config, FragmentsSection, TrackerSection, ZoneSection

FIXED = ("profile", "checksums", "sequence_checks", "helpers")
"""Settings of the tracker that cannot change while it runs."""


@dataclass(frozen=True, slots=True)
class SetTracker:
    """Give a setting of [tracker] a new value."""

    name: str
    value: bool | int


@dataclass(frozen=True, slots=True)
class SetZoneLimit:
    """Limit a zone's connections; `zone` None: all without a limit of their own; `limit` None: no limit of its own."""

    zone: int | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class SetZoneTimeouts:
    """Give a zone timeouts of its own, in seconds by name; `zone` None: give them to all zones.

    Those left out are those of all zones, or else the profile's. `timeouts` None: it has none of its own any more.
    """

    zone: int | None
    timeouts: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class SetZoneLiberal:
    """Say whether a zone lets TCP segments outside of their window through; None: as the tracker does."""

    zone: int
    liberal: bool | None


@dataclass(frozen=True, slots=True)
class SetFragments:
    """Treat fragments as a section says."""

    section: FragmentsSection


Action = SetTracker | SetZoneLimit | SetZoneTimeouts | SetZoneLiberal | SetFragments


def changes(old: Config, new: Config) -> tuple[Action, ...]:
    """The actions that lead from `old` to `new`, none for what stays. Rules are not compared.

    Raises UsageError for a change of what is fixed.
    """
    for name in FIXED:
        if getattr(old.tracker, name) != getattr(new.tracker, name):
            raise UsageError(f"[tracker] {name} cannot change while the switch runs", hint="restart it")
    zones = sorted(old.zones.keys() | new.zones.keys(), key=lambda zone: -1 if zone is None else zone)
    actions: list[Action] = [*_of_tracker(old.tracker, new.tracker)]
    for zone in zones:
        actions += _of_zone(old, new, zone)
    if old.fragments != new.fragments:
        actions.append(SetFragments(new.fragments))
    return tuple(actions)


def _of_tracker(old: TrackerSection, new: TrackerSection) -> Iterator[Action]:
    for name in TrackerSection.__dataclass_fields__:
        value = getattr(new, name)
        if getattr(old, name) != value:
            yield SetTracker(name, value)


def _of_zone(old: Config, new: Config, zone: int | None) -> Iterator[Action]:
    before, after = old.zones.get(zone, ZoneSection()), new.zones.get(zone, ZoneSection())
    if before.limit != after.limit:
        yield SetZoneLimit(zone, after.limit)
    if timeouts_of(old, before) != timeouts_of(new, after):
        yield SetZoneTimeouts(zone, timeouts_of(new, after))
    if zone is not None and before.liberal != after.liberal:
        yield SetZoneLiberal(zone, after.liberal)


def timeouts_of(config: Config, zone: ZoneSection) -> Mapping[str, int] | None:
    """The timeouts that a zone names."""
    return None if zone.timeout is None else config.timeouts[zone.timeout]
