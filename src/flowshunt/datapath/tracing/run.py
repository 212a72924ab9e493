"""One packet through the plain form of the interpreter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.kernels.step import hash_parsed
from flowshunt.datapath import schema as D
from flowshunt.datapath.program import CompiledRule
from flowshunt.datapath.tables import Datapath
from flowshunt.datapath.tracing.journal import Journal
from flowshunt.datapath.tracing.record import Frame, Recording
from flowshunt.datapath.tracing.recorder import Recorder, Supposition
from flowshunt.datapath.vlans import has_tag_too_many, hide_inner_tag
from flowshunt.jit import plain
from flowshunt.packet.parse import parse_batch
from flowshunt.packet.schema import HEADER_WORDS, PACKET, VERDICT_SHORT_ETHERNET, W_PORT

MOST_SECONDS = 2.0
"""Processor time that one trace may take; packets wait for it."""


class Tracer:
    """Traces packets through datapaths that share a tracker; `undo` takes back what they did to it.

    Until then later traces see what earlier ones did. For the packet thread, between two batches.
    """

    def __init__(self) -> None:
        self._journal = Journal()
        self._lent: dict[int, Any] = {}
        self._deadline = 0.0

    def __enter__(self) -> Tracer:
        """Begin."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Make everything what it was."""
        self._journal.undo()

    def _lend(self, arrays: Any) -> Any:
        if id(arrays) not in self._lent:
            self._lent[id(arrays)] = self._journal.lend(arrays)
        return self._lent[id(arrays)]

    def trace(
        self,
        datapath: Datapath,
        frame: bytes,
        in_port: int,
        now_ns: int,
        *,
        header: tuple[int, ...] = (),
        pipeline: Mapping[int, int] | None = None,
        suppose: Supposition | None = None,
        program: CompiledRule | None = None,
        path: tuple[int, ...] = (),
    ) -> Recording:
        """What a frame meets that comes in on a port.

        `header`: the first HEADER_WORDS of its key, where it shall be another one than that of the frame; `pipeline`:
        other words that it begins with. `suppose`: what the tracker is supposed to say; without, it is asked.
        `program`: actions of no table to begin with. `path`: what the paths of all parts begin with. Raises UsageError
        for a frame that is none, and TooLongError.
        """
        if len(frame) > D.OWN_SIZE:
            raise UsageError(f"a packet of {len(frame)} bytes does not fit", hint=f"at most {D.OWN_SIZE}")
        tracker = self._lend(datapath.tracker.arrays)
        work = D.make_work(1, tracker.quotes)
        own, out = D.make_own(), D.make_output(1)
        batch = own if program is not None else D.make_own()
        _take_in(batch, frame, in_port, now_ns, header)
        if plain(has_tag_too_many)(datapath.ports.arrays, batch.original, 0):
            plain(hide_inner_tag)(batch.packets, 0, batch.original, 0)
        self._deadline = self._deadline or time.thread_time() + MOST_SECONDS
        pipeline = {**(pipeline or {}), W_PORT: (pipeline or {}).get(W_PORT, 0) | in_port << 32}
        recorder = Recorder(datapath.rules.rule, work.keys, pipeline, self._deadline, suppose, path)
        arguments = (
            work,
            self._lend(datapath.rules.arrays),
            self._lend(datapath.ports.arrays),
            out,
            tracker,
            self._lend(datapath.fragments.arrays),
            own,
            batch,
            np.int64(0),
            np.int64(0),
        )
        with np.errstate(over="ignore"):
            if program is None:
                plain(hash_parsed)(tracker, batch.packets, 0, batch.original, 0)
                tracker.candidates[0] = -1
                self._run(recorder, arguments, work, resumes=False)
            else:
                words, tokens = datapath.rules.linker.link(program.program, program.late)
                try:
                    with datapath.rules.stored(words) as at:
                        _start_at(at, work, batch, pipeline, tracker, now_ns)
                        recorder.begin_outside(at)
                        self._run(recorder, arguments, work, resumes=True)
                finally:
                    datapath.rules.linker.unlink(tokens)
        return Recording(recorder.parts, _frames(out, batch), int(out.fate[0]), int(out.ct_state[0]))

    def _run(self, recorder: Recorder, arguments: Any, work: D.WorkArrays, *, resumes: bool) -> None:
        recorder.run(*arguments, resumes)
        while work.machine["punt"][0] == D.PUNT_WAITING:  # nobody is asked, so it goes on as it is
            work.machine["punt"][0] = D.PUNT_ANSWERED
            recorder.run(*arguments, True)
        recorder.end()


def _take_in(batch: D.PacketArrays, frame: bytes, in_port: int, now_ns: int, header: tuple[int, ...]) -> None:
    """The frame, parsed."""
    data, packets, original = batch
    data[: len(frame)] = np.frombuffer(frame, np.uint8)
    packets[0] = np.zeros((), PACKET)
    packets["length"] = packets["wire_length"] = len(frame)
    packets["in_port"] = in_port
    packets["time_ns"] = now_ns
    parse_batch(data, packets, original, 1)
    if packets["verdict"][0] == VERDICT_SHORT_ETHERNET:
        raise UsageError(f"{len(frame)} bytes are no packet", hint="an Ethernet header has 14")
    if header:
        original[0, :HEADER_WORDS] = header


def _start_at(
    at: int, work: D.WorkArrays, own: D.PacketArrays, pipeline: Mapping[int, int], tracker: Any, now_ns: int
) -> None:
    """As `Datapath.send_out` starts a packet in a program of no table."""
    machine = work.machine
    machine["now_ms"] = now_ns // 1_000_000
    machine["size"] = own.packets["length"][0]
    machine["fate"] = D.FATE_ACTION
    machine["dirty"] = machine["own"] = machine["resubmits"] = 1
    machine["pc"] = at
    machine["target"] = -1
    machine["table"] = D.OUTSIDE_TABLE
    machine["punt"] = D.PUNT_ANSWERED
    work.keys[0, :HEADER_WORDS] = own.original[0, :HEADER_WORDS]
    for word, value in pipeline.items():
        work.keys[0, word] = value
    work.tracked["row"] = -1


def _frames(out: D.OutputArrays, batch: D.PacketArrays) -> list[Frame]:
    frames = []
    for one in out.tx[: int(out.sent[0])]:
        source = batch.data if one["source"] == D.SOURCE_BATCH else out.tx_data
        frames.append(Frame(int(one["port"]), source[one["data"] : one["data"] + one["length"]].tobytes()))
    return frames
