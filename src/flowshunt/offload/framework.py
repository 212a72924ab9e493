"""The facade: providers are registered, switched and asked about here.

>>> from flowshunt import Switch
>>> from flowshunt.offload.providers.dummy import Dummy
>>> from flowshunt.offload.registry import Settings
>>> switch = Switch()
>>> switch.offload.register(Dummy())
>>> switch.offload.configure(Settings(enabled=True))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.offload import attachment as A
from flowshunt.offload import reasons as R
from flowshunt.offload.api import Provider
from flowshunt.offload.attachment import MARK_ADDED, MARK_ESTABLISHED, MARK_NONE, Attachment
from flowshunt.offload.batch import Batch, Devices
from flowshunt.offload.caller import Journal
from flowshunt.offload.handover import Described, describe, established, learned_of
from flowshunt.offload.installing import N_ZONES
from flowshunt.offload.registry import Registry, Settings
from flowshunt.offload.runner import DEFAULT_QUEUE, Inline, Runner, Worker
from flowshunt.offload.table import Paths, Records, Table

if TYPE_CHECKING:
    from flowshunt.offload.installer import Installer

MAX_PROVIDERS = 255
CLOSE_S = 5.0
"""How long the end of a registration waits for the provider's worker."""
SETTLE_S = 30.0

_MARK_MASK = 0xFF
_ADOPTED_AT_ONCE = 1024


class Overview(NamedTuple):
    """One provider. `mark`: how listings show what it forwards; None: it only observes.

    `told`: connections that it has been told of and took; `entries`: those that it forwards, None for an observer;
    `limit`: the most that it forwards, as it says. `queued` of at most `queue` operations wait for its worker; None: it
    has none. `counters` and `refusals` (by reason) count from its registration. `notes`: lines that it has to add.
    """

    name: str
    mark: str | None
    is_on: bool
    told: int
    entries: int | None
    limit: int | None
    queued: int | None
    queue: int | None
    counters: dict[str, int]
    refusals: dict[str, int]
    notes: list[str]


