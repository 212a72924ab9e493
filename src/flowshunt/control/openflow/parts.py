"""What answers requests, and what it needs of a switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from flowshunt.conntrack.table import Tracker
from flowshunt.control.openflow.actions import Actions
from flowshunt.datapath.tables import Datapath
from flowshunt.rules.openflow.executor import Executor, Triples


class Bridge(Protocol):
    """What answering needs of a switch; `app.Switch` has it."""

    tracker: Tracker
    datapath: Datapath

    executor: Executor

    @property
    def ports(self) -> Mapping[str, int]:
        """OpenFlow port numbers by name."""

    def packet_out(self, frame: bytes, in_port: int, actions: Actions, now_ns: int, metadata: Triples = ()) -> object:
        """Take a frame through actions, and send what leaves. Raises UsageError."""

    def resume(self, token: bytes, frame: bytes, now_ns: int, metadata: Triples = ()) -> bool:
        """Let a paused packet go on, and send what leaves; False when none waits. Raises UsageError."""
