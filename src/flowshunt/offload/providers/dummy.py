"""Providers that offload nothing and record everything (row A12), for tests and as examples of two weights."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowshunt.offload.api import ArrayProvider, Provider
from flowshunt.offload.batch import (
    ADD,
    DEL,
    EST,
    FLUSH,
    OPERATION_NAMES,
    POLICY,
    UPD,
    Batch,
    ConnectionId,
    Context,
    Key,
)


class Told(NamedTuple):
    """One callback as it came: its name (`add`, `del`, `upd`, `policy`, `flush`, `est`) and what it was about."""

    name: str
    context: Context | None = None

    @property
    def connection(self) -> ConnectionId | None:
        """None for flush; likewise below."""
        return None if self.context is None else self.context.connection

    @property
    def in_port(self) -> int | None:
        """The context's."""
        return None if self.context is None else self.context.in_port

    @property
    def device(self) -> str | None:
        """The context's."""
        return None if self.context is None else self.context.device

    @property
    def now_ms(self) -> int:
        """The context's, 0 for flush."""
        return 0 if self.context is None else self.context.now_ms

    @property
    def key(self) -> Key | None:
        """The context's."""
        return None if self.context is None else self.context.key


class Dummy(Provider):
    """Takes every connection, callback by callback.

    `told`: everything in order, up to `max_told` entries, then only counted. `last_used_ms`: what conn_update answers,
    by connection; 0 for those that are not in it.
    """

    def __init__(
        self, name: str = "dummy", *, forwards: bool = False, queue_limit: int | None = 0, max_told: int = 100_000
    ) -> None:
        self.name = name
        self.forwards = forwards
        self.queue_limit = queue_limit
        self.max_told = max_told
        self.told: list[Told] = []
        self.counts: Counter[str] = Counter()
        self.last_used_ms: dict[ConnectionId, int] = {}
        self._is_established: dict[ConnectionId, bool] = {}

    def can_offload(self, context: Context, /) -> bool:
        """Always."""
        self._note("policy", context)
        return True

    def conn_add(self, context: Context, /) -> None:
        """Remembers the connection; one that is there already is EEXIST."""
        self._note("add", context)
        if context.connection in self._is_established:
            raise OSError(errno.EEXIST, f"{context.connection} was added before")
        self._is_established[context.connection] = False

    def conn_established(self, context: Context, /) -> bool:
        """Agrees for what was added; ENOENT otherwise."""
        self._note("est", context)
        if context.connection not in self._is_established:
            raise OSError(errno.ENOENT, f"{context.connection} was never added")
        self._is_established[context.connection] = True
        return True

    def conn_update(self, context: Context, /) -> int:
        """What `last_used_ms` says."""
        self._note("upd", context)
        return min(self.last_used_ms.get(context.connection, 0), context.now_ms)

    def conn_del(self, context: Context, /) -> None:
        """Forgets the connection, whether or not it was there."""
        self._note("del", context)
        self._is_established.pop(context.connection, None)
        self.last_used_ms.pop(context.connection, None)

    def flush(self) -> None:
        """Forgets all."""
        self._note("flush", None)
        self._is_established.clear()
        self.last_used_ms.clear()

    def _note(self, name: str, context: Context | None) -> None:
        self.counts[name] += 1
        if len(self.told) < self.max_told:
            self.told.append(Told(name, context))

    # --- inspection (row A12) ----------------------------------------------------------------------------------------

    @property
    def n_added(self) -> int:
        """conn_add calls so far; the next three likewise."""
        return self.counts["add"]

    @property
    def n_deleted(self) -> int:
        """conn_del calls."""
        return self.counts["del"]

    @property
    def n_updated(self) -> int:
        """conn_update calls."""
        return self.counts["upd"]

    @property
    def n_established(self) -> int:
        """conn_established calls."""
        return self.counts["est"]

    def __len__(self) -> int:
        """Connections that it has."""
        return len(self._is_established)

    def __bool__(self) -> bool:
        return True

    def contains(self, connection: ConnectionId) -> bool:
        """Whether it has the connection."""
        return connection in self._is_established

    def is_bidirectional(self, connection: ConnectionId) -> bool:
        """Whether both directions of the connection were seen, that is, it was established."""
        return self._is_established.get(connection, False)

    def names(self) -> list[str]:
        """The callbacks so far, in order, without the questions of policy."""
        return [told.name for told in self.told if told.name != "policy"]