class Offload:
    """Providers, and what they know. Off, and without cost, until `configure` switches it on.

    One thread uses it, the tracker's; other threads send commands that run between batches.
    """

    def __init__(
        self,
        table: Table,
        *,
        devices: Devices | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        paths: Paths | None = None,
        on_unregistered: Callable[[str], None] | None = None,
    ) -> None:
        """`devices` names input devices by port number. `clock_ns` times calls that block, and nothing else.

        `paths`: where packets' paths are learned; without, nothing is handed to forwarders. `on_unregistered(name)` is
        called when a provider was let go of, to take back what it was given.
        """
        self.registry = Registry()
        self.settings = Settings()
        self._table = table
        self._devices = devices
        self._clock_ns = clock_ns
        self._paths = paths
        self._on_unregistered = on_unregistered
        from flowshunt.offload.dispatcher import Dispatcher  # needs Numba, which this module does without

        self._dispatcher = Dispatcher(table, devices, paths)
        self._is_observing = False
        if paths is not None:
            paths.observe(self._dispatcher.on_learned)

    # --- providers -------------------------------------------------------------------------------------------------

    @property
    def _installer(self) -> Installer | None:
        return self._dispatcher.installer

    @property
    def _attachments(self) -> dict[str, Attachment]:
        return self._dispatcher.attachments

    def register(self, provider: Provider, *, is_plugin: bool = False) -> None:
        """Register a provider; when offloading is on it is told of connections from now on.

        Those that exist are offered to it at their next reply packets. `is_plugin`: it runs on a worker thread unless
        it says otherwise. Raises RegistrationError (see `Registry.register`), and UsageError when the tracker has no
        private slot left or a provider is calling; then nothing has changed.
        """
        self._dispatcher.refuse_providers()
        numbers = {attachment.number for attachment in self._attachments.values()}
        number = next((n for n in range(1, MAX_PROVIDERS + 1) if n not in numbers), None)
        if number is None:
            raise UsageError(f"there are {MAX_PROVIDERS} offload providers already")
        if self.settings.enabled:
            self._take_slot()
        self.registry.register(provider)
        attachment = Attachment(provider, self._runner(provider, is_plugin), number, self._table.capacity)
        self._attachments[provider.name] = attachment
        self._sort()
        if self.settings.enabled:
            self._switch_on(attachment)

    def unregister(self, name: str) -> bool:
        """Flush a provider, clear its marks, and let it go. An unknown one is logged, and False.

        Raises UsageError when a provider is calling.
        """
        self._dispatcher.refuse_providers()
        if self.registry.unregister(name) is None:
            return False
        attachment = self._attachments[name]
        if attachment.is_on:
            self._dispatcher.switch_off(attachment)
        attachment.runner.close(CLOSE_S)
        self._dispatcher.collect(self._dispatcher.now_ms)
        if self._installer is not None:
            self._installer.abandon_now(attachment)
        del self._attachments[name]
        self._stop_observing()
        if self._on_unregistered is not None:
            self._on_unregistered(name)
        return True

    def configure(self, settings: Settings) -> None:
        """Apply settings: the order, then on or off. Off flushes all providers and clears all marks.

        On again, existing connections are offered at their next reply packets. Raises UsageError when the tracker has
        no private slot left or a provider is calling; then nothing has changed.
        """
        self._dispatcher.refuse_providers()
        if settings.enabled and self._attachments:
            self._take_slot()
        self.settings = settings
        self.registry.priority = settings.priority
        self._sort()
        for attachment in self._attachments.values():
            if settings.enabled and not attachment.is_on:
                self._switch_on(attachment)
            elif attachment.is_on and not settings.enabled:
                self._dispatcher.switch_off(attachment)
        self._stop_observing()

    def flush(self) -> None:
        """Have all providers forget all connections; they are offered again at their next reply packets."""
        self._dispatcher.refuse_providers()
        for attachment in self._attachments.values():
            if attachment.is_on:
                self._dispatcher.switch_off(attachment)
                self._switch_on(attachment)

    def take_back(self, rows: np.ndarray | None = None, name: str | None = None) -> int:
        """Take flows from their forwarders: all, those of connections in `rows`, those of one provider.

        Observers forget all connections, unless `rows` says which. The next packets offer them again. Returns how many
        flows were taken.
        """
        return sum(self.taking_back(rows, name))

    def taking_back(self, rows: np.ndarray | None = None, name: str | None = None) -> Iterator[int]:
        """The same in steps of some milliseconds, between which packets may come; each tells how many it took."""
        for attachment in list(self._attachments.values()):
            self._dispatcher.refuse_providers()
            if not attachment.is_on or name not in (None, attachment.name):
                continue
            if attachment.installs and self._installer is not None:
                yield from self._installer.taking_back(attachment, rows)
            elif rows is None:
                self._dispatcher.switch_off(attachment)
                self._switch_on(attachment)

    def overview(self) -> list[Overview]:
        """Registered providers in priority order, with what they have now."""
        return [self._overview(attachment) for attachment in self._attachments.values()]

    def _overview(self, attachment: Attachment) -> Overview:
        told = int(np.count_nonzero(attachment.state & A.TAKEN)) if attachment.is_on else 0
        held = None
        if attachment.installs:
            held = int(np.count_nonzero(self._dispatcher.holder == attachment.number))
        worker = attachment.runner if isinstance(attachment.runner, Worker) else None
        counters = attachment.statistics()
        refusals = {key.removeprefix("refused."): n for key, n in counters.items() if key.startswith("refused.")}
        return Overview(
            attachment.name,
            attachment.mark,
            attachment.is_on,
            told,
            held,
            getattr(attachment.provider, "limit", None),
            None if worker is None else worker.n_inside,
            None if worker is None else worker.limit,
            {key: n for key, n in counters.items() if not key.startswith("refused.")},
            refusals,
            list(getattr(attachment.provider, "notes", ())),
        )

    def withdraw_flows(self) -> None:
        """Take all flows from their forwarders, timers settled; their next packets show whether they come back.

        For what changes how long connections live: flows are installed with that.
        """
        if self._installer is not None:
            for attachment in self._dispatcher.forwarders():
                self._installer.abandon(attachment)

    # --- over a restart ----------------------------------------------------------------------------------------------

    def describe(self, table: Records, flows: np.ndarray) -> Described:
        """What a process after this one needs to know of FLOW (n,), which a forwarder is about to take."""
        assert self._installer is not None
        return describe(table, self._installer.book, flows)

    def adopt(self, table: Records, flows: np.ndarray, rows: np.ndarray, generations: np.ndarray, now_ms: int) -> None:
        """Offer flows to forwarders, HANDOVER (n,), as if their packets had just shown their paths.

        Ports in their paths are those of now. `rows`, `generations`: int64 (n, N_ZONES), of their connections, which
        have been put back, zeros where there are fewer. What passes counts for no rules until packets have shown them.
        """
        if self._paths is None:
            return
        for first in range(0, len(flows), _ADOPTED_AT_ONCE):
            part = slice(first, first + _ADOPTED_AT_ONCE)
            some = flows[part]
            there = np.arange(N_ZONES) < some["n_zones"][:, None]
            members = np.unique(np.stack([rows[part][there], generations[part][there]], axis=1), axis=0)
            self.dispatch(Batch(established(table, members[:, 0], members[:, 1], now_ms), self._devices))
            learned = learned_of(some, rows[part], generations[part], self._paths.epoch, now_ms)
            self._dispatcher.on_learned(learned)

    def close(self) -> None:
        """Unregister all."""
        for name in list(self._attachments):
            self.unregister(name)

    def _runner(self, provider: Provider, is_plugin: bool) -> Runner:
        limit = getattr(provider, "queue_limit", None)
        if limit is None:
            limit = DEFAULT_QUEUE if is_plugin else 0
        return Worker(provider, self._devices, limit) if limit else Inline(provider, self._devices, self._clock_ns)

    def _sort(self) -> None:
        self._dispatcher.attachments = {provider.name: self._attachments[provider.name] for provider in self.registry}

    def _take_slot(self) -> None:
        if self._dispatcher.slot is None:
            self._dispatcher.slot = self._table.allocate_slot("offload")

    def _switch_on(self, attachment: Attachment) -> None:
        attachment.restart()
        attachment.is_on = True
        if attachment.installs and self._paths is not None:
            self._paths.enable(True)
            self._table.show(self._installer)
        if not self._is_observing:
            self._table.observe(self._dispatcher.on_events)
            self._is_observing = True
        self._table.watch_all_replies()

    def _stop_observing(self) -> None:
        """Without a provider at work the tracker makes no events for us, and without a forwarder no path is learned."""
        if self._paths is not None and not self._dispatcher.forwarders():
            self._paths.enable(False)
        if self._is_observing and not any(attachment.is_on for attachment in self._attachments.values()):
            self._table.unobserve(self._dispatcher.on_events)
            self._is_observing = False
            self._dispatcher.forget()

    # --- running ---------------------------------------------------------------------------------------------------

    def poll(self, now_ms: int) -> None:
        """Take the answers of workers, what forwarders gave up, and a slice of their counters.

        To be called once per batch of packets. Cheap when there is nothing.
        """
        self._dispatcher.poll(now_ms)

    def follow(self) -> None:
        """Tell forwarders if tables, ports or stations have changed: no packet passes by what was before.

        `poll` does so, too; this is for changes that are to hold before the next packet comes up. Cheap.
        """
        if self._installer is not None:
            self._installer.follow_epoch()

    def synchronise(self) -> None:
        """Add all that was forwarded to the counters of connections, rules and stations (row E6).

        Happens by itself within some twenty seconds, see `synchronised_ms`, and for a connection when it is listed.
        What a worker's provider forwarded follows when it answers.
        """
        for _ in self.synchronising():
            pass

    def synchronising(self) -> Iterator[None]:
        """The same in steps of some milliseconds, between which packets may come."""
        if self._installer is not None:
            yield from self._installer.accounting.synchronising()

    @property
    def synchronised_ms(self) -> int:
        """No counter is older than this time; 0: nothing was forwarded yet, or not everything was read once."""
        return 0 if self._installer is None else self._installer.accounting.synchronised_ms

    def keep_journal(self, journal: Journal | None) -> None:
        """Have `journal` called at each step of connections' lives (see `caller.Journal`); None: no more."""
        if self._installer is not None:
            self._installer.journal = journal

    def settle(self, timeout_s: float = SETTLE_S) -> bool:
        """Wait until all workers have answered, and take the answers. False when one takes longer.

        A replay does so after each batch, and gives the same result each time.
        """
        for _ in range(3):  # an answer to add may cause an established, and nothing goes deeper
            if not all(attachment.runner.settle(timeout_s) for attachment in self._attachments.values()):
                return False
            self._dispatcher.poll(self._dispatcher.now_ms)
        return True

    def dispatch(self, batch: Batch) -> None:
        """Carry out operations that did not come from events; see `Dispatcher.dispatch`. FLUSH is `flush`."""
        self._dispatcher.dispatch(batch, self.flush)

    # --- what is known ---------------------------------------------------------------------------------------------

    def mark(self, row: int, generation: int, name: str | None = None) -> int:
        """MARK_* of a connection: the highest, or what one provider gave it. MARK_NONE when it is gone."""
        value = self._slot_of(row, generation)
        if name is None or value == 0:
            return value & _MARK_MASK
        attachment = self._attachments.get(name)
        state = 0 if attachment is None else int(attachment.state[row])
        return MARK_ESTABLISHED if state & A.ESTABLISHED else MARK_ADDED if state & A.TAKEN else MARK_NONE

    def _slot_of(self, row: int, generation: int) -> int:
        slot = self._dispatcher.slot
        value = None if slot is None else self._table.get_slot(slot, row, generation)
        return value or 0

    def is_offloaded(self, row: int, generation: int) -> bool:
        """Whether some provider has the connection."""
        return self.mark(row, generation) >= MARK_ADDED

    def is_established(self, row: int, generation: int) -> bool:
        """Whether some provider has it as established."""
        return self.mark(row, generation) == MARK_ESTABLISHED

    def holder(self, row: int, generation: int) -> str | None:
        """The provider that forwards a connection."""
        number = self._slot_of(row, generation) >> 8
        return next((name for name, a in self._attachments.items() if number and a.number == number), None)

    def reason(self, row: int, generation: int, name: str) -> R.Reason:
        """Why a provider does not have a connection as established; code `none`: it has.

        Raises LookupError when the connection is gone.
        """
        attachment = self._attachments.get(name)
        if attachment is None:
            return R.reason(R.number_of("no-provider"))
        slot = self._dispatcher.slot
        if not attachment.is_on or slot is None:
            return R.reason(R.number_of("offload-off"))
        if self._table.get_slot(slot, row, generation) is None:
            raise LookupError(f"connection ({row}, {generation}) is gone")
        state = int(attachment.state[row])
        if not self._dispatcher.is_known(row, generation) or (state == 0 and attachment.reason[row] == R.NONE):
            return R.reason(R.NOT_TOLD)
        if state & (A.ADDING | A.ESTABLISHING):
            return R.reason(R.number_of("provider-pending"))
        if attachment.installs and state & A.TAKEN and self._installer is not None:
            return R.reason(self._why_not_forwarded(attachment, row, generation))
        if state & A.TAKEN and not state & A.ESTABLISHED and attachment.reason[row] == R.NONE:
            return R.reason(R.number_of("no-reply-yet"))
        return R.reason(int(attachment.reason[row]))

    def _why_not_forwarded(self, attachment: Attachment, row: int, generation: int) -> int:
        """The reason's number of a connection that a forwarder has been told of; NONE: it holds it."""
        holder = int(self._dispatcher.holder[row])
        if holder == attachment.number:
            return R.NONE
        reason = int(attachment.reason[row])
        if reason not in (R.NONE, R.PATH_UNKNOWN, R.NOT_ESTABLISHED):
            return reason
        if holder:
            return R.HELD_ELSEWHERE
        if attachment.takes_established and not int(attachment.state[row]) & A.ESTABLISHED:
            return R.number_of("no-reply-yet")
        limits = self._table.idle_limits(np.array([row]), np.array([generation]))
        return R.PATH_UNKNOWN if limits[0] else R.NOT_ESTABLISHED

    def providers(self) -> Iterator[tuple[Provider, dict[str, int]]]:
        """Registered providers in priority order, with their counters (see `attachment.COUNTERS`)."""
        for attachment in self._attachments.values():
            yield attachment.provider, attachment.statistics()

    def statistics(self) -> dict[str, int]:
        """Counters as `PROVIDER.NAME`, and `left-out`: events of connections too short-lived to be told."""
        told = {f"{a.name}.{name}": value for a in self._attachments.values() for name, value in a.statistics().items()}
        return {"left-out": self._dispatcher.n_left_out, **told}

    def marks(self, rows: np.ndarray, name: str) -> np.ndarray:
        """What one provider gave the connections in these rows, MARK_* as uint8 (n,)."""
        state = self._attachments[name].state[rows]
        return np.where(state & A.ESTABLISHED, MARK_ESTABLISHED, np.where(state & A.TAKEN, MARK_ADDED, 0)).astype(
            np.uint8
        )
