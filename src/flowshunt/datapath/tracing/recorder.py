"""Stands between the interpreter's kernels and notes what they do, and changes nothing of it.

Each method has the arguments of the kernel that it stands for, calls that kernel, and returns what it returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from flowshunt.base.errors import UsageError
from flowshunt.conntrack.schema import NAT_WORDS
from flowshunt.datapath import action_sets, interpreter, output, reassembly
from flowshunt.datapath.program import (
    CT_EXEC,
    CT_NAT,
    CT_WORDS,
    NO_TABLE,
    OP_CLEAR,
    OP_WRITE,
    CompiledRule,
    as_int64,
)
from flowshunt.datapath.schema import CLAUSES, F_SET, F_TX_MARK, FATE_METER, FATE_TTL, INLINE_WORDS, RUN_SET_PC
from flowshunt.datapath.tracing.record import (
    Chosen,
    Entered,
    Executed,
    Fetched,
    Lookup,
    Part,
    Punted,
    Refused,
    Sent,
    Tracked,
    Written,
)
from flowshunt.jit import PlainKernels, plain
from flowshunt.packet.schema import (
    HEADER_WORDS,
    KEY_WORDS,
    W_CT,
    W_CT_L4,
    W_CT_LABEL,
    W_CT_SRC,
    W_ETH_DST,
    W_ETH_SRC,
    W_L4,
    W_PORT,
)

_CT_WORDS = (W_CT, *range(W_CT_LABEL, W_CT_LABEL + 2), *range(W_CT_SRC, W_CT_L4 + 1))
_LAYER_PIPELINE, _LAYER_ETHERNET, _LAYER_NETWORK, _LAYER_TRANSPORT = range(4)
_LAYERS = [
    _LAYER_PIPELINE if word >= HEADER_WORDS else _LAYER_ETHERNET if word in (W_ETH_DST, W_ETH_SRC) else _LAYER_NETWORK
    for word in range(KEY_WORDS)
]
_PORTS = -1 << 32
"""tp_src and tp_dst in their word."""
_RUN_SET = RUN_SET_PC + 1
"""In place of where a program begins: none of its instructions is an action."""


class TooLongError(UsageError):
    """A packet's way takes longer to tell than packets may be kept waiting."""


class Supposition(Protocol):
    """What the tracker is supposed to say, where it is not asked itself."""

    def after(self, path: tuple[int, ...], instruction: tuple[int, ...], zone: int, key: list[int]) -> list[int]:
        """The key as the ct action leaves it that leads to the part `path`; `key` has mark and label of exec."""


