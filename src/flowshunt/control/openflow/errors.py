"""The one exception of the codec, and the numbers of OpenFlow's errors in every version.

Names are those of the OpenFlow specifications, as `ovs-ofctl` prints them; NX ones are Open vSwitch's own. A row of
`_TABLE` says where an error has which number: `OF1.0(3,1)` is type 3, code 1 in OpenFlow 1.0; `OF1.1+(5,3)` the same in
1.1 and later. `NX` and `ONF` are experimenters: in 1.0 and 1.1 they have type and code, later only a type.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from flowshunt.base.errors import InputError
from flowshunt.control.openflow.wire import NX, OF10, OF12, OF15, ONF

_TABLE = """
OFPHFC_INCOMPATIBLE OF1.0+(0,0)
OFPHFC_EPERM OF1.0+(0,1)
OFPBRC_BAD_VERSION OF1.0+(1,0)
OFPBRC_BAD_TYPE OF1.0+(1,1)
OFPBRC_BAD_STAT OF1.0+(1,2)
OFPBRC_BAD_VENDOR OF1.0+(1,3)
OFPBRC_BAD_SUBTYPE OF1.0+(1,4)
OFPBRC_EPERM OF1.0+(1,5)
OFPBRC_BAD_LEN OF1.0+(1,6)
OFPBRC_BUFFER_EMPTY OF1.0+(1,7)
OFPBRC_BUFFER_UNKNOWN OF1.0+(1,8)
OFPBRC_BAD_TABLE_ID NX1.0(1,512) OF1.1+(1,9)
OFPBRC_IS_SLAVE OF1.0-1.1(1,5) OF1.2+(1,10)
OFPBRC_BAD_PORT NX1.0-1.1(1,514) OF1.2+(1,11)
OFPBRC_BAD_PACKET OF1.2+(1,12)
OFPBRC_MULTIPART_BUFFER_OVERFLOW OF1.3+(1,13)
NXBRC_NXM_INVALID NX1.0-1.1(1,256) NX1.2+(2)
NXBRC_NXM_BAD_TYPE NX1.0-1.1(1,257) NX1.2+(3)
NXBRC_MUST_BE_ZERO NX1.0-1.1(1,515) NX1.2+(4)
NXBRC_UNENCODABLE_ERROR NX1.0-1.1(1,521) NX1.2+(10)
OFPBAC_BAD_TYPE OF1.0+(2,0)
OFPBAC_BAD_LEN OF1.0+(2,1)
OFPBAC_BAD_VENDOR OF1.0+(2,2)
OFPBAC_BAD_VENDOR_TYPE OF1.0+(2,3)
OFPBAC_BAD_OUT_PORT OF1.0+(2,4)
OFPBAC_BAD_ARGUMENT OF1.0+(2,5)
OFPBAC_EPERM OF1.0+(2,6)
OFPBAC_TOO_MANY OF1.0+(2,7)
OFPBAC_BAD_QUEUE OF1.0+(2,8)
OFPBAC_BAD_OUT_GROUP NX1.0(2,9) OF1.1+(2,9)
OFPBAC_MATCH_INCONSISTENT NX1.0(1,522) OF1.1+(2,10)
OFPBAC_UNSUPPORTED_ORDER OF1.1+(2,11)
OFPBAC_BAD_TAG OF1.1+(2,12)
OFPBAC_BAD_SET_TYPE NX1.0-1.1(1,523) OF1.2+(2,13)
OFPBAC_BAD_SET_LEN NX1.0-1.1(1,524) OF1.2+(2,14)
OFPBAC_BAD_SET_ARGUMENT NX1.0-1.1(1,525) OF1.2+(2,15)
OFPBAC_BAD_SET_MASK ONF1.3-1.4(4250) OF1.5+(2,16)
NXBAC_MUST_BE_ZERO NX1.0-1.1(2,256) NX1.2+(11)
NXBAC_BAD_CONJUNCTION NX1.0-1.1(2,526) NX1.2+(15)
OFPBIC_UNKNOWN_INST OF1.1+(3,0)
OFPBIC_UNSUP_INST NX1.0(2,257) OF1.1+(3,1)
OFPBIC_BAD_TABLE_ID OF1.1+(3,2)
OFPBIC_BAD_EXPERIMENTER OF1.1+(3,5)
OFPBIC_BAD_EXP_TYPE OF1.1(3,5) OF1.2+(3,6)
OFPBIC_BAD_LEN OF1.2+(3,7)
OFPBIC_DUP_INST NX1.1(3,256) ONF1.2-1.3(2600) OF1.4+(3,9)
OFPBMC_BAD_TYPE OF1.1+(4,0)
OFPBMC_BAD_LEN OF1.1+(4,1)
OFPBMC_BAD_TAG OF1.1+(4,2)
OFPBMC_BAD_DL_ADDR_MASK OF1.1+(4,3)
OFPBMC_BAD_NW_ADDR_MASK OF1.1+(4,4)
OFPBMC_BAD_WILDCARDS NX1.0(1,262) OF1.1+(4,5)
OFPBMC_BAD_FIELD NX1.0(0,263) OF1.1+(4,6)
OFPBMC_BAD_VALUE NX1.0(1,258) OF1.1+(4,7)
OFPBMC_BAD_MASK NX1.0-1.1(1,259) OF1.2+(4,8)
OFPBMC_BAD_PREREQ NX1.0-1.1(1,260) OF1.2+(4,9)
OFPBMC_DUP_FIELD NX1.0-1.1(1,261) OF1.2+(4,10)
OFPFMFC_UNKNOWN OF1.1+(5,0)
OFPFMFC_TABLE_FULL OF1.0(3,0) OF1.1+(5,1)
OFPFMFC_BAD_TABLE_ID OF1.1+(5,2)
OFPFMFC_OVERLAP OF1.0(3,1) OF1.1+(5,3)
OFPFMFC_EPERM OF1.0(3,2) OF1.1+(5,4)
OFPFMFC_BAD_TIMEOUT OF1.0(3,3) OF1.1+(5,5)
OFPFMFC_BAD_COMMAND OF1.0(3,4) OF1.1+(5,6)
OFPFMFC_BAD_FLAGS NX1.0(3,258) NX1.1(5,258) OF1.2+(5,7)
OFPFMFC_UNSUPPORTED OF1.0(3,5)
NXFMFC_BAD_TABLE_ID NX1.0-1.1(5,257) NX1.2+(13)
OFPGMFC_GROUP_EXISTS NX1.0(6,0) OF1.1+(6,0)
OFPGMFC_INVALID_GROUP NX1.0(6,1) OF1.1+(6,1)
OFPGMFC_OUT_OF_GROUPS NX1.0(6,3) OF1.1+(6,3)
OFPGMFC_OUT_OF_BUCKETS NX1.0(6,4) OF1.1+(6,4)
OFPGMFC_LOOP NX1.0(6,7) OF1.1+(6,7)
OFPGMFC_UNKNOWN_GROUP NX1.0(6,8) OF1.1+(6,8)
OFPGMFC_BAD_TYPE NX1.0(6,10) OF1.2+(6,10)
OFPGMFC_BAD_COMMAND NX1.0(6,11) OF1.2+(6,11)
OFPGMFC_BAD_BUCKET NX1.0(6,12) OF1.2+(6,12)
OFPGMFC_BAD_WATCH NX1.0(6,13) OF1.2+(6,13)
OFPGMFC_UNKNOWN_BUCKET NX1.0(6,15) OF1.5+(6,15)
OFPGMFC_BUCKET_EXISTS NX1.0(6,16) OF1.5+(6,16)
OFPPMFC_BAD_PORT OF1.0(4,0) OF1.1+(7,0)
OFPPMFC_BAD_HW_ADDR OF1.0(4,1) OF1.1+(7,1)
OFPPMFC_BAD_CONFIG OF1.1+(7,2)
OFPPMFC_BAD_ADVERTISE OF1.1+(7,3)
OFPPMFC_EPERM OF1.2+(7,4)
OFPTMFC_BAD_TABLE OF1.1+(8,0)
OFPTMFC_BAD_CONFIG OF1.1+(8,1)
OFPTMFC_EPERM OF1.2+(8,2)
OFPQOFC_BAD_PORT OF1.0(5,0) OF1.1+(9,0)
OFPQOFC_BAD_QUEUE OF1.0(5,1) OF1.1+(9,1)
OFPSCFC_BAD_FLAGS OF1.1+(10,0)
OFPRRFC_STALE OF1.2+(11,0)
OFPRRFC_BAD_ROLE NX1.0-1.1(1,513) OF1.2+(11,2)
OFPMMFC_UNKNOWN OF1.3+(12,0)
OFPMMFC_METER_EXISTS OF1.3+(12,1)
OFPMMFC_INVALID_METER OF1.3+(12,2)
OFPMMFC_UNKNOWN_METER OF1.3+(12,3)
OFPMMFC_BAD_COMMAND OF1.3+(12,4)
OFPMMFC_BAD_FLAGS OF1.3+(12,5)
OFPMMFC_BAD_BAND OF1.3+(12,8)
OFPMMFC_OUT_OF_METERS OF1.3+(12,10)
OFPMMFC_OUT_OF_BANDS OF1.3+(12,11)
OFPTFFC_BAD_TABLE OF1.3+(13,0)
OFPTFFC_EPERM OF1.3+(13,5)
OFPBPC_BAD_TYPE NX1.0-1.1(13,2) NX1.2(25) OF1.3(13,2) OF1.4+(14,0)
OFPBPC_BAD_LEN NX1.0-1.1(13,3) NX1.2(26) OF1.3(13,3) OF1.4+(14,1)
OFPBPC_BAD_VALUE NX1.0-1.1(13,4) NX1.2(27) OF1.3(13,4) OF1.4+(14,2)
OFPBPC_DUP_TYPE NX1.0-1.1(14,4) NX1.2(29) ONF1.3(4444) OF1.4+(14,4)
OFPBPC_BAD_EXPERIMENTER NX1.0-1.1(14,5) NX1.2(30) ONF1.3(4445) OF1.4+(14,5)
OFPACFC_INVALID ONF1.3(2370) OF1.4+(15,0)
OFPACFC_UNSUPPORTED ONF1.3(2371) OF1.4+(15,1)
OFPBFC_UNKNOWN ONF1.3(2300) OF1.4+(17,0)
OFPBFC_BAD_ID ONF1.3(2302) OF1.4+(17,2)
OFPBFC_BUNDLE_EXIST ONF1.3(2303) OF1.4+(17,3)
OFPBFC_BUNDLE_CLOSED ONF1.3(2304) OF1.4+(17,4)
OFPBFC_OUT_OF_BUNDLES ONF1.3(2305) OF1.4+(17,5)
OFPBFC_BAD_TYPE ONF1.3(2306) OF1.4+(17,6)
OFPBFC_BAD_FLAGS ONF1.3(2307) OF1.4+(17,7)
OFPBFC_MSG_BAD_LEN ONF1.3(2308) OF1.4+(17,8)
OFPBFC_MSG_BAD_XID ONF1.3(2309) OF1.4+(17,9)
OFPBFC_MSG_UNSUP ONF1.3(2310) OF1.4+(17,10)
OFPBFC_MSG_TOO_MANY ONF1.3(2312) OF1.4+(17,12)
OFPBFC_MSG_FAILED ONF1.3(2313) OF1.4+(17,13)
OFPBFC_BAD_VERSION NX1.4-1.5(22)
OFPMOFC_UNKNOWN OF1.4+(16,0)
OFPMOFC_MONITOR_EXISTS NX1.0-1.1(1,517) NX1.2-1.3(6) OF1.4+(16,1)
OFPMOFC_INVALID_MONITOR OF1.4+(16,2)
OFPMOFC_UNKNOWN_MONITOR NX1.0-1.1(1,519) NX1.2-1.3(8) OF1.4+(16,3)
OFPMOFC_BAD_COMMAND OF1.4+(16,4)
OFPMOFC_BAD_FLAGS NX1.0-1.1(1,518) NX1.2-1.3(7) OF1.4+(16,5)
OFPMOFC_BAD_TABLE_ID OF1.4+(16,6)
OFPMOFC_BAD_OUT OF1.4+(16,7)
NXTTMFC_BAD_COMMAND NX1.0-1.1(1,527) NX1.2+(16)
NXTTMFC_BAD_OPT_LEN NX1.0-1.1(1,528) NX1.2+(17)
NXTTMFC_BAD_FIELD_IDX NX1.0-1.1(1,529) NX1.2+(18)
NXTTMFC_TABLE_FULL NX1.0-1.1(1,530) NX1.2+(19)
NXTTMFC_ALREADY_MAPPED NX1.0-1.1(1,531) NX1.2+(20)
NXTTMFC_DUP_ENTRY NX1.0-1.1(1,532) NX1.2+(21)
NXR_NOT_SUPPORTED NX1.0-1.1(1,533) NX1.2+(34)
NXR_STALE NX1.0-1.1(1,534) NX1.2+(35)
NXST_NOT_CONFIGURED NX1.0-1.1(1,535) NX1.2+(36)
"""
"""After the specifications of OpenFlow 1.0 to 1.5, and for NX and ONF after Open vSwitch 3.1."""

_PLACE = re.compile(r"(OF|NX|ONF)1\.(\d)(?:(\+)|-1\.(\d))?\((\d+)(?:,(\d+))?\)")
_EXPERIMENTERS = {"OF": 0, "NX": NX, "ONF": ONF}

_NX_ERROR_TYPE = 0xB0C2
_EXPERIMENTER_TYPE = 0xFFFF
_FALLBACK = "NXBRC_UNENCODABLE_ERROR"
_QUOTED = 0xFF00
"""Most bytes of a request that an error repeats: whole ones, so that a controller can show what was wrong."""
_TEXT = 64


class ErrorNumber(NamedTuple):
    """An error as one version has it. `experimenter` is 0 for the standard's own."""

    experimenter: int
    type: int
    code: int


