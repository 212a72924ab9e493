"""Scenarios about single callbacks. Each gets a factory of fresh providers; see `subject` for what it may raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowshunt.offload.batch import Context
from flowshunt.offload.conformance.subject import (
    START_MS,
    BrokenContractError,
    Factory,
    NotApplicableError,
    Subject,
    connection,
    expect,
)
from flowshunt.offload.errors import RegistrationError
from flowshunt.offload.registry import Registry

DAY_MS = 86_400_000

Run = Callable[[Factory], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One part of the contract: a stable `name`, what it asks of a provider, and how long that may take."""

    name: str
    sentence: str
    run: Run
    deadline_s: float


SCENARIOS: list[Scenario] = []
"""All scenarios, in the order in which they run; filled by the modules of this package."""


def scenario(name: str, sentence: str, deadline_s: float = 10.0) -> Callable[[Run], Run]:
    """Add a function to SCENARIOS."""

    def decorate(run: Run) -> Run:
        SCENARIOS.append(Scenario(name, sentence, run, deadline_s))
        return run

    return decorate


@scenario("registration", "It has a name and the mandatory callbacks, and its init() succeeds.")
def _registration(factory: Factory) -> None:
    try:
        Registry().register(factory())
    except RegistrationError as error:
        raise BrokenContractError(str(error)) from error


@scenario("policy", "can_offload answers a bool, the same each time, and changes nothing.")
def _policy(factory: Factory) -> None:
    subject = Subject(factory)
    for number in range(20):
        context = connection(number)
        answers = {subject.wants(context) for _ in range(3)}
        expect(len(answers) == 1, f"can_offload changes its mind about {context} without a reason")
        expect(subject.update(context) == 0, "a connection that was only asked about has a last use")
    subject.taken(connection(number) for number in range(20))


@scenario("life", "A connection goes through add, established, update and del without an error.")
def _life(factory: Factory) -> None:
    subject = Subject(factory)
    for context in subject.taken(connection(number) for number in range(50)):
        expect(subject.establish(connection_back(context.connection.row)), f"conn_established fails for {context}")
        subject.update(context, START_MS + 1000)
        error = subject.delete(context)
        expect(error == 0, f"conn_del of a connection that it took fails with errno {error}")


def connection_back(number: int) -> Context:
    """A connection as established names it: with the port of the reply direction."""
    return connection(number, in_port=2, now_ms=START_MS + 10)


@scenario("established", "conn_established answers a bool, and agrees in the end when it is asked again after False.")
def _established(factory: Factory) -> None:
    subject = Subject(factory)
    if not subject.has("conn_established"):
        raise NotApplicableError("it has no conn_established")
    for context in subject.taken(connection(number) for number in range(50)):
        expect(subject.establish(context), f"conn_established fails for {context}, which was added")


@scenario("delete-unknown", "conn_del is harmless for what was never added, was deleted, or was flushed.")
def _delete_unknown(factory: Factory) -> None:
    subject = Subject(factory)
    subject.delete(connection(1))
    (context, *_) = subject.taken(connection(number) for number in range(4))
    subject.delete(context)
    subject.delete(context)
    subject.flush()
    subject.delete(context)
    expect(subject.take(context), "after a del of the unknown it refuses a connection that it took before")


@scenario("generations", "A connection is its row and generation: another generation of the row is another one.")
def _generations(factory: Factory) -> None:
    subject = Subject(factory)
    (first, *_) = subject.taken(connection(number, 5) for number in range(4))
    row = first.connection.row
    subject.delete(connection(row, 4))
    expect(subject.establish(first), "del of an older generation removed the living connection of that row")
    subject.delete(first)
    second = connection(row + 100, 6, row=row, protocol=(first._word >> 8) & 0xFF)
    expect(subject.take(second), "a row that is used again, in its next generation, is refused")
    expect(
        subject.update(second) == 0 or subject.update(second) >= START_MS, "a new connection has the old one's last use"
    )
    expect(subject.establish(second), "a row that is used again is not established")


@scenario("zones", "Equal tuples in different zones are different connections.")
def _zones(factory: Factory) -> None:
    subject = Subject(factory)
    (first, *_) = subject.taken(connection(number, zone=1) for number in range(4))
    number = first.connection.row
    second = connection(number, zone=2, row=number + 1000)
    if not subject.wants(second):
        raise NotApplicableError("it declines one of the two zones")
    error = subject.add(second)
    expect(error == 0, f"the same tuple in another zone is refused with errno {error}")
    subject.delete(first)
    expect(subject.establish(second), "del in one zone removed the connection of the same tuple in another")
    expect(subject.delete(second) == 0, "del of the second zone's connection fails")


@scenario("flush", "flush forgets everything: what was there may be added again.")
def _flush(factory: Factory) -> None:
    subject = Subject(factory)
    if not subject.has("flush"):
        raise NotApplicableError("it has no flush")
    contexts = subject.taken(connection(number) for number in range(100))
    for context in contexts[::2]:
        subject.establish(context)
    error = subject.flush()
    expect(error == 0, f"flush fails with errno {error}")
    for context in contexts:
        expect(subject.update(context) == 0, "a connection that was flushed still has a last use")
    for context in contexts:
        error = subject.add(context)
        expect(error == 0, f"a connection that was flushed cannot be added again: errno {error}")
        expect(subject.establish(context), "a connection that was flushed and added again is not established")
    subject.flush()
    expect(subject.flush() == 0, "flush of an empty provider fails")


@scenario("time", "conn_update answers milliseconds since the epoch by the context's clock, not ahead of it.")
def _time(factory: Factory) -> None:
    for start_ms in (5_000, START_MS, 4_000_000_000_000):
        _times_from(Subject(factory), start_ms)


def _times_from(subject: Subject, start_ms: int) -> None:
    if not subject.has("conn_update"):
        raise NotApplicableError("it has no conn_update")
    contexts = subject.taken(connection(number, now_ms=start_ms) for number in range(20))
    for context in contexts:
        subject.establish(context)
    latest = dict.fromkeys(range(len(contexts)), 0)
    for now_ms in (start_ms, start_ms + 1, start_ms + 999, start_ms + DAY_MS):
        for place, context in enumerate(contexts):
            answer = subject.update(context, now_ms)
            expect(answer <= now_ms, f"the last use {answer} is ahead of now, {now_ms}")
            expect(
                answer == 0 or answer >= start_ms, f"the last use {answer} is before the connection began, {start_ms}"
            )
            expect(answer >= latest[place] or answer == 0, f"the last use goes back from {latest[place]} to {answer}")
            latest[place] = answer
    expect(subject.update(connection(999_999), start_ms) == 0, "a connection that was never added has a last use")


@scenario("capacity", "What was deleted makes room: connections come and go without end.", 30.0)
def _capacity(factory: Factory) -> None:
    subject = Subject(factory)
    (first, *_) = subject.taken(connection(number) for number in range(4))
    row = first.connection.row
    subject.delete(first)
    for generation in range(1, 5_001):
        context = connection(row, generation)
        error = subject.add(context)
        expect(error == 0, f"the {generation}th connection in turn is refused with errno {error}: room is lost")
        subject.delete(context)


@scenario("errors", "Whatever it refuses, it refuses with an errno: ICMP, unknown protocols, a second add.")
def _errors(factory: Factory) -> None:
    subject = Subject(factory)
    for number, protocol in enumerate((1, 6, 17, 41, 47, 50, 58, 132, 255)):
        context = connection(number, protocol=protocol)
        if subject.take(context):
            subject.add(context)
            subject.establish(context)
        subject.update(context)
        subject.delete(context)
