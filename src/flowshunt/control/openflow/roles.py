"""Roles of the connections of one switch: at most one is primary (OpenFlow 1.2, section 6.3)."""

from __future__ import annotations

from collections.abc import Iterable

from flowshunt.control.openflow.connection import Connection
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.switch import RoleReply, RoleRequest


class Roles:
    """Who is primary, and the generation of the election that said so."""

    def __init__(self) -> None:
        self._generation: int | None = None

    def change(self, connections: Iterable[Connection], connection: Connection, request: RoleRequest) -> RoleReply:
        """Give a connection the role that it asks for; a primary before it becomes secondary.

        Raises OpenFlowError (OFPRRFC_STALE), and changes nothing, for a generation older than the last one.
        """
        if request.generation is not None:
            # Generations are numbers of 64 bits that may wrap: the distance is a signed one.
            if self._generation is not None and (request.generation - self._generation) >> 63 & 1:
                raise OpenFlowError("OFPRRFC_STALE", f"generation {request.generation} is over")
            self._generation = request.generation
        if request.role == "primary":
            for other in connections:
                if other is not connection and other.role == "primary":
                    other.role = "secondary"
        if request.role != "nochange":
            connection.role = request.role
        generation = (1 << 64) - 1 if self._generation is None else self._generation
        return RoleReply(connection.role, generation, request.nicira)
