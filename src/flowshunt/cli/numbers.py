"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_NS = 1_000_000_000


def count(value: int) -> str:
    """Digits in groups of three."""
    return f"{value:,}"


def size(n_bytes: int) -> str:
    """Bytes in the largest decimal unit that leaves a digit before the point."""
    value = float(n_bytes)
    unit = 0
    while value >= 999.95 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{n_bytes} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def duration(ns: int) -> str:
    """A time span by its two largest units."""
    if ns < 1_000:
        return f"{ns} ns"
    if ns < 1_000_000:
        return f"{ns / 1_000:.1f} µs"
    if ns < _NS:
        return f"{ns / 1_000_000:.1f} ms"
    if ns < 60 * _NS:
        return f"{ns / _NS:.1f} s"
    minutes, seconds = divmod(ns // _NS, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s"


def moment(ns: int) -> str:
    """A point in time, in UTC, to the microsecond."""
    seconds, rest = divmod(ns, _NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest // 1000:06} UTC"


def share(part: int, whole: int) -> str:
    """`part` of `whole` in per cent; nothing when there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""
