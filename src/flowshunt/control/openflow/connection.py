"""The switch's end of one OpenFlow connection, without I/O.

    connection = Connection()
    send(connection.data_to_send())          # the hello
    connection.receive_data(bytes)           # whatever came in
    while (event := connection.next_event()) is not None:
        ...                                  # connection.reply(event, message), connection.fail(event, error)
        send(connection.data_to_send())

The connection negotiates the version, cuts the stream into messages, answers what concerns only itself (echo, formats,
malformed messages, bundles that are opened and filled), and hands out the rest as `Request`. A bundle comes as one
`Commit` when it is committed. Events are made one at a time, so that replies can leave before the next request is read:
memory is bounded by what one request asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from flowshunt.control.openflow import bundle, codec, extensions, switch
from flowshunt.control.openflow.bundle import BundleAdd, BundleControl
from flowshunt.control.openflow.codec import BarrierReply, EchoReply, EchoRequest, Encoded, Parts
from flowshunt.control.openflow.errors import OpenFlowError, encode_error, encode_hello_failed
from flowshunt.control.openflow.flow_mod import FlowMod
from flowshunt.control.openflow.flow_removed import FlowRemoved
from flowshunt.control.openflow.flow_stats import FlowReply
from flowshunt.control.openflow.groups import GroupDescriptionReply, GroupMod, GroupStatsReply
from flowshunt.control.openflow.hello import decode_hello, encode_hello, negotiate
from flowshunt.control.openflow.monitor import MonitorReply
from flowshunt.control.openflow.packets import FORM_STANDARD, PacketIn, PacketOut
from flowshunt.control.openflow.ports import PortMod
from flowshunt.control.openflow.wire import HEADER, HEADER_SIZE, MAX_MESSAGE, VERSIONS, frame

MAX_BUNDLES = 16
"""Bundles that a connection may have open."""
MAX_BUNDLE_SIZE = 1 << 26
"""Bytes of messages in the open bundles of a connection."""
_DECODED_SIZE = 1024
"""What a message in a bundle counts for besides its bytes, since it is kept decoded."""
MAX_REQUEST_SIZE = 1 << 20
"""Bytes of one multipart request."""

_PART_SIZE = 1 << 15

_IN_BUNDLES = (FlowMod, GroupMod, PortMod, PacketOut)
_EVERY_REASON = 0xFFFFFFFF


class Negotiated(NamedTuple):
    """The hellos agreed on a version."""

    version: int


class Request(NamedTuple):
    """A message to act on. `raw` is the whole message, for errors that repeat it."""

    version: int
    xid: int
    message: Any
    raw: bytes


class Commit(NamedTuple):
    """A bundle to carry out, all of it or nothing; its messages in order."""

    control: Request
    requests: tuple[Request, ...]


class Closed(NamedTuple):
    """The connection is over; what is left to be sent says why."""

    reason: str


_OWN = frozenset(
    (
        EchoRequest, BundleAdd, BundleControl, extensions.SetFlowFormat, extensions.SetTableIds,
        extensions.SetPacketInFormat, extensions.SetControllerId, switch.SetAsync, switch.AsyncRequest,
        codec.Unsupported, codec.EchoReply, codec.ErrorMessage, extensions.FlowAge,
    )
)  # fmt: skip
"""Messages that concern only the connection; the last three need no answer."""

_Long = FlowReply | MonitorReply | GroupStatsReply | GroupDescriptionReply

_INVALID_TTL = 1 << switch.REASON_INVALID_TTL

Event = Negotiated | Request | Commit | Closed


class _Bundle:
    """A bundle that is being filled."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.requests: list[Request] = []
        self.size = 0
        self.closed = False
        self.failed = False


