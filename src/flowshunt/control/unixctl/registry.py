"""Which commands there are, and what ovs-appctl says when one is used wrongly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from flowshunt.base.errors import FlowshuntError
from flowshunt.control.unixctl.node import Node

Handler = Callable[[Node, list[str]], Awaitable[str]]

_NAME_WIDTH = 23
_ANY = 1 << 30
_DPCTL = "dpctl/"


class CommandError(Exception):
    """What the user of a command is told on standard error; ovs-appctl leaves with status 2."""


class Command(NamedTuple):
    """A command: its name, how its arguments are written in help, how many there may be, and what does it."""

    name: str
    usage: str
    least: int
    most: int
    handler: Handler


def command(name: str, usage: str, least: int, most: int | None, handler: Handler) -> Command:
    """A command that takes `least` to `most` arguments (None: any number)."""
    return Command(name, usage, least, _ANY if most is None else most, handler)


class Registry:
    """Commands by name."""

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        """Begin with some, and `list-commands`."""
        self._commands: dict[str, Command] = {}
        self.add(command("list-commands", "", 0, 0, self._list))
        self.add(command("dpctl/list-commands", "", 0, 0, self._list_dpctl))
        for one in commands:
            self.add(one)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a command."""
        return name in self._commands

    def add(self, one: Command) -> None:
        """Add a command; one of the same name is replaced."""
        self._commands[one.name] = one

    async def run(self, node: Node, name: str, params: list[Any]) -> str:
        """Run a command. Raises CommandError with the text for the user."""
        found = self._commands.get(name)
        if found is None:
            raise CommandError(f'"{name}" is not a valid command (use "list-commands" to see a list of valid commands)')
        if len(params) < found.least:
            raise CommandError(f'"{name}" command requires at least {found.least} arguments')
        if len(params) > found.most:
            raise CommandError(f'"{name}" command takes at most {found.most} arguments')
        if not all(isinstance(param, str) for param in params):
            raise CommandError(f'"{name}" command has non-string argument')
        try:
            return await found.handler(node, params)
        except FlowshuntError as error:
            raise CommandError(str(error)) from error

    async def _list(self, node: Node, arguments: list[str]) -> str:
        lines = [f"  {name:<{_NAME_WIDTH}} {one.usage}\n" for name, one in sorted(self._commands.items())]
        return "The available commands are:\n" + "".join(lines)

    async def _list_dpctl(self, node: Node, arguments: list[str]) -> str:
        found = ((name, one) for name, one in sorted(self._commands.items()) if name.startswith(_DPCTL))
        lines = [f"  {_DPCTL}{name.removeprefix(_DPCTL):<{_NAME_WIDTH}} {one.usage}\n" for name, one in found]
        return "The available commands are:\n" + "".join(lines)


def on_worker(function: Callable[[Node, list[str]], str]) -> Handler:
    """A command that is short and runs on the packet thread as a whole."""

    async def handler(node: Node, arguments: list[str]) -> str:
        return await node.call(lambda: function(node, arguments))

    return handler


def answers(text: str) -> Handler:
    """A command that always says the same, because there is nothing here that it could do."""

    async def handler(node: Node, arguments: list[str]) -> str:
        return text

    return handler
