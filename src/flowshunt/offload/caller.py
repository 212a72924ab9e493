"""What the installer needs of the dispatcher, and who hears of each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from flowshunt.offload.attachment import Attachment
from flowshunt.offload.forwarding import Call

Journal = Callable[[str, np.ndarray, np.ndarray, int, str, np.ndarray | int], None]
"""Called as `journal(kind, rows, generations, now_ms, provider, reason)` at each step: int64 (n,) rows and generations;
`reason` is a number of `reasons`, or uint16 (n,) of them. Kinds are in KINDS."""

KINDS = (
    "created",
    "reply",
    "path-original",
    "path-reply",
    "unfit",
    "offered",
    "taken",
    "refused",
    "renewed",
    "withdrawn",
    "handed-back",
    "closed",
    "destroyed",
)


class Caller(Protocol):
    """`dispatcher.Dispatcher` is one."""

    now_ms: int
    holder: np.ndarray
    """The number of the attachment that forwards a connection, uint8 by row; 0: none."""

    def forwarders(self) -> list[Attachment]:
        """Attachments at work that forward, in priority order."""

    def attachment_of(self, number: int) -> Attachment | None:
        """By number."""

    def call(self, attachment: Attachment, call: Call, *, must: bool = False) -> bool:
        """Have a method called; its answer comes to `Installer.on_answer`. False: the queue is full."""

    def publish(self, rows: np.ndarray, generations: np.ndarray) -> None:
        """Make who holds connections, int64 (n,), known."""
