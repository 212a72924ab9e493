"""The parser and the checksums against Open vSwitch's answers for real packets."""

from __future__ import annotations

from pathlib import Path

from flowshunt.packet.schema import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP
from flowshunt.packet.text import describe, field
from tests.packet.captures import frames_of, states_of
from tests.packet.kernels import Parsed, checksums_ok, parsed_all


def is_unusable(packet: Parsed, n: int) -> bool:
    """What the parser says of packet n: the tracker can't use it, whatever its checksums are."""
    record = packet.packets
    no_l4 = record["l4"][n] == 0 and not field(packet.keys, n, "nw_frag")
    return bool(record["verdict"][n] != 0 or record["family"][n] == 0 or no_l4)


def test_verdicts_and_checksums_are_those_of_open_vswitch(captures: Path) -> None:
    wrong, total, judged = [], 0, 0
    for path in sorted(captures.glob("*.pcap")):
        frames = frames_of(path)
        packet = parsed_all(frame for frame, _ in frames)
        checked = states_of(path.with_suffix(".ovs"))
        unchecked = states_of(path.with_suffix(".ovs-nocsum"))
        assert len(frames) == len(checked) == len(unchecked)
        for n in range(len(frames)):
            total += 1
            invalid, invalid_anyway = "inv" in checked[n], "inv" in unchecked[n]
            where = f"{path.stem} {n + 1}: {checked[n]} {describe(packet.keys, n, packet.packets['verdict'][n])}"
            unusable = is_unusable(packet, n)
            is_fragment = field(packet.keys, n, "nw_frag") != 0
            if unusable and not invalid_anyway:
                wrong.append(where)
            if not all(checksums_ok(packet, n)) and not invalid:
                wrong.append(where)
            stateless = field(packet.keys, n, "nw_proto") not in (PROTO_TCP, PROTO_ICMP, PROTO_ICMPV6)
            if stateless and not unusable and not is_fragment:
                judged += 1
                if invalid_anyway or (invalid and all(checksums_ok(packet, n))):
                    wrong.append(where)
            if "held" in checked[n] and (unusable or not is_fragment):
                wrong.append(where)
    assert not wrong, "\n".join(wrong)
    assert total == 9364 and judged > 3000