class Connection:
    """One connection. What a controller chose for it is in the public attributes; `role` is for the switch to set.

    `congested` is for the server to set: the peer does not read. `n_unsent`: bytes of news that wait in
    `data_to_send`. `paused`: the connection's monitors of flows are.
    """

    def __init__(self, versions: Iterable[int] = VERSIONS) -> None:
        """Begin with our hello, which offers `versions`. Raises ValueError when it is none of ours."""
        self._versions = frozenset(versions)
        if not self._versions or not self._versions <= VERSIONS:
            raise ValueError(f"versions are some of {sorted(VERSIONS)}, not {sorted(self._versions)}")
        self.version = 0
        self.role = "equal"
        self.nxm = False
        self.table_ids = False
        self.packet_in_form = FORM_STANDARD
        self.controller_id = 0
        self.miss_send_len = 0
        self.congested = False
        self.paused = False
        self.n_unsent = 0
        self.told = switch.AsyncConfig(
            packet_in=(0, 0x3F & ~_INVALID_TTL), port_status=(_EVERY_REASON, _EVERY_REASON), flow_removed=(0, 0x3F)
        )
        self.taps: set[Callable[[bytes], None]] = set()
        """Called with whole messages as they come in or go out; with nothing when the connection is over."""
        self._buffer = b""
        self._at = 0
        # A deque, as the switch's thread may add to it while another takes from it.
        hello = frame(max(self._versions), codec.TYPE_HELLO, 0, encode_hello(self._versions))
        self._output: deque[bytes | tuple[Request, _Long]] = deque([hello])
        self._bundles: dict[int, _Bundle] = {}
        self._parts: tuple[int, bytearray] | None = None
        self._dropped = False
        self._closed = False

    # --- bytes -----------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take what came in; an empty string says that nothing will follow."""
        if not data:
            self._closed = True
        elif not self._closed:
            self._buffer = self._buffer[self._at :] + data
            self._at = 0

    def data_to_send(self) -> bytes:
        """What is to be sent, once."""
        return b"".join(self.parts_to_send())

    def parts_to_send(self) -> Iterator[bytes]:
        """What is to be sent, once, in parts: the peer may have the first before the last is encoded."""
        data: list[bytes] = []
        self.n_unsent = 0
        size = 0
        while self._output:
            part = self._output.popleft()
            for each in (part,) if isinstance(part, bytes) else self._encoded(*part):
                data.append(each)
                size += len(each)
                if size >= _PART_SIZE:
                    yield self._tapped(data)
                    data, size = [], 0
        if data:
            yield self._tapped(data)

    def _tapped(self, data: list[bytes]) -> bytes:
        sent = b"".join(data)
        if self.taps:
            self._copy(sent)
        return sent

    def next_event(self) -> Event | None:
        """The next thing that happened; None: more bytes are needed. After Closed there is nothing."""
        while not self._closed:
            if len(self._buffer) - self._at < HEADER_SIZE:
                return None
            version, kind, size, xid = HEADER.unpack_from(self._buffer, self._at)
            if size < HEADER_SIZE:
                return self._close(f"a message of {size} bytes")
            if len(self._buffer) - self._at < size:
                return None
            raw = self._buffer[self._at : self._at + size]
            self._at += size
            if self.taps:
                self._copy(raw)
            event = self._message(version, kind, xid, raw)
            if event is not None:
                return event
        return None

    def _copy(self, messages: bytes) -> None:
        for tap in tuple(self.taps):
            tap(messages)

    def _close(self, reason: str) -> Closed:
        self._closed = True
        self._buffer, self._at = b"", 0
        self._bundles.clear()
        return Closed(reason)

    def _message(self, version: int, kind: int, xid: int, raw: bytes) -> Event | None:
        if kind == codec.TYPE_HELLO:
            return self._hello(version, raw) if not self.version else None
        if not self.version:
            return self._close("the first message is not a hello")
        try:
            if version != self.version:
                raise OpenFlowError("OFPBRC_BAD_VERSION", f"a message of version {version}")
            body = raw[HEADER_SIZE:]
            if kind == codec.multipart_type(version):
                whole = self._whole_request(xid, body)
                if whole is None:
                    return None
                body = whole
            request = Request(version, xid, codec.decode(version, kind, body, self.table_ids), raw)
            return request if type(request.message) not in _OWN else self._take(request)
        except OpenFlowError as error:
            self.fail(Request(self.version, xid, None, raw), error)
            return None

    def _hello(self, version: int, raw: bytes) -> Event:
        if not version:
            return self._close("a hello of version 0")
        agreed = negotiate(self._versions, decode_hello(version, raw[HEADER_SIZE:]))
        if agreed is None:
            highest = max(self._versions)
            text = f"we support versions {', '.join(f'1.{number - 1}' for number in sorted(self._versions))}"
            self._send(min(version, highest), codec.TYPE_ERROR, 0, encode_hello_failed(min(version, highest), text))
            return self._close("no version in common")
        self.version = agreed
        return Negotiated(agreed)

    def _whole_request(self, xid: int, body: bytes) -> bytes | None:
        """A multipart request whose parts are all there; None: more will come."""
        head = codec.multipart_head(self.version)
        more = len(body) >= head and bool(int.from_bytes(body[2:4], "big") & codec.MORE)
        parts = self._parts
        if parts is None or parts[0] != xid or len(body) < head or parts[1][:2] != body[:2]:
            whole, self._dropped = bytearray(body), False
        else:
            whole = parts[1]
            if not self._dropped:
                whole += body[head:]
        self._parts = (xid, whole) if more else None
        if self._dropped:
            return None
        size = len(whole)
        if size > MAX_REQUEST_SIZE:
            self._dropped = more
            del whole[head:]
            raise OpenFlowError("OFPBRC_MULTIPART_BUFFER_OVERFLOW", f"a request of {size} bytes")
        return None if more else bytes(whole)

    # --- what concerns only the connection -------------------------------------------------------------------------

    def _take(self, request: Request) -> Event | None:
        message = request.message
        match message:
            case EchoRequest(data):
                self.reply(request, EchoReply(data))
            case BundleAdd():
                self._add_to_bundle(message, request.xid)
            case BundleControl():
                return self._control_bundle(request, message)
            case extensions.SetFlowFormat(nxm):
                self.nxm = nxm
            case extensions.SetTableIds(enabled):
                self.table_ids = enabled
            case extensions.SetPacketInFormat(form):
                self.packet_in_form = form
            case extensions.SetControllerId(number):
                self.controller_id = number
            case switch.SetAsync():
                self.told = message.applied_to(self.told)
                return request  # the switch may have to send other packets now
            case switch.AsyncRequest():
                self.reply(request, self.told)
            case codec.Unsupported(name):
                raise OpenFlowError(name)
        return None

    def _add_to_bundle(self, message: BundleAdd, xid: int) -> None:
        found = self._bundles.get(message.id)
        if found is None:
            bundle.check_flags(message.flags)
            found = self._open_bundle(message.id, message.flags)
        found.failed, failed = True, found.failed  # unless it turns out well
        if found.closed:
            raise OpenFlowError("OFPBFC_BUNDLE_CLOSED", f"bundle {message.id} is closed")
        bundle.check_flags(message.flags)
        if message.flags != found.flags:
            raise OpenFlowError("OFPBFC_BAD_FLAGS", f"bundle {message.id} was opened with other flags")
        kind, raw = bundle.inner_message(message.data, self.version, xid)
        found.size += len(raw) + _DECODED_SIZE
        if sum(each.size for each in self._bundles.values()) > MAX_BUNDLE_SIZE:
            raise OpenFlowError("OFPBFC_MSG_TOO_MANY", f"bundles hold at most {MAX_BUNDLE_SIZE} bytes")
        inner = codec.decode(self.version, kind, raw[HEADER_SIZE:], self.table_ids)
        if not isinstance(inner, _IN_BUNDLES):
            raise OpenFlowError("OFPBFC_MSG_UNSUP", f"{type(inner).__name__} can't be in a bundle")
        found.requests.append(Request(self.version, xid, inner, raw))
        found.failed = failed

    def _open_bundle(self, number: int, flags: int) -> _Bundle:
        if len(self._bundles) == MAX_BUNDLES:
            raise OpenFlowError("OFPBFC_OUT_OF_BUNDLES", f"at most {MAX_BUNDLES} bundles")
        self._bundles[number] = opened = _Bundle(flags)
        return opened

    def _control_bundle(self, request: Request, control: BundleControl) -> Event | None:
        found = self._bundles.get(control.id)
        if control.type == bundle.OPEN:
            if found is not None:
                del self._bundles[control.id]
                raise OpenFlowError("OFPBFC_BAD_ID", f"bundle {control.id} is open; it is discarded")
            self._open_bundle(control.id, control.flags)
        elif found is None:
            raise OpenFlowError("OFPBFC_BAD_ID", f"there is no bundle {control.id}")
        elif control.type == bundle.CLOSE:
            if found.closed:
                del self._bundles[control.id]
                raise OpenFlowError("OFPBFC_BUNDLE_CLOSED", f"bundle {control.id} is closed; it is discarded")
            found.closed = True
        else:
            del self._bundles[control.id]
            if control.type == bundle.COMMIT:
                if control.flags != found.flags:
                    raise OpenFlowError("OFPBFC_BAD_FLAGS", f"bundle {control.id} was opened with other flags")
                if found.failed:
                    raise OpenFlowError("OFPBFC_MSG_FAILED", f"a message of bundle {control.id} was refused")
                return Commit(request, tuple(found.requests))
        self.reply(request, control)
        return None

    # --- sending ---------------------------------------------------------------------------------------------------

    def reply(self, request: Request, message: Any) -> None:
        """Answer a request with a message; a multipart reply takes as many messages as it needs.

        Flows and groups, of which there may be very many, are encoded when they are sent.
        """
        if isinstance(message, _Long):
            self._output.append((request, message))
        else:
            self._output.extend(self._encoded(request, message))

    def _encoded(self, request: Request, message: Any) -> Iterator[bytes]:
        encoded = codec.encode(message, self.version)
        if isinstance(encoded, Encoded):
            yield frame(self.version, encoded.type, request.xid, encoded.body)
        else:
            yield from self._parts_of(request.xid, encoded)

    def _parts_of(self, xid: int, parts: Parts) -> Iterator[bytes]:
        room = MAX_MESSAGE - HEADER_SIZE - len(codec.multipart_prefix(parts, False))
        batch: list[bytes] = []
        size = 0
        for entry in parts.entries:
            if size + len(entry) > room:
                yield frame(self.version, parts.type, xid, codec.multipart_prefix(parts, True) + b"".join(batch))
                batch, size = [], 0
            batch.append(entry)
            size += len(entry)
        yield frame(self.version, parts.type, xid, codec.multipart_prefix(parts, False) + b"".join(batch))

    def fail(self, request: Request, error: OpenFlowError) -> None:
        """Answer a request with an error."""
        self._send(self.version, codec.TYPE_ERROR, request.xid, encode_error(error, self.version, request.raw))

    def committed(self, commit: Commit) -> None:
        """Say that a bundle was carried out."""
        self.reply(commit.control, commit.control.message)

    def commit_failed(self, commit: Commit, culprit: Request, error: OpenFlowError) -> None:
        """Say that a bundle was not carried out, and which of its messages is to blame."""
        self.fail(culprit, error)
        self.fail(commit.control, OpenFlowError("OFPBFC_MSG_FAILED"))

    def barrier(self, request: Request) -> None:
        """Say that all before a barrier is done."""
        self.reply(request, BarrierReply())

    def notify(self, message: Any) -> None:
        """Send what no request asked for: packet-in, flow-removed, port-status, echo request, updates of flows."""
        if not self.version or self._closed:
            return
        if isinstance(message, PacketIn):
            encoded = codec.encode_packet_in(message, self.version, self.packet_in_form)
        elif isinstance(message, FlowRemoved):
            encoded = codec.encode_flow_removed(message, self.version, self.nxm)
        else:
            made = codec.encode(message, self.version)
            if isinstance(made, Parts):
                for part in self._parts_of(0, made):
                    self._put(part)
                return
            encoded = made
        self._send(self.version, encoded.type, 0, encoded.body)

    def is_told(self, event: str, reason: int) -> bool:
        """Whether the controller wants to hear of an event (see `AsyncConfig`) with a reason."""
        masks: tuple[int, int] = getattr(self.told, event)
        return bool(masks[0 if self.role == "secondary" else 1] >> reason & 1)

    @property
    def hears_of_invalid_ttl(self) -> bool:
        """Whether the controller is sent packets whose TTL ran out, as primary or equal."""
        return bool(self.told.packet_in[1] & _INVALID_TTL)

    def hear_of_invalid_ttl(self, wanted: bool) -> None:
        """Send the controller packets whose TTL ran out, or no longer."""
        as_secondary, mask = self.told.packet_in
        mask = mask | _INVALID_TTL if wanted else mask & ~_INVALID_TTL
        self.told = self.told._replace(packet_in=(as_secondary, mask))

    def _send(self, version: int, kind: int, xid: int, body: bytes) -> None:
        self._put(frame(version, kind, xid, body))

    def _put(self, data: bytes) -> None:
        self._output.append(data)
        self.n_unsent += len(data)