class ArrayDummy(ArrayProvider):
    """Takes every connection, and touches arrays only: a call costs the same few steps for one operation or thousands.

    `generation`, `is_there`, `is_established`: by row, as large as the largest row that came. `counts`: operations by
    name; `n_calls`: batches.
    """

    def __init__(self, name: str = "dummy-array", *, forwards: bool = False, queue_limit: int | None = 0) -> None:
        self.name = name
        self.forwards = forwards
        self.queue_limit = queue_limit
        self.counts: Counter[str] = Counter()
        self.n_calls = 0
        self._serve: dict[int, Callable[[np.ndarray], None]] = {
            ADD: self._add,
            DEL: self._del,
            UPD: self._update,
            POLICY: self._policy,
            FLUSH: self._flush,
            EST: self._establish,
        }
        self._flush(np.zeros(0))

    def batch_submit(self, batch: Batch, /) -> None:
        """Runs of one type are served at once; runs within which a connection comes twice, one by one."""
        self.n_calls += 1
        records = batch.records
        cuts = np.flatnonzero(np.diff(records["type"])) + 1
        for run in np.split(records, cuts):
            serve = self._serve.get(int(run["type"][0])) if len(run) else None
            if serve is None:
                run["error"] = errno.EINVAL
                continue
            self.counts[OPERATION_NAMES[int(run["type"][0])]] += len(run)
            self._make_room(run)
            for part in [run] if self._is_each_once(run) else np.split(run, len(run)):
                serve(part)

    def _make_room(self, run: np.ndarray) -> None:
        needed = int(run["row"].max()) + 1
        if needed > len(self.is_there):
            size = max(needed, 2 * len(self.is_there), 1024)
            for name in ("generation", "is_there", "is_established", "last_used_ms", "_place"):
                old: np.ndarray = getattr(self, name)
                new = np.zeros(size, old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)

    def _is_each_once(self, run: np.ndarray) -> bool:
        """Whether no row comes twice: each finds its own place again."""
        places = np.arange(len(run))
        self._place[run["row"]] = places
        return bool((self._place[run["row"]] == places).all())

    def _known(self, run: np.ndarray) -> np.ndarray:
        rows = run["row"]
        known: np.ndarray = self.is_there[rows] & (self.generation[rows] == run["generation"])
        return known

    def _policy(self, run: np.ndarray) -> None:
        run["error"] = 0

    def _add(self, run: np.ndarray) -> None:
        known = self._known(run)
        run["error"] = np.where(known, errno.EEXIST, 0)
        rows = run["row"][~known]
        self.generation[rows] = run["generation"][~known]
        self.is_there[rows] = True
        self.is_established[rows] = False
        self.last_used_ms[rows] = 0

    def _establish(self, run: np.ndarray) -> None:
        known = self._known(run)
        run["error"] = np.where(known, 0, errno.ENOENT)
        self.is_established[run["row"][known]] = True

    def _update(self, run: np.ndarray) -> None:
        last = np.where(self._known(run), self.last_used_ms[run["row"]], 0)
        run["last_used_ms"] = np.minimum(last, run["now_ms"])
        run["error"] = np.where(last > 0, 0, errno.ENODATA)

    def _del(self, run: np.ndarray) -> None:
        self.is_there[run["row"][self._known(run)]] = False
        run["error"] = 0

    def _flush(self, run: np.ndarray) -> None:
        self.generation = np.zeros(0, np.uint32)
        self.is_there = np.zeros(0, bool)
        self.is_established = np.zeros(0, bool)
        self.last_used_ms = np.zeros(0, np.int64)
        self._place = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Connections that it has."""
        return int(self.is_there.sum())

    def __bool__(self) -> bool:
        return True

    def contains(self, connection: ConnectionId) -> bool:
        """Whether it has the connection."""
        row, generation = connection
        return row < len(self.is_there) and bool(self.is_there[row]) and int(self.generation[row]) == generation

    def is_bidirectional(self, connection: ConnectionId) -> bool:
        """Whether the connection was established."""
        return self.contains(connection) and bool(self.is_established[connection.row])
