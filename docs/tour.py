"""Fill the README's tour with what the program really prints: `python docs/tour.py`, or `--check` to compare only.

A part of the tour stands between `<!-- tour:NAME -->` and `<!-- /tour:NAME -->`. What is live is never twice the same:
those parts are recorded by `--live`, as root, and left as they are otherwise.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

DEMO = "demo/demo.pcap"
RULES = "examples/flows"
PARTS = {
    "summary": [f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows"],
    "connections": [
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows -q --table conntrack | tail -4",
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows -q --table proc | tail -2",
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows -q --table dpctl-more | tail -2",
    ],
    "states": [f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows -q --states - | sed -n 3,9p"],
    "variations": [
        f"flowshunt replay {DEMO} --flows {RULES}/rocev2.flows | sed -n '/^Rules/,$p'",
        f"flowshunt replay {DEMO} --flows {RULES}/firewall.flows | sed -n '/^Dropped/,/^$/p'",
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows --profile linux -q --table conntrack | tail -2",
    ],
    "nat": [
        f"flowshunt replay {DEMO} --set-flow 'ip,actions=ct(commit,nat(src=192.0.2.1),table=1)' "
        "--set-flow 'table=1,actions=normal' --inside 1.1.1.2 -q --table dpctl | grep 'orig=(src=1.1.1.2.*dport=5001'"
    ],
    "limits": [
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows --zone-limit 0=8 | sed -n '2,9p'",
        f"flowshunt replay {DEMO} --flows {RULES}/bluefield.flows --timeout tcp_established=600 -q --table conntrack"
        " | grep ESTABLISHED",
    ],
    "offload": [
        f"flowshunt replay {DEMO} --flows {RULES}/dual-stack.flows --offload eswitch:bluefield-2 --compare"
        " | sed -n '/^Offload$/,/^Offload over/p' | head -n -2",
        f"flowshunt replay {DEMO} --flows {RULES}/dual-stack.flows --offload flowtable -q --table offload | tail -3",
    ],
    "explain": [
        f"flowshunt explain {DEMO} --flows {RULES}/dual-stack.flows --connection 'proto=tcp dport=5001' -q",
        f"flowshunt explain {DEMO} --set-flow 'table=0,ip,actions=ct(commit,table=1)'"
        " --set-flow 'table=1,actions=normal' --set-flow 'table=1,priority=40000,ip,nw_ttl=64,actions=normal'"
        " --connection 'proto=tcp dport=5001' -q | tail -4",
    ],
    "what-if": [
        f"flowshunt what-if {DEMO} --flows {RULES}/dual-stack.flows --offload flowtable"
        " --table-size 2,4,8 --ageing 1,30 2>/dev/null",
    ],
    "error": [f"flowshunt replay {DEMO} --set-flow 'table=0,ip,nw_scr=10.0.0.0/8,actions=normal'"],
    "python": ["python examples/states.py"],
}

LIVE = {
    "live": (
        "sudo make live-demo",
        "python demo/live.py",
        "awk '/^switch# ovs-vsctl/ { began = 1 } /-p icmp$/ { ended = 1 } began && !ended'",
    )
}
"""What is typed, what stands behind it, and what of it is shown."""


def output_of(command: str) -> str:
    """What a shell prints for a command, its errors included."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    run = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return run.stdout


def part(commands: list[str]) -> str:
    """A part of the tour: each command behind a prompt, and its output."""
    texts = []
    for command in commands:
        if command.startswith("python "):
            texts.append((ROOT / shlex.split(command)[1]).read_text().rstrip() + "\n")
        texts.append(f"$ {command}\n{output_of(command).rstrip()}\n")
    return "\n" + "\n".join("".join(f"    {line}".rstrip() + "\n" for line in text.splitlines()) for text in texts)


def recorded(typed: str, program: str, selection: str) -> str:
    """A part that is recorded."""
    lines = [f"$ {typed}", "...", *output_of(f"{program} | {selection}").rstrip().splitlines(), "..."]
    return "\n" + "".join(f"    {line}".rstrip() + "\n" for line in lines)


def filled(text: str, parts: Iterator[tuple[str, str]]) -> str:
    """The README with these parts of the tour, by name, as they are now."""
    for name, new in parts:
        pattern = re.compile(f"(<!-- tour:{name} -->\n).*?(\n<!-- /tour:{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no part tour:{name}")
        text = pattern.sub(lambda found, new=new: found[1] + new + found[2], text)
    return text


def main() -> int:
    """Entry point."""
    old = README.read_text()
    if "--live" in sys.argv[1:]:
        new = filled(old, ((name, recorded(*how)) for name, how in LIVE.items()))
    else:
        new = filled(old, ((name, part(commands)) for name, commands in PARTS.items()))
    if "--check" in sys.argv[1:]:
        if new != old:
            print("the README's tour is not what the program prints: run `make tour`", file=sys.stderr)
        return new != old
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
