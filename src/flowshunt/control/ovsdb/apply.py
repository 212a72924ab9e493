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
from flowshunt.control.ovsdb.model import Bridge, Interface, Vlans
from flowshunt.control.ovsdb.node import Node
from flowshunt.datapath.ports import SERVICE_TYPES
from flowshunt.packet.schema import ETH_QINQ, MAX_TAGS
from flowshunt.ports.devices import NAME_SIZE

DEFAULT_AGE_S = 300
_LEAST_MTU, _MOST_MTU = 68, 65_521

_SLICE = 2
"""Actions between two batches of packets."""
_PROTOCOLS = {f"OpenFlow1{minor}": 1 + minor for minor in range(6)}
_HEX_ID = re.compile(r"(?:0x)?([0-9a-fA-F]{1,16})")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_NORMAL = "priority=0,actions=normal"
_LOG = logger(__name__)


class Applier:
    """Carries out actions; `errors` holds, by bridge and interface, why one has no number, `notes` what it lacks."""

    def __init__(self, node: Node) -> None:
        """Nothing has been done yet."""
        self._node = node
        self.errors: dict[tuple[str, str], str] = {}
        self.notes: dict[tuple[str, str], str] = {}
        self._vlan_limit = 1
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
            except Exception as fault:  # noqa: BLE001  (whatever the database says, the rest of it is carried out)
                _LOG.exception("%s could not be carried out", type(action).__name__)
                if isinstance(action, R.AddPort):
                    self.errors[action.bridge, action.interface.name] = f"{action.interface.name}: {fault}"

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
                self.notes = {key: note for key, note in self.notes.items() if key[0] != name}
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
        bridge.switch.datapath.ports.configure(vlan_limit=self._vlan_limit)
        if _forwards_alone(wanted) and not node.is_holding:
            bridge.switch.add_flows(_NORMAL, now_ms=node.now_ms())
        bridge.set_controllers(wanted.controllers)
        self._set_bridge(Bridge(wanted.name, fail_mode=wanted.fail_mode, controllers=wanted.controllers), wanted)
        _LOG.info("bridge %s: using datapath ID %016x", wanted.name, bridge.service.datapath_id)

    def _set_bridge(self, before: Bridge, after: Bridge) -> None:
        bridge, config = self._node.bridges.get(after.name), after.config
        if bridge is None:  # its name was refused, and is the same
            return
        self._note(after)
        if before.fail_mode != after.fail_mode or bool(before.controllers) != bool(after.controllers):
            # Open vSwitch forgets the flows, too.
            bridge.fail_mode = after.fail_mode
            bridge.switch.del_flows("")
            if _forwards_alone(after):
                bridge.switch.add_flows(_NORMAL, now_ms=self._node.now_ms())
        if (before.fail_mode, before.controllers) != (after.fail_mode, after.controllers):
            bridge.set_controllers(after.controllers)
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
        if before.flood_vlans != after.flood_vlans:
            ports.set_flood_vlans(after.flood_vlans)
        for key, pattern in (("hwaddr", _MAC), ("datapath-id", _HEX_ID)):
            if key in config and config[key] != before.config.get(key) and not pattern.fullmatch(config[key]):
                _LOG.error("bridge %s: other_config:%s %s is none, and is left out", after.name, key, config[key])
        self._set_local_mac(after)

    def _note(self, wanted: Bridge) -> None:
        """Say what is asked for and not had, in the log and at the interfaces, which work without."""
        before = {name: note for (bridge, name), note in self.notes.items() if bridge == wanted.name}
        after = wanted.notes()
        for name, note in after.items():
            if before.get(name) != note:
                _LOG.warning("bridge %s: %s: %s", wanted.name, name, note)
        self.notes = {key: note for key, note in self.notes.items() if key[0] != wanted.name}
        self.notes |= {(wanted.name, name): note for name, note in after.items()}

    def _set_local_mac(self, wanted: Bridge) -> None:
        mac = self._hwaddr[wanted.name] = wanted.config.get("hwaddr", "")
        bridge = self._node.bridges[wanted.name]
        if _MAC.fullmatch(mac) and wanted.name in bridge.ports:
            bridge.set_mac(wanted.name, bytes.fromhex(mac.replace(":", "")))

    def _let_go(self) -> None:
        """Flows have been restored. A bridge that got none forwards like any switch, unless it is secure."""
        for bridge in self._node.bridges.values():
            if bridge.forwards_alone and not len(bridge.switch.datapath.rules):
                bridge.switch.add_flows(_NORMAL, now_ms=self._node.now_ms())

    # --- ports -----------------------------------------------------------------------------------------------------

    def _add_port(self, action: R.AddPort) -> None:
        bridge, one = self._node.bridges.get(action.bridge), action.interface
        if bridge is None or action.refusal is not None:
            self._refuse(action.bridge, one.name, action.refusal or _no_bridge(action.bridge, one.name))
            return
        try:
            info = bridge.add_port(
                one.name,
                action.kind,
                ofport_request=one.ofport_request or one.last_ofport,
                options=dict(one.options),
                mtu_request=_mtu(one),
            )
        except UsageError as error:
            self._refuse(action.bridge, one.name, str(error))
            return
        if info.ofport > 0:
            _LOG.info("bridge %s: added interface %s on port %d", action.bridge, one.name, info.ofport)
            if one.ofport_request not in (None, info.ofport) and one.name != action.bridge:
                what = "bridge %s: interface %s cannot have port %d, which is taken"
                _LOG.info(what, action.bridge, one.name, one.ofport_request)
        if one.mac and not _MAC.fullmatch(one.mac):
            _LOG.error("interface %s: %s is no MAC address", one.name, one.mac)
        mac = one.mac or (self._hwaddr.get(action.bridge) if one.name == action.bridge else None)
        if mac and _MAC.fullmatch(mac) and info.ofport > 0:
            bridge.set_mac(one.name, bytes.fromhex(mac.replace(":", "")))

    def _refuse(self, bridge: str, name: str, why: str) -> None:
        self.errors[bridge, name] = why
        _LOG.warning("bridge %s: %s", bridge, why)

    def _set_vlans(self, action: R.SetVlans) -> None:
        if (action.bridge, action.name) not in self.errors:
            vlans = action.vlans or Vlans("all")
            tpid = SERVICE_TYPES.get(vlans.ethtype)
            if tpid is None:
                what = "port %s: other_config:qinq-ethtype %s is none; 802.1ad is taken"
                _LOG.error(what, action.name, vlans.ethtype)
            bridge = self._node.bridges[action.bridge]
            bridge.set_vlans(action.name, vlans.mode, vlans.tag, vlans.trunks, tpid=tpid or ETH_QINQ)

    # --- the switch as a whole -------------------------------------------------------------------------------------

    def _set_config(self, config: dict[str, str]) -> None:
        offload = {key: value for key, value in config.items() if key.startswith("hw-offload")}
        if offload != self._offload:
            self._offload = offload
            self._node.configure_offload(config)
        limit = _vlan_limit(config.get("vlan-limit"))
        if limit != self._vlan_limit:
            self._vlan_limit = limit
            for bridge in self._node.bridges.values():
                bridge.switch.datapath.ports.configure(vlan_limit=limit)

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


