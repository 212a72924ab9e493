"""Bundles: the messages that open, fill, commit and discard them, of OpenFlow 1.4 and of the ONF's extension to 1.3."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.wire import HEADER, HEADER_SIZE

_BUNDLE = Struct("!IHH")
OPEN, CLOSE, COMMIT, DISCARD = 0, 2, 4, 6
"""What a control message asks for; the reply's number is one more."""

FLAG_ATOMIC, FLAG_ORDERED = 1, 2


class BundleControl(NamedTuple):
    """Open, close, commit or discard a bundle. `onf`: in the form of 1.3's extension."""

    id: int
    type: int
    flags: int
    onf: bool = False


class BundleAdd(NamedTuple):
    """A message for a bundle; `data` is not looked into yet (see `inner_message`)."""

    id: int
    flags: int
    data: bytes


def decode_control(body: bytes, version: int, onf: bool) -> BundleControl:
    """A control message. Its properties, of which there are none but experimenters', are read over."""
    if len(body) < _BUNDLE.size:
        raise OpenFlowError("OFPBRC_BAD_LEN", "a bundle's control is cut off")
    number, kind, flags = _BUNDLE.unpack_from(body)
    if kind not in (OPEN, CLOSE, COMMIT, DISCARD):
        raise OpenFlowError("OFPBFC_BAD_TYPE", f"unknown type of control {kind}")
    check_flags(flags)
    return BundleControl(number, kind, flags, onf)


def check_flags(flags: int) -> None:
    """Refuse flags that there are not."""
    if flags & ~(FLAG_ATOMIC | FLAG_ORDERED):
        raise OpenFlowError("OFPBFC_BAD_FLAGS", f"unknown flags {flags:#x}")


def decode_add(body: bytes, version: int) -> BundleAdd:
    """A message for a bundle."""
    if len(body) < _BUNDLE.size:
        raise OpenFlowError("OFPBFC_MSG_BAD_LEN", "a bundle's message is cut off")
    number, _, flags = _BUNDLE.unpack_from(body)
    return BundleAdd(number, flags, body[_BUNDLE.size :])


def inner_message(data: bytes, version: int, xid: int) -> tuple[int, bytes]:
    """Type and whole of the message that is put into a bundle; `version` and `xid` are those of the one around it."""
    if len(data) < HEADER_SIZE:
        raise OpenFlowError("OFPBFC_MSG_BAD_LEN", "a bundle's message is cut off")
    inner_version, kind, size, inner_xid = HEADER.unpack_from(data)
    if not HEADER_SIZE <= size <= len(data):
        raise OpenFlowError("OFPBFC_MSG_BAD_LEN", f"a bundle's message of {size} bytes")
    if inner_version != version:
        raise OpenFlowError("OFPBFC_BAD_VERSION", f"a message of version {inner_version}")
    if inner_xid != xid:
        raise OpenFlowError("OFPBFC_MSG_BAD_XID", f"xid {inner_xid:#x} within {xid:#x}")
    return kind, data[:size]


def encode_reply(control: BundleControl) -> bytes:
    """The reply to a control message."""
    return _BUNDLE.pack(control.id, control.type + 1, 0)
