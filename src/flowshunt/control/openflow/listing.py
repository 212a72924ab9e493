"""Flows as controllers are told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flowshunt.control.openflow import flow_stats
from flowshunt.datapath.listing import FlowStatistics, Listing
from flowshunt.datapath.rules import MAX_PRIORITY
from flowshunt.rules.openflow.flow import Flow

_MILLION = 1_000_000


def entries_of(listing: Listing, now_ms: int) -> Iterator[flow_stats.FlowEntry]:
    """The flows of a listing; nothing is done before they are asked for, where that keeps no packets waiting."""
    for line in listing.lines():
        yield entry_of(line, now_ms)


def entry_of(line: FlowStatistics, now_ms: int) -> flow_stats.FlowEntry:
    """A flow with its counters as listings and news of its end have it."""
    flow, packets, size, used, created, modified = line
    age, idle, hard = now_ms - created, now_ms - used, now_ms - modified
    if age < 0 or idle < 0 or hard < 0:
        age, idle, hard = max(age, 0), max(idle, 0), max(hard, 0)
    return flow_stats.FlowEntry(flow, packets, size, age * _MILLION, idle * _MILLION, hard * _MILLION)


def is_shown(is_wanted: Callable[[Any], bool] | None, flow: Flow) -> bool:
    """Whether a flow is one that controllers may know of, and one that is asked for."""
    return flow.priority <= MAX_PRIORITY and (is_wanted is None or is_wanted(flow))
