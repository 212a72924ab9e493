"""`flowshunt replay` from its options to its exit status."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from flowshunt.app import Switch
from flowshunt.base.errors import UsageError
from flowshunt.cli import kernels
from flowshunt.cli.failures import DAMAGED, INTERRUPTED, OK, complain, give_up_stdout
from flowshunt.cli.replay import connections, document, render
from flowshunt.cli.replay.loading import Loader
from flowshunt.cli.replay.offloading import OffloadWatch, settled
from flowshunt.cli.replay.options import DEFAULT_FLOWS, STDOUT, ReplayOptions, TableStyle
from flowshunt.cli.replay.outputs import PortWriters, StatesWriter
from flowshunt.cli.replay.report import Report, make_report
from flowshunt.cli.replay.run import Consumer, Ending, Interrupts, Outcome, Processor, run
from flowshunt.cli.replay.sources import MergedSource, SidedSource, open_merged, open_sided
from flowshunt.cli.replay.table_file import TableFile, TableFileError
from flowshunt.cli.replay.tally import Tally
from flowshunt.cli.replay.twin import Twin
from flowshunt.cli.replay.windows import Windowed
from flowshunt.cli.terminal import reading, show
from flowshunt.ports.api import CaptureError
from flowshunt.ports.capture.sides import NETWORKS_GIVEN
from flowshunt.rules.openflow.errors import FlowSyntaxError


def execute(options: ReplayOptions) -> int:
    """Do what `options`, which have been checked, ask for; returns the exit status.

    Raises UsageError for rules that cannot be read, OSError for files that cannot be opened, BrokenPipeError when
    nobody reads standard output any more.
    """
    kernels.ready(quiet=options.quiet, thorough=False)
    switch = make_switch(options)
    watch = _offload(options, switch)
    with ExitStack() as closing:
        closing.callback(switch.offload.close)
        try:
            source = open_source(options, switch, closing)
            table = None if options.load_table is None else closing.enter_context(TableFile(options.load_table))
        except (CaptureError, TableFileError) as error:
            complain(str(error))
            return DAMAGED
        outputs = _open_outputs(options, switch, closing)
        try:
            status = _replay_and_report(options, switch, source, outputs, table, watch)
            closing.close()
        except BrokenPipeError:
            raise
        except OSError as error:
            complain(f"cannot go on: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
            give_up_stdout()
            return DAMAGED
    return status


def _replay_and_report(
    options: ReplayOptions,
    switch: Switch,
    source: SidedSource | MergedSource,
    outputs: _Outputs,
    table: TableFile | None,
    watch: OffloadWatch | None,
) -> int:
    loader = None if table is None else Loader(switch, table, complain)
    tally = Tally()
    consumers = [*([settled(switch), watch.add] if watch else ()), tally.add, *outputs.consumers]
    twin = _twin(options, loader or switch, table, outputs.unchecked)
    outcome = replay(options, twin or loader or switch, source, consumers)
    loaded = loader.finish() if loader is not None else None
    sides = source.sides if isinstance(source, SidedSource) else None
    if options.inside and sides is not None and NETWORKS_GIVEN not in sides.reasons:
        networks = ", ".join(map(str, options.inside))
        complain(f"warning: --inside {networks} does not tell the two sides of the capture apart")
    report = replace(_report(options, switch, source, tally, outcome), loaded=loaded)
    if watch is not None:
        report = replace(report, offload=watch.report(report.originals, twin.comparison if twin else None))
    _write(options, report, outputs)
    for damage in outcome.damages:
        complain(str(damage))
    if outcome.ending is Ending.INTERRUPTED:
        return INTERRUPTED
    is_damaged = bool(outcome.damages) or (loaded is not None and loaded.is_partial)
    return DAMAGED if is_damaged or (twin is not None and twin.different) else OK


def _offload(options: ReplayOptions, switch: Switch) -> OffloadWatch | None:
    """Have the switch offload as the options say, and watch it."""
    if not options.offloads:
        return None
    switch.offload_to((offload.name, dict(offload.options)) for offload in options.offloads)
    return OffloadWatch(switch)


def _twin(options: ReplayOptions, switch: Processor, table: TableFile | None, unchecked: TextIO | None) -> Twin | None:
    """The switch with another one beside it that has the same rules, settings and table, and does not offload."""
    if not options.compare:
        return None

    def list_unchecked(number: int, state: str) -> None:
        if unchecked is not None:
            unchecked.write(f"{number}: {state}\n")

    reference = make_switch(replace(options, offloads=()), quiet=True)
    before = None if table is None else Loader(reference, table, _ignore)
    return Twin(switch, reference, list_unchecked, before)


def make_switch(options: ReplayOptions, *, quiet: bool = False) -> Switch:
    """A switch with the ports and rules of `options`. Raises UsageError for rules that cannot be read.

    `quiet`: without warnings.
    """
    warn = _ignore if quiet else complain
    switch = Switch.from_config(options.config, batch_size=options.batch_size)
    for name in [port.name for port in options.ports] or options.sides:
        switch.add_port(name)
    try:
        for source, text in _flow_texts(options):
            if not switch.add_flows(text, source, warn=lambda warning: warn(f"warning: {warning}")):
                warn(f"warning: {source} holds no flow")
    except FlowSyntaxError as error:
        hint = f"the ports are {' and '.join(switch.ports)}; --sides and --port name them"
        about_a_port = re.search(r"\bport\b", error.message)
        raise UsageError(str(error), hint=hint if about_a_port else None) from None
    return switch


def _ignore(message: str) -> None:
    """Said already."""


def _flow_texts(options: ReplayOptions) -> Iterator[tuple[str, str]]:
    """Where each text of rules comes from, and the text."""
    for path in options.flow_files:
        yield path, _read_flows(path)
    for number, text in enumerate(options.flows, 1):
        yield options.flows_source if len(options.flows) == 1 else f"{options.flows_source} {number}", text
    if not options.flow_files and not options.flows:
        yield "default rules", DEFAULT_FLOWS


def _read_flows(path: str) -> str:
    try:
        return sys.stdin.read() if path == STDOUT else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8 text", hint="rules are a text file") from None


def open_source(options: ReplayOptions, switch: Switch, closing: ExitStack) -> SidedSource | MergedSource:
    """Where the packets come from; `closing` closes it. Raises OSError, and CaptureError for what is no capture."""
    if options.capture is not None:
        return open_sided(options.capture, options.inside, options.limit, closing)
    return open_merged(options.ports, [switch.ports[port.name] for port in options.ports], closing)


@dataclass(frozen=True, slots=True)
class _Outputs:
    consumers: Sequence[Consumer]
    json: TextIO | None
    unchecked: TextIO | None


def _open_outputs(options: ReplayOptions, switch: Switch, closing: ExitStack) -> _Outputs:
    """Everything that can fail to open does so before the first packet."""
    consumers: list[Consumer] = []
    paths = {switch.ports[port.name]: port.path for port in options.write_ports}
    if options.write_directory is not None:
        directory = Path(options.write_directory)
        directory.mkdir(parents=True, exist_ok=True)
        paths = {number: str(directory / f"{name}.pcap") for name, number in switch.ports.items()} | paths
    _check_outputs(options, [*paths.values(), *filter(None, (options.states, options.json, options.unchecked))])
    if options.states is not None:
        out = _open_text(options.states, closing)
        is_linux = options.config.tracker.profile == "linux"
        states = StatesWriter(out, switch.fragments.oldest_packet, first_only=is_linux)
        consumers.append(closing.enter_context(states).take)
    if paths:
        names = {number: name for name, number in switch.ports.items()}
        consumers.append(closing.enter_context(PortWriters(paths, names)).take)
    json, unchecked = (
        None if path is None else _open_text(path, closing) for path in (options.json, options.unchecked)
    )
    return _Outputs(consumers, json, unchecked)


def _check_outputs(options: ReplayOptions, outputs: Sequence[str]) -> None:
    """Raise UsageError before an output overwrites what is read, or another output."""
    inputs = [options.capture, *(port.path for port in options.ports), *options.flow_files]
    inputs += [options.config_file, options.load_table]
    for place, output in enumerate(outputs):
        if output == STDOUT or not Path(output).is_file():
            same = [other for other in outputs[:place] if other == output != STDOUT]
        else:
            others = [other for other in (*inputs, *outputs[:place]) if other and Path(other).is_file()]
            same = [other for other in others if Path(other).samefile(output)]
        if same:
            what = "is also read" if same[0] in inputs else "is named for two outputs"
            raise UsageError(f"{output} {what}", hint="write to another file")


def _open_text(path: str, closing: ExitStack) -> TextIO:
    return sys.stdout if path == STDOUT else closing.enter_context(open(path, "w", encoding="utf-8", newline="\n"))


def replay(
    options: ReplayOptions, switch: Processor, source: SidedSource | MergedSource, consumers: Sequence[Consumer]
) -> Outcome:
    """Run all packets, with progress, until they end or Ctrl-C; with offload in batches that span little time."""
    with Interrupts().installed() as interrupts, reading(source.size, quiet=options.quiet) as progress:
        return run(
            Windowed(source) if options.offloads else source,
            switch,
            consumers,
            batch_size=options.batch_size,
            limit=options.limit,
            interrupts=interrupts,
            progress=progress,
        )


def _report(
    options: ReplayOptions, switch: Switch, source: SidedSource | MergedSource, tally: Tally, outcome: Outcome
) -> Report:
    return make_report(
        switch,
        tally,
        outcome,
        profile=options.config.tracker.profile,
        default_rules=not options.flow_files and not options.flows,
        sources=options.sources,
        sides=source.sides if isinstance(source, SidedSource) else None,
        n_skipped=source.n_skipped,
        with_listing=options.table is not None or options.json is not None,
    )


def _write(options: ReplayOptions, report: Report, outputs: _Outputs) -> None:
    """What comes at the end: the table, the JSON, the summary."""
    if options.table is TableStyle.OFFLOAD:
        connections.write_offload(report, sys.stdout)
    elif options.table is not None:
        connections.write(report.listing, options.table, sys.stdout)
    if outputs.json is not None:
        document.write(report, outputs.json)
    sys.stdout.flush()
    if not options.quiet:
        show(render.sections(report), sys.stderr if options.stdout_users else sys.stdout)
        sys.stdout.flush()
