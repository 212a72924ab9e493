"""A provider that misbehaves on command: it fails, delays, forgets and reorders. For tests of the framework.

Each disorder is set for callbacks by name (`add`, `est`, …) and stays until it is unset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from flowshunt.offload.batch import OPERATION_NAMES, Batch, Context
from flowshunt.offload.calls import serve
from flowshunt.offload.providers.dummy import Dummy


class Unruly(Dummy):
    """A dummy that does as it is told, or not.

    `failures`: what a callback raises, by name: an exception, or a function of the number of the call (from 0) that
    returns one or None. `answers`: what it returns instead of its answer. `forgets`: callbacks that are acknowledged
    and not carried out. `gate`: while it is cleared, callbacks named in `delays` do not return; `waiting` is set when
    one has begun to wait.
    """

    def __init__(self, name: str = "unruly", *, forwards: bool = False, queue_limit: int | None = 0) -> None:
        super().__init__(name, forwards=forwards, queue_limit=queue_limit)
        self.failures: dict[str, BaseException | Callable[[int], BaseException | None]] = {}
        self.answers: dict[str, object] = {}
        self.forgets: set[str] = set()
        self.delays: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self._n_calls: dict[str, int] = {}

    def can_offload(self, context: Context, /) -> bool:
        """As `Dummy`, unless told otherwise; likewise all below."""
        return self._obey("policy", lambda: super(Unruly, self).can_offload(context), True)  # type: ignore[return-value]

    def conn_add(self, context: Context, /) -> None:
        """See above."""
        return self._obey("add", lambda: super(Unruly, self).conn_add(context), None)  # type: ignore[return-value]

    def conn_established(self, context: Context, /) -> bool:
        """See above."""
        return self._obey("est", lambda: super(Unruly, self).conn_established(context), True)  # type: ignore[return-value]

    def conn_update(self, context: Context, /) -> int:
        """See above."""
        return self._obey("upd", lambda: super(Unruly, self).conn_update(context), 0)  # type: ignore[return-value]

    def conn_del(self, context: Context, /) -> None:
        """See above."""
        self._obey("del", lambda: super(Unruly, self).conn_del(context), None)

    def flush(self) -> None:
        """See above."""
        self._obey("flush", super().flush, None)

    def _obey(self, name: str, do: Callable[[], object], acknowledgement: object) -> object:
        n = self._n_calls[name] = self._n_calls.get(name, -1) + 1
        if name in self.delays and not self.gate.is_set():
            self.waiting.set()
            self.gate.wait()
        failure = self.failures.get(name)
        if callable(failure):
            failure = failure(n)
        if failure is not None:
            self.counts[name] += 1
            raise failure
        answer = acknowledgement if name in self.forgets else do()
        return self.answers.get(name, answer)


class Reordering(Unruly):
    """An unruly provider that takes batches, and serves each in the order that `seed` makes of it."""

    def __init__(self, name: str = "reordering", *, seed: int = 1, queue_limit: int | None = 0) -> None:
        super().__init__(name, queue_limit=queue_limit)
        self._random = np.random.default_rng(seed)
        self.served: list[list[str]] = []

    def batch_submit(self, batch: Batch, /) -> None:
        """Serves the operations one by one in another order; each answer goes to its own operation."""
        order = self._random.permutation(len(batch))
        shuffled = Batch(batch.records[order], batch.devices)
        serve(self, shuffled)
        self.served.append([OPERATION_NAMES[type_] for type_ in shuffled.records["type"]])
        batch.records[order] = shuffled.records
