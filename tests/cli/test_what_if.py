"""`flowshunt what-if`: the grid, and what is shown of it, with a replay that answers by a formula."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowshunt.base.errors import UsageError
from flowshunt.cli.layout import write_plain
from flowshunt.cli.main import app
from flowshunt.cli.what_if.command import Wanted, describe, execute
from flowshunt.cli.what_if.grid import MAX_POINTS, Axis, Offer, Setting, knob, points
from flowshunt.cli.what_if.render import sections
from flowshunt.cli.what_if.summary import Metric, Outcome, Summary, Tried, measured

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "demo" / "demo.pcap"
RULES = REPOSITORY / "examples" / "flows" / "bluefield.flows"
ESWITCH = Offer("eswitch:bluefield-2", "eswitch", (("profile", "bluefield-2"),))
FLOWTABLE = Offer("flowtable", "flowtable")
SIZES = knob("table-size", ["100", "1000", "10000"])
AGEING = knob("ageing", ["5", "30"])
RATES = knob("insertion-rate", ["10", "none"])


class FakeRun:
    """Hits grow with the table until 1000 entries, and a little with ageing; `stop_at`: Ctrl-C at that replay."""

    def __init__(self, stop_at: int | None = None, damages: tuple[str, ...] = ()) -> None:
        self.stop_at = stop_at
        self.damages = damages
        self.n_runs = 0

    def check(self, point):
        if dict(point.options).get("ageing_s") == "0":
            raise UsageError("eswitch: ageing_s is 0")

    def __call__(self, point, progress):
        if self.n_runs == self.stop_at:
            return None
        self.n_runs += 1
        progress(10, 5)
        options = dict(point.options)
        size = options.get("table_entries") or options.get("limit") or "1000"
        room = min(2 * int(size) if "limit" in options else int(size), 1000)
        hits = room + (10 if options.get("ageing_s") == "30" else 0)
        refused = {"table-full": 1000 - room} if room < 1000 else {}
        summary = Summary(2000, 200_000, hits, hits * 100, room // 2, 500, room, 3, refused)
        return Outcome(summary, self.damages)


def tried(*arguments) -> list[Tried]:
    run = FakeRun()
    return [Tried(point, run(point, lambda *_: None).summary) for point in points(*arguments)]


def table(results) -> str:
    out = io.StringIO()
    write_plain(sections(results, "What if"), out)
    return out.getvalue()


def test_every_combination_is_tried_and_the_last_axis_changes_fastest():
    found = [tuple(point.values.values()) for point in points([ESWITCH], [SIZES, AGEING])]
    assert found == [(size, ageing) for size in ("100", "1000", "10000") for ageing in ("5", "30")]


def test_a_knob_has_each_providers_own_name_and_leaves_out_who_has_it_not():
    found = points([ESWITCH, FLOWTABLE], [AGEING, RATES])
    assert [dict(point.options) for point in found] == [
        {"profile": "bluefield-2", "ageing_s": "5", "insertion_rate": "10"},
        {"profile": "bluefield-2", "ageing_s": "5", "insertion_rate": "none"},
        {"profile": "bluefield-2", "ageing_s": "30", "insertion_rate": "10"},
        {"profile": "bluefield-2", "ageing_s": "30", "insertion_rate": "none"},
        {"timeout": "5"},
        {"timeout": "30"},
    ]


def test_a_table_size_is_entries_and_the_flowtable_counts_connections():
    found = points([ESWITCH, FLOWTABLE], [knob("table-size", ["1", "100", "none"])])
    assert [dict(point.options).get("table_entries") for point in found[:3]] == ["1", "100", "none"]
    assert [dict(point.options)["limit"] for point in found[3:]] == ["1", "50", "none"]


def test_a_tried_value_takes_the_place_of_one_that_was_given():
    offer = Offer("eswitch,ageing_s=9", "eswitch", (("ageing_s", "9"), ("num_of_groups", "2")))
    (point,) = points([offer], [knob("ageing", ["7"])])
    assert point.options == (("num_of_groups", "2"), ("ageing_s", "7"))


def test_an_axis_that_nobody_has_is_wrong_usage():
    with pytest.raises(UsageError, match="none of the providers has a setting for insertions/s"):
        points([FLOWTABLE], [RATES])
    with pytest.raises(UsageError, match="none of the providers"):
        points([FLOWTABLE], [Axis("num_of_groups", ("1",), {"eswitch": Setting("num_of_groups")})])


def test_too_many_points_are_wrong_usage():
    many = Axis("num_of_groups", tuple(map(str, range(600))), {"eswitch": Setting("num_of_groups")})
    with pytest.raises(UsageError, match="1200 points are too many") as caught:
        points([ESWITCH], [many, AGEING])
    assert str(MAX_POINTS) in str(caught.value.hint)


def test_the_table_has_a_row_for_each_point_and_says_which_size_is_enough():
    text = table(tried([ESWITCH, FLOWTABLE], [SIZES, RATES]))
    assert text.splitlines()[1].split() == (
        [
            "provider",
            "table",
            "size",
            "insertions/s",
            "hits",
            "of",
            "bytes",
            "connections",
            "wanted",
            "inserted",
            "back",
            "refused",
        ]
    )
    assert re.search(r"eswitch:bluefield-2 +100 +10 +5\.0 % +5\.0 % +50 +500 +100 +3 +900 table-full", text)
    assert re.search(r"flowtable +1,000 +- +50\.0 % ", text)
    assert "eswitch:bluefield-2: table size 1,000 is enough (with insertions/s 10: 50.0 % of bytes)" in text
    assert "flowtable: table size 1,000 is enough (50.0 % of bytes)" in text


def test_the_largest_size_is_said_to_be_no_limit_found_and_nothing_offloaded_too():
    small = knob("table-size", ["10", "100"])
    assert "table size 100, the largest tried, is the best (5.0 % of bytes)" in table(tried([FLOWTABLE], [small]))
    none = [Tried(t.point, replace(t.summary, hit_bytes=0)) for t in tried([FLOWTABLE], [small])]
    assert "nothing was offloaded at any size" in table(none)


def test_a_capture_without_packets_has_no_shares():
    empty = Summary(0, 0, 0, 0, 0, 0, 0, 0)
    assert measured(empty, Metric.BYTES) == measured(empty, Metric.PACKETS) == 0
    assert "%" not in table([Tried(points([FLOWTABLE], [])[0], empty)])


def test_a_point_in_a_line():
    assert describe(points([ESWITCH], [SIZES, AGEING])[2]) == "eswitch:bluefield-2, table size 1,000, ageing 5"


# --- the command -----------------------------------------------------------------------------------------------------


def wanted(**more) -> Wanted:
    return Wanted(("a.pcap",), **more)


def test_everything_is_tried_and_shown(capsys):
    assert execute(points([ESWITCH], [SIZES]), FakeRun(), wanted()) == 0
    shown = capsys.readouterr()
    assert "10,000" in shown.out
    assert shown.err.splitlines()[0] == "trying 1/3: eswitch:bluefield-2, table size 100"
    assert len(shown.err.splitlines()) == 3


def test_quiet_says_nothing(capsys):
    assert execute(points([ESWITCH], [SIZES]), FakeRun(), wanted(quiet=True)) == 0
    assert capsys.readouterr() == ("", "")


def test_json_on_standard_output_moves_the_table_out_of_its_way(capsys):
    execute(points([ESWITCH], [SIZES]), FakeRun(), wanted(json="-"))
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["complete"] is True
    assert document["captures"] == ["a.pcap"]
    assert document["points"][0] == {
        "provider": "eswitch:bluefield-2",
        "name": "eswitch",
        "options": {"profile": "bluefield-2", "table_entries": "100"},
        "packets": 2000,
        "bytes": 200_000,
        "hit_packets": 100,
        "hit_bytes": 10_000,
        "peak_connections": 50,
        "wanted_connections": 500,
        "insertions": 100,
        "evictions": 3,
        "refusals": {"table-full": 900},
    }
    assert "table size" in shown.err


def test_a_stop_reports_what_was_tried(capsys, tmp_path):
    path = tmp_path / "out.json"
    assert execute(points([ESWITCH], [SIZES]), FakeRun(stop_at=2), wanted(json=str(path))) == 130
    document = json.loads(path.read_text())
    assert (document["complete"], len(document["points"])) == (False, 2)
    assert "stopped before every point was tried" in capsys.readouterr().out


def test_a_stop_at_the_first_point_leaves_an_empty_report(tmp_path, capsys):
    path = tmp_path / "out.svg"
    assert execute(points([ESWITCH], [SIZES]), FakeRun(stop_at=0), wanted(chart=str(path))) == 130
    assert not path.exists()


def test_a_damaged_capture_is_reported_and_told_by_the_exit_status(capsys):
    assert execute(points([ESWITCH, FLOWTABLE], []), FakeRun(damages=("a.pcap: cut off",)), wanted(quiet=False)) == 1
    shown = capsys.readouterr()
    assert "50.0 %" in shown.out
    assert shown.err.count("a.pcap: cut off") == 1


def test_options_are_checked_before_the_first_replay():
    run = FakeRun()
    with pytest.raises(UsageError, match="ageing_s is 0"):
        execute(points([ESWITCH], [knob("ageing", ["5", "0"])]), run, wanted())
    assert run.n_runs == 0


def test_outputs_are_checked_before_the_first_replay(tmp_path):
    capture = tmp_path / "a.svg"
    capture.write_text("x")
    run = FakeRun()
    for wrong, complaint in (({"chart": "a.png"}, "charts are SVG"), ({"json": str(capture)}, "is also read")):
        with pytest.raises(UsageError, match=complaint):
            execute(points([ESWITCH], []), run, Wanted((str(capture),), **wrong))
    with pytest.raises(UsageError, match="is also read"):
        execute(points([ESWITCH], []), run, Wanted(("b.pcap",), (str(capture),), chart=str(capture)))
    assert run.n_runs == 0
    assert capture.read_text() == "x"


# --- the chart -------------------------------------------------------------------------------------------------------


def test_without_the_library_a_chart_is_wrong_usage_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(UsageError, match="needs pygal") as caught:
        execute(points([ESWITCH], []), FakeRun(), wanted(chart="a.svg"))
    assert "flowshunt[chart]" in str(caught.value.hint)


@pytest.fixture
def draw(tmp_path):
    pytest.importorskip("pygal", reason="charts need pygal: pip install 'flowshunt[chart]'")

    def run(*arguments, metric=Metric.BYTES) -> str:
        path = tmp_path / "out.svg"
        execute(points(*arguments), FakeRun(), wanted(chart=str(path), chart_of=metric, quiet=True))
        return path.read_text()

    return run


def texts(svg: str) -> list[str]:
    return [(element.text or "") for element in ElementTree.fromstring(svg).iter() if (element.text or "").strip()]


def test_a_chart_has_the_first_axis_to_the_right_and_a_line_for_each_other_value(draw):
    found = texts(draw([ESWITCH, FLOWTABLE], [SIZES, AGEING]))
    for text in ("What if: a.pcap", "100", "1,000", "10,000", "eswitch:bluefield-2, ageing 5", "flowtable, ageing 30"):
        assert text in found
    assert "50.5 %" in found  # the eswitch with the longer ageing


def test_without_an_axis_there_is_a_bar_for_each_provider(draw):
    assert {"eswitch:bluefield-2", "flowtable", "500"} <= set(
        texts(draw([ESWITCH, FLOWTABLE], [], metric=Metric.CONNECTIONS))
    )


def test_a_provider_without_the_axis_is_a_level_line(draw):
    found = texts(draw([ESWITCH, FLOWTABLE], [RATES], metric=Metric.REFUSED))
    assert {"flowtable", "eswitch:bluefield-2", "10", "none"} <= set(found)


def test_a_chart_is_the_same_each_time_and_brings_no_scripts_nor_addresses(draw):
    first = draw([ESWITCH], [SIZES])
    assert first == draw([ESWITCH], [SIZES])
    assert "<script" not in first
    assert set(re.findall(r"(?:href|src|url)[=(]\W*http", first)) == set()


def test_what_the_user_wrote_is_text_in_a_chart(draw):
    hostile = Offer('x<script>alert("1")</script>&', "eswitch")
    svg = draw([hostile], [SIZES])
    assert "<script" not in svg
    assert 'x<script>alert("1")</script>&' in texts(svg)


# --- the whole command -----------------------------------------------------------------------------------------------


def run_command(*arguments):
    result = CliRunner().invoke(app, ["what-if", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_command(
        *(DEMO, "--sides", "pf0hpf,p0", "--flows", RULES, "--quiet", "--json", "-"),
        *("--offload", "eswitch:bluefield-2", "--offload", "flowtable"),
        *("--table-size", "3,100", "--vary", "eswitch.num_of_groups=1,2"),
    )


def test_a_small_nic_forwards_less_of_the_demo(demo):
    assert demo.exit_code == 0
    found = {
        (point["provider"], *point["options"].values()): point["hit_bytes"]
        for point in json.loads(demo.stdout)["points"]
    }
    assert len(found) == 6
    small, one_group, large = (
        found["eswitch:bluefield-2", "bluefield-2", *rest] for rest in (("3", "1"), ("100", "1"), ("100", "2"))
    )
    assert small == 0 < one_group < large
    assert found["flowtable", "50"] == large


def test_refusals_say_which_limit_it_was(demo):
    refusals = [point["refusals"] for point in json.loads(demo.stdout)["points"]]
    assert [sorted(each) for each in refusals[:4]] == [["table-full"], ["no-group"], ["no-group"], []]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([DEMO], "Missing option '--offload'"),
        ([DEMO, "--offload", "eswitch", "--table-size", "many"], "'many' is no number"),
        ([DEMO, "--offload", "eswitch", "--table-size", "1,,2"], "is not a list of values"),
        ([DEMO, "--offload", "eswitch", "--vary", "num_of_groups=1"], "is not PROVIDER.OPTION"),
        ([DEMO, "--offload", "eswitch", "--vary", "eswitch.speed=1,2"], "no setting 'speed'"),
        ([DEMO, "--offload", "eswitch:nic-9"], "no profile 'nic-9'"),
        ([DEMO, "--offload", "nobody"], "no offload provider 'nobody'"),
        ([DEMO, "--offload", "flowtable", "--insertion-rate", "5"], "none of the providers has"),
        (
            [DEMO, "--offload", "eswitch", "--ageing", "5", "--vary", "eswitch.ageing_s=6"],
            "eswitch.ageing_s is varied twice",
        ),
        (["-", "--offload", "flowtable"], "standard input can be read but once"),
        (["--offload", "flowtable"], "no capture given"),
        ([DEMO, "--offload", "flowtable", "--chart", "x.pdf"], "charts are SVG"),
        (["/nowhere.pcap", "--offload", "flowtable"], "No such file"),
    ],
)
def test_wrong_usage_is_said(arguments, complaint):
    result = run_command(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_what_is_no_capture_is_said(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(b"not a capture, by any means")
    result = run_command(path, "--offload", "flowtable")
    assert result.exit_code == 2
    assert str(path) in result.stderr


def test_a_capture_that_is_cut_off_is_reported_once_for_all_points(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(DEMO.read_bytes()[:5000])
    result = run_command(path, "--offload", "flowtable", "--ageing", "1,30")
    assert result.exit_code == 1
    assert result.stderr.count(str(path)) == 1
    assert result.stdout.count("flowtable") == 2


def test_the_guide_shows_what_the_command_prints(monkeypatch):
    guide = (REPOSITORY / "docs" / "eswitch.md").read_text()
    (command,) = re.findall(r"^    flowshunt what-if (demo/.*?[^\\])\n$", guide, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```\n(What if:.*?)^```", guide, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(REPOSITORY)
    assert run_command(*command.replace("\\\n", " ").split()).stdout == shown
