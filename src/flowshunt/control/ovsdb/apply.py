"""Actions carried out on the node. What cannot be done is said in the log and in an interface's `error`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from flowshunt.base.errors import FlowshuntError, UsageError
from flowshunt.base.log import logger
from flowshunt.conntrack.timeouts import POLICY_CLASSES
from flowshunt.control.openflow.wire import VERSIONS
from flowshunt.control.ovsdb import reconcile as R
from flowshunt.control.ovsdb.model import Bridge, Vlans
from flowshunt.control.ovsdb.node import Node

DEFAULT_AGE_S = 300

_SLICE = 8
"""Actions between two batches of packets."""
_PROTOCOLS = {f"OpenFlow1{minor}": 1 + minor for minor in range(6)}
_HEX_ID = re.compile(r"(?:0x)?([0-9a-fA-F]{1,16})")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_NORMAL = "priority=0,actions=normal"
_LOG = logger(__name__)


class Applier:
    """Carries out actions; `errors` holds, by bridge and interface, why one has no number."""

    def __init__(self, node: Node) -> None:
        """Nothing has been done yet."""
        self._node = node
        self.errors: dict[tuple[str, str], str] = {}
        self._offload: dict[str, str] = {}
        self._hwaddr: dict[str, str] = {}
        self._limited: set[int | None] = set()

    async def carry_out(self, actions: Sequence[R.Action]) -> None:
        """Carry out actions in order, with packets in between; returns when sockets are as they should be."""
        waiting: Iterator[R.Action] = iter(actions)
        added = [action for action in actions if isinstance(action, R.AddPort)]
        async with self._node.opening(one.interface.name for one in added if one.kind == "system"):
            while part := list(islice(waiting, _SLICE)):
                await self._node.call(partial(self._carry_out, part))
        await self._node.settled()

    def _carry_out(self, actions: Sequence[R.Action]) -> None:
        for action in actions:
            try:
                self._one(action)
            except FlowshuntError as error:
                _LOG.error("%s: %s", type(action).__name__, error)

    def _one(self, action: R.Action) -> None:
        node = self._node
        match action:
            case R.Hold(on):
                node.is_holding = on
                if not on:
                    self._let_go()
            case R.AddBridge(bridge):
                self._add_bridge(bridge)
            case R.DelBridge(name):
                self.errors = {key: error for key, error in self.errors.items() if key[0] != name}
                self._hwaddr.pop(name, None)
                if name in node.bridges:
                    node.del_bridge(name)
            case R.SetBridge(before, after):
                self._set_bridge(before, after)
            case R.AddPort():
                self._add_port(action)
            case R.DelPort(bridge_name, name):
                self.errors.pop((bridge_name, name), None)
                if bridge_name in node.bridges and name in node.bridges[bridge_name].ports:
                    node.bridges[bridge_name].del_port(name)
            case R.SetVlans():
                self._set_vlans(action)
            case R.SetConfig(config):
                self._set_config(dict(config))
            case R.SetDefaultLimit(limit):
                node.tracker.set_zone_limit(None, limit or 0)
                self._note_limit(None, limit)
            case R.SetZone():
                self._set_zone(action)

    # --- bridges ---------------------------------------------------------------------------------------------------

    def _add_bridge(self, wanted: Bridge) -> None:
        node = self._node
        bridge = node.add_bridge(
            wanted.name, datapath_id=_datapath_id(wanted), fail_mode=wanted.fail_mode, local_port=False
        )
        if wanted.fail_mode != "secure" and not node.is_holding:
            bridge.switch.add_flows(_NORMAL, now_ms=node.now_ms())
        self._set_bridge(Bridge(wanted.name, fail_mode=wanted.fail_mode), wanted)
        _LOG.info("bridge %s: using datapath ID %016x", wanted.name, bridge.service.datapath_id)

    def _set_bridge(self, before: Bridge, after: Bridge) -> None:
        bridge, config = self._node.bridges.get(after.name), after.config
        if bridge is None:  # its name was refused, and is the same
            return
        for what in after.unsupported:
            if what not in before.unsupported:
                _LOG.warning("bridge %s: %s not supported", after.name, what)
        if before.fail_mode != after.fail_mode:
            # Open vSwitch forgets the flows, too.
            bridge.fail_mode = after.fail_mode
            bridge.switch.del_flows("")
            if after.fail_mode != "secure":
                bridge.switch.add_flows(_NORMAL, now_ms=self._node.now_ms())
        if before.protocols != after.protocols:
            versions = {_PROTOCOLS[name] for name in after.protocols if name in _PROTOCOLS}
            bridge.server.versions = frozenset(versions) or VERSIONS
        if (number := _datapath_id(after)) is not None:
            bridge.service.datapath_id = number
        ports = bridge.switch.datapath.ports
        ports.configure(
            age_ms=1000 * max(_number(config.get("mac-aging-time"), DEFAULT_AGE_S), 15),
            forward_bpdu=config.get("forward-bpdu") == "true",
        )
        self._set_local_mac(after)

    def _set_local_mac(self, wanted: Bridge) -> None:
        mac = self._hwaddr[wanted.name] = wanted.config.get("hwaddr", "")
        bridge = self._node.bridges[wanted.name]
        if _MAC.fullmatch(mac) and wanted.name in bridge.ports:
            bridge.set_mac(wanted.name, bytes.fromhex(mac.replace(":", "")))

    def _let_go(self) -> None:
        """Flows have been restored. A bridge that got none forwards like any switch, unless it is secure."""
        for bridge in self._node.bridges.values():
            if bridge.fail_mode != "secure" and not len(bridge.switch.datapath.rules):
                bridge.switch.add_flows(_NORMAL, now_ms=self._node.now_ms())

    # --- ports -----------------------------------------------------------------------------------------------------

    def _add_port(self, action: R.AddPort) -> None:
        bridge, one = self._node.bridges.get(action.bridge), action.interface
        if bridge is None or action.refusal is not None:
            self._refuse(action.bridge, one.name, action.refusal or f"there is no bridge {action.bridge}")
            return
        try:
            info = bridge.add_port(
                one.name,
                action.kind,
                ofport_request=one.ofport_request or one.last_ofport,
                options=dict(one.options),
                mtu_request=one.mtu_request,
            )
        except UsageError as error:
            self._refuse(action.bridge, one.name, str(error))
            return
        if info.ofport > 0:
            _LOG.info("bridge %s: added interface %s on port %d", action.bridge, one.name, info.ofport)
        mac = one.mac or (self._hwaddr.get(action.bridge) if one.name == action.bridge else None)
        if mac and _MAC.fullmatch(mac) and info.ofport > 0:
            bridge.set_mac(one.name, bytes.fromhex(mac.replace(":", "")))

    def _refuse(self, bridge: str, name: str, why: str) -> None:
        self.errors[bridge, name] = why
        _LOG.warning("bridge %s: %s", bridge, why)

    def _set_vlans(self, action: R.SetVlans) -> None:
        if (action.bridge, action.name) not in self.errors:
            vlans = action.vlans or Vlans("all")
            self._node.bridges[action.bridge].set_vlans(action.name, vlans.mode, vlans.tag, vlans.trunks)

    # --- the switch as a whole -------------------------------------------------------------------------------------

    def _set_config(self, config: dict[str, str]) -> None:
        offload = {key: value for key, value in config.items() if key.startswith("hw-offload")}
        if offload != self._offload:
            self._offload = offload
            self._node.configure_offload(config)

    def _set_zone(self, action: R.SetZone) -> None:
        tracker, number = self._node.tracker, action.number
        if action.before.limit != action.after.limit:
            if action.after.limit is None:
                tracker.del_zone_limit(number)
            else:
                tracker.set_zone_limit(number, action.after.limit)
            self._note_limit(number, action.after.limit)
        if action.before.timeouts != action.after.timeouts:
            if action.after.timeouts is None:
                tracker.del_timeout_policy(number)
            else:
                tracker.set_timeout_policy(
                    number, {name: seconds for name, seconds in action.after.timeouts if name in POLICY_CLASSES}
                )

    def _note_limit(self, zone: int | None, limit: int | None) -> None:
        """While the database limits any zone, it alone says what limits there are."""
        if limit is None:
            self._limited.discard(zone)
        else:
            self._limited.add(zone)
        self._node.limits_are_of_database = bool(self._limited)


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else default


def _datapath_id(bridge: Bridge) -> int | None:
    """`other_config:datapath-id`, or what follows from `hwaddr`; None: any."""
    config = bridge.config
    found = _HEX_ID.fullmatch(config.get("datapath-id", ""))
    if found and int(found.group(1), 16):
        return int(found.group(1), 16)
    mac = config.get("hwaddr", "")
    return int(mac.replace(":", ""), 16) if _MAC.fullmatch(mac) else None
