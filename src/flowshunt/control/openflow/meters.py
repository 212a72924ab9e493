"""Meters: changes, and requests for statistics, configuration and features; the entries of their replies."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, pack
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError

COMMANDS = ("add", "modify", "delete")
MAX_METER = 0xFFFF0000
METER_ALL = 0xFFFFFFFF
_VIRTUAL = (0xFFFFFFFD, 0xFFFFFFFE)
FLAG_KBPS, FLAG_PKTPS, FLAG_BURST, FLAG_STATS = (1 << bit for bit in range(4))
BAND_DROP, BAND_DSCP = 1, 2
MAX_BANDS = 256

_MOD = Struct("!HHI")
_BAND = Struct("!HHII")
_BAND_SIZE = 16


class Band(NamedTuple):
    """One band: drop, or lower the DSCP by `precedence`, beyond `rate`."""

    type: int
    rate: int
    burst: int
    precedence: int = 0


class MeterMod(NamedTuple):
    """A change of meters. `meter` is a number, METER_ALL in a deletion of all, or one of OpenFlow's virtual ones."""

    command: str
    flags: int
    meter: int
    bands: tuple[Band, ...]


class MeterStatsRequest(NamedTuple):
    """Asks for the counters of one meter, or of all (None)."""

    meter: int | None


class MeterConfigRequest(NamedTuple):
    """Asks for one meter, or all (None)."""

    meter: int | None


class MeterFeaturesRequest(NamedTuple):
    """Asks for what meters can do."""


class MeterCounters(NamedTuple):
    """What a meter and its bands (packets, bytes) counted."""

    meter: int
    flows: int
    packets: int
    bytes: int
    duration_ns: int
    bands: Sequence[tuple[int, int]]


class MeterStatsReply(NamedTuple):
    """Counters of meters."""

    meters: Sequence[MeterCounters]


class MeterConfigReply(NamedTuple):
    """Meters, each as what would add it."""

    meters: Sequence[MeterMod]


class MeterFeatures(NamedTuple):
    """What meters can do; without any, all is zero."""

    max_meter: int = 0
    band_types: int = 0
    capabilities: int = 0
    max_bands: int = 0
    max_color: int = 0


def decode_meter_mod(body: bytes, version: int) -> MeterMod:
    """A change of meters."""
    if len(body) < _MOD.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "the meter-mod is cut off")
    command, flags, meter = _MOD.unpack_from(body)
    if command >= len(COMMANDS):
        raise OpenFlowError("OFPMMFC_BAD_COMMAND", f"unknown command {command}")
    name = COMMANDS[command]
    if meter == 0 or (meter > MAX_METER and meter not in _VIRTUAL and not (name == "delete" and meter == METER_ALL)):
        raise OpenFlowError("OFPMMFC_INVALID_METER", f"{meter:#x} is not a meter")
    if name == "delete":
        return MeterMod(name, 0, meter, ())
    units = flags & (FLAG_KBPS | FLAG_PKTPS)
    if flags >> 4 or units not in (FLAG_KBPS, FLAG_PKTPS):
        raise OpenFlowError("OFPMMFC_BAD_FLAGS", f"flags {flags:#x}: either kbit/s or packets/s")
    return MeterMod(name, flags, meter, _bands(body))


def _bands(body: bytes) -> tuple[Band, ...]:
    found: list[Band] = []
    at = _MOD.size
    while at < len(body):
        size = int.from_bytes(body[at + 2 : at + 4], "big")
        if len(body) - at < _BAND_SIZE or size != _BAND_SIZE:
            raise OpenFlowError("OFPBRC_BAD_LEN", f"a band of {size} bytes")
        kind, _, rate, burst = _BAND.unpack_from(body, at)
        if kind not in (BAND_DROP, BAND_DSCP):
            raise OpenFlowError("OFPMMFC_BAD_BAND", f"unknown type of band {kind}")
        if len(found) == MAX_BANDS:
            raise OpenFlowError("OFPMMFC_OUT_OF_BANDS", f"more than {MAX_BANDS} bands")
        found.append(Band(kind, rate, burst, body[at + 12] if kind == BAND_DSCP else 0))
        at += size
    return tuple(found)


def decode_meter_number(body: bytes, version: int) -> int | None:
    """The meter that a request names, None for all."""
    if len(body) != 8:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a request about a meter of the wrong size")
    meter = int.from_bytes(body[:4], "big")
    return None if meter == METER_ALL else meter


def encode_counters(meter: MeterCounters, version: int) -> bytes:
    """One meter's counters."""
    size = 40 + 16 * len(meter.bands)
    seconds, nanoseconds = divmod(meter.duration_ns, 1_000_000_000)
    head = pack("!IH6xIQQII", meter.meter, size, meter.flows, meter.packets, meter.bytes, seconds, nanoseconds)
    return head + b"".join(pack("!QQ", *band) for band in meter.bands)


def encode_config(mod: MeterMod, version: int) -> bytes:
    """One meter."""
    bands = b"".join(
        pack("!HHIIB3x", band.type, _BAND_SIZE, band.rate, band.burst, band.precedence) for band in mod.bands
    )
    return pack("!HHI", 8 + len(bands), mod.flags, mod.meter) + bands


def encode_features(features: MeterFeatures) -> bytes:
    """What meters can do."""
    return pack(
        "!IIIBB2x",
        features.max_meter,
        features.band_types,
        features.capabilities,
        features.max_bands,
        features.max_color,
    )
