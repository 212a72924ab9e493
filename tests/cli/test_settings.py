"""--config and the options that come before it, --load-table, and flowshunt config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowshunt.base.errors import UsageError
from flowshunt.cli.main import app
from flowshunt.cli.replay import settings
from flowshunt.cli.replay.options import Given, Profile, Timeout, ZoneLimit
from flowshunt.cli.replay.settings import overlay
from flowshunt.cli.replay.table_file import CHUNK, MAX_ENTRY, TableFile, TableFileError
from flowshunt.config.model import Config, ReplaySection, SwitchSection, TrackerSection, ZoneSection
from flowshunt.config.read import read_config
from tests.cli.test_replay import Run, replay
from tests.cli.test_report import check_schema
from tests.cli.test_sources import TALK, write
from tests.conntrack.test_restore import entry, nat_entry, tcp_entry

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "config").glob("*.toml"))


@pytest.fixture
def talk(tmp_path: Path) -> str:
    """A capture of 100 UDP requests, each with its answer."""
    return write(tmp_path / "talk.pcap", TALK)


def configured(tmp_path: Path, text: str, *arguments: str | Path) -> Run:
    file = tmp_path / "site.toml"
    file.write_text(text)
    return replay(*arguments, "--config", file)


# --- the command line over the file ----------------------------------------------------------------------------------


def test_what_the_command_line_does_not_say_stays_as_the_file_has_it() -> None:
    config = Config(TrackerSection("linux", 7, checksums=False), {5: ZoneSection(3)}, {})
    assert overlay(config, Given()) == config


def test_the_command_line_comes_before_the_file() -> None:
    config = Config(TrackerSection("linux", 7), {None: ZoneSection(3), 5: ZoneSection(3, liberal=True)})
    given = Given(
        profile=Profile.DEFAULT,
        no_checksum=True,
        no_sequence_check=True,
        max_connections=9,
        zone_limits=(ZoneLimit(5, 1), ZoneLimit(6, 2), ZoneLimit(None, 4), ZoneLimit(5, 0)),
    )
    assert overlay(config, given) == Config(
        TrackerSection("default", 9, False, False),
        {None: ZoneSection(4), 5: ZoneSection(0, liberal=True), 6: ZoneSection(2)},
    )


def test_timeouts_change_one_zone_or_all_and_keep_what_else_was_set() -> None:
    config = Config(
        zones={None: ZoneSection(timeout="a"), 5: ZoneSection(timeout="b"), 6: ZoneSection(1)},
        timeouts={"a": {"udp_first": 1, "udp_single": 2}, "b": {"udp_multiple": 3}},
    )

    def policies(config: Config) -> dict[int | None, Any]:
        return {zone: config.timeouts.get(section.timeout or "") for zone, section in config.zones.items()}

    everywhere = overlay(config, Given(timeouts=(Timeout(None, "udp_first", 9), Timeout(None, "icmp_first", 8))))
    assert policies(everywhere) == {
        None: {"udp_first": 9, "udp_single": 2, "icmp_first": 8},
        5: {"udp_multiple": 3, "udp_first": 9, "icmp_first": 8},
        6: None,
    }
    one = overlay(config, Given(timeouts=(Timeout(5, "udp_first", 9), Timeout(7, "udp_first", 9))))
    assert policies(one) == {
        None: config.timeouts["a"], 5: {"udp_multiple": 3, "udp_first": 9}, 6: None, 7: {"udp_first": 9},
    }  # fmt: skip
    assert one.zones[6] == config.zones[6]


def test_a_smaller_table_must_hold_the_headroom() -> None:
    with pytest.raises(UsageError, match="--max-connections 5 leaves no place"):
        overlay(Config(TrackerSection(headroom=5)), Given(max_connections=5))


def test_files_of_rules_are_found_from_the_configuration() -> None:
    config = Config(switch=SwitchSection(("a.flows", "/b.flows", "-")))
    assert settings.flow_files(config, "etc/site.toml") == ("etc/a.flows", "/b.flows", "etc/-")
    assert settings.flow_files(config, "site.toml") == ("./a.flows", "/b.flows", "./-")


def test_sides_come_from_the_file_unless_they_are_given() -> None:
    config = Config(replay=ReplaySection(("a", "b")))
    assert settings.sides(Config(), None) == ("inside", "outside")
    assert settings.sides(config, None) == ("a", "b")
    assert settings.sides(config, "c,d") == ("c", "d")


# --- in a run --------------------------------------------------------------------------------------------------------


def test_a_configuration_sets_the_switch(tmp_path: Path, talk: str) -> None:
    text = """
    [tracker]
    profile = "linux"
    [zone.9]
    limit = 30
    [zone.default]
    timeout = "long"
    [timeout.long]
    udp_single = 77
    [switch]
    flows = ["table=0,in_port=left,actions=ct(commit,zone=9),normal", "table=0,in_port=right,actions=normal"]
    [replay]
    sides = ["left", "right"]
    """
    run = configured(tmp_path, text, talk, "--table", "conntrack", "--quiet")
    assert (run.status, run.err) == (0, "")
    lines = run.out.splitlines()
    assert len(lines) == 30
    assert all(line.startswith("udp      17 7") and "zone=9" in line for line in lines)
    more = configured(tmp_path, text, talk, "--table", "conntrack", "--quiet", "--zone-limit", "9=40")
    assert len(more.out.splitlines()) == 40
    other = configured(tmp_path, text, talk, "--quiet", "--json", "-", "--set-flow", "actions=drop")
    assert json.loads(other.out)["summary"]["dropped_packets"] == 200


def test_mistakes_of_a_configuration_stop_everything(tmp_path: Path, talk: str) -> None:
    run = configured(tmp_path, "[tracker]\nlose = true\n[zone.x]\n", talk)
    assert run.status == 2
    first, second = run.err.splitlines()
    assert first == f"flowshunt: {tmp_path}/site.toml:2: [tracker] has no setting lose (did you mean loose?)"
    assert second.startswith(f"{tmp_path}/site.toml:3: [zone.x]: x is no zone")
    assert run.out == ""
    assert replay(talk, "--config", tmp_path / "none.toml").status == 2


def test_a_wrong_rule_in_a_configuration_is_shown_with_its_place(tmp_path: Path, talk: str) -> None:
    run = configured(tmp_path, '[switch]\nflows = ["actions=drop", "actions=dorp"]', talk)
    assert run.status == 2
    assert f"{tmp_path}/site.toml: [switch] flows 2:1:9" in run.err


def test_a_configuration_is_not_overwritten(tmp_path: Path, talk: str) -> None:
    run = configured(tmp_path, "", talk, "--json", tmp_path / "site.toml")
    assert run.status == 2
    assert "is also read" in run.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--zone-limit", "5", "ZONE=N"),
        ("--zone-limit", "70000=1", "no zone"),
        ("--zone-limit", "5=-1", "no limit"),
        ("--timeout", "udp_first", "SECONDS"),
        ("--timeout", "udp_frist=5", "did you mean udp_first?"),
        ("--timeout", "x:udp_first=5", "no zone"),
        ("--timeout", "udp_first=99999999999", "number of seconds"),
    ],
)
def test_options_out_of_range_are_refused(talk: str, option: str, value: str, message: str) -> None:
    run = replay(talk, option, value)
    assert run.status == 2
    assert message in " ".join(run.err.replace("│", " ").split())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_of_configurations_run(talk: str, file: Path) -> None:
    sides = read_config(file).replay.sides or ("inside", "outside")
    run = replay(talk, "--config", file, "--quiet", "--write-port", f"{sides[0]}=/dev/null")
    assert (run.status, run.err) == (0, "")


def test_config_show_and_check(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["config", "show"])
    assert shown.exit_code == 0
    file = tmp_path / "site.toml"
    file.write_text(shown.stdout)
    assert CliRunner().invoke(app, ["config", "check", str(file)]).exit_code == 0
    file.write_text(shown.stdout.replace("loose =", "lose ="))
    checked = CliRunner().invoke(app, ["config", "check", str(file)])
    assert checked.exit_code == 2
    assert "did you mean loose?" in checked.stderr


# --- a table to begin with -------------------------------------------------------------------------------------------


def write_table(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_a_replay_goes_on_where_another_one_ended(tmp_path: Path, talk: str) -> None:
    table = tmp_path / "first.json"
    assert replay(talk, "--limit", "51", "--quiet", "--json", table).status == 0
    whole = json.loads(replay(talk, "--quiet", "--json", "-").out)
    run = replay(talk, "--load-table", table, "--quiet", "--json", "-")
    document = json.loads(run.out)
    check_schema(run.out)
    assert document["summary"]["loaded_connections"] == 26
    assert document["summary"]["refused_connections"] == 0
    assert document["summary"]["connections"] == whole["summary"]["connections"] == 100
    assert whole["summary"]["loaded_connections"] is None
    assert (run.status, run.err) == (0, "")


def test_what_a_run_without_forwarding_says_of_providers_does_not_count(tmp_path: Path, talk: str) -> None:
    table = tmp_path / "first.json"
    assert replay(talk, "--limit", "51", "--offload", "dummy", "--quiet", "--json", table).status == 0
    assert json.loads(table.read_text())["connections"][0]["reasons"].keys() == {"dummy"}
    run = replay(talk, "--load-table", table, "--quiet", "--json", "-")
    assert json.loads(run.out)["summary"]["loaded_connections"] == 26
    assert (run.status, run.err) == (0, "")


def test_refused_entries_are_named_counted_and_make_the_exit_status(tmp_path: Path, talk: str) -> None:
    bad = [entry(zone=-1), entry(mark=10**60), 5, entry(zone=1), entry(zone=1), nat_entry(zone=2), tcp_entry(zone=3)]
    table = write_table(tmp_path / "t.json", {"connections": [entry(), *bad]})
    run = replay(talk, "--load-table", table)
    assert run.status == 1
    assert run.err.splitlines() == [
        f"flowshunt: {table}: connection 2 refused: zone: -1 is out of range: 0 to 65535",
        f"flowshunt: {table}: connection 3 refused: mark: {10**39} is no whole number",
        f"flowshunt: {table}: connection 4 refused: entry: 5 is not an object",
        f"flowshunt: {table}: connection 6 refused: entry: a connection of this tuple and zone is there already, "
        "in one direction or the other",
    ]
    assert f"loaded       4 connections from {table}, 4 entries refused" in run.out


def test_only_the_first_refusals_are_shown_one_by_one(tmp_path: Path, talk: str) -> None:
    table = write_table(tmp_path / "t.json", [{}] * 1000)
    run = replay(talk, "--load-table", table)
    assert len(run.err.splitlines()) == 21
    assert run.err.splitlines()[-1] == f"flowshunt: {table}: 980 more entries refused"
    assert "0 connections from" in run.out
    assert "1,000 entries refused" in run.out


def test_without_a_clock_the_time_left_counts_from_the_first_packet(tmp_path: Path, talk: str) -> None:
    table = write_table(tmp_path / "t.json", [entry(timeout_ms=1_000_000)])
    run = replay(talk, "--load-table", table, "--limit", "1", "--quiet", "--json", "-")
    times = [connection["timeout_ms"] for connection in json.loads(run.out)["connections"]]
    assert 1_000_000 in times


def test_a_table_of_a_later_time_is_loaded_with_a_warning(tmp_path: Path, talk: str) -> None:
    table = write_table(tmp_path / "t.json", {"summary": {"last_ns": 1 << 62}, "connections": [entry()]})
    run = replay(talk, "--load-table", table)
    assert run.err == f"flowshunt: warning: {table}: that table is of a later time than the first packet\n"
    assert "loaded       1 connections" in run.out


def test_limits_of_the_command_line_hold_for_the_loaded_table(tmp_path: Path, talk: str) -> None:
    ways = [{**entry()["original"], "source_port": n} for n in range(1, 11)]
    table = write_table(tmp_path / "t.json", [entry(original=way, zone=4) for way in ways])
    run = replay(talk, "--load-table", table, "--zone-limit", "4=3")
    assert run.status == 1
    assert "loaded       3 connections" in run.out
    assert run.err.count("its zone is at its limit") == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at character 0: a list of connections"),
        ("5", "a list of connections, or an object with one, was expected"),
        ("{}", "it holds no list called connections"),
        ('{"connections": 5}', "'5' stands where one of [ was expected"),
        ('{"connections": [', "it ends too soon"),
        ('{"connections": [] x', "stands where one of ,} was expected"),
        ('{"connections": []} x', "there is more behind the end"),
        ('{"summary": {"last_ns": 1}, 5: 6}', "a key was expected"),
        ('{"a" 5}', "stands where one of : was expected"),
        ('{"a": tru}', "not JSON: expecting value"),
        ('{"a": ' + "[" * 100_000 + "}", "not JSON: too deep"),
        ('{"connections": [' + "[" * 100_000 + "]}", "not JSON: too deep"),
        ('[{"a": "' + "x" * (MAX_ENTRY + 1) + '"}]', f"a value is longer than {MAX_ENTRY} characters"),
    ],
    ids=lambda text: text[:24],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(TableFileError) as caught, TableFile(str(path)) as file:
        list(file.entries())
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(TableFileError, match="not UTF-8"):
        TableFile(str(path))


@pytest.mark.parametrize("indent", [None, 2, 40])
def test_a_table_is_read_in_pieces_whatever_their_edges(tmp_path: Path, indent: int | None) -> None:
    entries = [entry(zone=n % 65536, mark=n * 7919, label=f"0x{n:x}") for n in range(2000)]
    path = tmp_path / "t.json"
    document = {"format": "x", "connections": entries, "summary": {"last_ns": 5_000_000_001}, "more": [1, {"a": []}]}
    path.write_text(json.dumps(document, indent=indent))
    assert path.stat().st_size > 3 * CHUNK
    with TableFile(str(path)) as file:
        assert file.clock_ms == 5000
        for _ in range(2):
            assert list(file.entries()) == list(enumerate(entries, 1))


def test_a_damaged_table_is_loaded_up_to_the_damage(tmp_path: Path, talk: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps([entry(zone=n) for n in range(50)])[:-50])
    run = replay(talk, "--load-table", path)
    assert run.status == 1
    assert f"loaded       49 connections from {path}\n" in run.out
    assert f"{path} is damaged: what comes before the damage was loaded." in run.out
    assert "at character" in run.err


def test_a_table_that_is_read_is_not_overwritten(tmp_path: Path, talk: str) -> None:
    table = write_table(tmp_path / "t.json", [entry()])
    run = replay(talk, "--load-table", table, "--json", table)
    assert run.status == 2
    assert "is also read" in run.err
    assert json.loads(table.read_text()) == [entry()]
