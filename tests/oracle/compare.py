"""The captures' reference answers: reading them, and comparing a tracker's answers with them.

A reference file (`.ovs` or `.kernel`, see the README beside the captures) is read by `read_reference` into one `Answer`
per packet and the entries of the table at the end; `compare` and `compare_tables` count what is equal and name the
kinds of differences.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

_NUMBERED = re.compile(r"(\d+): (.*)")
_PROTOCOLS = {
    "tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132, "igmp": 2, "gre": 47, "udplite": 136, "dccp": 33,
}  # fmt: skip
_SET_ASIDE = ("nohook", "untracked", "DROPPED", "short")


@dataclass(frozen=True)
class Answer:
    """`state` as `flowshunt replay --states` writes it: flags, for a fragment also with ` @M`, or `held`.

    It is None for what is set aside (nohook, untracked, DROPPED, short).
    """

    state: str | None
    fragment: bool = False
    aside: str | None = None


@dataclass(frozen=True, order=True)
class Entry:
    """One connection of a table: original tuple, zone and, for TCP and SCTP, the state's names."""

    protocol: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    icmp: tuple[int, int, int] | None = None  # type, code, identifier
    zone: int = 0
    state: str | None = None


@dataclass
class Reference:
    answers: list[Answer] = field(default_factory=list)
    table: set[Entry] = field(default_factory=set)


@dataclass
class Result:
    """`equal` of `total` packets; `differences` lists (packet number from 1, expected, got)."""

    equal: int = 0
    total: int = 0
    differences: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.equal / self.total if self.total else 1.0

    def kinds(self) -> Counter[tuple[str, str]]:
        return Counter((expected, got) for _, expected, got in self.differences)

    def __iadd__(self, other: Result) -> Result:
        self.equal += other.equal
        self.total += other.total
        self.differences += other.differences
        return self


@dataclass(frozen=True)
class Tables:
    """`equal` of `total` entries, each of either side counted once; `missing` here, `extra` here."""

    equal: int
    total: int
    missing: list[Entry]
    extra: list[Entry]


def capture_names(folder: Path) -> list[str]:
    """Names of the captures, in the order of the index."""
    return [line.split("\t")[0] for line in (folder / "INDEX.tsv").read_text().splitlines()[1:]]


def read_pcap(path: Path) -> list[tuple[int, bytes]]:
    """(nanoseconds, frame) of each packet of a classic pcap."""
    data = path.read_bytes()
    magic = struct.unpack_from("<I", data)[0]
    order = "<" if magic in (0xA1B2C3D4, 0xA1B23C4D) else ">"
    unit = 1 if 0xA1B23C4D in (magic, struct.unpack_from(">I", data)[0]) else 1000
    packets, at = [], 24
    while at + 16 <= len(data):
        seconds, fraction, size, _ = struct.unpack_from(order + "IIII", data, at)
        packets.append((seconds * 1_000_000_000 + fraction * unit, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return packets


def read_reference(folder: Path, name: str, suffix: str) -> Reference:
    """The answers for one capture; `suffix`: ovs, ovs-nocsum or kernel."""
    reference = Reference()
    states: dict[int, Answer] = {}
    completing: set[int] = set()  # fragments, too: the last one of a datagram has its state without `@`
    for line in (folder / f"{name}.{suffix}").read_text().splitlines():
        numbered = _NUMBERED.fullmatch(line)
        if numbered:
            states[int(numbered[1])] = _read_answer(numbered[2])
            completed_by = re.search(r" @(\d+)", numbered[2])
            completing |= {int(completed_by[1])} if completed_by else set()
        elif line.startswith("T ") and not line.startswith("T EXPIRED"):
            reference.table.add(_read_ovs_entry(line) if "orig=(" in line else _read_kernel_entry(line))
    assert sorted(states) == list(range(1, len(states) + 1)), f"{name}.{suffix}: packets are missing"
    reference.answers = [
        replace(states[number], fragment=states[number].fragment or number in completing) for number in sorted(states)
    ]
    return reference


def _read_answer(rest: str) -> Answer:
    words = rest.split(" [")[0].split()
    if words[0] == "held":
        return Answer("held", True)
    for word in words:
        if word in _SET_ASIDE:
            return Answer(None, aside=word)
    completed_by = [word for word in words if word.startswith("@")]
    return Answer(" ".join([words[0], *completed_by]), bool(completed_by))


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _read_ovs_entry(line: str) -> Entry:
    protocol = line.removeprefix("T ").split(",")[0]
    original = dict(pair.split("=") for pair in re.search(r"orig=\(([^)]*)\)", line)[1].split(","))  # type: ignore[index]
    zone = re.search(r",zone=(\d+)", line)
    states = re.search(r"state_orig=(\w+),state_reply=(\w+)", line)
    return _entry(
        int(protocol) if protocol.isdigit() else _PROTOCOLS[protocol],
        original,
        int(zone[1]) if zone else 0,
        f"{states[1]}/{states[2]}" if states else None,
    )


def _read_kernel_entry(line: str) -> Entry:
    words = line.split()
    pairs: dict[str, str] = {}
    for word in words:
        if "=" in word:
            name, value = word.split("=", 1)
            pairs.setdefault(name, value)
    state = words[6] if words[3] in ("tcp", "sctp") else None
    return _entry(int(words[4]), pairs, int(pairs.get("zone", 0)), state)


def _entry(protocol: int, pairs: dict[str, str], zone: int, state: str | None) -> Entry:
    icmp = (int(pairs["type"]), int(pairs["code"]), int(pairs["id"])) if "type" in pairs else None
    ports = int(pairs.get("sport", 0)), int(pairs.get("dport", 0))
    return Entry(protocol, _address(pairs["src"]), _address(pairs["dst"]), *ports, icmp, zone, state)


def compare(reference: Reference, states: list[str], *, fragments: bool = False) -> Result:
    """Compare per-packet states, leaving out what the reference set aside and, unless wanted, fragments."""
    assert len(states) == len(reference.answers), (len(states), len(reference.answers))
    result = Result()
    for number, (answer, state) in enumerate(zip(reference.answers, states, strict=True), 1):
        if (answer.fragment and not fragments) or answer.aside is not None:
            continue
        result.total += 1
        if answer.state == state:
            result.equal += 1
        else:
            result.differences.append((number, str(answer.state), state))
    return result


def compare_tables(reference: Reference, entries: set[Entry]) -> Tables:
    """Compare the table at the end with the entries of a tracker."""
    return Tables(
        len(reference.table & entries),
        len(reference.table | entries),
        sorted(reference.table - entries, key=repr),
        sorted(entries - reference.table, key=repr),
    )
