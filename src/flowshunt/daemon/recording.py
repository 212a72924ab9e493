"""Which ports of a bridge are recorded, and into what."""

from __future__ import annotations

from collections.abc import Mapping

from flowshunt.base.log import logger
from flowshunt.ports.api import PortError
from flowshunt.ports.live import Frames, LiveBatch
from flowshunt.ports.recorder import Recorder, Recording

_LOG = logger(__name__)


class Recorders:
    """Recorders by port number. `wanted`: by name, also of ports that have no device for the moment.

    Used by the packet thread alone.
    """

    def __init__(self) -> None:
        self.wanted: dict[str, Recording] = {}
        self._open: dict[int, Recorder] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def open(self, name: str, number: int) -> None:
        """Begin to record a port, if that is wanted. Raises PortError when a file cannot be written."""
        self.close(number)
        if name in self.wanted:
            self._open[number] = Recorder(self.wanted[name])

    def close(self, number: int) -> None:
        """Stop recording a port, if it is recorded."""
        recorder = self._open.pop(number, None)
        if recorder is not None:
            recorder.close()

    def received(self, received: LiveBatch) -> None:
        """A batch has come in, on one port or on several, and was not worked on yet."""
        in_ports = received.batch.packets["in_port"]
        for number, recorder in self._open.items():
            if (mine := in_ports == number).any():
                recorder.received(received.select(mine))
                self._complain(recorder)

    def sent(self, frames: Frames, number: int) -> None:
        """Frames leave, some of them on port `number`."""
        recorder = self._open.get(number)
        if recorder is not None:
            recorder.sent(frames, number)
            self._complain(recorder)

    def counters(self, number: int) -> dict[str, int]:
        """What was not recorded of a port that is."""
        recorder = self._open.get(number)
        return {} if recorder is None else {"pcap_left_out": recorder.n_left_out}

    def _complain(self, recorder: Recorder) -> None:
        for problem in recorder.problems():
            _LOG.warning("%s; nothing more is recorded there", problem)


def of_dummy(options: Mapping[str, str]) -> Recording | None:
    """What the options of a dummy port ask for, as in Open vSwitch: `pcap`, or `rxq_pcap` and `tx_pcap`."""
    both = options.get("pcap")
    recording = Recording(both or options.get("rxq_pcap"), both or options.get("tx_pcap"))
    return None if recording == Recording() else recording


def open_leniently(recorders: Recorders, name: str, number: int) -> None:
    """`Recorders.open` where a file that cannot be written is worth a warning only."""
    try:
        recorders.open(name, number)
    except PortError as problem:
        _LOG.warning("%s: failed to open pcap file for appending: %s", name, problem)
