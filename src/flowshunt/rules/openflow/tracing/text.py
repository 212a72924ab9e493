"""A story as the text that Open vSwitch prints of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address

from flowshunt.rules.openflow.tracing.keys import flow_text, megaflow_text, read
from flowshunt.rules.openflow.tracing.story import (
    ACTION,
    BRIDGE,
    BUCKET,
    DETAIL,
    ERROR,
    WARNING,
    Chapter,
    NatChange,
    Node,
    Story,
)
from flowshunt.rules.openflow.values import CT_STATE_FLAGS, write_flags, write_ipv4

_RULER = "=" * 79
_FORMS = {DETAIL: " -> {}", WARNING: " >> {}", ERROR: " >>>> {} <<<<"}
_LEAVES = (ACTION, DETAIL, WARNING, ERROR, BUCKET)


def lines(nodes: Sequence[Node], level: int = 0) -> Iterator[str]:
    """Nodes as lines. What comes last in its place is not indented further: there is nothing to tell it from."""
    for n, node in enumerate(nodes):
        more = n + 1 < len(nodes) or node.kind in _LEAVES
        blanks = " " * (4 * (level + more))
        if node.kind == BRIDGE:
            yield ""
            yield blanks + node.text
            yield blanks + "-" * len(node.text)
        else:
            yield blanks + _FORMS.get(node.kind, "{}").format(node.text)
        yield from lines(node.nodes, level + 2 * more)


def _ends(key: tuple[int, ...], is_ipv6: bool) -> str:
    if is_ipv6:
        source, destination = (f"[{IPv6Address(read(key, place))}]" for place in ("ipv6_src", "ipv6_dst"))
        names = ("ipv6_src", "ipv6_dst")
    else:
        source, destination = (write_ipv4(read(key, place)) for place in ("nw_src", "nw_dst"))
        names = ("nw_src", "nw_dst")
    return f"{names[0]}={source},tp_src={read(key, 'tp_src')},{names[1]}={destination},tp_dst={read(key, 'tp_dst')}"


def _nat(change: NatChange) -> str:
    return (
        "Replacing src/dst IP/ports to simulate NAT:\n"
        f" Initial flow: {_ends(change.before, change.is_ipv6)}\n"
        f" Modified flow: {_ends(change.after, change.is_ipv6)}\n"
    )


def _head(chapter: Chapter, source: str) -> str:
    """What stands above a chapter that goes on behind the tracker; `source`: why it said so."""
    state = write_flags(read(chapter.part.key, "ct_state") & 0xFF, 0xFF, CT_STATE_FLAGS)
    if source == "default":
        why = "resume conntrack with default ct_state=trk|new (use --ct-next to customize)"
    elif source == "asked":
        why = f"resume conntrack with ct_state={state}"
    else:
        why = f"resume conntrack with ct_state={state} (as the tracker says)"
    nat = _nat(chapter.nat) if chapter.nat is not None else ""
    return f"\n\n{_RULER}\nrecirc({chapter.recirc_id:#x}) - {why}\n{nat}{_RULER}\n\n"


def _chapter(chapter: Chapter) -> str:
    part, names = chapter.part, chapter.bridge.names
    first = flow_text(part.key, chapter.recirc_id, names)
    last = flow_text(part.final, chapter.recirc_id, names)
    body = "".join(f"{line}\n" for line in lines(chapter.nodes))
    text = (
        f"Flow: {first}\n{body}\nFinal flow: {'unchanged' if last == first else last}\n"
        f"Megaflow: {megaflow_text(part.key, part.mask, chapter.recirc_id, names)}\n"
        f"Datapath actions: {chapter.actions}"
    )
    if chapter.failure:
        text += f"\nTranslation failed ({chapter.failure}), packet is dropped.\n"
    return text


def story_text(story: Story, sources: dict[tuple[int, ...], str]) -> str:
    """A whole story. `sources`: by the paths of parts, who said what the tracker says: default, asked or tracker."""
    text = ""
    for chapter in story.chapters:
        if chapter.part.cause is not None:
            text += _head(chapter, sources.get(chapter.part.path, "tracker"))
        text += _chapter(chapter)
    return text
