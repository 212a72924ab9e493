"""Flow texts: one flow, or a file of them, as ovs-ofctl reads them.

Where this differs from ovs-ofctl 3.1, on purpose:

- Refused here, cut down to something else there: values that do not fit (dl_vlan=4096, nw_ecn=4, arp_op=256, the
  address 10.0.0.256), fields without a value (`reg0=`), numbers that stop early (`0x`, `load:1.2.3.4->`), a mask on
  mod_dl_src, goto_table to the flow's own table where the text leaves the table out.
- Taken here, refused there: ct without ip or ipv6 in the match, set_field to a part of a field (`reg0[0..15]`) and by
  its NXM name, decimal numbers of more than 64 bits, set_field with a mask on any field that can be masked.
- write_metadata is read as setting the field, masks with gaps as several actions, mod_* actions that no packet of
  the flow could need as nothing, with a warning; importance is kept and printed.
- The word `action` counts only as a word: a port may be called reaction0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NoReturn, get_args

from flowshunt.rules.openflow import flow as flows
from flowshunt.rules.openflow.actions import ActionReader, read_table
from flowshunt.rules.openflow.errors import MAX_MISTAKES, BadValueError, FlowSyntaxError, FlowWarning, quote
from flowshunt.rules.openflow.fields import PLAIN_NAMES, PROTOCOLS, UNSUPPORTED, USER_FIELDS
from flowshunt.rules.openflow.flow import Flow
from flowshunt.rules.openflow.match import MatchBuilder
from flowshunt.rules.openflow.scanner import MAX_TEXT, Context, Item, items
from flowshunt.rules.openflow.setters import read_part
from flowshunt.rules.openflow.values import PORT_NONE, nearest, read_int, read_port

Command = Literal["add", "mod", "mod_strict", "del", "del_strict"]
COMMANDS: Mapping[str, Command] = MappingProxyType(
    {"add": "add", "modify": "mod", "modify_strict": "mod_strict", "delete": "del", "delete_strict": "del_strict"}
)
"""The words that may stand before a flow in a file, and the commands they are."""

FLAGS = ("send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts")
"""A flow's flags, in the order in which they are printed."""

_NOTHING: Mapping[str, int] = MappingProxyType({})
_STATISTICS = frozenset(("duration", "n_packets", "n_bytes", "idle_age", "hard_age"))
_IGNORED = frozenset(("no_readonly_table", "allow_hidden_fields", "eth"))
_BEFORE_ACTIONS = frozenset(", \t\r\n")
_BLANK = " \t\r\n"
_NUMBERS = {"priority": 16, "idle_timeout": 16, "hard_timeout": 16, "importance": 16}
_ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "add": frozenset((*_NUMBERS, *FLAGS)),
        "mod": frozenset(("priority", "idle_timeout", "hard_timeout", *FLAGS)),
        "mod_strict": frozenset(("priority", "idle_timeout", "hard_timeout", *FLAGS)),
        "del": frozenset(("out_port", "out_group")),
        "del_strict": frozenset(("priority", "out_port", "out_group")),
    }
)
_OTHERS = ("table", "cookie", *_NUMBERS, *FLAGS, "out_port", "out_group", "actions")
_GROUPS = {"all": 0xFFFFFFFC, "any": None}


def parse_flow(
    text: str,
    *,
    ports: Mapping[str, int] = _NOTHING,
    tables: Mapping[str, int] = _NOTHING,
    source: str = "<flow>",
    line: int = 1,
    command: Command = "add",
    warn: Callable[[FlowWarning], None] | None = None,
) -> Flow:
    """The flow that `text` describes, such as `table=1,priority=5,tcp,tp_dst=80,actions=output:2`.

    `ports` and `tables` give the numbers of names; `source` and `line` say where the text comes from, for messages.
    `command` says what the flow is for, and with that which words it may have: a deletion has no actions, but may
    have `out_port`, `out_group` and a cookie with its mask. `warn` is called for what is read otherwise than it
    looks, such as a port without its protocol. Raises FlowSyntaxError.
    """
    if command not in get_args(Command):
        raise ValueError(f"command {command!r} is none of {', '.join(get_args(Command))}")
    context = Context(text, source, line, ports, tables, warn)
    return _FlowReader(context, command).read(0, len(text))