class Recorder:
    """Notes one packet's way."""

    def __init__(
        self,
        rule: Callable[[int], CompiledRule],
        keys: np.ndarray,
        pipeline: Mapping[int, int],
        deadline: float,
        suppose: Supposition | None = None,
        path: tuple[int, ...] = (),
    ) -> None:
        """`rule`: rules by number. `keys`: that of the packet that runs, (1, KEY_WORDS).

        `pipeline`: words of the key that it begins with besides its headers. `deadline`: by time.thread_time().
        `suppose`: instead of the tracker. `path`: what the paths of all parts begin with.
        """
        self.parts: list[Part] = []
        self._rule = rule
        self._suppose = suppose
        self._path = path
        self._keys = keys[0]
        self._pipeline = pipeline
        self._deadline = deadline
        self._search: Search | None = None
        self._frames: dict[int, tuple[Part, list[Any], int]] = {}
        self._sent: list[tuple[list[Any], int]] = []
        self._nowhere: list[Any] = []  # where a part's action set is told is known when its first table is
        self._children: dict[tuple[int, ...], int] = {}
        self._base = 0
        self._table = -1
        self._found = -1
        self._last: Tracked | None = None
        self._to: int | None = None
        self._part: Part
        self._steps: list[Any]
        self._plain = _STAGE.plain

    def run(self, *arguments: Any) -> None:
        """Run the packet: see `datapath.interpreter.run_packet`."""
        _STAGE.run(self, arguments)

    def begin_outside(self, at: int) -> None:
        """The packet begins with a program of no table, which is in the pool at `at`."""
        self.begin_part(self._keys, None, self._path)
        self._base = at

    def begin_part(self, key: Any, cause: Tracked | None, path: tuple[int, ...]) -> Part:
        """A new part, which is the running one."""
        part = Part(path, _copy(key), cause, [0] * KEY_WORDS)
        self.parts.append(part)
        self._part, self._steps, self._table = part, part.steps, -1
        return part

    def end(self) -> None:
        """The running part has ended."""
        if not self._part.final:
            self._part.final = _copy(self._keys)

    # --- what stands for kernels -----------------------------------------------------------------------------------

    def _begin(self, w: Any, o: Any, t: Any, b: Any, i: Any, packet: Any) -> Any:
        self._plain["_begin"](w, o, t, b, i, packet)
        for word, value in self._pipeline.items():
            w.keys[0, word] = value
        self.begin_part(w.keys[0], None, self._path)

    def _fetch(self, c: Any, pc: Any) -> Any:
        if time.thread_time() > self._deadline:
            raise TooLongError("the packet's way is too long to be told", hint="name a table further on")
        self._steps.append(Fetched(int(pc) - self._base, _copy(self._keys)))
        return self._plain["fetch"](c, pc)

    def _note_lookup(self, w: Any, c: Any, table: Any, rule: Any, port: Any) -> Any:
        self._found = int(rule)
        key = _copy(w.keys[0])
        if port >= 0:
            key = (*key[:W_PORT], key[W_PORT] & 0xFFFFFFFF | int(port) << 32, *key[W_PORT + 1 :])
        if self._search is None:
            self._search = Search(c)
        for word, mask in self._search.bits(int(table), key).items():
            self._part.mask[word] |= mask

    def _enter(self, w: Any, c: Any, table: Any, port: Any) -> Any:
        pc = self._plain["_enter"](w, c, table, port)
        in_port = int(port) if port >= 0 else int(w.keys[0, W_PORT]) >> 32
        rule = self._rule(self._found) if self._found >= 0 else None
        node = Lookup(int(table), rule, in_port, int(table) <= self._table, rule is None and int(pc) != 0)
        self._steps.append(node)
        self._steps, self._base, self._table = node.steps, int(pc), int(table)
        return pc

    def _push(self, w: Any, sp: Any, pc: Any, table: Any, depth: Any, snapshot: Any) -> Any:
        self._frames[int(sp)] = self._part, self._steps, self._base
        return self._plain["_push"](w, sp, pc, table, depth, snapshot)

    def _pop(self, w: Any, t: Any, sp: Any) -> Any:
        part, steps, base = self._frames[int(sp)]
        if part is not self._part:
            self.end()
        found = self._plain["_pop"](w, t, sp)
        self._part, self._steps, self._base, self._table = part, steps, base, int(found[1])
        return found

    def _ct(
        self, w: Any, c: Any, o: Any, t: Any, b: Any, i: Any, packet: Any, pc: Any, table: Any, depth: Any, sp: Any
    ) -> Any:
        before = _copy(w.keys[0])
        parent, steps = self._part, self._steps
        target, new_sp = self._plain["_ct"](w, c, o, t, b, i, packet, pc, table, depth, sp)
        node = self._last
        assert node is not None
        steps.append(node)
        if target >= 0:
            if new_sp == sp:
                parent.final = _untracked(before)
            node.part = self.begin_part(w.keys[0], node, self._next_path(parent))
            if new_sp > sp + 1:
                self._frames[int(new_sp) - 1] = self._part, self._nowhere, _RUN_SET
        return target, new_sp

    def _apply_to_set(self, w: Any, c: Any, pc: Any, sp: Any) -> Any:
        if int(c.pool[pc]) & 0xFF not in (OP_WRITE, OP_CLEAR):
            return self._plain["apply_to_set"](w, c, pc, sp)
        before = self._head(w, c, sp)
        found = self._plain["apply_to_set"](w, c, pc, sp)
        if found[1] > sp:
            self._insert_frame(w, int(self._plain["_find_set"](w, c, found[1])[0]), int(sp))
        self._steps.append(Written(self._head(w, c, found[1]), before))
        return found

    def _head(self, w: Any, c: Any, sp: Any) -> int:
        """The last write to the action set, 0 for an empty one."""
        place, found = self._plain["_find_set"](w, c, sp)
        return max(int(w.frames[place, F_SET]), 0) if found else 0

    def _insert_frame(self, w: Any, place: int, sp: int) -> None:
        """The frames from `place` to `sp` have moved up, for one that carries out the action set of what runs."""
        for at in range(sp, place, -1):
            self._frames[at] = self._frames[at - 1]
        is_part = place == 0 or w.frames[place - 1, F_TX_MARK] >= 0
        steps = self._steps_of_part() if is_part else self._frames[place - 1][1]
        self._frames[place] = self._part, steps, _RUN_SET

    def _steps_of_part(self) -> list[Any]:
        """Where an action set of the running part is told: in its first table."""
        first = self._part.steps[:1]
        return first[0].steps if first and isinstance(first[0], Lookup) else self._part.steps

    def _copy_set(self, w: Any, c: Any, sp: Any, is_bucket: Any) -> Any:
        new_sp = self._plain["copy_set"](w, c, sp, is_bucket)
        if new_sp > sp:
            self._frames[int(sp)] = self._part, self._steps, _RUN_SET
        return new_sp

    def _run_set(self, w: Any, c: Any, head: Any) -> Any:
        node, outer = Executed(int(head)), self._steps
        outer = self._steps_of_part() if outer is self._nowhere else outer
        self._steps = node.steps
        pc = self._plain["run_set"](w, c, head)
        if pc == 0 and not node.steps:
            self._steps = outer
            return pc
        node.key = _copy(w.keys[0])
        outer.append(node)
        self._base = int(pc)
        return pc

    def _next_path(self, parent: Part) -> tuple[int, ...]:
        n = self._children.get(parent.path, 0)
        self._children[parent.path] = n + 1
        return (*parent.path, n)

    def _track(self, w: Any, c: Any, o: Any, t: Any, b: Any, i: Any, packet: Any, pc: Any) -> Any:
        length = CT_WORDS + (int(c.pool[pc]) >> 32)
        instruction = tuple(int(c.pool[at]) for at in range(int(pc), int(pc) + length))
        zone = int(self._plain["read_zone"](w, c, pc))
        before = _copy(w.keys[0])
        if self._suppose is None:
            self._plain["_track"](w, c, o, t, b, i, packet, pc)
        else:
            self._supposed(w, c, o, packet, pc, instruction, zone)
        self._last = Tracked(instruction, zone, int(w.machine["row"][0]), before, _copy(w.keys[0]))

    def _supposed(self, w: Any, c: Any, o: Any, packet: Any, pc: Any, instruction: tuple[int, ...], zone: int) -> None:
        """In place of the tracker."""
        assert self._suppose is not None
        w.machine["row"][0] = -1
        keys = w.keys
        flags = (instruction[0] >> 8) & 0xFF
        if flags & CT_EXEC:
            start = pc + CT_WORDS + (NAT_WORDS if flags & CT_NAT else 0)
            mark, high, low = self._plain["_run_exec"](w, c.pool, start, pc + len(instruction))
            keys[0, W_PORT] = keys[0, W_PORT] & ~instruction[2] | mark & instruction[2]
            keys[0, W_CT_LABEL] = keys[0, W_CT_LABEL] & ~instruction[3] | high & instruction[3]
            keys[0, W_CT_LABEL + 1] = keys[0, W_CT_LABEL + 1] & ~instruction[4] | low & instruction[4]
        if (instruction[0] >> 16) & 0xFF == NO_TABLE:
            return
        path = (*self._part.path, self._children.get(self._part.path, 0))
        key = self._suppose.after(path, instruction, zone, list(_copy(keys[0])))
        for word, value in enumerate(key):
            w.keys[0, word] = as_int64(value & 0xFFFFFFFFFFFFFFFF)
        w.machine["dirty"][0] = 1
        o.ct_state[packet] = (int(w.keys[0, W_CT]) >> 32) & 0xFFFF

    def _enter_group(self, w: Any, c: Any, t: Any, pc: Any, table: Any, depth: Any, sp: Any) -> Any:
        found = self._plain["_enter_group"](w, c, t, pc, table, depth, sp)
        cell = int(c.pool[pc]) >> 8
        node = Entered(cell)
        self._steps.append(node)
        self._steps, self._base = node.steps, int(c.pool[cell])
        return found

    def _choose(self, pool: Any, pc: Any, keys: Any) -> Any:
        found = self._plain["choose"](pool, pc, keys)
        self._steps.append(Chosen(int(found) - self._base))
        return found

    def _suspend(self, w: Any, o: Any, t: Any, pc: Any, table: Any, depth: Any, sp: Any, target: Any) -> Any:
        self._steps.append(Punted(int(w.machine["reason"][0]), int(w.machine["argument"][0]), _copy(w.keys[0])))
        return self._plain["_suspend"](w, o, t, pc, table, depth, sp, target)

    def _abandon(self, w: Any, o: Any, sp: Any, fate: Any) -> Any:
        self._steps.append(Refused(int(fate)))
        self._part.failed = int(fate)
        mark = int(w.machine["tx_mark"][0])
        for steps, place in self._sent:
            if isinstance(steps[place], Sent) and steps[place].first >= mark:
                steps[place] = steps[place]._replace(ports=())
        return self._plain["_abandon"](w, o, sp, fate)

    def _decrement_ttl(self, keys: Any, k: Any) -> Any:
        done = self._plain["decrement_ttl"](keys, k)
        if not done:
            self._steps.append(Refused(FATE_TTL))
        return done

    def _pass_meter(self, pool: Any, meter: Any, size: Any, now_ms: Any) -> Any:
        passes = self._plain["pass_meter"](pool, meter, size, now_ms)
        if not passes:
            self._steps.append(Refused(FATE_METER))
        return passes

    def _meet_fragment(self, w: Any, c: Any, o: Any, *rest: Any) -> Any:
        if self._suppose is not None:
            return np.int64(reassembly.MET_AS_IT_IS)
        met = self._plain["meet_fragment"](w, c, o, *rest)
        if met == reassembly.MET_ENDS:
            self._steps.append(Refused(int(w.machine["fate"][0])))
        return met

    def _normal(self, w: Any, p: Any, in_port: Any) -> Any:
        number = self._plain["_normal"](w, p, in_port)
        self._to = int(number)
        return number

    def _output(self, w: Any, c: Any, p: Any, o: Any, f: Any, b: Any, i: Any, packet: Any, pc: Any) -> Any:
        first = int(o.sent[0])
        before, self._to = int(w.machine["fate"][0]), None
        w.machine["fate"][0] = 0
        self._plain["output"](w, c, p, o, f, b, i, packet, pc)
        ports = tuple(int(o.tx["port"][n]) for n in range(first, int(o.sent[0])))
        fate = int(w.machine["fate"][0])
        if fate == 0:
            w.machine["fate"][0] = before
        self._sent.append((self._steps, len(self._steps)))
        self._steps.append(Sent(ports, first, fate, _copy(w.keys[0]), self._to))