def _forwards_alone(bridge: Bridge) -> bool:
    """Whether it is an ordinary switch as long as nobody adds flows."""
    return bridge.fail_mode != "secure" and not bridge.controllers


def _vlan_limit(text: str | None) -> int:
    """Tags that are read; 0 means as many as can be. Open vSwitch reads one unless it is told to read more."""
    if text is None:
        return 1
    if not (text.isdecimal() and text.isascii() and len(text) < 10):
        _LOG.error("other_config:vlan-limit %s is no number; 1 is taken", text)
        return 1
    return min(int(text) or MAX_TAGS, MAX_TAGS)


def _mtu(interface: Interface) -> int | None:
    """The MTU that an interface asks for, if it is one."""
    asked = interface.mtu_request
    if asked is None or _LEAST_MTU <= asked <= _MOST_MTU:
        return asked
    what = "interface %s: mtu_request %d is out of range, and is left out; %d to %d"
    _LOG.error(what, interface.name, asked, _LEAST_MTU, _MOST_MTU)
    return None


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else default


def _no_bridge(bridge: str, name: str) -> str:
    """Why a port has no bridge, in the words of Open vSwitch where it is the bridge's own."""
    if name == bridge and len(name) >= NAME_SIZE:
        return f"could not open network device {name} (File name too long)"
    return f"there is no bridge {bridge}"


def _datapath_id(bridge: Bridge) -> int | None:
    """`other_config:datapath-id`, or what follows from `hwaddr`; None: any."""
    config = bridge.config
    found = _HEX_ID.fullmatch(config.get("datapath-id", ""))
    if found and int(found.group(1), 16):
        return int(found.group(1), 16)
    mac = config.get("hwaddr", "")
    return int(mac.replace(":", ""), 16) if _MAC.fullmatch(mac) else None
