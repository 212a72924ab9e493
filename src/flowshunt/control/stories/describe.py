"""Stories in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from flowshunt.conntrack.connection import Tuple, address_text
from flowshunt.control.stories.stories import Step, Story
from flowshunt.offload import reasons as R

if TYPE_CHECKING:
    from flowshunt.control.stories.paths import Switch

_TEXTS = {
    "created": "committed",
    "reply": "the first packet in the reply direction",
    "path-original": "path of the original direction: ",
    "path-reply": "path of the reply direction: ",
    "unfit": "cannot be forwarded: ",
    "offered": "offered to {provider}",
    "taken": "taken by {provider}",
    "refused": "refused by {provider}: ",
    "renewed": "the rules have changed, its paths have not: goes on at {provider}",
    "withdrawn": "taken back from {provider}: ",
    "handed-back": "handed back by {provider}: ",
    "closed": "comes back from {provider} for good: it is closing",
    "destroyed": "removed from the connection table",
}
_INDENT = " " * 14


def lines(story: Story, switch: Switch, start_ms: int) -> Iterator[str]:
    """A story, and how it stands at the end; times count from `start_ms`."""
    connection = story.connection
    yield f"{connection.protocol_name} {ends(connection.original)}, zone {connection.zone}"
    for step in story.steps:
        yield from _step_lines(step, start_ms)
    if story.n_left_out:
        yield f"  ({story.n_left_out} more steps in between)"
    first, *others = standing(story, switch)
    yield f"  {'now':<11} {first}"
    yield from (f"{_INDENT}{text}" for text in others)


def ends(side: Tuple) -> str:
    """Both ends of a tuple."""
    return f"{_end(side.source, side.source_port)} -> {_end(side.destination, side.destination_port)}"


def _end(address: object, port: int) -> str:
    text = address_text(address)  # type: ignore[arg-type]
    if not port:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _step_lines(step: Step, start_ms: int) -> Iterator[str]:
    text = _TEXTS[step.kind].format(provider=step.provider)
    if step.path is not None:
        changes = ", ".join(f"{name} {value}" for name, value in step.path.changes) or "unchanged"
        text += f"{step.path.in_port} -> {step.path.out_port}, {changes}"
    if step.reason is not None and step.kind != "closed":
        text = f"{text.rstrip(': ')}: {step.reason.code}"
    after = f"+{(step.time_ms - start_ms) / 1000:.3f} s"
    yield f"  {after:<11} {text.rstrip(': ')}"
    if step.reason is not None and step.kind not in ("renewed", "closed"):
        yield f"{_INDENT}{step.reason.sentence}"
    for rule in step.path.rules if step.path is not None else ():
        yield f"{_INDENT}{rule}"


def reasons_now(story: Story, switch: Switch) -> Mapping[str, R.Reason]:
    """Why each provider does not have it at the end; empty for one that is gone."""
    if not story.alive:
        return {}
    identity = story.connection.id, story.connection.generation
    names = [provider.name for provider, _ in switch.offload.providers()]
    return {name: switch.offload.reason(*identity, name) for name in names}


def standing(story: Story, switch: Switch) -> list[str]:
    """How it stands: who forwards it, or why nobody does and what would change that."""
    connection = story.connection
    packets = f"{connection.packets[0]} packets there, {connection.packets[1]} back"
    if not story.alive:
        return [f"gone; {packets}"]
    holder = switch.offload.holder(connection.id, connection.generation)
    if holder is not None:
        return [f"forwarded by {holder} [{connection.offload}]; {packets}"]
    texts = [f"not offloaded; {packets}"]
    for name, reason in reasons_now(story, switch).items():
        if reason.code == "none":
            texts.append(f"{name}: observes it, and forwards no packets")
            continue
        texts += [f"{name}: {reason.code}. {reason.sentence}", f"  {reason.fix}"]
    return texts
