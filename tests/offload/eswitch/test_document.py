"""docs/eswitch.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from flowshunt.offload.eswitch.profiles import profile_names, read_profile
from flowshunt.offload.eswitch.settings import RANGES, EswitchSettings

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "eswitch.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_table_has_every_setting_with_its_default():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", GUIDE, re.MULTILINE)
    settings = {name: getattr(EswitchSettings(), name) for name in RANGES}
    assert rows == [(name, "`none`" if value is None else str(value)) for name, value in settings.items()]


def test_the_table_has_every_profile():
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|$", GUIDE, re.MULTILINE)
    assert rows == [(name, read_profile(name).title) for name in profile_names()]


def test_the_code_runs():
    for block in blocks("python"):
        exec(compile(block, "docs/eswitch.md", "exec"), {})


def test_the_profile_can_be_read(tmp_path):
    (block,) = blocks("toml")
    path = tmp_path / "ours.toml"
    path.write_text(block)
    assert read_profile(str(path)).settings.insertion_rate == 60_000
