"""Scenarios about batch_submit."""

from __future__ import annotations

import errno

import numpy as np

from flowshunt.offload.batch import ADD, DEL, EST, FLUSH, OPERATION_NAMES, POLICY, UPD, Batch, Context
from flowshunt.offload.calls import serve
from flowshunt.offload.conformance.scenarios import scenario
from flowshunt.offload.conformance.subject import Factory, NotApplicableError, Subject, connection, ended, expect

_UNKNOWN = 77
_LARGE = 5000


@scenario("batch-equals-single", "batch_submit answers each operation as the callbacks for single connections would.")
def _batch_equals_single(factory: Factory) -> None:
    operations: list[tuple[int, Context | None]] = []
    for number in range(60):
        context = connection(number)
        operations += [(POLICY, context), (ADD, context)]
        if number % 3:
            operations.append((EST, context))
        if number % 5 == 0:
            operations += [(DEL, ended(context)), (DEL, ended(context))]
        if number % 7 == 0:
            operations.append((UPD, ended(context)))
        if number == 40:
            operations.append((FLUSH, None))
    batched = Subject(factory).submit(operations)
    single = Batch.of(operations)
    serve(Subject(factory).provider, single)
    for place, (ours, theirs) in enumerate(zip(batched, single, strict=True)):
        same = bool(ours.error) == bool(theirs.error) and ours.last_used_ms == theirs.last_used_ms
        name = OPERATION_NAMES[ours.type]
        absent = theirs.error == errno.EOPNOTSUPP
        expect(same or absent, f"operation {place} ({name}): errno {ours.error} in a batch, {theirs.error} alone")


@scenario("batch-errors", "Each operation of a batch has its own error; an unknown type is EINVAL and stops nothing.")
def _batch_errors(factory: Factory) -> None:
    subject = Subject(factory)
    subject.submit([])
    contexts = subject.taken(connection(number) for number in range(20))
    subject.flush()
    for context in contexts:
        subject.delete(context)
    operations: list[tuple[int, Context | None]] = [(_UNKNOWN, contexts[0])]
    for context in contexts:
        operations += [(ADD, context), (_UNKNOWN, context)]
    batch = subject.submit(operations)
    unknown = batch.records["type"] == _UNKNOWN
    expect(
        bool((batch.records["error"][unknown] == errno.EINVAL).all()), "an operation of an unknown type is not EINVAL"
    )
    expect(
        bool((batch.records["error"][~unknown] == 0).all()), "operations after one of an unknown type were not served"
    )
    for context in contexts:
        expect(subject.establish(context), "a connection added in a batch is not established by a single call")


@scenario("batch-policy", "POLICY in a batch is 0 or EPERM, as can_offload says, and takes nothing.")
def _batch_policy(factory: Factory) -> None:
    subject = Subject(factory)
    contexts = [connection(number) for number in range(50)]
    batch = subject.submit((POLICY, context) for context in contexts)
    for operation, context in zip(batch, contexts, strict=True):
        expect(operation.error in (0, errno.EPERM), f"POLICY answers errno {operation.error}; it must be 0 or EPERM")
        expect((operation.error == 0) == subject.wants(context), f"POLICY and can_offload disagree about {context}")
    refused = int(
        (subject.submit((ADD, context) for context in contexts if subject.wants(context)).records["error"]).sum()
    )
    expect(refused == 0, "connections are refused that only POLICY was asked about before")


@scenario("batch-large", "A batch of thousands is served whole.", 30.0)
def _batch_large(factory: Factory) -> None:
    subject = Subject(factory)
    contexts = [connection(number) for number in range(_LARGE)]
    wanted = [context for context in contexts if subject.wants(context)]
    added = subject.submit((ADD, context) for context in wanted).records["error"]
    taken = [context for context, error in zip(wanted, added.tolist(), strict=True) if error == 0]
    expect(bool(taken), "a large batch of ADD is refused whole")
    for context in taken[-50:]:
        expect(subject.establish(context), "the end of a large batch was acknowledged, and not added")
    subject.submit((DEL, ended(context)) for context in taken)
    again = subject.submit((ADD, context) for context in taken).records["error"]
    expect(not np.any(again), "the end of a large batch of DEL was acknowledged, and not deleted")


@scenario("batch-order", "Operations about one connection within a batch are served in their order.")
def _batch_order(factory: Factory) -> None:
    subject = Subject(factory)
    contexts = subject.taken(connection(number) for number in range(10))
    for context in contexts:
        subject.delete(context)
    operations: list[tuple[int, Context | None]] = []
    for context in contexts:
        operations += [(ADD, context), (DEL, ended(context)), (ADD, context)]
    errors = subject.submit(operations).records["error"]
    if not subject.has("conn_established"):
        raise NotApplicableError("it has no conn_established to look with")
    expect(not np.any(errors), "add, del and add again of a connection in one batch fail")
    for context in contexts:
        expect(subject.establish(context), "after add, del and add in one batch the connection is not there")
