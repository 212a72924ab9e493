"""Reads the `T` lines of ../shared/captures back into connections: a listing is right when it prints them again."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from flowshunt.conntrack.connection import Connection, Tuple, combined_tcp_state

CAPTURES = Path(__file__).resolve().parents[2] / ".." / "shared" / "captures"

_DPCTL_PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}


def table_lines(pattern: str) -> list[str]:
    """The table lines of all files that match, without the leading `T ` and the mark of expired ones."""
    lines = []
    for path in sorted(CAPTURES.glob(pattern)):
        for text in path.read_text().splitlines():
            if text.startswith("T "):
                lines.append(text.removeprefix("T ").removeprefix("EXPIRED "))
    return lines


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split(","))


def _dpctl_tuple(text: str) -> Tuple:
    words = _pairs(text)
    icmp = {f"icmp_{name}": int(words[name]) for name in ("type", "code", "id") if name in words}
    return Tuple(
        ip_address(words["src"]),
        ip_address(words["dst"]),
        int(words.get("sport", 0)),
        int(words.get("dport", 0)),
        **icmp,
    )


def read_dpctl(text: str) -> Connection:
    """A line of `dpctl/dump-conntrack -m -s`."""
    groups = dict(re.findall(r",(orig|reply|protoinfo|parent)=\(([^)]*)\)", text))
    rest = _pairs(re.sub(r"=\([^)]*\)", "=", text.split(",", 1)[1]))
    protocol = text.split(",", 1)[0]
    peers = _pairs(groups["protoinfo"]) if "protoinfo" in groups else None
    flags = [peers[f"flags_{way}"].split("|") if peers else [] for way in ("orig", "reply")]
    shifts = [int(peers.get(f"wscale_{way}", 0)) if peers else 0 for way in ("orig", "reply")]
    original = _dpctl_tuple(groups["orig"])
    states = (peers["state_orig"], peers["state_reply"]) if peers else None
    return Connection(
        id=int(rest["id"]),
        generation=0,
        family=original.source.version,
        protocol=_DPCTL_PROTOCOLS.get(protocol) or int(protocol),
        original=original,
        reply=_dpctl_tuple(groups["reply"]),
        zone=int(rest.get("zone", 0)),
        mark=int(rest.get("mark", 0)),
        label=int(rest.get("labels", "0"), 16),
        profile="default",
        states=states,
        state=combined_tcp_state(*states) if states else None,
        seen_reply=False,
        assured=False,
        confirmed=rest["status"] != "0",
        timeout_ms=int(rest["timeout"]) * 1000 + 999,
        start_ms=0,
        packets=(0, 0),
        bytes=(0, 0),
        in_port=1,
        helper=rest.get("helper"),
        parent_tuple=_dpctl_tuple(groups["parent"]) if "parent" in groups else None,
        wscale=tuple(shift if "WINDOW_SCALE" in held else None for shift, held in zip(shifts, flags, strict=True)),
        liberal=tuple("BE_LIBERAL" in held for held in flags),
    )


_CONNTRACK = re.compile(
    r"(?P<family>ipv[46]) +(?:2|10) (?P<name>\w+) +(?P<protocol>\d+) (?P<timeout>\d+) (?:(?P<state>[A-Z_0-9]+) )?"
    r"(?P<original>src=.*?) (?P<unreplied>\[UNREPLIED\] )?(?P<reply>src=.*?) (?P<assured>\[ASSURED\] )?"
    r"mark=(?P<mark>\d+) (?:zone=(?P<zone>\d+) )?(?:helper=(?P<helper>\S+) )?use=(?P<use>\d+)"
)


def _linux_tuple(text: str) -> Tuple:
    words = dict(word.split("=", 1) for word in text.split())
    icmp = {f"icmp_{name}": int(words[name]) for name in ("type", "code", "id") if name in words}
    ports = (
        (int(words["srckey"], 16), int(words["dstkey"], 16))
        if "srckey" in words
        else (int(words.get("sport", 0)), int(words.get("dport", 0)))
    )
    return Tuple(ip_address(words["src"]), ip_address(words["dst"]), *ports, **icmp)


def read_conntrack(text: str) -> Connection:
    """A line of `conntrack -L -o extended` without counters."""
    found = _CONNTRACK.fullmatch(text)
    assert found, text
    state = found["state"]
    return Connection(
        id=1,
        generation=0,
        family=int(found["family"][3:]),
        protocol=int(found["protocol"]),
        original=_linux_tuple(found["original"]),
        reply=_linux_tuple(found["reply"]),
        zone=int(found["zone"] or 0),
        mark=int(found["mark"]),
        label=0,
        profile="linux",
        states=(state, state) if state else None,
        state=state,
        seen_reply=not found["unreplied"],
        assured=bool(found["assured"]),
        timeout_ms=int(found["timeout"]) * 1000,
        start_ms=0,
        packets=(0, 0),
        bytes=(0, 0),
        in_port=1,
        helper=found["helper"],
        use=int(found["use"]),
    )
