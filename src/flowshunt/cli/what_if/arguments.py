"""The arguments of `flowshunt what-if`, with their help."""

from __future__ import annotations

import click

from flowshunt.cli.commands import FILE, OneOf, Option
from flowshunt.cli.replay import arguments as replay
from flowshunt.cli.what_if.grid import KNOBS, OPEN, Axis, Offer, Setting
from flowshunt.cli.what_if.summary import Metric

HELP = """
Replay a capture again and again, with other providers and limits: what would a NIC do with this traffic?

Each --offload is tried by itself, with every combination of the values that are given for its limits. The table shows
how many packets and bytes skip the switch's tables (hits), the most connections offloaded at a time, how many there
would have been with room for all (wanted), how often connections were inserted, how often handed back (ageing), and
which ones were refused.

Examples:

    flowshunt what-if a.pcap --offload eswitch:bluefield-2 --offload flowtable

    flowshunt what-if a.pcap --offload eswitch --table-size 10k,100k,1M --ageing 5,30,120 --chart sizes.svg

    flowshunt what-if a.pcap --offload eswitch --insertion-rate 1k,10k,none --vary eswitch.insertion_queue=0,1000,100k

    flowshunt what-if a.pcap --offload eswitch:connectx-6-dx --vary eswitch.num_of_groups=1,2,4 --quiet --json - | jq

Numbers may end in k or M; none leaves a limit open. A table size counts entries, of which a connection takes two.
A chart needs an extra: pip install 'flowshunt[chart]'.

Exit status: 0 when all was tried, 1 when the capture was damaged (after reporting what was read), 2 for wrong usage,
rules or configuration, 130 after Ctrl-C (after reporting what was tried).
"""

_TRIED = "What is tried"
_OUTPUT = "Output"
_MAX_VALUES = 1000


def values(text: str) -> tuple[str, ...]:
    """`V,V,...`: numbers in plain digits, other words as they are, each once."""
    found = dict.fromkeys(_value(word.strip()) for word in text.split(","))
    if "" in found or len(found) > _MAX_VALUES:
        raise click.BadParameter(f"{text[:80]!r} is not a list of values, such as 10k,100k,1M or 5,30,{OPEN}")
    return tuple(found)


def _value(word: str) -> str:
    scale = {"k": 1_000, "M": 1_000_000}.get(word[-1:], 1)
    digits = (word[:-1] if scale > 1 else word).replace("_", "")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) <= 12
    return str(int(digits) * scale) if is_number else word


def numbers(text: str) -> tuple[str, ...]:
    """Values that are numbers, or `none`."""
    found = values(text)
    for value in found:
        if not value.isdecimal() and value != OPEN:
            raise click.BadParameter(f"{value[:80]!r} is no number: use for example 10k,100k,1M or 5,30,{OPEN}")
    return found


def variation(text: str) -> Axis:
    """`PROVIDER.OPTION=V,V,...`."""
    left, equals, right = text.partition("=")
    provider, _, option = left.rpartition(".")
    if not (equals and provider and option):
        raise click.BadParameter(f"{text[:80]!r} is not PROVIDER.OPTION=V,V, such as eswitch.num_of_groups=1,4")
    return Axis(option, values(right), {provider: Setting(option)})


def offer(text: str) -> Offer:
    """As replay has it."""
    parsed = replay.offload(text)
    return Offer(text, parsed.name, parsed.options)


_KNOB_HELP = {
    "table-size": "Sizes of the table, in entries.",
    "ageing": "Seconds without a packet after which a connection is handed back.",
    "insertion-rate": "Connections that get into the table per second.",
}

PARAMETERS: tuple[click.Parameter, ...] = (
    *(parameter for parameter in replay.SWITCH if parameter.name != "load_table"),
    Option(
        ["--offload", "offers"],
        group=_TRIED,
        multiple=True,
        required=True,
        metavar="NAME[:PROFILE][,KEY=VALUE]",
        type=offer,
        help="A provider, as for replay; repeat it to compare several.",
    ),
    *(
        Option([f"--{entry.name}"], group=_TRIED, metavar="V,V,...", type=numbers, help=_KNOB_HELP[entry.name])
        for entry in KNOBS
    ),
    Option(
        ["--vary", "variations"],
        group=_TRIED,
        multiple=True,
        metavar="NAME.OPTION=V,V,...",
        type=variation,
        help="Values of any option of a provider; repeat it.",
    ),
    Option(
        ["--json"], group=_OUTPUT, metavar="FILE", type=FILE, help="Write all of it as JSON; - for standard output."
    ),
    Option(
        ["--chart"],
        group=_OUTPUT,
        metavar="FILE.svg",
        type=click.Path(),
        help="Draw a chart: the first limit with several values to the right, a line for each of the others' values.",
    ),
    Option(
        ["--chart-of"],
        group=_OUTPUT,
        type=OneOf(Metric),
        default=Metric.BYTES.value,
        show_default=True,
        help="What the chart shows: hits in bytes or packets, connections at a time, or those refused.",
    ),
    Option(["--quiet", "-q"], group=_OUTPUT, is_flag=True, help="No table and no progress."),
)
"""In the order of the help."""
