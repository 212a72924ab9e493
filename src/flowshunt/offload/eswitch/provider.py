"""The e-switch as a provider: what `model` decides, done with the datapath's table of entries."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping

import numpy as np

from flowshunt.datapath.paths.records import FLOW, USAGE
from flowshunt.offload import reasons as R
from flowshunt.offload.answers import answer
from flowshunt.offload.api import ArrayProvider
from flowshunt.offload.batch import Batch
from flowshunt.offload.eswitch.groups import FITS, patterns_of
from flowshunt.offload.eswitch.model import ABSENT, INSERTED, REFUSALS, WAITING, Model
from flowshunt.offload.eswitch.profiles import settings_from
from flowshunt.offload.eswitch.remainders import Remainders
from flowshunt.offload.eswitch.settings import EswitchSettings
from flowshunt.offload.eswitch.waiting import Waiting
from flowshunt.offload.sharing import Share, Shares

_SWEEP_MS = 10
_SWEEP_BUDGET = 4096
"""Connections looked at for their age, at most so often: a million in two and a half seconds."""

_PROTOCOL = R.number_of("protocol")
_TABLE_FULL = R.number_of("table-full")
_IDLE = R.number_of("idle")
_REASONS = np.array([R.number_of(code) if code else R.NONE for code in REFUSALS], np.uint16)
_ERRNOS = np.array([0, errno.ENOSPC, errno.ENOSPC, errno.ENOSPC, errno.ENOBUFS], np.int32)
"""By the refusals of `model`."""

_NOBODY = np.zeros(0, np.uint32)
_NOTHING = np.zeros(0, USAGE)
_NO_FLOWS = np.zeros(0, FLOW)


class Eswitch(ArrayProvider):
    """A model of a smart NIC's switch that forwards through a share of the datapath's table.

    Without one (`shares` None) it is told of connections and forwards none. `settings` may be changed while it runs by
    `configure`. Runs on the packet thread.
    """

    mark = "HW_OFFLOAD"
    queue_limit = 0
    packet_thread_only = True

    @classmethod
    def from_options(cls, shares: Shares | None, options: Mapping[str, str]) -> Eswitch:
        """One set by text: `profile`, and the names of EswitchSettings. Raises UsageError, OSError."""
        return cls(shares, settings_from(options))

    def __init__(
        self, shares: Shares | None = None, settings: EswitchSettings | None = None, *, name: str = "eswitch"
    ) -> None:
        self.name = name
        self.model = Model(settings or EswitchSettings())
        self.counts: Counter[str] = Counter()
        self._share: Share | None = None if shares is None else shares.share(name, self._limit())
        self._waiting = Waiting()
        self._remainders = Remainders()
        self._swept_ms = 0

    @property
    def settings(self) -> EswitchSettings:
        """Those asked for; see `model.is_changing`."""
        return self.model.settings

    def configure(self, settings: EswitchSettings) -> None:
        """Apply other settings; sizes of tables and groups follow when the table is empty (row C6)."""
        self.model.configure(settings)
        if self._share is not None:
            self._share.limit = self._limit()

    def set_options(self, options: Mapping[str, str]) -> None:
        """Apply settings as text, see `from_options`; those left out are at their defaults. Raises as that does."""
        settings = settings_from(options)
        if settings != self.settings:
            self.configure(settings)

    def _limit(self) -> int:
        """What the groups hold, those of now or those to come; the maximum is the model's business."""
        now, then = self.model.groups, self.settings
        return max(now.size * len(now.used), then.group_size * then.num_of_groups) // 2

    # --- notifications -----------------------------------------------------------------------------------------------

    def batch_submit(self, batch: Batch, /) -> None:
        """See `answers.answer`: others than TCP and UDP are refused when they begin."""
        flushed, ended = answer(batch, declines=False)
        if flushed:
            self._flush()
        if len(ended) and self.model.n_connections:
            self.withdraw(ended["row"], ended["generation"])

    def _flush(self) -> None:
        self.model.clear()
        self._waiting.clear()
        if self._share is not None:
            self._share.flush()

    # --- forwarding --------------------------------------------------------------------------------------------------

    def install(self, flows: np.ndarray, /) -> None:
        """See Forwarder. What has to wait for its turn counts as taken; its packets come up until then."""
        if self._share is None:
            flows["error"], flows["reason"] = errno.ENODEV, R.PROVIDER_REFUSED | errno.ENODEV << R.PARAMETER_SHIFT
            return
        rows = flows["rows"][:, 0]
        if len(np.unique(rows)) < len(rows):
            for place in range(len(flows)):
                self._install(flows[place : place + 1])
        else:
            self._install(flows)

    def _install(self, flows: np.ndarray) -> None:
        """The same for connections in rows that differ."""
        now_ms = int(flows["now_ms"].max())
        rows, generations = flows["rows"][:, 0], flows["generations"][:, 0]
        patterns, forwarded = patterns_of(flows["paths"])
        flows["error"] = np.where(forwarded, 0, errno.EOPNOTSUPP)
        flows["reason"] = np.where(forwarded, R.NONE, _PROTOCOL)
        former = self.model.former(rows, generations)
        if len(former[0]):
            self.withdraw(*former)
        states = self._states_with_patterns(rows, generations, patterns, now_ms)
        self._refresh(flows, states)
        new = np.flatnonzero(forwarded & (states == ABSENT))
        if len(new):
            self._admit(flows, new, patterns[new], now_ms)

    def _states_with_patterns(
        self, rows: np.ndarray, generations: np.ndarray, patterns: np.ndarray, now_ms: int
    ) -> np.ndarray:
        """The model's states; connections that have come into other patterns have left their groups."""
        states = self.model.states(rows, generations)
        there = np.flatnonzero(states != ABSENT)
        if len(there):
            moved = there[(self.model.patterns(rows[there]) != patterns[there]).any(axis=1)]
            if len(moved):
                self._leave(rows[moved], generations[moved], states[moved])
                states[moved] = ABSENT
        return states

    def _refresh(self, flows: np.ndarray, states: np.ndarray) -> None:
        """Other paths for connections that are there: their entries are changed, which takes no turn."""
        waits = states == WAITING
        if waits.any():
            self._waiting.replace(self.model.places(flows["rows"][waits, 0]), flows[waits])
        inserted = np.flatnonzero(states == INSERTED)
        if len(inserted):
            self.counts["replaced"] += len(inserted)
            self._insert(flows, inserted)

    def _admit(self, flows: np.ndarray, new: np.ndarray, patterns: np.ndarray, now_ms: int) -> None:
        rows, generations = flows["rows"][new, 0], flows["generations"][new, 0]
        refusals, due_ms = self.model.admit(rows, generations, patterns, now_ms)
        fits = refusals == FITS
        if not fits.all():
            flows["error"][new] = _ERRNOS[refusals]
            flows["reason"][new] = _REASONS[refusals]
        self._remainders.begin(rows[fits], generations[fits], now_ms)
        waits = fits & (due_ms > now_ms)
        if waits.any():
            later = new[waits]
            self.model.set_places(rows[waits], self._waiting.push(flows[later], due_ms[waits]))
        at_once = new[fits & ~waits]
        if len(at_once):
            self.counts["insertions"] += len(at_once)
            self._insert(flows, at_once)

    def _insert(self, flows: np.ndarray, places: np.ndarray) -> None:
        """Write entries; what the shared table refuses has left the model, too."""
        assert self._share is not None
        in_place = len(places) == len(flows) and flows.flags.c_contiguous
        mine = flows if in_place else flows[places]
        self._share.install(mine)
        failed = mine["error"] != 0
        if failed.any():
            self.counts["refused-by-shunt"] += int(failed.sum())
            errors = mine["error"][failed]
            other = (R.PROVIDER_REFUSED | errors << R.PARAMETER_SHIFT).astype(np.uint16)
            mine["reason"][failed] = np.where(errors == errno.ENOSPC, _TABLE_FULL, other)
            rows = mine["rows"][failed, 0]
            self._remainders.keep(rows, self._share.withdraw(rows, mine["generations"][failed, 0]))
            self.model.remove(rows)
        if not in_place:
            flows["error"][places], flows["reason"][places] = mine["error"], mine["reason"]

    def renew(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> None:
        """See Forwarder."""
        states = self.model.states(rows, generations)
        waits, inserted = states == WAITING, states == INSERTED
        if waits.any():
            self._waiting.renew(self.model.places(rows[waits]), epoch)
        if inserted.any() and self._share is not None:
            self._share.renew(rows[inserted], generations[inserted], epoch)

    def begin_epoch(self, epoch: int, /) -> None:
        """The table compares epochs itself."""

    def withdraw(self, rows: np.ndarray, generations: np.ndarray, /) -> np.ndarray:
        """See Forwarder."""
        usage = np.zeros(len(rows), USAGE)
        _, firsts = np.unique(rows, return_index=True)
        rows, generations = rows[firsts], generations[firsts]
        states = self.model.states(rows, generations)
        there = states != ABSENT
        if there.any():
            self._leave(rows[there], generations[there], states[there])
        usage[firsts] = self._remainders.last(rows, generations)
        return usage

    def _leave(self, rows: np.ndarray, generations: np.ndarray, states: np.ndarray) -> None:
        """Connections that are there leave; what is to be told of them remains."""
        waits, inserted = states == WAITING, states == INSERTED
        if waits.any():
            self._waiting.cancel(self.model.places(rows[waits]))
        if inserted.any() and self._share is not None:
            last = self._share.withdraw(rows[inserted], generations[inserted])
            self._remainders.keep(rows[inserted], last)
        self.model.remove(rows)

    def statistics(self, rows: np.ndarray, generations: np.ndarray, now_ms: int, /) -> np.ndarray:
        """See Forwarder. Counters rest for `statistics_delay_ms` after they were told, last uses do not."""
        if self._share is None:
            return np.zeros(len(rows), USAGE)
        inserted = self.model.states(rows, generations) == INSERTED
        if inserted.all():
            return self._read(self._share, rows, generations, now_ms)
        usage = np.zeros(len(rows), USAGE)
        if inserted.any():
            usage[inserted] = self._read(self._share, rows[inserted], generations[inserted], now_ms)
        return usage

    def _read(self, share: Share, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> np.ndarray:
        usage, delay_ms = share.usage(rows, generations, now_ms), self.settings.statistics_delay_ms
        if not delay_ms:
            return usage
        self._remainders.keep(rows, usage)
        return self._remainders.tell(rows, now_ms, delay_ms)

    def handed_back(self, now_ms: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """See Forwarder: those that have aged, and those whose turn came when the shared table was full."""
        failed = self._insert_due(now_ms)
        rows, generations, usage = self._aged(now_ms)
        if not len(failed):
            return rows, generations, np.full(len(rows), _IDLE, np.uint16), usage
        late = failed["rows"][:, 0], failed["generations"][:, 0]
        return (
            np.concatenate([late[0], rows]),
            np.concatenate([late[1], generations]),
            np.concatenate([failed["reason"], np.full(len(rows), _IDLE, np.uint16)]),
            np.concatenate([self._remainders.last(*late), usage]),
        )

    def _insert_due(self, now_ms: int) -> np.ndarray:
        """Insert those whose turn has come; those that failed, FLOW (n,)."""
        due_ms = self._waiting.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return _NO_FLOWS
        flows, n_turns = self._waiting.pop_due(now_ms)
        self.model.inserted(flows["rows"][:, 0], n_turns)
        if len(flows):
            self.counts["insertions"] += len(flows)
            self._insert(flows, np.arange(len(flows)))
        failed: np.ndarray = flows[flows["error"] != 0]
        return failed

    def _aged(self, now_ms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some of those idle for the ageing time, which have left: rows, generations, USAGE."""
        if self._share is None or not self.model.n_connections or 0 <= now_ms - self._swept_ms < _SWEEP_MS:
            return _NOBODY, _NOBODY, _NOTHING
        self._swept_ms = now_ms
        rows, generations, usage = self._share.idle(now_ms, 1000 * self.settings.ageing_s, _SWEEP_BUDGET)
        if not len(rows):
            return _NOBODY, _NOBODY, _NOTHING
        self.counts["aged"] += len(rows)
        self._remainders.keep(rows, usage)
        self.model.remove(rows)
        return rows, generations, self._remainders.last(rows, generations)

    def is_forwarding(self, rows: np.ndarray, generations: np.ndarray, epoch: int, /) -> np.ndarray:
        """See Inspectable. Those that wait for their turn are not forwarded yet."""
        if self._share is None:
            return np.zeros(len(rows), bool)
        inserted: np.ndarray = self.model.states(rows, generations) == INSERTED
        inserted &= self._share.passes(rows, generations, epoch)
        return inserted

    # --- inspection --------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """What is in the table, how it got there, and its hits, by name."""
        used = {} if self._share is None else self._share.statistics()
        hits = {name.replace("_", "-"): used[name] for name in ("hits", "hit_bytes") if name in used}
        return {**self.model.statistics(), **{name: self.counts[name] for name in _COUNTS}, **hits}


_COUNTS = ("insertions", "replaced", "aged", "refused-by-shunt")
"""Connections that got into the table; with other paths than before; aged; refused by the shared table."""
