"""Configuration files: what they say, and every mistake at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowshunt.config.model import Config, FragmentsSection, ReplaySection, SwitchSection, TrackerSection, ZoneSection
from flowshunt.config.positions import line_of, lines_of
from flowshunt.config.read import MAX_SIZE, ConfigError, parse_config, read_config

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "config").glob("*.toml"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "site.toml")
    return [str(problem) for problem in caught.value.problems]


def test_an_empty_file_is_the_defaults() -> None:
    assert parse_config("") == Config()


def test_every_section_is_read() -> None:
    config = parse_config(
        """
        [tracker]
        profile = "linux"
        max_connections = 1_000
        checksums = false
        sequence_checks = false
        liberal = true
        loose = false
        early_drop = true
        headroom = 10

        [zone.default]
        limit = 100
        timeout = "short"

        [zone.0]
        liberal = false

        [zone.65535]
        limit = 0

        [timeout.short]
        tcp_established = 600
        icmp_reply = 0

        [fragments]
        ipv6 = false
        timeout_ipv4 = 5

        [switch]
        flow_files = ["a.flows"]
        flows = ["table=0,actions=drop"]

        [replay]
        sides = ["p0", "p1"]
        inside = ["10.0.0.0/8"]
        """
    )
    assert config == Config(
        tracker=TrackerSection("linux", 1000, False, False, True, False, True, 10),
        zones={None: ZoneSection(100, "short"), 0: ZoneSection(liberal=False), 65535: ZoneSection(0)},
        timeouts={"short": {"tcp_established": 600, "icmp_reply": 0}},
        fragments=FragmentsSection(ipv6=False, timeout_ipv4=5),
        switch=SwitchSection(("a.flows",), ("table=0,actions=drop",)),
        replay=ReplaySection(("p0", "p1"), ("10.0.0.0/8",)),
    )


def test_all_mistakes_come_at_once_each_with_its_line_and_what_would_be_right() -> None:
    text = """
[traker]
[tracker]
max_conections = 5
profile = "lnux"
loose = 1
headroom = -1
liberal = "yes"

