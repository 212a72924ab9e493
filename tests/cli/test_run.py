from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from flowshunt.cli.replay.run import Ending, Interrupts, run
from flowshunt.ports.api import CaptureError
from tests.cli.fakes import FakeSource, FakeSwitch


def test_everything_goes_through_in_batches() -> None:
    switch = FakeSwitch()
    seen: list[int] = []
    outcome = run(FakeSource(10), switch, [lambda batch, result: seen.append(len(result.ct_state))], batch_size=4)
    assert outcome.ending is Ending.END
    assert switch.sizes == seen == [4, 4, 2]


@pytest.mark.parametrize(("limit", "sizes", "ending"), [(5, [4, 1], Ending.LIMIT), (20, [4, 4, 2], Ending.END)])
def test_a_limit_stops_exactly_there(limit: int, sizes: list[int], ending: Ending) -> None:
    switch = FakeSwitch()
    outcome = run(FakeSource(10), switch, [], batch_size=4, limit=limit)
    assert (switch.sizes, outcome.ending) == (sizes, ending)


def test_a_damaged_capture_ends_as_damaged_with_the_reason() -> None:
    damage = CaptureError("a.pcap", 40, "packet of 3 GB", "at most 256 kB")
    switch = FakeSwitch()
    outcome = run(FakeSource(3, errors=[damage]), switch, [], batch_size=4)
    assert switch.sizes == [3]
    assert (outcome.ending, outcome.damages) == (Ending.DAMAGED, (damage,))


def test_progress_hears_of_every_batch() -> None:
    heard: list[tuple[int, int]] = []
    run(FakeSource(6), FakeSwitch(), [], batch_size=4, progress=lambda done, packets: heard.append((done, packets)))
    assert heard == [(240, 4), (360, 6)]


def test_an_interrupt_during_a_batch_waits_for_its_end() -> None:
    class Interrupted(FakeSwitch):
        def process(self, batch: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return super().process(batch)

    switch = Interrupted()
    with Interrupts().installed() as interrupts:
        outcome = run(FakeSource(10), switch, [], batch_size=4, interrupts=interrupts)
    assert (switch.sizes, outcome.ending) == ([4], Ending.INTERRUPTED)


def test_an_interrupt_ends_the_wait_for_a_silent_pipe() -> None:
    def wait_for_ever() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    switch = FakeSwitch()
    with Interrupts().installed() as interrupts:
        outcome = run(FakeSource(2, finally_do=wait_for_ever), switch, [], batch_size=4, interrupts=interrupts)
    assert (switch.sizes, outcome.ending) == ([2], Ending.INTERRUPTED)


def test_packets_taken_beforehand_are_processed_in_spite_of_an_interrupt() -> None:
    source = FakeSource(8)
    source.is_holding = True
    first = True

    def receive(limit: int) -> Any:
        nonlocal first
        if first:
            first = False
            os.kill(os.getpid(), signal.SIGINT)
        batch = FakeSource.receive(source, limit)
        source.is_holding = source.offset < source.size
        return batch

    source.receive = receive  # type: ignore[method-assign]
    switch = FakeSwitch()
    with Interrupts().installed() as interrupts:
        outcome = run(source, switch, [], batch_size=4, interrupts=interrupts)
    assert (switch.sizes, outcome.ending) == ([4, 4], Ending.INTERRUPTED)


def test_a_second_interrupt_does_not_wait() -> None:
    class Stuck(FakeSwitch):
        def process(self, batch: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second interrupt came to nothing")

    with pytest.raises(KeyboardInterrupt), Interrupts().installed() as interrupts:
        run(FakeSource(1), Stuck(), [], batch_size=4, interrupts=interrupts)


def test_the_former_signal_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts().installed():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
