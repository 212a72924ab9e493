"""Lines of `conntrack -E` (conntrack-tools 1.4)."""

from __future__ import annotations

from datetime import UTC, datetime

from flowshunt.conntrack.changes import Change
from flowshunt.conntrack.connection import address_text
from flowshunt.conntrack.listing.linux import (
    direction,
    family_words,
    fast_path_flag,
    parent_words,
    protocol_words,
    time_and_state,
)


def line(
    change: Change,
    *,
    extended: bool = False,
    timestamps: bool = False,
    ids: bool = False,
    labels: bool = False,
    start_times: bool = False,
) -> str:
    """One event. `timestamps`: when, in front; `start_times`: the tool's ktimestamp.

    Counters are there at the end of a connection, mark and zone where they are not zero.
    """
    one, ends = change.connection, change.kind == "DESTROY"
    words = [family_words(one)] if extended else []
    words += [protocol_words(one), *time_and_state(one), *direction(one, 0, address_text, ends)]
    if not one.seen_reply:
        words.append("[UNREPLIED]")
    words += [*direction(one, 1, address_text, ends), *fast_path_flag(one)]
    if one.mark:
        words.append(f"mark={one.mark}")
    if one.zone:
        words.append(f"zone={one.zone}")
    if ends:
        words.append(f"delta-time={max(change.time_ms - one.start_ms, 0) // 1000}")
    if start_times:
        words.append(f"[start={datetime.fromtimestamp(one.start_ms // 1000, UTC):%a %b %e %H:%M:%S %Y}]")
    if one.helper is not None:
        words.append(f"helper={one.helper}")
    if ids:
        words.append(f"id={one.id}")
    if labels and one.label:
        words.append(f"labels=0x{one.label:x}")
    words += parent_words(one, address_text)
    when = f"[{change.time_ms // 1000}.{change.time_ms % 1000:03}000]\t" if timestamps else ""
    return f"{when}{f'[{change.kind}]':>9} {' '.join(words)}"
