"""What controllers have configured of tables: misses (OpenFlow 1.1 and 1.2), eviction and vacancy (1.4 and later).

No table is ever full here, so that nothing is evicted and no vacancy is told of; what was asked for is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowshunt.control.openflow.changes import HIDDEN_TABLE
from flowshunt.control.openflow.errors import OpenFlowError
from flowshunt.control.openflow.tables import TableDescription, TableMod, Vacancy
from flowshunt.control.openflow.wire import TABLE_ALL
from flowshunt.rules.openflow.executor import MISSES, Executor

_MOST = 0xFFFFFFFF
"""Flows of a table that vacancy is counted from, as in Open vSwitch where no limit is set."""


class TableSettings:
    """The configuration of one switch's tables."""

    def __init__(self, executor: Executor) -> None:
        """Nothing is configured yet."""
        self._executor = executor
        self._misses: dict[int, int] = {}
        self._evicting: set[int] = set()
        self._vacancies: dict[int, Vacancy] = {}

    def change(self, mod: TableMod) -> None:
        """Carry out a request. Raises OpenFlowError, and changes nothing."""
        if HIDDEN_TABLE < mod.table < TABLE_ALL:
            raise OpenFlowError("OFPTMFC_BAD_TABLE", f"there is no table {mod.table}")
        if mod.table == HIDDEN_TABLE:
            raise OpenFlowError("OFPTMFC_EPERM", f"table {mod.table} is the switch's own")
        for table in range(HIDDEN_TABLE) if mod.table == TABLE_ALL else (mod.table,):
            self._change(table, mod)

    def _change(self, table: int, mod: TableMod) -> None:
        if mod.miss is not None:
            self._misses[table] = mod.miss
            self._executor.set_miss(table, MISSES[mod.miss])
        if mod.evicts is not None:
            (self._evicting.add if mod.evicts else self._evicting.discard)(table)
        if mod.has_vacancy:
            self._vacancies[table] = mod.vacancy
        elif mod.has_vacancy is not None:
            self._vacancies.pop(table, None)

    def miss(self, table: int) -> int:
        """What becomes of packets that a table has no flow for, as a number; that of controllers if nobody said."""
        return self._misses.get(table, 0)

    def descriptions(self, flows: Iterable[int]) -> list[TableDescription]:
        """The configuration of tables that have so many flows."""
        return [
            TableDescription(table, table in self._evicting, self._vacancy(table, n)) for table, n in enumerate(flows)
        ]

    def _vacancy(self, table: int, n: int) -> Vacancy | None:
        known = self._vacancies.get(table)
        return None if known is None else known._replace(now=(_MOST - n) * 100 // _MOST)
