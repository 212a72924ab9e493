"""The ct() actions that conversations send packets through, as the oracle reads them and as flows."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tests.oracle.nat import Nat

POOLS = {4: "10.0.9.{}", 6: "2001:db8:9::{}"}
HOSTS = {4: "10.0.0.{}", 6: "2001:db8::{}"}
PLAIN = Nat(), Nat()
"""`nat` alone, in both families."""


@dataclass(frozen=True)
class Step:
    """One ct() action; `mark` and `label` are (value, mask) of what it sets, `nat` that of IPv4 and that of IPv6."""

    zone: int
    commit: bool = True
    force: bool = False
    mark: tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    nat: tuple[Nat, Nat] | None = None

    def action(self, table: int, family: int = 4) -> str:
        """The action in flow syntax; the packet goes on in `table`."""
        words = [f"zone={self.zone}"]
        words += ["commit"] * (self.commit or self.force) + ["force"] * self.force
        if self.nat is not None:
            words.append(self.nat[family == 6].action())
        sets = [
            f"set_field:{value:#x}/{mask:#x}->{name}"
            for name, pair in (("ct_mark", self.mark), ("ct_label", self.label))
            if pair is not None
            for value, mask in [pair]
        ]
        words += [f"exec({','.join(sets)})"] * bool(sets)
        return f"ct({','.join(words)},table={table})"


Manner = tuple[Step, ...]
N_PLAIN = 9
"""Manners without a translation, which come first."""


def draw_manner(random: random.Random) -> Manner:
    """One or two ct() actions in a row, mostly ones that commit."""

    def step(zone: int) -> Step:
        commit, mark, label = random.random() < 0.9, None, None
        if commit and random.random() < 0.4:
            mask = random.choice((0xFFFFFFFF, 0xFFFF, random.getrandbits(32) | 1))
            mark = random.getrandbits(32) & mask, mask
        if commit and random.random() < 0.3:
            mask = random.choice(((1 << 128) - 1, 0xFF << 64, random.getrandbits(128) | 1))
            label = random.getrandbits(128) & mask, mask
        return Step(zone, commit, commit and random.random() < 0.1, mark, label)

    zones = random.choice(((0,), (0,), (0,), (1,), (65535,), (0, 7), (1, 1), (7, 0)))
    return tuple(step(zone) for zone in zones)


def draw_nat(random: random.Random) -> tuple[Nat, Nat]:
    """A translation, alike in both families: to one of few addresses and ports, so that they run out, or to many."""
    kind = random.choice(("src", "src", "src", "dst", "dst", "null", "zero"))
    if kind == "null":
        return PLAIN
    first = random.randint(1, 3)
    last = random.choice((first, first, 3, 4))
    low = random.choice((1, 1024, 5000, 65500))
    ports = random.choice((None, None, (low, low), (low, low + 2), (low, low + 35)))
    flags = random.choice(((), (), (), ("random",), ("hash",), ("persistent",), ("persistent", "random")))
    if ports is None:
        flags = tuple(flag for flag in flags if flag == "persistent")
    if kind == "zero":
        return Nat("src", bytes(4), bytes(4)), Nat("src", bytes(16), bytes(16))

    def one(family: int) -> Nat:
        pool = (POOLS if kind == "src" else HOSTS)[family]
        return Nat(kind, *(ip_address(pool.format(number)).packed for number in (first, last)), ports, flags)

    return one(4), one(6)


def draw_translating(random: random.Random) -> tuple[Manner, Manner]:
    """A manner that translates what is new, and the one for the way back, which undoes it."""
    zones = random.choice(((0,), (0,), (1,), (7,), (1, 7), (0, 1), (1, 1)))
    there = tuple(replace(step, nat=draw_nat(random)) for zone in zones for step in [Step(zone)])
    if len(zones) == 2 and random.random() < 0.5:
        there = there[0], replace(there[1], nat=random.choice((None, PLAIN)))
    if random.random() < 0.3:
        there = (Step(zones[0], commit=False, nat=random.choice((None, PLAIN))), *there)
    if random.random() < 0.1:
        there = (*there[:-1], replace(there[-1], force=True))
    back = tuple(Step(zone, commit=False, nat=PLAIN) for zone in reversed(zones))
    return there, back


def draw_manners(random: random.Random, nat: bool) -> tuple[list[Manner], list[int]]:
    """Ways of tracking packets, and for each the one of the way back."""
    manners: list[Manner] = [(Step(0),), (Step(0, force=True),), *(draw_manner(random) for _ in range(N_PLAIN - 2))]
    returns = list(range(len(manners)))
    for _ in range(8 if nat else 0):
        there, back = draw_translating(random)
        returns += [len(manners) + 1, len(manners)]
        manners += [there, back]
    return manners, returns