_HOOKS: Mapping[tuple[Any, str], Callable[..., Any]] = {
    (interpreter, "_begin"): Recorder._begin,
    (interpreter, "fetch"): Recorder._fetch,
    (interpreter, "_enter"): Recorder._enter,
    (interpreter, "note_lookup"): Recorder._note_lookup,
    (interpreter, "_push"): Recorder._push,
    (interpreter, "_pop"): Recorder._pop,
    (interpreter, "_ct"): Recorder._ct,
    (interpreter, "_track"): Recorder._track,
    (interpreter, "_enter_group"): Recorder._enter_group,
    (interpreter, "apply_to_set"): Recorder._apply_to_set,
    (interpreter, "copy_set"): Recorder._copy_set,
    (action_sets, "run_set"): Recorder._run_set,
    (interpreter, "choose"): Recorder._choose,
    (interpreter, "_suspend"): Recorder._suspend,
    (interpreter, "_abandon"): Recorder._abandon,
    (interpreter, "decrement_ttl"): Recorder._decrement_ttl,
    (interpreter, "pass_meter"): Recorder._pass_meter,
    (interpreter, "meet_fragment"): Recorder._meet_fragment,
    (interpreter, "output"): Recorder._output,
    (output, "_normal"): Recorder._normal,
}
"""What stands for kernels, by their places."""