def parse_flows(
    text: str,
    ports: Mapping[str, int] = _NOTHING,
    *,
    tables: Mapping[str, int] = _NOTHING,
    source: str = "<flows>",
    command: Command = "add",
    warn: Callable[[FlowWarning], None] | None = None,
) -> list[tuple[Command, Flow]]:
    """The flows of a file with one on each line, each with its command: the word before it, or `command`.

    `#` starts a comment, blank lines are skipped. Raises FlowSyntaxError for the first line that is wrong, with the
    mistakes of the lines behind it.
    """
    found: list[tuple[Command, Flow]] = []
    mistakes: list[FlowSyntaxError] = []
    for line_command, reader, start, end in _lines(text, ports, tables, source, command, warn):
        try:
            found.append((line_command, reader.read(start, end)))
        except FlowSyntaxError as mistake:
            mistakes.append(mistake)
            if len(mistakes) == MAX_MISTAKES:
                break
    if mistakes:
        mistakes[0].others = tuple(mistakes[1:])
        raise mistakes[0]
    return found


def iterate_flows(
    text: str,
    ports: Mapping[str, int] = _NOTHING,
    *,
    tables: Mapping[str, int] = _NOTHING,
    source: str = "<flows>",
    command: Command = "add",
    warn: Callable[[FlowWarning], None] | None = None,
) -> Iterator[tuple[Command, Flow]]:
    """As `parse_flows`, one after the other; the first mistake ends it."""
    for line_command, reader, start, end in _lines(text, ports, tables, source, command, warn):
        yield line_command, reader.read(start, end)


def _lines(
    text: str,
    ports: Mapping[str, int],
    tables: Mapping[str, int],
    source: str,
    command: Command,
    warn: Callable[[FlowWarning], None] | None,
) -> Iterator[tuple[Command, _FlowReader, int, int]]:
    """Per line with a flow: its command, its reader, and where the flow begins and ends in the line."""
    for number, line in enumerate(text.split("\n"), 1):
        content, hashed, _ = line.partition("#")
        start = len(content) - len(content.lstrip(_BLANK))
        if start == len(content):
            continue
        word_end = start
        while word_end < len(content) and content[word_end] not in _BEFORE_ACTIONS:
            word_end += 1
        given = COMMANDS.get(content[start:word_end])
        context = Context(content if hashed else line, source, number, ports, tables, warn)
        reader = _FlowReader(context, given or command)
        yield given or command, reader, word_end if given else start, len(content)


