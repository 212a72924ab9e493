"""What leaves is what another tool puts together."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flowshunt.datapath.schema import TX
from flowshunt.ports.capture.writer import PcapWriter
from flowshunt.rules.openflow import flow as F
from tests.builders.fragments import fragments_of_size
from tests.datapath.fragments.switches import play, tracking, udp4, udp6
from tests.datapath.switches import flow, set_field

tshark = shutil.which("tshark")


@pytest.mark.skipif(tshark is None, reason="tshark is missing: apt-get install tshark")
def test_tshark_puts_together_what_left_and_finds_checksums_right(tmp_path: Path) -> None:
    datapath = tracking(
        flow(F.Ct(commit=True, table=1)),
        flow(
            F.PushVlan(0x8100), set_field("vlan_tci", 0x1005, 16), set_field("tp_dst", 4000, 16), F.Output(2), table=1
        ),
    )
    frames: list[bytes] = []
    for packet in (udp4(3000), udp6(3000), udp6(3000, extensions=True), udp4(3000, options=b"\x94\x04\0\0")):
        id = len(frames)
        sent = play(datapath, *reversed(fragments_of_size(packet, 1400, id=id)))
        frames += [out.frame for out in sent[-1]]
    data = np.frombuffer(bytearray(b"".join(frames)), np.uint8)
    records = np.zeros(len(frames), TX)
    records["length"] = [len(frame) for frame in frames]
    records["data"][1:] = np.cumsum(records["length"])[:-1]
    with PcapWriter(str(tmp_path / "out.pcap")) as writer:
        writer.write(data, records)
    preferences = ["ip.check_checksum:true", "udp.check_checksum:true", "ip.defragment:true", "ipv6.defragment:true"]
    fields = ["udp.dstport", "udp.length", "udp.checksum.status", "ip.checksum.status", "vlan.id"]
    command = [str(tshark), "-r", str(tmp_path / "out.pcap"), "-Y", "udp", "-T", "fields"]
    command += [word for preference in preferences for word in ("-o", preference)]
    command += [word for name in fields for word in ("-e", name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert found == [["4000", "3008", "1", status, "5"] for status in ("1", "", "", "1")]