class _Stage:
    """The interpreter as plain Python, whose kernels are replaced by the methods of the recorder that listens.

    To make it takes longer than most packets do, so it is made once, and one recorder has it at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: Recorder | None = None
        instead = {id(getattr(module, name)): self._told(method) for (module, name), method in _HOOKS.items()}
        kernels = PlainKernels(instead)
        self._kernel = kernels.of(interpreter.run_packet)
        self.plain = {name: kernels.of(getattr(module, name)) for module, name in _HOOKS}
        self.plain["_run_exec"] = plain(interpreter._run_exec)
        self.plain["read_zone"] = plain(reassembly.read_zone)
        self.plain["_find_set"] = plain(action_sets._find_set)

    def run(self, listener: Recorder, arguments: tuple[Any, ...]) -> None:
        """Run a packet, and tell the listener."""
        with self._lock:
            self._listener = listener
            try:
                self._kernel(*arguments)
            finally:
                self._listener = None

    def _told(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*arguments: Any) -> Any:
            return method(self._listener, *arguments)

        return tell


_STAGE = _Stage()


def _copy(key: Any) -> tuple[int, ...]:
    return tuple(key.tolist())


def _untracked(key: tuple[int, ...]) -> tuple[int, ...]:
    """A key without ct fields."""
    words = list(key)
    words[W_PORT] &= ~0xFFFFFFFF
    for word in _CT_WORDS:
        words[word] = 0
    return tuple(words)


class Search:
    """Which bits of a key a search of the tables looks at, as Open vSwitch counts them.

    A mask counts as far as the layer in which no rule of it agrees any more: pipeline, Ethernet, network, transport.
    """

    def __init__(self, c: Any) -> None:
        """`c`: TableArrays that nobody changes meanwhile."""
        self._c = c
        n = int(c.state["n_rules"][0])
        held = np.asarray(c.rules["subtable"])[:n]
        self._rows = np.argsort(held, kind="stable")
        self._held = held[self._rows]

    def bits(self, table: int, key: tuple[int, ...]) -> dict[int, int]:
        """Masks by word. Whatever has the same bits finds the same rule."""
        c = self._c
        found: dict[int, int] = {}
        best = -1
        order = int(c.tables["order"][table])
        for at in range(order, order + int(c.tables["n_subtables"][table])):
            entry = int(c.pool[at])
            if entry >> 32 <= best:
                break
            rows = self._agreeing(entry & 0xFFFFFFFF, key, found)
            if len(rows):
                best = max(best, int(c.rules["priority"][rows].max()))
        if c.tables["has_clauses"][table]:
            self._clause_bits(table + CLAUSES, key, best, found)
        return found

    def _clause_bits(self, table: int, key: tuple[int, ...], above: int, found: dict[int, int]) -> None:
        """Add what is looked at to see which clauses of a higher priority are met."""
        order = int(self._c.tables["order"][table])
        for at in range(order, order + int(self._c.tables["n_subtables"][table])):
            entry = int(self._c.pool[at])
            if entry >> 32 <= above:
                break
            self._agreeing(entry & 0xFFFFFFFF, key, found)

    def _agreeing(self, s: int, key: tuple[int, ...], found: dict[int, int]) -> np.ndarray:
        """Rules of subtable `s` that the key matches; the bits that it takes to see that are added to `found`."""
        first, last = np.searchsorted(self._held, [s, s + 1])
        rows = self._rows[first:last]
        for _, j, word, mask in sorted(self._pieces(s)):
            if not len(rows):
                break
            found[word] = found.get(word, 0) | mask
            values = self._values(rows, j)
            rows = rows[(values ^ key[word]) & mask == 0]
        return rows

    def _values(self, rows: np.ndarray, j: int) -> np.ndarray:
        """Word j of the match of rules."""
        rules = self._c.rules
        if j < INLINE_WORDS:
            return np.asarray(rules["values"])[rows, j]
        return np.asarray(self._c.pool)[np.asarray(rules["extra"])[rows] + j - INLINE_WORDS]

    def _pieces(self, s: int) -> Iterator[tuple[int, int, int, int]]:
        """Layer, place in the match, word and mask of what a subtable compares."""
        for j, (word, mask) in enumerate(mask_of_subtable(self._c, s)):
            if word == W_L4 and mask & _PORTS and mask & ~_PORTS:
                yield _LAYER_NETWORK, j, word, mask & ~_PORTS
                yield _LAYER_TRANSPORT, j, word, mask & _PORTS
            elif word == W_L4:
                yield _LAYER_TRANSPORT if mask & _PORTS else _LAYER_NETWORK, j, word, mask
            else:
                yield _LAYERS[word], j, word, mask


def mask_of_subtable(c: Any, s: int) -> list[tuple[int, int]]:
    """Words and masks of a subtable."""
    n = int(c.subtables["n_words"][s])
    masks = [int(c.subtables["first_mask"][s]), *(int(c.subtables["masks"][s, j]) for j in range(3))]
    found = [(int(c.subtables["words"][s, j]), masks[j]) for j in range(min(n, 4))]
    extra = int(c.subtables["extra"][s])
    found += [(int(c.pool[extra + 2 * j]), int(c.pool[extra + 2 * j + 1])) for j in range(n - 4)]
    return found