class _FlowReader:
    """Reads one flow."""

    def __init__(self, context: Context, command: Command) -> None:
        self.context = context
        self.command = command
        self.allowed = _ALLOWED[command]
        self.match = MatchBuilder(context)
        self.numbers: dict[str, int] = {}
        self.outputs: dict[str, int | None] = {}
        self.flags: list[str] = []
        self.table = flows.ALL_TABLES
        self.cookie: int | None = None
        self.cookie_mask = 0

    def read(self, start: int, end: int) -> Flow:
        """The flow of `text[start:end)`."""
        context = self.context
        if end - start > MAX_TEXT:
            context.fail(start, "", f"a flow has {end - start} characters", f"at most {MAX_TEXT}")
        match_end, actions_at = end, -1
        if self.command in ("add", "mod", "mod_strict"):
            match_end, actions_at = _find_actions(context.text, start, end)
        for item in items(context.text, start, match_end):
            self._item(item)
        if actions_at < 0 and self.command in ("add", "mod", "mod_strict"):
            context.fail(end, "", "the flow has no actions", "write actions=output:1, actions=drop or the like")
        match, facts = self.match.finish()
        if self.table == flows.ALL_TABLES and self.command == "add":
            self.table = 0
        actions: tuple[flows.Action, ...] = ()
        if actions_at >= 0:
            table = self.table if self.table != flows.ALL_TABLES else -1
            actions = ActionReader(context, facts, table).read(actions_at, end)
        adding = self.command == "add"
        number = self.numbers.get
        return Flow(
            match=match,
            actions=actions,
            table=self.table,
            priority=number("priority", flows.DEFAULT_PRIORITY),
            cookie=(self.cookie or 0) if adding or self.cookie_mask else 0,
            idle_timeout=number("idle_timeout", 0),
            hard_timeout=number("hard_timeout", 0),
            importance=number("importance", 0),
            flags=frozenset(self.flags),
            cookie_mask=self.cookie_mask,
            new_cookie=self.numbers.get("new_cookie"),
            out_port=self.outputs.get("out_port"),
            out_group=self.outputs.get("out_group"),
        )

    def _item(self, item: Item) -> None:
        """Take one word, or key and value, of the part before the actions."""
        key = item.key
        protocol = PROTOCOLS.get(key)
        try:
            if not item.closed:
                self.context.tell(item.key_at, f"{key} lacks its closing parenthesis")
            if protocol is not None:
                self.match.protocol(protocol[0], protocol[1], item)
            elif key in PLAIN_NAMES:
                self.match.field(USER_FIELDS[key], item)
            elif key in self.allowed or key in ("table", "cookie"):
                self._other(key, item)
            elif "[" in key:
                self._part(item)
            elif key not in _IGNORED and not (key in _STATISTICS and item.value):
                self._unknown(item)
        except BadValueError as problem:
            raise self.context.blame(item, problem) from None

    def _other(self, key: str, item: Item) -> None:
        if key in FLAGS:
            self.flags.append(key)
        elif not item.value:
            raise BadValueError(f"{key} has no value", f"write {key}=VALUE, without spaces")
        elif key == "table":
            self.table = read_table(item.value, self.context)
        elif key == "cookie":
            self._cookie(item.value)
        elif key == "out_port":
            port = read_port(item.value, self.context.ports)
            self.outputs[key] = None if port == PORT_NONE else port
        elif key == "out_group":
            group = _GROUPS.get(item.value.lower(), -1)
            self.outputs[key] = read_int(item.value, 32) if group == -1 else group
        else:
            self.numbers[key] = read_int(item.value, _NUMBERS[key])

    def _cookie(self, text: str) -> None:
        value, slash, mask = text.partition("/")
        if slash:
            if self.command == "add":
                raise BadValueError("a new flow's cookie has no mask", f"write cookie={value}")
            self.cookie_mask = read_int(mask, 64)
            self.cookie = read_int(value, 64) & self.cookie_mask
        elif self.command in ("del", "del_strict"):
            raise BadValueError("a deletion can't set a cookie", f"to select by cookie write cookie={value}/-1")
        elif self.command == "add":
            self.cookie = read_int(value, 64)
        else:
            self.numbers["new_cookie"] = read_int(value, 64)

    def _part(self, item: Item) -> None:
        """A match on some bits: `reg0[0..15]=5`."""
        part = read_part(item.key)
        if not item.value:
            raise BadValueError(f"{quote(item.key)} has no value", f"write {item.key}=NUMBER, without spaces")
        self.match.subfield(part.field, part.start, part.width, item)

    def _unknown(self, item: Item) -> NoReturn:
        key = item.key
        at = item.key_at
        if key in UNSUPPORTED:
            self.context.fail(at, key, f"not supported yet: field {key}")
        if key in ("action", "actions"):
            hint = "write actions=" if self.command in ("add", "mod", "mod_strict") else "leave them out"
            self.context.fail(at, key, f"{quote(key)} can't stand here", hint)
        if key in _OTHERS:
            self.context.fail(at, key, f"{key} can't be given here", f"it does not belong to {_WORDS[self.command]}")
        if key in USER_FIELDS:
            self.context.fail(at, key, f"{key} needs brackets in a match", f"write {key}[]=VALUE")
        if key.lower() in PLAIN_NAMES or key.lower() in PROTOCOLS:
            self.context.fail(at, key, f"unknown field {quote(key)}", f"write {key.lower()}, in lower case")
        known = [*PLAIN_NAMES, *PROTOCOLS, *_OTHERS] if item.value else [*PROTOCOLS, *FLAGS]
        what = "unknown field" if item.value else "unknown word"
        self.context.fail(at, key, f"{what} {quote(key)}", nearest(key, known))


_WORDS = {
    "add": "a new flow",
    "mod": "a modification",
    "mod_strict": "a modification",
    "del": "a deletion",
    "del_strict": "a deletion",
}


def _find_actions(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the match ends and where the actions start, -1 for nowhere: around the word `action=` or `actions=`."""
    at = start
    while True:
        at = text.find("action", at, end)
        if at < 0:
            return end, -1
        after = at + 6
        if text.startswith("s", after, end):
            after += 1
        while after < end and text[after] in _BLANK:
            after += 1
        if text.startswith("=", after, end) and (at == start or text[at - 1] in _BEFORE_ACTIONS):
            return at, after + 1
        at += 6
