"""A story as JSON."""

from __future__ import annotations

from typing import Any

from flowshunt.datapath.schema import FATES
from flowshunt.rules.openflow.tracing.keys import flow_text, megaflow_text
from flowshunt.rules.openflow.tracing.story import Chapter, Node, Story


def _node(node: Node) -> dict[str, Any]:
    return {"kind": node.kind, "text": node.text, "nodes": [_node(each) for each in node.nodes]}


def _chapter(chapter: Chapter, sources: dict[tuple[int, ...], str]) -> dict[str, Any]:
    part, names = chapter.part, chapter.bridge.names
    return {
        "bridge": chapter.bridge.name,
        "recirc_id": chapter.recirc_id,
        "ct_state_from": sources.get(part.path, "tracker") if part.cause is not None else None,
        "flow": flow_text(part.key, chapter.recirc_id, names),
        "steps": [_node(node) for node in chapter.nodes],
        "final_flow": flow_text(part.final, chapter.recirc_id, names),
        "megaflow": megaflow_text(part.key, part.mask, chapter.recirc_id, names),
        "datapath_actions": chapter.actions,
        "failure": chapter.failure,
    }


def story_document(story: Story, sources: dict[tuple[int, ...], str]) -> dict[str, Any]:
    """A whole story; `outputs` are the first bridge's."""
    names = story.chapters[0].bridge.names
    return {
        "fate": FATES[story.recording.fate],
        "outputs": [
            {"port": frame.port, "name": names.get(frame.port), "bytes": len(frame.data)} for frame in story.frames
        ],
        "parts": [_chapter(chapter, sources) for chapter in story.chapters],
    }
