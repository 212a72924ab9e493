"""Actions that lead elsewhere than to a table or a port, from their text: controllers, groups, meters, queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowshunt.rules.openflow import flow
from flowshunt.rules.openflow.errors import BadValueError, quote
from flowshunt.rules.openflow.scanner import Item, items
from flowshunt.rules.openflow.values import nearest, read_int, read_port

if TYPE_CHECKING:
    from flowshunt.rules.openflow.actions import ActionReader

REASONS = {"no_match": 0, "action": 1, "invalid_ttl": 2, "action_set": 3, "group": 4, "packet_out": 5}
"""Why a packet comes to a controller, by the words of flow texts."""

MAX_GROUP = 0xFFFFFF00
MAX_METER = 0xFFFF0000
_MAX_USERDATA = 1 << 15
_ARGUMENTS = ("max_len", "reason", "id", "userdata", "pause", "meter_id")


def read_controller(reader: ActionReader, item: Item) -> flow.Action:
    """`controller`, `controller:MAX_LEN`, `controller(max_len=N,reason=WORD,id=N,userdata=HEX,pause,meter_id=N)`."""
    text = item.value
    if not text or text.isdigit():
        return flow.Controller(read_int(text, 16) if text else 0xFFFF)
    said: dict[str, int] = {}
    userdata, pause = b"", False
    for argument in items(reader.context.text, item.value_at, item.value_at + len(text)):
        key, value = argument.key, argument.value
        try:
            if key in ("max_len", "id"):
                said[key] = read_int(value, 16)
            elif key == "reason":
                said[key] = _reason(value)
            elif key == "meter_id":
                said[key] = read_int(value, 32)
            elif key == "userdata":
                userdata = read_bytes(value)
            elif key == "pause":
                pause = True
            else:
                raise BadValueError(f"unknown argument {quote(key)} of controller", nearest(key, [*_ARGUMENTS]), key)
        except BadValueError as problem:
            raise reader.context.blame(argument, problem) from None
    return flow.Controller(
        said.get("max_len", 0xFFFF), said.get("id", 0), said.get("reason", 1), userdata, pause, said.get("meter_id")
    )


def _reason(text: str) -> int:
    if text in REASONS:
        return REASONS[text]
    if not text.isdigit():
        raise BadValueError(f"unknown reason {quote(text)}", nearest(text, [*REASONS]) or ", ".join(REASONS))
    return read_int(text, 8)


def read_bytes(text: str) -> bytes:
    """Bytes in hexadecimal, with dots between them or not."""
    try:
        found = bytes.fromhex(text.replace(".", ""))
    except ValueError:
        raise BadValueError(f"{quote(text)} is not a string of bytes", "write userdata=00.11.22") from None
    if len(found) > _MAX_USERDATA:
        raise BadValueError(f"{len(found)} bytes are too many", f"at most {_MAX_USERDATA}")
    return found


def read_group(reader: ActionReader, item: Item) -> flow.Action:
    """`group:NUMBER`."""
    number = read_int(item.value, 32)
    if number > MAX_GROUP:
        raise BadValueError(f"{number:#x} is not a group", f"0 to {MAX_GROUP:#x}")
    return flow.Group(number)


def read_meter(reader: ActionReader, item: Item) -> flow.Action:
    """`meter:NUMBER`."""
    number = read_int(item.value, 32)
    if not 1 <= number <= MAX_METER:
        raise BadValueError(f"{number:#x} is not a meter", f"1 to {MAX_METER:#x}")
    return flow.Meter(number)


def read_enqueue(reader: ActionReader, item: Item) -> flow.Action:
    """`enqueue:PORT:QUEUE` or `enqueue(PORT,QUEUE)`."""
    for separator in (":", ","):
        port, found, queue = item.value.rpartition(separator)
        if found:
            return flow.Enqueue(read_port(port, reader.context.ports), read_int(queue, 32))
    raise BadValueError(f"{quote(item.value)} lacks a port or a queue", "write enqueue:PORT:QUEUE")


def read_set_queue(reader: ActionReader, item: Item) -> flow.Action:
    """`set_queue:QUEUE`."""
    return flow.SetQueue(read_int(item.value, 32))