def _read_table() -> dict[str, dict[int, ErrorNumber]]:
    table: dict[str, dict[int, ErrorNumber]] = {}
    for line in _TABLE.split("\n"):
        if not line:
            continue
        name, _, places = line.partition(" ")
        numbers: dict[int, ErrorNumber] = {}
        for vendor, first, later, last, kind, code in _PLACE.findall(places):
            start = int(first) + OF10
            end = OF15 if later else int(last) + OF10 if last else start
            for version in range(start, end + 1):
                numbers[version] = ErrorNumber(_EXPERIMENTERS[vendor], int(kind), int(code or 0))
        table[name] = numbers
    return table


ERRORS: Mapping[str, Mapping[int, ErrorNumber]] = MappingProxyType(_read_table())
"""The number of each error by version."""


class OpenFlowError(InputError):
    """A message that is malformed, or asks for what cannot be done.

    `name` is a key of `ERRORS`; `detail` says what was wrong, for logs and the text of a hello's error.
    """

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.name = name
        self.detail = detail

    def number(self, version: int) -> ErrorNumber:
        """Its number in `version` (wire number, 1 to 6), that of an unencodable error where it has none."""
        return number_of(self.name, version)


@cache
def number_of(name: str, version: int) -> ErrorNumber:
    """The number of an error in a version, that of NXBRC_UNENCODABLE_ERROR where it has none."""
    known = ERRORS[name]
    return known.get(version) or ERRORS[_FALLBACK][version]


def encode_error(error: OpenFlowError, version: int, request: bytes) -> bytes:
    """The body of the error message that answers `request` (a whole message, of which the beginning is repeated)."""
    number = error.number(version)
    quoted = request[:_QUOTED]
    if not number.experimenter:
        return struct.pack("!HH", number.type, number.code) + quoted
    if version < OF12:
        return struct.pack("!HHIHH", _NX_ERROR_TYPE, 0, number.experimenter, number.type, number.code) + quoted
    return struct.pack("!HHI", _EXPERIMENTER_TYPE, number.type, number.experimenter) + quoted


def encode_hello_failed(version: int, text: str) -> bytes:
    """The body of the error that ends a negotiation, with a text for people."""
    number = number_of("OFPHFC_INCOMPATIBLE", version)
    return struct.pack("!HH", number.type, number.code) + text.encode()[:_TEXT]
