"""Settings of the modelled NIC, from text and from profiles."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import flowshunt.offload.eswitch as package
from flowshunt.base.errors import UsageError
from flowshunt.offload.eswitch.profiles import profile_names, read_profile, settings_from
from flowshunt.offload.eswitch.settings import RANGES, EswitchSettings, parse_value

PROFILES = Path(package.__file__).parent / "profiles"


def test_the_defaults_are_those_of_the_nics_documentation():
    settings = EswitchSettings()
    assert (settings.num_of_groups, settings.group_size) == (4, 800_000)
    assert settings.ct_max_offloaded_conns == 1_000_000
    assert settings.ageing_s == 30


@pytest.mark.parametrize(
    ("text", "value"), [("8", 8), ("50k", 50_000), ("4M", 4_000_000), ("1_000", 1000), ("none", None), (" 7 ", 7)]
)
def test_a_value_is_a_number_with_thousands_or_millions(text, value):
    assert parse_value("insertion_rate", text) == value


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_of_group": "8"}, "no setting 'num_of_group'"),
        ({"num_of_groups": "eight"}, "num_of_groups is 'eight'"),
        ({"num_of_groups": "-1"}, "num_of_groups is '-1'"),
        ({"num_of_groups": ""}, "num_of_groups is ''"),
        ({"num_of_groups": "k"}, "num_of_groups is 'k'"),
        ({"num_of_groups": "٣"}, "num_of_groups is '٣'"),
        ({"num_of_groups": "9" * 5000}, "num_of_groups is"),
        ({"num_of_groups": "0"}, "num_of_groups is 0"),
        ({"num_of_groups": "none"}, "num_of_groups is None"),
        ({"ageing_s": "0"}, "ageing_s is 0"),
        ({"table_entries": "4"}, "4 table_entries make 4 groups without an entry"),
        ({"profile": "x"}, "no profile 'x'"),
    ],
)
def test_what_cannot_be_set_is_said(options, complaint):
    with pytest.raises(UsageError, match=re.escape(complaint)):
        settings_from(options)


def test_without_options_all_is_at_its_default():
    assert settings_from({}) == EswitchSettings()


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_has_a_source_for_each_value(name):
    profile = read_profile(name)
    assert set(profile.known) <= set(RANGES)
    comment = []
    for line in (PROFILES / f"{name}.toml").read_text().splitlines():
        if line.startswith("#"):
            comment.append(line)
            continue
        key = line.partition("=")[0].strip()
        if key in RANGES:
            assert re.search(r"\[1\] [A-Z]|Linux, (drivers|include)/|release notes", " ".join(comment)), key
        comment = []


def test_what_a_profile_leaves_out_limits_nothing():
    known = read_profile("connectx-6-dx")
    assert "ct_max_offloaded_conns" not in known.known
    assert known.settings.ct_max_offloaded_conns is None
    assert known.settings.insertion_rate is None


def test_the_profiles_of_bluefield_have_what_its_documentation_says():
    for name in ("bluefield-2", "bluefield-3"):
        settings = read_profile(name).settings
        assert (settings.group_size, settings.num_of_groups, settings.ageing_s) == (800_000, 4, 30)
        assert settings.ct_max_offloaded_conns == 1_000_000


def test_a_profile_may_be_a_file_and_be_changed(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[eswitch]\nnum_of_groups = 15\n")
    settings = settings_from({"profile": str(path), "ageing_s": "5"})
    assert (settings.num_of_groups, settings.ageing_s, settings.ct_max_offloaded_conns) == (15, 5, None)
    assert read_profile(str(path)).title == "mine"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff", "no TOML"),
        (b"[eswitch", "no TOML"),
        (b"", "no profile"),
        (b"eswitch = 5", "no profile"),
        (b"[eswitch]\n[other]\n", "no profile"),
        (b"title = 5\n[eswitch]\n", "no profile"),
        (b"[eswitch]\nspeed = 5\n", "no setting 'speed'"),
        (b"[eswitch]\nageing_s = 1.5\n", "ageing_s is 1.5"),
        (b"[eswitch]\nageing_s = true\n", "ageing_s is True"),
        (b"#" * (1 << 21), "too large"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, content, complaint):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        read_profile(str(path))


def test_a_file_that_is_not_there_is_an_os_error():
    with pytest.raises(OSError, match="nowhere"):
        read_profile("/nowhere/mine.toml")


def test_a_profile_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="is no file"):
        read_profile(str(pipe))
