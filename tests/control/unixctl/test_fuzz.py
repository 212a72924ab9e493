"""Whatever commands are given, they answer or refuse; none fails."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from flowshunt.control.unixctl.commands import everything, process
from flowshunt.control.unixctl.registry import CommandError, Registry
from tests.control.unixctl.appctl import Lab, run

WORDS = (
    *[
        "br0",
        "nope",
        "0",
        "1",
        "-1",
        "65536",
        "99999999999999999999",
        "zone=1",
        "zone=99999",
        "default=5",
        "zone=1,limit=5",
        "zone=,limit=",
        "on",
        "ct_nw_src=1.1.1.1",
        "ct_nw_src=::1,ct_nw_proto=17",
        "ct_nw_proto=6,ct_tp_src=99999",
        "mark=1/1",
        "labels=0x1/0x1",
        "netdev@ovs-netdev",
        "-m",
        "-s",
        "--",
        "-",
        "--names",
        "v4",
        "v6",
        "in_port=1,tcp",
        "in_port(1),eth()",
        "in_port(1),eth_type(0x0800)",
        "actions=drop",
        "ct(commit)",
        "-generate",
        "--ct-next",
        "trk,new",
        "00:00:00:00:00:01",
        "filter=tcp",
        "type=ovs",
        "ANY:file:dbg",
        "((((",
        "packets",
        "ffffffffffffffffffffffffffff",
    ],
    *("", " ", "\0", "\u0661", "\u00b2", "x" * 500),
)


def test_commands_answer_or_refuse(tmp_path: Path) -> None:
    async def leave(cleanup: bool) -> None:
        pass

    async def work(lab: Lab) -> None:
        await lab.add_bridge("br0")
        registry = Registry((*everything(), *process.commands("flowshunt 0", leave)))
        listed = (await registry.run(lab.node, "list-commands", [])).splitlines()[1:]
        names = [line.split()[0] for line in listed if line.split()[0] != "exit"]
        dice = random.Random(1)
        n_answers = 0
        for turn in range(12 * len(names)):
            arguments = [dice.choice(WORDS) for _ in range(dice.randrange(4))]
            try:
                (await registry.run(lab.node, names[turn % len(names)], arguments)).encode()
                n_answers += 1
            except CommandError as refused:
                assert str(refused)
        assert n_answers > len(names)

    run(tmp_path, work)


def test_what_has_no_operand_is_refused_as_one_that_is_wrong(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        for arguments in (["--"], ["-s"], ["netdev@ovs-netdev"]):
            assert "maxconns missing" in await lab.refuses("dpctl/ct-set-maxconns", *arguments)
            assert "parameter missing" in await lab.refuses("dpctl/ipf-set-disabled", *arguments)
        assert "parameter missing" in await lab.refuses("dpctl/ipf-set-min-frag", "-s", "-s")

    run(tmp_path, work)


def test_long_actions_are_read_quickly(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        registry = Registry(everything())
        started = time.process_time()
        with pytest.raises(CommandError, match="odp_actions_from_string"):
            await registry.run(lab.node, "dpctl/parse-actions", ["x" * 1_000_000])
        assert time.process_time() - started < 5
        assert await lab.says("dpctl/parse-actions", "1,2,push_vlan(vid=1,pcp=0),3") == "1,2,push_vlan(vid=1,pcp=0),3\n"

    run(tmp_path, work)
