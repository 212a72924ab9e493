"""The meters of a switch: what meter-mods make of them, and what they count."""

from __future__ import annotations

from typing import NamedTuple

from flowshunt.base.errors import UsageError
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.meters import (
    BAND_DROP,
    FLAG_BURST,
    FLAG_PKTPS,
    METER_ALL,
    MeterCounters,
    MeterMod,
)
from flowshunt.datapath.program import (
    BAND_BYTES,
    BAND_PACKETS,
    BAND_WORDS,
    METER_BYTES,
    METER_PACKETS,
    METER_WORDS,
)
from flowshunt.datapath.tables import Datapath

MAX_METERS = 1 << 16
MAX_BANDS = 8
_MS_PER_SECOND = 1000


class _Meter(NamedTuple):
    mod: MeterMod
    created_ns: int


class MeterTable:
    """Meters by number. A meter's words lie in the pool of the tables, where packets count themselves."""

    def __init__(self, datapath: Datapath) -> None:
        self._rules = datapath.rules
        self._meters: dict[int, _Meter] = {}

    def apply(self, mod: MeterMod, now_ns: int) -> list[int]:
        """Carry out a meter-mod; returns the numbers of the meters that went. Raises OpenFlowError."""
        if mod.command == "delete":
            gone = [number for number in self._meters if mod.meter in (METER_ALL, number)]
            for number in gone:
                del self._meters[number]
                self._rules.linker.meters.remove(number)
            self._rules.version += bool(gone)
            return gone
        exists = mod.meter in self._meters
        if mod.command == "add" and exists:
            raise OpenFlowError("OFPMMFC_METER_EXISTS", f"there is a meter {mod.meter}")
        if mod.command == "modify" and not exists:
            raise OpenFlowError("OFPMMFC_UNKNOWN_METER", f"there is no meter {mod.meter}")
        if len(self._meters) >= MAX_METERS and not exists:
            raise OpenFlowError("OFPMMFC_OUT_OF_METERS", f"more than {MAX_METERS} meters")
        if len(mod.bands) > MAX_BANDS:
            raise OpenFlowError("OFPMMFC_OUT_OF_BANDS", f"more than {MAX_BANDS} bands")
        if any(band.type != BAND_DROP for band in mod.bands):
            raise OpenFlowError("OFPMMFC_BAD_BAND", "bands can only drop")
        created_ns = self._meters[mod.meter].created_ns if exists else now_ns
        try:
            self._rules.linker.meters.put(mod.meter, meter_words(mod, now_ns // 1_000_000))
        except UsageError as problem:
            raise OpenFlowError("OFPMMFC_OUT_OF_METERS", str(problem)) from None
        self._meters[mod.meter] = _Meter(mod._replace(command="add"), created_ns)
        self._rules.version += 1
        return []

    def _selected(self, number: int | None) -> list[int]:
        if number is not None and number not in self._meters:
            raise OpenFlowError("OFPMMFC_UNKNOWN_METER", f"there is no meter {number}")
        return sorted(self._meters) if number is None else [number]

    def entries(self, number: int | None) -> list[MeterMod]:
        """The meter of a number, or all (None). Raises OpenFlowError when there is none of that number."""
        return [self._meters[key].mod for key in self._selected(number)]

    def counters(self, number: int | None, now_ns: int) -> list[MeterCounters]:
        """What the meter of a number, or all (None), counted. Raises OpenFlowError as `entries`."""
        found = []
        meters = self._rules.linker.meters
        for key in self._selected(number):
            words = meters.words(key).tolist()
            bands = [
                (words[at + BAND_PACKETS], words[at + BAND_BYTES]) for at in range(METER_WORDS, len(words), BAND_WORDS)
            ]
            age_ns = max(now_ns - self._meters[key].created_ns, 0)
            packets, size = words[METER_PACKETS], words[METER_BYTES]
            found.append(MeterCounters(key, meters.references.get(key, 0), packets, size, age_ns, bands))
        return found


def meter_words(mod: MeterMod, now_ms: int) -> list[int]:
    """A meter as the datapath has it. Without a burst size, a band saves up what a second brings.

    In milliseconds, a rate of kbit/s is bits, and one of packets per second thousandths of packets.
    """
    words = [_MS_PER_SECOND if mod.flags & FLAG_PKTPS else 0, len(mod.bands), now_ms, 0, 0]
    for band in mod.bands:
        saved = band.burst if mod.flags & FLAG_BURST and band.burst else band.rate
        words += [band.rate, saved * _MS_PER_SECOND, saved * _MS_PER_SECOND, 0, 0]
    return words
