"""Which ports are devices: programs are put there and taken off, or are left to the next process."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial

from flowshunt.base.log import logger
from flowshunt.offload.providers.kernel.devices import Ingress, UpDevice
from flowshunt.offload.providers.kernel.frames import Features
from flowshunt.offload.providers.kernel.links import FRAMES, INGRESS, pin_of, pins_in, unpin
from flowshunt.offload.providers.kernel.looking import FrameQuestion, Look, Looking, look_at
from flowshunt.offload.providers.kernel.objects import Objects
from flowshunt.offload.providers.kernel.options import PINS, Options
from flowshunt.offload.providers.kernel.pinned import forget_all
from flowshunt.offload.providers.kernel.ports import Attached, Ports

_LOG = logger(__name__)

Complain = Callable[[int, str], None]


class Attaching:
    """Keeps programs on the devices of ports. The packet thread alone uses it.

    `complain(port, what)`, where it is set, hears of a port that is not in the mode that it is to be in, with why, and
    what would change that; empty: it is again, or is gone. `looking`: how devices are looked at. `ports`: those
    that are attached.
    """

    def __init__(
        self, ports: Ports, options: Options, objects: Callable[[], Objects], give_up_port: Callable[[int], None]
    ) -> None:
        """`objects()`: the programs to be put there. `give_up_port(port)`: flows through it are to be handed back."""
        self.complain: Complain | None = None
        self.options = options
        self.looking = Looking(self._begin_look, self._take)
        self.ports = ports
        self._objects = objects
        self._give_up_port = give_up_port
        self._features: Features | None = None

    def close(self, *, keep: bool = False) -> None:
        """Detach all ports; `keep`: programs that are pinned go on."""
        for port in list(self.ports.attached):
            self.detach(port, keep=keep)
        if self._features is not None:
            self._features.close()
            self._features = None

    # --- beside the packets ------------------------------------------------------------------------------------------

    def prepare(self, ifindex: int) -> Callable[[], Ingress]:
        """What puts the program on a device, in any thread; it lets all packets pass there until `attach`."""
        program = os.dup(self._objects().forward)
        pin = pin_of(self.options.pins, ifindex)

        def put() -> Ingress:
            try:
                return Ingress(program, ifindex, pin)
            finally:
                os.close(program)

        return put

    def prepare_up_device(self) -> Callable[[], UpDevice]:
        """What makes a device for what goes up from ports, in any thread. Raises OSError."""
        program = os.dup(self._objects().discard)

        def make() -> UpDevice:
            try:
                return UpDevice(program)
            finally:
                os.close(program)

        return make

    def look_again(self, ifindex: int) -> None:
        """Something happened to a device, perhaps to the other end of a veth pair: flows to it are handed back then."""
        self.looking.ask(ifindex)

    def follow_features(self) -> None:
        """Look again at devices that are to take frames, when the kernel says that something has changed."""
        if self._features is not None and self._features.have_changed():
            for known in list(self.ports.attached.values()):
                if known.wants_frames:
                    self.look_again(known.ifindex)

    def _begin_look(self, ifindex: int) -> Callable[[], Look] | None:
        port = self.ports.at(ifindex)
        return None if port is None else self._look_at_port(self.ports.attached[port])

    def _look_at_port(self, known: Attached, *, keep: bool = False) -> Callable[[], Look]:
        """What looks at a port's device, once, in any thread. `keep`: see `FrameQuestion`."""
        objects, frames = self._objects(), None
        if known.wants_frames:
            self._features = self._features or Features()
            has_hook = known.hook is not None
            try:
                program = os.dup(objects.forward_frames) if known.ingress is not None and not has_hook else -1
            except OSError as problem:
                why = problem.strerror or str(problem)
                return lambda: Look(known.ifindex, objects, known.peer, wants_frames=True, why=why)
            frames = FrameQuestion(self._features, program, has_hook, self._frames_pin(known.ifindex), keep)
        return partial(look_at, known.ifindex, objects, self.options.may_skip, frames)

    def _take(self, look: Look) -> bool:
        """A device was looked at. False: as it is not any more."""
        port = self.ports.at(look.ifindex)
        if port is None:
            look.close()
            return True
        known = self.ports.attached[port]
        if look.objects is not self._objects() or look.wants_frames != known.wants_frames:
            look.close()
            return False
        self._change(port, self._with(known, look))
        return True

    def _with(self, known: Attached, look: Look) -> Attached:
        hook, why = known.hook, look.why
        if look.hook is not None:
            try:
                look.hook.keep(self._pin_of(known.ifindex, FRAMES))
                hook = look.hook
            except OSError as problem:
                look.hook.close()
                why = problem.strerror or str(problem)
        if why and hook is not None:
            hook.close()
            hook = None
        return known._replace(peer=look.peer, hook=hook, takes_large=look.takes_large and not why, why=why)

    def _change(self, port: int, changed: Attached) -> None:
        before = self.ports.attached[port]
        if self.ports.change(port, changed):
            self._give_up_port(port)
        if changed.why != before.why and self.complain is not None:
            self.complain(port, f"kernel-mode=xdp: {changed.why}; it works by tc" if changed.why else "")

    # --- ports -------------------------------------------------------------------------------------------------------

    def is_taken_over(self, ifindex: int) -> bool:
        """Whether a program of a process before is on a device, so that ours is to take its place and nothing else."""
        return self.options.is_hitless and os.path.exists(pin_of(self.options.pins, ifindex))

    def attach(
        self,
        port: int,
        ifindex: int,
        mtu: int,
        up: UpDevice,
        mode: str = "tc",
        prepared: Ingress | None = None,
        *,
        later: bool = False,
    ) -> None:
        """A port of paths is this device: from now on its packets pass here, or go up to `up`.

        There they have the low 16 bits of the port's number in a tag. `mode`: of MODES; one that cannot be had is told
        by `complain`. `prepared`: what `prepare` has put there, of the same programs; it is ours then. Again for a
        port that is there: flows through it are handed back if its device, MTU or mode is another one. Raises OSError;
        then it is not attached (EBUSY: the device is another port's).

        `later`: flows may begin and end there, but its packets do not pass here before this is called again: those of
        flows go on as the process before had it.
        """
        wants_frames = mode == "xdp"
        known = self.ports.attached.get(port)
        if known is not None and known.ifindex == ifindex:
            if known.ingress is None and not later:
                known = self._begin(port, known, prepared)
            self._follow(port, known, mtu, wants_frames)
            return
        self.detach(port)
        if self.ports.at(ifindex) is not None:
            raise OSError(errno.EBUSY, "the device is another port already")
        number = port & 0xFFFF
        self._objects().set_port(ifindex, number, up.ifindex)
        try:
            ingress = None if later else self._ingress(ifindex, prepared)
        except OSError:
            self._objects().clear_port(ifindex)
            raise
        made = Attached(number, ifindex, mtu, ingress, up, wants_frames=wants_frames)
        self.ports.add(port, made)
        if prepared is None and self.options.is_hitless:  # a program of before is ours, or stays, all the time
            self.looking.overtake(ifindex)
            self._take(self._look_at_port(made, keep=True)())
        else:
            self.look_again(ifindex)

    def _begin(self, port: int, known: Attached, prepared: Ingress | None) -> Attached:
        """The programs take the place of those of the process before; flows of the same kind stay."""
        self.looking.overtake(known.ifindex)
        ingress = self._ingress(known.ifindex, prepared)
        begun = known._replace(ingress=ingress)
        try:
            begun = self._with(begun, self._look_at_port(begun, keep=True)())
        except OSError:
            ingress.close()
            raise
        self._change(port, begun)
        return begun

    def _follow(self, port: int, known: Attached, mtu: int, wants_frames: bool) -> None:
        if (known.mtu, known.wants_frames) == (mtu, wants_frames):
            return
        changed = known._replace(mtu=mtu, wants_frames=wants_frames)
        if not wants_frames:
            if changed.hook is not None:
                changed.hook.close()
            changed = changed._replace(hook=None, takes_large=False, why="")
        self._change(port, changed)
        if wants_frames:
            self.look_again(known.ifindex)

    def _ingress(self, ifindex: int, prepared: Ingress | None = None) -> Ingress:
        if prepared is not None:
            prepared.keep(self._pin_of(ifindex))
            return prepared
        return Ingress(
            self._objects().forward, ifindex, pin_of(self.options.pins, ifindex), keep=self.options.is_hitless
        )

    def detach(self, port: int, *, keep: bool = False) -> None:
        """The port is none any more, or its packets are received otherwise; an unknown one is no error.

        `keep`: a pinned program goes on, with the flows that it has.
        """
        known = self.ports.remove(port)
        if known is None:
            return
        if known.why and self.complain is not None:
            self.complain(port, "")
        if not keep:
            self._give_up_port(port)
            self._objects().clear_port(known.ifindex)
        if known.ingress is not None:
            known.ingress.close(keep=keep)
        if known.hook is not None:
            known.hook.close(keep=keep)

    @property
    def notes(self) -> list[str]:
        """Devices that work, or should, otherwise than by tc, and why they do not."""
        return [
            f"{_name_of(port.ifindex)} works by {_way_of(port)}"
            for port in self.ports.attached.values()
            if port.wants_frames
        ]

    # --- other programs, and other places ----------------------------------------------------------------------------

    def move(self, made: Objects, former: Objects, options: Options) -> None:
        """Have all ports work by other maps and programs, pinned or not as these options have it.

        Raises OSError; then all work by the former ones, as they did. One of which not even that could be had has its
        packets go up.
        """
        moved: list[Attached] = []
        try:
            for known in self.ports.attached.values():
                moved.append(known)
                self._move(known, made, options)
        except OSError:
            for known in moved:
                try:
                    self._move(known, former, self.options)
                except OSError as problem:
                    _LOG.warning("%s forwards nothing for now: %s", _name_of(known.ifindex), problem)
            raise

    @staticmethod
    def _move(port: Attached, objects: Objects, options: Options) -> None:
        objects.set_port(port.ifindex, port.number, port.up.ifindex)
        links = ((port.ingress, INGRESS, "forward"), (port.hook, FRAMES, "forward_frames"))
        for link, hook, program in links:
            if link is not None:
                link.keep(pin_of(options.pins, port.ifindex, hook) if options.is_hitless else None)
                link.replace(getattr(objects, program))
        port.up.replace(objects.discard)

    def forget_others(self) -> None:
        """Let go of pinned programs on devices that are no ports any more."""
        if pins := pins_in(self.options.pins):
            ports = self.ports.attached.values()
            ours = {pin_of(self.options.pins, port.ifindex) for port in ports}
            ours |= {self._frames_pin(port.ifindex) for port in ports if port.hook is not None}
            for pin in set(pins) - ours:
                unpin(pin)

    def _pin_of(self, ifindex: int, hook: str = INGRESS) -> str | None:
        """Where the link of a port is to be pinned."""
        return pin_of(self.options.pins, ifindex, hook) if self.options.is_hitless else None

    def _frames_pin(self, ifindex: int) -> str:
        return pin_of(self.options.pins, ifindex, FRAMES)


def forget_left(options: Mapping[str, str]) -> None:
    """Have programs end that a process before has left, where the provider is off but for its options."""
    if options.get("hitless") == "true":
        pins = options.get("pins", PINS)
        forget_all(pins)
        for pin in pins_in(pins):
            unpin(pin)


def _way_of(port: Attached) -> str:
    if port.why:
        return f"tc, not xdp: {port.why}"
    return "xdp" if port.frames else "tc until the program for xdp is there"


def _name_of(ifindex: int) -> str:
    """A device's name, or its index."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return str(ifindex)
