"""The contract between Flowshunt and an offload provider.

A provider is any object with a `name` and the callbacks of `Provider`; those of `OptionalCallbacks` are looked up by
name, and skipped when they are missing or None. Inheriting is possible, not needed. docs/providers.md is the guide.

All callbacks about one provider are made by one thread at a time: the packet thread, or the provider's own worker
when it asks for one. Callbacks about one connection come in this order, and none before the one before it returned:

    can_offload -> conn_add -> conn_established (until it answers True) -> conn_update* -> conn_del

conn_del comes for every connection that ends, whether or not the provider took it. What a callback raises becomes an
errno on the operation (`errno_of`), a counter and a log line, and harms nothing else.
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from typing import Protocol

from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, POLICY, UPD, Batch, Context, Operation
from flowshunt.offload.errors import ProviderError

MANDATORY = ("can_offload", "conn_add", "conn_del")
OPTIONAL = ("init", "conn_established", "conn_update", "batch_submit", "flush")


class Provider(Protocol):
    """What every provider has. All callbacks may raise ProviderError, or any OSError with an errno."""

    name: str
    """Letters, digits, `_`, `-` and `.`; unique among registered providers."""

    @abstractmethod
    def can_offload(self, context: Context, /) -> bool:
        """Whether the provider wants this connection; must change nothing. True is followed by conn_add."""

    @abstractmethod
    def conn_add(self, context: Context, /) -> None:
        """A connection was committed. Returning takes it, raising refuses it (ENOSPC: no room, and so on).

        A notification: nothing is to be forwarded yet.
        """

    @abstractmethod
    def conn_del(self, context: Context, /) -> None:
        """A connection has ended. Comes unconditionally: for connections never added too, which must be no error."""


class OptionalCallbacks(Protocol):
    """What a provider may have besides. Nobody inherits from this: it says names, signatures and meaning."""

    queue_limit: int | None
    """0: called on the packet thread; promises never to block. n: called on a worker thread, behind a queue of at most
    n operations; a full one refuses with `queue-full`, and the connection is offered again at its next reply packet.
    None or missing: as the framework thinks best (built-in ones 0, installed plug-ins a worker)."""

    packet_thread_only: bool
    """True: it works on what belongs to the packet thread, and is never moved to a worker, however long it blocks."""

    forwards: bool
    """True: from a conn_established that answered True until conn_del, packets may pass unseen by the tracker. At most
    one provider does so for a connection; while it lasts TCP windows are not checked, and the connection expires only
    after conn_update was asked. A provider that implements `installing.Forwarder` leaves this False."""

    def init(self) -> None:
        """Called once, at the registration, which an exception aborts with its errno."""

    def conn_established(self, context: Context, /) -> bool:
        """The first packet in the reply direction was seen. False: not now, ask again at the next reply packet."""

    def conn_update(self, context: Context, /) -> int:
        """When the connection last carried a packet, in milliseconds since the epoch, at most `context.now_ms`.

        0: unknown. Asked before the tracker expires a connection; only a newer time than it knows keeps it alive.
        """

    def batch_submit(self, batch: Batch, /) -> None:
        """Serve all operations of a batch, in order, in place of the callbacks above.

        Each operation gets its own `error`: 0 done; POLICY refused: EPERM; EST not now: EAGAIN; UPD without an answer:
        ENODATA; a type that it does not know: EINVAL. Operations of several types may be mixed. To raise means that all
        have failed. `batch.records` is valid during the call, and only ANSWERS in it may be written.
        """

    def flush(self) -> None:
        """Forget all connections. No conn_del follows for them."""


class ArrayProvider(Provider):
    """A provider that works on arrays alone: `batch_submit` is all that it must define besides `name`.

    The callbacks for single connections, which every provider must have, are batches of one.
    """

    @abstractmethod
    def batch_submit(self, batch: Batch, /) -> None:
        """See OptionalCallbacks."""

    def can_offload(self, context: Context, /) -> bool:
        """A POLICY of one."""
        return self._one(POLICY, context).error == 0

    def conn_add(self, context: Context, /) -> None:
        """An ADD of one."""
        self._checked(ADD, context)

    def conn_del(self, context: Context, /) -> None:
        """A DEL of one."""
        self._checked(DEL, context)

    def conn_established(self, context: Context, /) -> bool:
        """An EST of one."""
        operation = self._one(EST, context)
        if operation.error == errno.EAGAIN:
            return False
        _check(operation)
        return True

    def conn_update(self, context: Context, /) -> int:
        """An UPD of one."""
        operation = self._one(UPD, context)
        return 0 if operation.error else operation.last_used_ms

    def flush(self) -> None:
        """A FLUSH."""
        self._checked(FLUSH, None)

    def _one(self, type_: int, context: Context | None) -> Operation:
        batch = Batch.of([(type_, context)])
        self.batch_submit(batch)
        return next(iter(batch))

    def _checked(self, type_: int, context: Context | None) -> None:
        _check(self._one(type_, context))


def _check(operation: Operation) -> None:
    if operation.error:
        raise ProviderError(operation.error)