[zone.7]
limit = 99999999999999999999999
timeout = "shrt"
[zone.07]
[zone.default]
liberal = true
[timeout.short]
tcp_estab = 7
udp_first = 1.5
[switch]
flows = ["a", 5]
[replay]
sides = ["a", "a"]
inside = ["10.0.0.0/33"]
"""
    assert problems(text) == [
        "site.toml:2: there is no section [traker] (did you mean tracker?)",
        "site.toml:4: [tracker] has no setting max_conections (did you mean max_connections?)",
        "site.toml:5: [tracker] profile: 'lnux' is unknown: use default or linux",
        "site.toml:6: [tracker] loose: 1 is not true or false",
        "site.toml:7: [tracker] headroom: -1 is out of range: use 0 to 268435456",
        "site.toml:8: [tracker] liberal: 'yes' is not true or false",
        "site.toml:11: [zone.7] limit: 0x152d02c7e14af67fffff is out of range: use 0 to 4294967295",
        "site.toml:12: [zone.7] timeout: there is no [timeout.shrt] (did you mean short?)",
        "site.toml:13: [zone.07]: 07 is no zone (zones are 0 to 65535 without leading zeros, and default)",
        "site.toml:15: [zone.default] liberal: what holds in all zones is not said here ([tracker] liberal)",
        "site.toml:17: [timeout.short] has no timeout tcp_estab (did you mean tcp_established?)",
        "site.toml:18: [timeout.short] udp_first: 1.5 is not a whole number",
        "site.toml:20: [switch] flows: ['a', 5] is not a list of texts",
        'site.toml:22: [replay] sides: not two different names (["pf0hpf", "p0"])',
        "site.toml:23: [replay] inside: '10.0.0.0/33' is no network (10.0.0.0/8, 2001:db8::/32)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nb = [", "site.toml: not TOML: "),
        ("[tracker]\n\nloose = maybe", "site.toml:3: not TOML: invalid value"),
        ("x = " + "[" * 5000, "site.toml: not TOML: maximum recursion"),
        ("x = " + "9" * 5000, "site.toml: not TOML: exceeds the limit"),
        ("tracker = 5", "site.toml:1: tracker is a section, not 5 ([tracker])"),
        ("zone = [1]", "site.toml:1: zone is a section, not [1] ([zone])"),
        ("[zone]\n5 = true", "site.toml:2: zone.5 is a section, not true ([zone.5])"),
        ("[[tracker]]\nloose = true", "site.toml:1: tracker is a section, not [{'loose': True}] ([tracker])"),
        ("[zone.٣]", "site.toml: not TOML: "),
        ("[tracker]\nmax_connections = 10\nheadroom = 10", "site.toml:3: [tracker] headroom: 10 leaves no place"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(message) or problem.replace("site.toml:1:", "site.toml:").startswith(message)


def test_a_file_that_is_large_or_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_bytes(b"# " + b"x" * MAX_SIZE)
    with pytest.raises(ConfigError, match="larger than"):
        read_config(file)
    file.write_bytes(b'a = "\xff"')
    with pytest.raises(ConfigError, match="byte 5 is not UTF-8"):
        read_config(file)
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path / "none.toml")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        parse_config(text)
    except ConfigError as error:
        assert error.problems


def test_positions_see_through_strings_comments_and_nested_values() -> None:
    text = '''# [comment]
title = "[no] = section"
[a.b]          # line 3
"quoted key" = 1
c = """
[not.a.section]
d = 5
"""
e = [
  "x = 1",
  # f = 2
  { g = 3 },
]
[[h]]
i.j = 1
[a]
k = \'\'\'
l = 1
\'\'\'
m = 12:30:00
'''
    lines = lines_of(text)
    assert lines == {
        ("title",): 2, ("a", "b"): 3, ("a", "b", "quoted key"): 4, ("a", "b", "c"): 5, ("a", "b", "e"): 9, ("h",): 14,
        ("h", "i", "j"): 15, ("a",): 16, ("a", "k"): 17, ("a", "m"): 20,
    }  # fmt: skip
    assert line_of(lines, ("a", "b", "e", "g")) == 9
    assert line_of(lines, ("nowhere",)) is None


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_are_right(file: Path) -> None:
    config = read_config(file)
    assert config != Config()
    for flows in config.switch.flow_files:
        assert (file.parent / flows).is_file()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_an_option_of_a_provider_has_a_name_and_a_value() -> None:
    good = parse_config('[offload]\noptions = ["eswitch-num-of-groups=8", "eswitch-profile=a=b"]\n')
    assert good.offload.options == ("eswitch-num-of-groups=8", "eswitch-profile=a=b")
    (problem,) = problems('[offload]\nenabled = true\noptions = ["eswitch-num-of-groups"]\n')
    assert problem.startswith("site.toml:3: [offload] options: 'eswitch-num-of-groups' sets nothing")


@pytest.mark.parametrize(
    "text", ['[switch]\nflow_files = ["rules\\u0000"]\n', '[switch]\nflows = ["ip,actions=1\\u0000"]\n']
)
def test_a_nul_is_refused_where_it_stands(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml")
    assert "x.toml:2: [switch] flow" in str(caught.value)
    assert "holds a NUL character" in str(caught.value)


def test_ports_say_how_they_treat_vlans() -> None:
    config = parse_config("""
        [bridge.br0]
        ports = ["p1"]
        [bridge.br0.port.p2]
        tag = 5
        [bridge.br0.port.p3]
        vlan_mode = "dot1q-tunnel"
        tag = 100
        cvlans = [7, 8]
        qinq_ethtype = "802.1q"
        [bridge.br0.port.p4]
        trunks = [1, 4095]
    """)
    ports = config.ports["br0"]
    assert (ports["p1"].vlan_mode, ports["p1"].tag, ports["p2"].tag) == (None, None, 5)
    assert (ports["p3"].cvlans, ports["p3"].qinq_ethtype, ports["p4"].trunks) == ((7, 8), "802.1q", (1, 4095))


def test_mistakes_about_vlans_are_told() -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(
            """\
[bridge.br0.port.p1]
vlan_mode = "access"
[bridge.br0.port.p2]
tag = 4096
[bridge.br0.port.p3]
trunks = [1, "2", 5]
[bridge.br0.port.p4]
trunks = 5
[bridge.br0.port.p5]
trunks = [5000]
cvlans = [1]
[bridge.br0.port.p6]
vlan_mode = "all"
""",
            "site.toml",
        )
    assert str(error.value).splitlines() == [
        "site.toml:1: [bridge.br0.port.p1]: a port of vlan_mode access has a tag",
        "site.toml:4: [bridge.br0.port.p2] tag: 4096 is out of range: use 0 to 4095",
        "site.toml:6: [bridge.br0.port.p3] trunks: '2' is not a whole number",
        "site.toml:8: [bridge.br0.port.p4] trunks: 5 is not a list of whole numbers",
        "site.toml:10: [bridge.br0.port.p5] trunks: 5000 is out of range: use 0 to 4095",
        "site.toml:11: [bridge.br0.port.p5] cvlans: only ports of vlan_mode dot1q-tunnel have customers",
        "site.toml:13: [bridge.br0.port.p6] vlan_mode: 'all' is unknown: use "
        "access or trunk or native-tagged or native-untagged or dot1q-tunnel",
    ]
