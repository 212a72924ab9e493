"""Random histories: each provider hears a legal life of each connection, and the marks agree with what it has."""

from __future__ import annotations

import errno
from collections import defaultdict
from random import Random

import pytest

from flowshunt.offload.attachment import MARK_ADDED, MARK_ESTABLISHED, MARK_NONE
from flowshunt.offload.errors import ProviderError
from flowshunt.offload.providers.dummy import ArrayDummy, Dummy
from flowshunt.offload.providers.unruly import Unruly
from flowshunt.offload.registry import Settings
from tests.offload.traffic import SECOND, Bench, tcp

_OFTEN = ["ask", "answer", "open", "agree"]
_SOMETIMES = ["close", "time", "moody", "settle", "on"]
_RARELY = ["flush", "off", "forget", "late"]
STEPS = _OFTEN * 5 + _SOMETIMES * 2 + _RARELY
N_STEPS = 150


def numbers_for(step: str, random: Random) -> list[int]:
    """Ports, or seconds."""
    if step == "time":
        return [random.choice([1, 20, 40, 100])]
    return random.sample(range(1, 7), random.randint(1, 6))


def play(bench: Bench, moody: Unruly, step: str, numbers: list[int]) -> None:
    if step == "ask":
        bench.ask(*numbers)
    elif step == "answer":
        bench.answer(*numbers)
    elif step == "open":
        bench.send(*(tcp("S", 100, port=port) for port in numbers))
    elif step == "agree":
        bench.send(*(tcp("SA", 500, 101, reply=True, port=port) for port in numbers), reply=True)
    elif step == "close":
        bench.send(*(tcp("RA", 101, 501, port=port) for port in numbers))
    elif step == "flush":
        bench.tracker.flush()
    elif step == "time":
        bench.pass_time(numbers[0] * SECOND)
    elif step in ("on", "off"):
        bench.offload.configure(Settings(enabled=step == "on"))
    elif step == "forget":
        bench.offload.flush()
    elif step == "moody":
        if moody.failures.pop("est", None) is None:
            moody.failures["est"] = ProviderError(errno.EAGAIN)
    elif step == "late":
        bench.offload.unregister("late")
        bench.offload.register(Dummy("late"))
    elif step == "settle":
        assert bench.offload.settle()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("profile", ["default", "linux"])
def test_providers_hear_legal_lives_and_marks_agree(profile: str, seed: int) -> None:
    random = Random(seed)
    moody, worker, arrays = Unruly("moody"), Dummy("worker", queue_limit=50), ArrayDummy("arrays", forwards=True)
    moody.failures["add"] = lambda n: ProviderError(errno.ENOSPC) if n % 5 == 4 else None
    bench = Bench(moody, worker, arrays, profile=profile, max_connections=16)
    for _ in range(N_STEPS):
        step = random.choice(STEPS)
        play(bench, moody, step, numbers_for(step, random))
    assert bench.offload.settle()
    providers = {provider.name: provider for provider, _ in bench.offload.providers()}
    for name in ("moody", "worker"):
        check_lives(providers[name])  # type: ignore[arg-type]
    for provider in providers.values():
        check_marks(bench, provider)  # type: ignore[arg-type]
    counters = bench.offload.statistics()
    for name in ("moody", "worker", "arrays"):
        assert min(counters[f"{name}.{what}"] for what in ("added", "established", "deleted")) > 0
    bench.offload.close()
    assert len(worker) == len(arrays) == len(moody) == 0
    assert bench.tracker.statistics()["observer-errors"] == 0


def check_lives(provider: Dummy) -> None:
    """Per connection: add at most once, then established while it is there, then del; flush begins anew."""
    told: dict[object, list[str]] = defaultdict(list)
    for entry in provider.told:
        if entry.name == "flush":
            told.clear()
        elif entry.name != "policy":
            told[entry.connection].append(entry.name)
    for names in told.values():
        assert names.count("add") <= 1
        assert names.count("del") <= 1
        assert names[-1] == "del" or "del" not in names
        assert "est" not in names or names[0] == "add"
        assert "upd" not in names or names[0] == "add"


def check_marks(bench: Bench, provider: Dummy | ArrayDummy) -> None:
    for identity in bench.identities():
        mark = bench.offload.mark(*identity, provider.name)
        assert (mark >= MARK_ADDED) == provider.contains(identity)
        assert (mark == MARK_ESTABLISHED) == provider.is_bidirectional(identity)
        if mark == MARK_NONE:
            assert bench.offload.reason(*identity, provider.name).code != "none"
