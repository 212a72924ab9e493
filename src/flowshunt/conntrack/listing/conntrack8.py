"""Lines of `conntrack -L` (conntrack-tools 1.4)."""

from __future__ import annotations

from datetime import UTC, datetime

from flowshunt.conntrack.connection import Connection, address_text
from flowshunt.conntrack.listing.linux import (
    direction,
    family_words,
    fast_path_flag,
    parent_words,
    protocol_words,
    time_and_state,
)


def line(
    connection: Connection,
    *,
    extended: bool = False,
    counters: bool = True,
    now_ms: int | None = None,
    timestamps: bool = False,
    ids: bool = False,
    labels: bool = False,
) -> str:
    """One line for `connection`.

    `extended`, `timestamps` (the tool's ktimestamp), `ids` and `labels` are the tool's output options; labels are
    printed as one hexadecimal number. A connection that another one announced ends with that one's original tuple, each
    word with `master-` in front, as `conntrack -L expect` names it; the tool itself does not say it here. `counters`
    and, with `now_ms` (milliseconds since the epoch), `delta-time=` (the connection's age in seconds) are there when a
    Linux tracker keeps them. Times of day are in UTC.
    """
    words = [family_words(connection)] if extended else []
    words += [protocol_words(connection), *time_and_state(connection)]
    words += direction(connection, 0, address_text, counters)
    if not connection.seen_reply:
        words.append("[UNREPLIED]")
    words += direction(connection, 1, address_text, counters)
    words += [*fast_path_flag(connection), f"mark={connection.mark}"]
    if connection.zone:
        words.append(f"zone={connection.zone}")
    if now_ms is not None:
        words.append(f"delta-time={max(now_ms - connection.start_ms, 0) // 1000}")
    if timestamps:
        words.append(f"[start={datetime.fromtimestamp(connection.start_ms // 1000, UTC):%a %b %e %H:%M:%S %Y}]")
    if connection.helper is not None:
        words.append(f"helper={connection.helper}")
    words.append(f"use={connection.use}")
    if ids:
        words.append(f"id={connection.id}")
    if labels and connection.label:
        words.append(f"labels=0x{connection.label:x}")
    words += parent_words(connection, address_text)
    return " ".join(words)


def footer(n_shown: int, program: str) -> str:
    """What the tool writes to standard error after a listing; `program` is the name and version to sign with."""
    return f"{program}: {n_shown} flow entries have been shown."
