"""Which columns matter, and the schema, as the server has it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ovs.db.idl import SchemaHelper

from flowshunt.base.errors import InputError, UsageError
from flowshunt.base.sockets import short_name
from flowshunt.control.jsonrpc import Decoder, Reply, Request, encode

DATABASE = "Open_vSwitch"
READ = {
    "Open_vSwitch": ("bridges", "datapaths", "next_cfg", "other_config"),
    "Bridge": (
        "auto_attach", "controller", "datapath_type", "fail_mode", "flood_vlans", "flow_tables", "ipfix",
        "mcast_snooping_enable", "mirrors", "name", "netflow", "other_config", "ports", "protocols", "rstp_enable",
        "sflow", "stp_enable",
    ),
    "Port": ("cvlans", "interfaces", "lacp", "name", "other_config", "protected", "qos", "tag", "trunks", "vlan_mode"),
    "Interface": (
        "bfd", "cfm_mpid", "ingress_policing_kpkts_rate", "ingress_policing_rate", "lldp", "mac", "mtu_request", "name",
        "ofport", "ofport_request", "options", "type",
    ),
    "Controller": (
        "connection_mode", "controller_rate_limit", "enable_async_messages", "inactivity_probe", "max_backoff",
        "target",
    ),
    "AutoAttach": ("system_name",),
    "Flow_Table": ("name",),
    "IPFIX": ("targets",),
    "Mirror": ("name",),
    "NetFlow": ("targets",),
    "QoS": ("type",),
    "sFlow": ("targets",),
    "Datapath": ("ct_zone_default_limit", "ct_zones"),
    "CT_Zone": ("limit", "timeout_policy"),
    "CT_Timeout_Policy": ("timeouts",),
}  # fmt: skip
"""What is read; a column that the server does not have is left out. A row that another one refers to is there only if
its table is among these.
"""
WRITTEN = {
    "Open_vSwitch": ("cur_cfg", "datapath_types", "db_version", "dpdk_initialized", "iface_types", "ovs_version"),
    "Bridge": ("datapath_id", "datapath_version", "status"),
    "Interface": (
        "admin_state", "duplex", "error", "ifindex", "link_resets", "link_speed", "link_state", "mac_in_use", "mtu",
        "statistics", "status",
    ),
    "Controller": ("is_connected", "role", "status"),
    "Datapath": ("capabilities", "datapath_version"),
}  # fmt: skip
"""What is written and not read; changes of these do not wake anybody."""

_NEEDED = frozenset(("Open_vSwitch", "Bridge", "Port", "Interface"))
_TIMEOUT_S = 10.0
_READ_SIZE = 1 << 18


def lacking(schema: dict[str, Any]) -> list[str]:
    """Tables and columns that matter and are not there, as `Table` and `Table.column`."""
    tables = schema["tables"]
    found = []
    for table in READ.keys() | WRITTEN.keys():
        if table not in tables:
            found.append(table)
            continue
        columns = {*READ.get(table, ()), *WRITTEN.get(table, ())} - tables[table]["columns"].keys()
        found += [f"{table}.{column}" for column in columns]
    return sorted(found)


def helper(schema: dict[str, Any]) -> SchemaHelper:
    """Registers the columns that matter with what the replica takes."""
    found = SchemaHelper(schema_json=schema)
    tables = schema["tables"]
    for table in READ:
        if table not in tables:
            continue
        there = tables[table]["columns"]
        read = [column for column in READ[table] if column in there]
        written = [column for column in WRITTEN.get(table, ()) if column in there]
        found.register_columns(table, [*read, *written])
    return found


async def fetch(remote: str) -> dict[str, Any]:
    """The schema of the database at `remote`. Raises InputError when it cannot be had now, UsageError when never."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _fetch(remote)
    except OSError as problem:  # that it took too long is one, too
        raise InputError(f"{remote}: {problem.strerror or 'no answer'}") from None


async def _fetch(remote: str) -> dict[str, Any]:
    reader, writer = await _connect(remote)
    try:
        writer.write(encode(Request("get_schema", [DATABASE], 0)))
        decoder = Decoder(max_size=1 << 22)
        while data := await reader.read(_READ_SIZE):
            for message in decoder.feed(data):
                if isinstance(message, Reply) and message.id == 0:
                    if not isinstance(message.result, dict):
                        raise InputError(f"{remote} has no database {DATABASE}: {message.error}")
                    tables = message.result.get("tables")
                    if not isinstance(tables, dict) or not tables.keys() >= _NEEDED:
                        raise InputError(f"{remote} has a database {DATABASE} without its tables")
                    return message.result
        raise InputError(f"{remote} closed the connection")
    finally:
        writer.close()


async def _connect(remote: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    kind, _, place = remote.partition(":")
    if kind == "unix" and place:
        with short_name(Path(place)) as name:
            return await asyncio.open_unix_connection(name)
    host, _, port = place.rpartition(":")
    if kind == "tcp" and port.isdecimal() and int(port) < 1 << 16:
        return await asyncio.open_connection(host.strip("[]") or "127.0.0.1", int(port))
    raise UsageError(f"{remote}: a database is at unix:PATH or tcp:HOST:PORT")
