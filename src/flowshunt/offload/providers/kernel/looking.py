"""What a device can do is found out beside the packets: the kernel takes its time, above all while it makes devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from flowshunt.base.log import logger
from flowshunt.offload.providers.kernel.frames import Features, FrameHook
from flowshunt.offload.providers.kernel.objects import Objects
from flowshunt.offload.providers.kernel.peers import peer_address

_LOG = logger(__name__)


class Look(NamedTuple):
    """What was found. `peer`: see `peers`. `wants_frames`: it was to do without packets; `why`: it cannot.

    `hook`: the program that was put there for that, of `objects`, ours now; None: there was one, or shall be none.
    `takes_large`: see `Features.takes_large`.
    """

    ifindex: int
    objects: Objects
    peer: int = 0
    wants_frames: bool = False
    hook: FrameHook | None = None
    takes_large: bool = False
    why: str = ""

    def close(self) -> None:
        """Take off what was put there."""
        if self.hook is not None:
            self.hook.close()


class FrameQuestion(NamedTuple):
    """Whether a device can do without packets. `program`: descriptor of what to put there for that, -1: nothing.

    `is_attached`: it has that program. `pin`, `keep`: see `links.Link`.
    """

    features: Features
    program: int
    is_attached: bool
    pin: str
    keep: bool


def look_at(ifindex: int, objects: Objects, may_skip: bool, frames: FrameQuestion | None) -> Look:
    """In any thread: look, and put the program at XDP there if it can be. `frames.program` is closed."""
    peer = peer_address(ifindex) if may_skip else 0
    if frames is None:
        return Look(ifindex, objects, peer)
    features = frames.features
    why, hook = features.why_not(ifindex, is_attached=frames.is_attached), None
    try:
        if not why and frames.program >= 0:
            hook = FrameHook(frames.program, ifindex, frames.pin, keep=frames.keep)
            why = features.why_not(ifindex, is_attached=True)
    except OSError as problem:
        why = problem.strerror or str(problem)
    finally:
        if frames.program >= 0:
            os.close(frames.program)
    if why and hook is not None:
        hook.close()
        hook = None
    return Look(ifindex, objects, peer, True, hook, not why and features.takes_large(ifindex), why)


Beside = Callable[[Callable[[], Look | None], Callable[[Look | None], None]], None]
"""`beside(work, done)`: have `work()` called where packets do not wait, and `done` called with what it returns here."""


def at_once(work: Callable[[], Look | None], done: Callable[[Look | None], None]) -> None:
    """For whoever has no other thread."""
    done(work())


class Looking:
    """Looks at devices, at each by one question at a time: no answer comes after that to a later one.

    One thread uses it. `beside`: how work is done.
    """

    def __init__(self, begin: Callable[[int], Callable[[], Look] | None], take: Callable[[Look], bool]) -> None:
        """`begin(ifindex)`: what looks at a device now, None: nobody wants to know. `take(look)`: what was found.

        It returns whether that is an answer to what would be asked by now; else it is asked again.
        """
        self.beside: Beside = at_once
        self._begin = begin
        self._take = take
        self._under_way: dict[int, bool] = {}  # devices, and whether to look again
        self._overtaken: set[int] = set()

    def ask(self, ifindex: int) -> None:
        """Look at a device, again if that is under way."""
        if ifindex in self._under_way:
            self._under_way[ifindex] = True
        elif (look := self._begin(ifindex)) is not None:
            self._under_way[ifindex] = False
            self.beside(partial(_found, look), partial(self._answered, ifindex))

    def overtake(self, ifindex: int) -> None:
        """A device is looked at otherwise now: what is under way is older, and is asked again instead of taken."""
        if ifindex in self._under_way:
            self._under_way[ifindex] = True
            self._overtaken.add(ifindex)

    def _answered(self, ifindex: int, look: Look | None) -> None:
        is_old = self._under_way.pop(ifindex)
        is_overtaken = ifindex in self._overtaken
        self._overtaken.discard(ifindex)
        if look is not None and is_overtaken:
            look.close()
        elif look is not None and not self._take(look):
            is_old = True
        if is_old:
            self.ask(ifindex)


def _found(look: Callable[[], Look]) -> Look | None:
    """None: it failed, which must not keep others from asking."""
    try:
        return look()
    except Exception:  # noqa: BLE001
        _LOG.exception("a device could not be looked at")
        return None
