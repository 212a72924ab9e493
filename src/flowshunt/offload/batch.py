"""What a provider is told: operations about connections, in batches; as objects, or as a structured array.

One record is one operation. `Batch.records` is the array-native view; iterating a batch gives `Operation` objects that
read from and write to the same records, so both views always agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowshunt.conntrack.connection import Tuple
from flowshunt.conntrack.snapshot import tuples

OPERATION_NAMES = ("add", "del", "upd", "policy", "flush", "est")
ADD, DEL, UPD, POLICY, FLUSH, EST = range(len(OPERATION_NAMES))

OPERATION = np.dtype(
    [
        # from the framework
        ("now_ms", np.int64),
        ("source", np.int64, 2),  # 128-bit form, high and low, of the original direction
        ("destination", np.int64, 2),
        ("tuple", np.int64),  # source port 48, destination port 32, zone 16, protocol 8, kind 0 (bit 7: IPv6)
        ("row", np.uint32),
        ("generation", np.uint32),
        ("in_port", np.uint32),  # OpenFlow port; 0: none
        ("type", np.uint8),
        # from the provider
        ("error", np.int32),  # errno; 0: done
        ("last_used_ms", np.int64),  # UPD: milliseconds since the epoch; 0: unknown
        ("reason", np.uint16),  # reasons.number_of(...), when one says it better than the errno; 0: none
    ],
    align=True,
)
"""One operation; 88 bytes. ICMP: the identifier stands in the places of both ports."""

ANSWERS = ("error", "last_used_ms", "reason")
"""The fields of OPERATION that belong to the provider; what it writes anywhere else is not looked at."""

_COLUMNS = ("now_ms", "source", "destination", "tuple", "row", "generation", "in_port", "type")

Devices = Callable[[int], "str | None"]
"""From an OpenFlow port number to the device's name."""


class ConnectionId(NamedTuple):
    """Which connection: the same from its add to its del, and never another's."""

    row: int
    generation: int


class Key(NamedTuple):
    """What the packets of the original direction look like."""

    family: int
    """4 or 6."""
    protocol: int
    """IP protocol number."""
    zone: int
    tuple: Tuple


class Context:
    """What an operation is about. Read-only, and may be kept.

    `connection`: its identity. `in_port` and `device`: where the packet came in that caused the operation, number and
    name (add: forward direction, est: reply direction; del and upd: None). `now_ms`: the time to go by, in milliseconds
    since the epoch; providers never read a clock.
    """

    __slots__ = ("_destination", "_device", "_source", "_word", "connection", "in_port", "now_ms")

    def __init__(
        self,
        connection: ConnectionId,
        source: Sequence[int],
        destination: Sequence[int],
        word: int,
        *,
        in_port: int | None = None,
        now_ms: int = 0,
        devices: Devices | None = None,
    ) -> None:
        """`source`, `destination`: two int64 each; `word`: the tuple word (see OPERATION)."""
        self.connection = connection
        self.in_port = in_port
        self.now_ms = now_ms
        self._source = source
        self._destination = destination
        self._word = word
        self._device = devices

    @property
    def device(self) -> str | None:
        """The name of the input device, None when there is none."""
        return None if self.in_port is None or self._device is None else self._device(self.in_port)

    @property
    def key(self) -> Key:
        """The forward-direction key; made anew at each call."""
        word = self._word
        family = 6 if word & 0x80 else 4
        return Key(family, (word >> 8) & 0xFF, (word >> 16) & 0xFFFF, tuples(self._source, self._destination, word)[0])

    def __repr__(self) -> str:
        return f"Context({self.connection}, in_port={self.in_port}, now_ms={self.now_ms})"


class Operation:
    """One operation of a batch. Setting `error` or `last_used_ms` answers it."""

    __slots__ = ("_records", "context", "index", "type")

    def __init__(self, records: np.ndarray, index: int, type: int, context: Context | None) -> None:
        self._records = records
        self.index = index
        self.type = type
        self.context = context
        """None for FLUSH, which is about all connections."""

    @property
    def error(self) -> int:
        """errno; 0: done."""
        return int(self._records["error"][self.index])

    @error.setter
    def error(self, value: int) -> None:
        self._records["error"][self.index] = value

    @property
    def last_used_ms(self) -> int:
        """UPD: when the connection last carried a packet, in milliseconds since the epoch; 0: unknown."""
        return int(self._records["last_used_ms"][self.index])

    @last_used_ms.setter
    def last_used_ms(self, value: int) -> None:
        self._records["last_used_ms"][self.index] = value

    def __repr__(self) -> str:
        name = OPERATION_NAMES[self.type] if self.type < len(OPERATION_NAMES) else str(self.type)
        return f"Operation({name}, {self.context}, error={self.error})"


class Batch:
    """Operations in order. `records`: OPERATION (n,), writable, valid during the call that it is handed to."""

    __slots__ = ("devices", "records")

    def __init__(self, records: np.ndarray, devices: Devices | None = None) -> None:
        """`devices` names input devices; without it contexts have none."""
        self.records = records
        self.devices = devices

    @classmethod
    def of(cls, operations: Iterable[tuple[int, Context | None]], devices: Devices | None = None) -> Batch:
        """A batch of operation types with their contexts (None only for FLUSH)."""
        listed = list(operations)
        records = np.zeros(len(listed), OPERATION)
        for record, (type_, context) in zip(records, listed, strict=True):
            record["type"] = type_
            if context is not None:
                _fill(record, context)
        return cls(records, devices)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Operation]:
        """The operations as objects."""
        for index, (type_, context) in enumerate(self._contexts()):
            yield Operation(self.records, index, type_, context)

    def _contexts(self) -> Iterator[tuple[int, Context | None]]:
        columns = [self.records[name].tolist() for name in _COLUMNS] if len(self.records) else [[]] * 8
        for now_ms, source, destination, word, row, generation, in_port, type_ in zip(*columns, strict=True):
            if type_ == FLUSH:
                yield type_, None
                continue
            identity = ConnectionId(row, generation)
            yield (
                type_,
                Context(
                    identity, source, destination, word, in_port=in_port or None, now_ms=now_ms, devices=self.devices
                ),
            )


def _fill(record: Any, context: Context) -> None:
    record["now_ms"] = context.now_ms
    record["source"] = context._source
    record["destination"] = context._destination
    record["tuple"] = context._word
    record["row"], record["generation"] = context.connection
    record["in_port"] = context.in_port or 0
