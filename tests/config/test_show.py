"""The settings there are, as a TOML file."""

from __future__ import annotations

import re

import pytest

from flowshunt.config import model, show
from flowshunt.config.model import Config, ZoneSection
from flowshunt.config.read import parse_config, settings_of

SECTIONS = (
    model.TrackerSection, model.ZoneSection, model.SwitchSection, model.ReplaySection, model.OffloadSection,
    model.RunSection, model.BridgeSection, model.PortSection,
)  # fmt: skip


def test_what_is_shown_reads_back_as_the_defaults() -> None:
    assert parse_config(show.text()) == Config(zones={None: ZoneSection()})


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_setting_is_described(kind: type) -> None:
    described = show.descriptions(kind)
    assert described.keys() == settings_of(kind).keys()
    assert all(text.endswith(".") for text in described.values())


def test_every_setting_is_there_with_its_range() -> None:
    text = show.text()
    for kind in SECTIONS:
        for name in settings_of(kind):
            assert re.search(rf"^(# )?{name} =", text, re.MULTILINE), name
    assert all(f"# {name} =" in text for name in model.TIMEOUT_NAMES)
    assert "From 1 to 268435456." in " ".join(text.replace("\n#", "").split())
    assert all(len(line) <= 102 for line in text.splitlines())
