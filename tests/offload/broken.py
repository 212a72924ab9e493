"""Providers with one defect each, and the scenario of the conformance kit that must find it.

They stand for what goes wrong in real ones: state keyed by the wrong thing, clocks, leaks, C habits, forgotten batches.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flowshunt.offload.batch import EST, POLICY, Batch, ConnectionId, Context
from flowshunt.offload.calls import serve
from flowshunt.offload.conformance.entries import Entries
from flowshunt.offload.errors import ProviderError
from flowshunt.offload.installing import USAGE
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.providers.flowtable import Flowtable

DEFECTS: list[tuple[Callable[[], Any], str]] = []
"""What makes a broken provider, and the name of the scenario that must fail."""


def caught_by(scenario: str) -> Callable[[Any], Any]:
    """Put a class into DEFECTS."""

    def decorate(made: Any) -> Any:
        DEFECTS.append((made, scenario))
        return made

    return decorate


class Quiet(Dummy):
    """A dummy without records, so that large scenarios are about the defect."""

    def _note(self, name: str, context: Context | None) -> None:
        self.counts[name] += 1


# --- registration and policy -----------------------------------------------------------------------------------------


@caught_by("registration")
class HasNoDel:
    name = "no-del"

    def can_offload(self, context: Context) -> bool:
        return True

    def conn_add(self, context: Context) -> None:
        pass


@caught_by("registration")
class HasABadName(Quiet):
    def __init__(self) -> None:
        super().__init__("two words")


@caught_by("registration")
class FailsInInit(Quiet):
    def init(self) -> None:
        raise ProviderError(errno.ENODEV)


@caught_by("policy")
class AnswersPolicyWithOne(Quiet):
    def can_offload(self, context: Context, /) -> Any:
        return 1


@caught_by("policy")
class TakesWhenItIsOnlyAsked(Quiet):
    def can_offload(self, context: Context, /) -> bool:
        self._is_established[context.connection] = False
        self.last_used_ms[context.connection] = context.now_ms
        return True


@caught_by("policy")
class ChangesItsMind(Quiet):
    def can_offload(self, context: Context, /) -> bool:
        self.counts["asked"] += 1
        return self.counts["asked"] % 2 == 0


# --- single callbacks ------------------------------------------------------------------------------------------------


@caught_by("life")
class ReturnsErrnoAsCodeInCDoes(Quiet):
    def conn_add(self, context: Context, /) -> Any:
        super().conn_add(context)
        return 0


@caught_by("life")
class WantsAPortInDel(Quiet):
    def conn_del(self, context: Context, /) -> None:
        device = f"{context.in_port:d}"
        assert device
        super().conn_del(context)


@caught_by("life")
class RaisesWhateverComes(Quiet):
    def conn_add(self, context: Context, /) -> None:
        if self.counts["add"] % 7 == 6:
            raise ValueError("no room")
        super().conn_add(context)


@caught_by("life")
class RaisesErrnosOfItsOwn(Quiet):
    def conn_add(self, context: Context, /) -> None:
        if self.counts["add"] % 7 == 6:
            raise ProviderError(70_000, "vendor error")
        super().conn_add(context)


@caught_by("established")
class AnswersEstablishedWithNothing(Quiet):
    def conn_established(self, context: Context, /) -> Any:
        super().conn_established(context)


@caught_by("established")
class NeverAgrees(Quiet):
    def conn_established(self, context: Context, /) -> bool:
        return False


@caught_by("established")
class FailsWhenItIsAskedAgain(Quiet):
    def conn_established(self, context: Context, /) -> bool:
        if self.counts["est"] % 2:
            super().conn_established(context)
            raise ProviderError(errno.EALREADY)
        self.counts["est"] += 1
        return False


@caught_by("delete-unknown")
class RaisesForAnUnknownDel(Quiet):
    def conn_del(self, context: Context, /) -> None:
        del self._is_established[context.connection]


class KeyedBy(Quiet):
    """Keeps connections by `key(context)`."""

    key: Callable[[Context], object]

    def _own(self, context: Context) -> Context:
        own = Context(
            ConnectionId(hash(type(self).key(context)), 0),
            context._source,
            context._destination,
            context._word,
            in_port=context.in_port,
            now_ms=context.now_ms,
        )
        return own

    def conn_add(self, context: Context, /) -> None:
        super().conn_add(self._own(context))

    def conn_established(self, context: Context, /) -> bool:
        return super().conn_established(self._own(context))

    def conn_del(self, context: Context, /) -> None:
        super().conn_del(self._own(context))


@caught_by("generations")
class KeyedByRowAlone(KeyedBy):
    key = staticmethod(lambda context: context.connection.row)


@caught_by("zones")
class KeyedByTupleWithoutZone(KeyedBy):
    key = staticmethod(lambda context: (context.key.protocol, context.key.tuple))


@caught_by("flush")
class ForgetsNothingAtFlush(Quiet):
    def flush(self) -> None:
        pass


@caught_by("flush")
class RaisesAtFlush(Quiet):
    def flush(self) -> None:
        raise ProviderError(errno.EBUSY)


@caught_by("capacity")
class LosesRoom(Quiet):
    def conn_add(self, context: Context, /) -> None:
        if self.counts["add"] >= 4_000:
            raise ProviderError(errno.ENOSPC, reason="table-full")
        super().conn_add(context)


@caught_by("errors")
class CannotReadOtherProtocols(Quiet):
    def conn_add(self, context: Context, /) -> None:
        assert context.key.protocol in (6, 17), "only TCP and UDP"
        super().conn_add(context)


# --- time ------------------------------------------------------------------------------------------------------------


class Timed(Quiet):
    """Says that every connection was used a moment ago, in its own way."""

    def conn_update(self, context: Context, /) -> Any:
        return self.now(context) if context.connection in self._is_established else 0

    def now(self, context: Context) -> Any:
        raise NotImplementedError


@caught_by("time")
class CountsInSeconds(Timed):
    def now(self, context: Context) -> Any:
        return context.now_ms // 1000


@caught_by("time")
class ReadsAClock(Timed):
    def now(self, context: Context) -> Any:
        return time.time_ns() // 1_000_000


@caught_by("time")
class SaysSomethingOfTheFuture(Timed):
    def now(self, context: Context) -> Any:
        return context.now_ms + 1


@caught_by("time")
class AnswersAFraction(Timed):
    def now(self, context: Context) -> Any:
        return context.now_ms / 1.0


@caught_by("time")
class KnowsWhatItNeverHad(Timed):
    def conn_update(self, context: Context, /) -> Any:
        return context.now_ms


# --- batches ---------------------------------------------------------------------------------------------------------


class Batched(Quiet):
    """Takes batches, correctly."""

    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)


@caught_by("batch-equals-single")
class ForgetsEstablishedInBatches(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        records = batch.records
        records["error"][records["type"] == EST] = errno.EOPNOTSUPP
        others = Batch(records[records["type"] != EST])
        serve(self, others)
        records[records["type"] != EST] = others.records


@caught_by("batch-errors")
class StopsAtTheFirstError(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        for place, operation in enumerate(batch):
            one = Batch(batch.records[place : place + 1])
            serve(self, one)
            if operation.error:
                return


@caught_by("batch-errors")
class TakesUnknownTypesAsDone(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)
        batch.records["error"][batch.records["type"] > EST] = 0


@caught_by("batch-errors")
class RaisesInABatch(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        if (batch.records["type"] > EST).any():
            raise ProviderError(errno.EINVAL)
        serve(self, batch)


@caught_by("batch-errors")
class WritesToTheIdentity(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)
        batch.records["row"] += 1


@caught_by("batch-errors")
class SetsNegativeErrors(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)
        batch.records["error"] *= -1


@caught_by("batch-equals-single")
class AnswersInTheWrongPlace(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)
        batch.records["error"] = np.roll(batch.records["error"], 1)


@caught_by("batch-policy")
class RefusesPolicyWithTheWrongErrno(Batched):
    def can_offload(self, context: Context, /) -> bool:
        return context.key.protocol == 17

    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, batch)
        batch.records["error"][(batch.records["type"] == POLICY) & (batch.records["error"] != 0)] = errno.EACCES


@caught_by("batch-large")
class ServesTheFirstThousand(Batched):
    def batch_submit(self, batch: Batch, /) -> None:
        serve(self, Batch(batch.records[:1000]))


@caught_by("batch-order")
class SortsBatchesByType(ArrayDummy):
    def batch_submit(self, batch: Batch, /) -> None:
        order = np.argsort(batch.records["type"], kind="stable")
        shuffled = Batch(batch.records[order])
        super().batch_submit(shuffled)
        batch.records[order] = shuffled.records


# --- many connections, threads, time ---------------------------------------------------------------------------------


@caught_by("hundred-thousand")
class LosesDeletesUnderLoad(Batched):
    """Keeps only so many; what it dropped is never made room for."""

    def conn_del(self, context: Context, /) -> None:
        if context.connection.row % 1000 != 999:
            super().conn_del(context)

    def conn_add(self, context: Context, /) -> None:
        if len(self) >= 100_000:
            raise ProviderError(errno.ENOSPC, reason="table-full")
        super().conn_add(context)


@caught_by("exactly-once")
class AgreesOnlyForTheFirstHundred(Quiet):
    def conn_established(self, context: Context, /) -> bool:
        return context.connection.row < 100 and super().conn_established(context)


@caught_by("worker")
class BelongsToOneThread(Quiet):
    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def conn_add(self, context: Context, /) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("called on another thread")
        super().conn_add(context)


@caught_by("churn")
class MixesUpRowsThatAreUsedAgain(ArrayDummy):
    """Remembers what it deleted by row, and refuses the next one there once in a while."""

    def _add(self, run: np.ndarray) -> None:
        super()._add(run)
        run["error"][run["generation"] > 150] = errno.EEXIST


@caught_by("life")
class Hangs(Quiet):
    def conn_add(self, context: Context, /) -> None:
        if self.counts["add"] == 3:
            threading.Event().wait(30)
        super().conn_add(context)


@caught_by("life")
class LeavesTheProgram(Quiet):
    def conn_add(self, context: Context, /) -> None:
        raise SystemExit(1)


# --- forwarding ------------------------------------------------------------------------------------------------------


class Sound(Flowtable):
    """A forwarder without a defect, over a table that no packet passes."""

    def __init__(self) -> None:
        super().__init__(Entries(), name="sound")


@caught_by("forward-life")
class TellsNothingAtTheEnd(Sound):
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> Any:
        super().withdraw(rows, generations)


@caught_by("forward-life")
class CorrectsWhatItIsGiven(Sound):
    def install(self, flows: np.ndarray, /) -> None:
        super().install(flows)
        flows["max_idle_ms"] = 0


@caught_by("forward-life")
class HandsBackWhatItNeverHad(Sound):
    def handed_back(self, now_ms: int, /) -> Any:
        row = np.array([77], np.uint32)
        return row, row, np.zeros(1, np.uint16), np.zeros(1, USAGE)


@caught_by("forward-passes")
class TakesMoreThanItInstalls(Sound):
    def install(self, flows: np.ndarray, /) -> None:
        super().install(flows[: len(flows) // 2])


@caught_by("forward-unknown")
class KnowsFlowsByRowAlone(Sound):
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        return super().withdraw(rows, np.zeros_like(generations))


@caught_by("forward-unknown")
class InventsCounters(Sound):
    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        usage = super().statistics(rows, generations, now_ms)
        usage["last_used_ms"] = now_ms
        return usage


@caught_by("forward-withdraw")
class StopsEverythingAtOnce(Sound):
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        assert self._share is not None
        self._share.flush()
        return np.zeros(len(rows), USAGE)


@caught_by("forward-fin")
class WithdrawsLater(Sound):
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        self.later = rows, generations  # to be done when there is time
        return np.zeros(len(rows), USAGE)


@caught_by("forward-epoch")
class RenewsNothing(Sound):
    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        pass


@caught_by("forward-epoch")
class KnowsNoEpochs(Sound):
    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        return super().is_forwarding(rows, generations, 1)


@caught_by("forward-flush")
class HasARingOfSixtyFour(Sound):
    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        super().withdraw(rows[:64], generations[:64])
        return np.zeros(len(rows), USAGE)

    def batch_submit(self, batch: Batch, /) -> None:
        batch.records["error"] = 0


@caught_by("forward-rows")
class KeepsWhoeverWasThereFirst(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def install(self, flows: np.ndarray, /) -> None:
        rows = flows["rows"][:, 0].tolist()
        new = [place for place, row in enumerate(rows) if row not in self.seen]
        self.seen.update(rows)
        if new:
            super().install(flows[new])


@caught_by("forward-many")
class LosesRoomForFlows(Sound):
    n_given = 0

    def install(self, flows: np.ndarray, /) -> None:
        self.n_given += len(flows)
        if self.n_given > 150_000:
            flows["error"] = errno.ENOSPC
        else:
            super().install(flows)


@caught_by("forward-worker")
class InstallsInOneThread(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def install(self, flows: np.ndarray, /) -> None:
        if threading.get_ident() != self.thread:
            raise RuntimeError("used in a thread other than that in which it was made")
        super().install(flows)
