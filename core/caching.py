"""What a run takes from the cache, and what it leaves in it.

A node with a cache policy is opened when its task is called: the entries of its base are read then,
by the calling thread. Keys are made where the arguments are at hand (by the feeder, at the call, or
when the futures among them have ended), looked up by the engine's thread, and remembered until the
commit of their item, which makes them entries. The scribe's thread puts these into the store.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache_index import CacheTable, Line, base_folder, with_run, write_segment
from .cache_keys import (
    Arguments,
    KeyContext,
    KeyPart,
    Keys,
    argument_keys,
    base_digest,
    base_parts,
    task_folder,
)
from .calls import Call, TaskOptions, TaskRun
from .claims import BEAT_SECONDS, Claims
from .columns import Chunk
from .errors import HeadraceError, StorageError
from .explaining import Explanation, explain
from .futures import Future, MapFuture
from .identity import NOBODY, SIZE
from .interfaces import Batch, Positions, Receipt, RefColumn
from .items import common, indices
from .nodes import Flight, Node
from .removal import USERS

if TYPE_CHECKING:
    from .engine import Engine

WAIT_SECONDS = 1.0
"""After which it is looked again whether others have computed a key."""
_MOST_PULLED = 10_000
_MOSTLY = 0.9
_log = logging.getLogger("headrace")


@dataclass(eq=False, slots=True)
class Base:
    """What calls with the same base share."""

    task: str
    digest: str
    parts: list[KeyPart]
    table: CacheTable

    @property
    def folder(self) -> str:
        """Where its segments lie."""
        return base_folder(self.task, self.digest)

    @property
    def head(self) -> dict[str, Any]:
        """The first line of its segments."""
        return {"task": self.task, "parts": [list(part) for part in self.parts]}


@dataclass(eq=False, slots=True)
class Plan:
    """What is kept of a node with a cache policy."""

    call: Call
    base: Base
    asked: bool = False
    """Of a single call: it has been looked up."""
    waiting: dict[int, tuple[bytes, Arguments, int]] = field(default_factory=dict[int, Any])
    """Position -> key of an item that is not in the cache, and its arguments: which of those."""
    errors: dict[int, Exception] = field(default_factory=dict[int, Exception])
    most: int = 0
    """Items to be pulled at once, as most of the last ones were in the cache."""
    claims: Claims | None = None
    """Where one run computes a key, and others wait for it."""
    looked: float = 0.0
    """When the claims and the index were looked at, monotonic seconds."""
    lost: set[int] = field(default_factory=set[int])
    """Positions whose items have ended without a value."""
    computing: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """Key -> the position whose item computes it: equal items of the map wait for it."""
    held: set[bytes] = field(default_factory=set[bytes])
    """Keys that others compute, as of then."""


class Caching:
    """The cache as one run uses it. Methods say which thread calls them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = engine.info.store
        self.plans: dict[Node, Plan] = {}
        self.bases: dict[tuple[str, str], Base] = {}
        self.sources: dict[int, tuple[Any, str, list[KeyPart]]] = {}
        """Of functions of single calls: their base is made once per run, as their spec is."""
        self.due: dict[str, tuple[dict[str, Any], list[str]]] = {}
        """Folder -> first line and lines that are not in the store."""
        self.driver = os.urandom(4).hex()
        self.given_up: dict[Node, list[bytes]] = {}
        """Keys of items that have failed, whose claims are to be given up."""
        self.over: list[Plan] = []
        """Of nodes that have ended, whose claims are to be given up."""
        self.next_beat = 0.0
        self.held: Counter[str] = Counter()
        """Run -> items whose values this run has from it."""
        self.unmarked: set[str] = set()
        """Those runs that have not been told so."""
        self.lock = threading.Lock()

    # ------------------------------------------------------------------- when a task is called

    def plan(self, call: Call) -> Plan | None:
        """Prepare a call; None where nothing is cached. The flow's thread.

        Raises
        ------
        FingerprintError
            The code, or a flow parameter, has no fingerprint.
        """
        if not call.options.cache_policy:
            return None
        task, parts = self._base(call)
        key = task, base_digest(task, parts)
        base = self.bases.get(key)
        if base is None:
            table = CacheTable.load(self.store, base_folder(*key))
            base = self.bases.setdefault(key, Base(*key, parts, table))
        return Plan(call, base)

    def _base(self, call: Call) -> tuple[str, list[KeyPart]]:
        function, policy = call.task.fn, call.options.cache_policy
        if call.single and id(function) in self.sources:
            known, task, parts = self.sources[id(function)]
            if known == (function, policy):
                return task, parts
        task, parts = task_folder(call), base_parts(call, self.engine.info)
        self.sources[id(function)] = ((function, policy), task, parts)
        return task, parts

    def open(self, node: Node, plan: Plan) -> None:
        """A planned call has become a node. The flow's thread."""
        self.plans[node] = plan
        options = plan.call.options
        if options.cache_policy.serializable:
            shared, base = self.store.shared(), plan.base
            plan.claims = Claims(
                shared, base.task, base.digest, self.engine.run_id, self.driver, node.id
            )
        node.pinned = True  # later runs will want its values
        self.engine.scribe.index(
            {
                "type": "cache",
                "node": node.id,
                "task": plan.base.task,
                "base": plan.base.digest,
                "refresh": options.refresh_cache,
                "lifetime": _seconds(options),
            }
        )

    # --------------------------------------------------------------------------- keys

    def keys(self, node: Node, columns: Sequence[Any], first: int) -> Keys | None:
        """Keys of a map's items, from columns of arguments; None where nothing is cached. Any thread."""
        plan = self.plans.get(node)
        if plan is None or not columns:
            return None
        return self._keys(node, plan, columns, range(first, first + len(columns[0])))

    def _keys(self, node: Node, plan: Plan, columns: Sequence[Any], at: Sequence[int]) -> Keys:
        mapped = dict(zip(plan.call.mapped, columns, strict=True))
        contexts: list[KeyContext] = []
        if plan.call.options.cache_policy.key_fns:
            try:
                contexts = self._contexts(node, plan.call, mapped, at)
            except HeadraceError as error:  # a value that the user's function is to see is gone
                return Keys(NOBODY * len(at), errors=dict.fromkeys(range(len(at)), error))
        return argument_keys(plan.base.digest, plan.call, mapped, contexts, len(at))

    def _contexts(
        self, node: Node, call: Call, mapped: Mapping[str, Any], at: Sequence[int]
    ) -> list[KeyContext]:
        """For the user's key functions: the values of futures take their places."""
        static = {name: _value(value) for name, value in call.static.items()}
        columns = {
            name: self.engine.store.load(column) if isinstance(column, RefColumn) else column
            for name, column in mapped.items()
        }
        options, run = call.options, self.engine.run_id
        contexts: list[KeyContext] = []
        for index, position in enumerate(at):
            own = {name: _value(column[index]) for name, column in columns.items()}
            name = options.name if call.single else f"{options.name}-{position}"
            item = f"{run}/{node.key}/{position}"
            task_run = TaskRun(item, name, options.name, run, position, 0, options.tags)
            contexts.append(KeyContext(call.task, task_run, {**static, **own}))
        return contexts

    # ------------------------------------------------------------------------ look-ups
    # By the engine's thread.

    def fed(self, node: Node, keys: Keys | None, first: int) -> list[Receipt]:
        """Commits of earlier runs for items that were just fed, from a position on."""
        plan = self.plans.get(node)
        if plan is None or keys is None:
            return []
        count = len(keys.packed) // SIZE
        found = self._look(node, plan, keys, np.arange(first, first + count))
        hits = sum(len(receipt.positions) for receipt in found)
        plan.most = min(_MOST_PULLED, 4 * count) if hits >= _MOSTLY * count else 0
        return found

    def pull(self, node: Node, items: int) -> int:
        """How many items to pull where so many are wanted: more, while most are in the cache."""
        plan = self.plans.get(node)
        return items if plan is None else max(items, plan.most)

    def called(self, node: Node) -> list[Receipt]:
        """The commit of an earlier run for a single call whose arguments hold no future."""
        plan = self.plans.get(node)
        if plan is None or not node.single or self.engine.dispatcher.dependencies(node):
            return []
        earlier = self.engine.earlier
        if earlier is not None and node.key in earlier:  # its own commit comes first, see `late`
            return []
        return self._single(node, plan)

    def _single(self, node: Node, plan: Plan) -> list[Receipt]:
        plan.asked = True
        return self._look(node, plan, self._keys(node, plan, [], range(1)), np.zeros(1, np.int64))

    def offered(self, node: Node, chunk: Chunk) -> list[Receipt]:
        """Commits of earlier runs for items of a map whose inputs have just been committed."""
        plan = self.plans.get(node)
        if plan is None:
            return []
        where = indices(chunk.positions)
        keys = self._keys(node, plan, chunk.columns, where.tolist())
        return self._look(node, plan, keys, where)

    def late(self, flight: Flight, batch: Batch) -> list[Receipt]:
        """The same for what is about to leave and stood on futures, which have ended by now."""
        node = flight.nodes[0]
        plan = self.plans.get(node)
        if plan is None or flight.attempts[0] > 1:
            return []
        if node.single:
            return [] if plan.asked else self._single(node, plan)
        if not batch.upstream:
            return []
        where = indices(flight.chunk.positions)
        columns = flight.chunk.columns[: len(plan.call.mapped)]
        return self._look(node, plan, self._keys(node, plan, columns, where.tolist()), where)

    def errors(self, flight: Flight) -> list[tuple[int, Exception]]:
        """Items of a flight that have no key, and why."""
        plan = self.plans.get(flight.nodes[0])
        if plan is None or not plan.errors:
            return []
        return [(p, plan.errors[p]) for p in flight.chunk.positions if p in plan.errors]

    def _look(self, node: Node, plan: Plan, keys: Keys, positions: Any) -> list[Receipt]:
        options, table = plan.call.options, plan.base.table
        at: list[int] = positions.tolist()
        plan.errors.update({at[index]: error for index, error in keys.errors.items()})
        found: list[Receipt] = []
        line = np.full(len(at), -1, np.int64)
        if not options.refresh_cache and table.lines:
            line, place = table.find(keys.packed, time.time(), _seconds(options))
            found = table.receipts(node.id, positions, line, place)
        missed = np.flatnonzero(line < 0).tolist()
        arguments = keys.arguments(missed)
        for place, index in enumerate(missed):
            key = keys.packed[index * SIZE : (index + 1) * SIZE]
            if key != NOBODY:
                plan.waiting[at[index]] = key, arguments, place
        return found

    # ------------------------------------------------------------- one computes, others wait

    def gate(self, flight: Flight) -> tuple[list[Receipt], Positions]:
        """What others have committed of a flight that is about to leave, and what they compute now.

        Others are runs, nodes, and items of this map that are equal.
        """
        node = flight.nodes[0]
        plan = self.plans.get(node)
        if plan is None or plan.claims is None or flight.attempts[0] > 1:
            return [], Positions(())
        where = [p for p in flight.chunk.positions if p in plan.waiting]
        keys = [plan.waiting[p][0] for p in where]
        if not keys:
            return [], Positions(())
        try:
            if not plan.claims.owns(keys):
                self._claim(plan, plan.claims, keys)
        except StorageError as error:
            _log.warning("%s computes what others may compute, too: %s", node.key, error)
            return [], Positions(())
        found: list[Receipt] = []
        if not plan.call.options.refresh_cache:
            lifetime = _seconds(plan.call.options)
            line, place = plan.base.table.find(b"".join(keys), time.time(), lifetime)
            found = plan.base.table.receipts(node.id, np.asarray(where), line, place)
        for position in (p for receipt in found for p in receipt.positions):
            del plan.waiting[position]
        return found, Positions.of(
            p
            for p, key in zip(where, keys, strict=True)
            if p in plan.waiting and (key in plan.held or self._has_twin(plan, p, key))
        )

    def _has_twin(self, plan: Plan, position: int, key: bytes) -> bool:
        """Does an equal item of this map compute the key? Else this one does from now on."""
        if plan.call.options.refresh_cache:
            return False
        first = plan.computing.setdefault(key, position)
        if first != position and (first not in plan.waiting or first in plan.lost):
            plan.computing[key] = first = position
        return first != position

    def _claim(self, plan: Plan, claims: Claims, keys: Sequence[bytes]) -> None:
        """Claim all that is known to be needed, and see what is there by now."""
        now = time.monotonic()
        if now - plan.looked < WAIT_SECONDS / 2 and plan.held.issuperset(keys):
            return
        wanted = [key for p, (key, *_) in plan.waiting.items() if p not in plan.lost]
        plan.held = claims.take(wanted, now)
        # Later than the claim: nobody adds now.
        plan.base.table.refresh(self.store, plan.base.folder)
        plan.looked = now

    def lost(self, node: Node, positions: Positions) -> None:
        """Items have ended without a value: others may compute it. The engine's thread."""
        plan = self.plans.get(node)
        if plan is None or plan.claims is None:
            return
        lost = [position for position in positions if position in plan.waiting]
        plan.lost.update(lost)
        with self.lock:
            self.given_up.setdefault(node, []).extend(plan.waiting[p][0] for p in lost)

    def ended(self, node: Node) -> None:
        """A node has ended: others may compute what it did not. The engine's thread."""
        plan = self.plans.get(node)
        if plan is not None and plan.claims is not None:
            with self.lock:
                self.over.append(plan)

    def _beat(self) -> None:
        """Tell that this run lives, and give up what it claims no more.

        What the store does not take is tried again with the next flush: the others wait for it.
        """
        with self.lock:
            over, given_up = list(self.over), {n: len(keys) for n, keys in self.given_up.items()}
            plans = list(self.plans.values())
        now = time.monotonic()
        try:
            for node, count in given_up.items():
                if (claims := self.plans[node].claims) is not None:
                    claims.give_up(self.given_up[node][:count])
                with self.lock:
                    del self.given_up[node][:count]
            for plan in over:
                if plan.claims is not None:
                    plan.claims.release()
                    plan.claims = None
                with self.lock:
                    self.over.remove(plan)
            if now >= self.next_beat:
                self.next_beat = now + BEAT_SECONDS
                for plan in plans:
                    if plan.claims is not None and plan.claims.active:
                        plan.claims.beat(now)
        except StorageError as error:
            _log.warning("claims on keys of the cache lapse: %s", error)

    # ----------------------------------------------------------------------- new entries

    def committed(self, node: Node, receipt: Receipt, fresh: Positions) -> None:
        """Values were committed: make entries of them. The engine's thread."""
        plan = self.plans.get(node)
        if receipt.part.run not in ("", self.engine.run_id):
            with self.lock:
                self.held[receipt.part.run] += len(fresh)
                self.unmarked.add(receipt.part.run)
        if plan is None or receipt.part.run:
            return
        own = indices(receipt.positions)
        mine = indices(common(receipt.positions, fresh))
        known = [(p, plan.waiting.pop(p)) for p in mine.tolist() if p in plan.waiting]
        if not known:
            return
        for _, (key, *_) in known:
            plan.computing.pop(key, None)
        at = np.searchsorted(own, [position for position, _ in known])
        places = at if receipt.places is None else np.asarray(receipt.places)[at]
        lifetime = _seconds(plan.call.options)
        line = Line(
            part=with_run(receipt.part, self.engine.run_id),
            rows=receipt.rows,
            items=_items_in(receipt),
            started=receipt.started,
            ended=receipt.ended,
            expires=None if lifetime is None else receipt.ended + lifetime,
            places=places.tolist(),
            keys=b"".join([key for _, (key, _arguments, _place) in known]),
            arguments=_columns([(told, place) for _, (_key, told, place) in known]),
        )
        plan.base.table.add(line)
        with self.lock:
            _, lines = self.due.setdefault(plan.base.folder, (plan.base.head, []))
            lines.append(line.to_json())

    def explain(self, node: Node, position: int) -> Explanation:
        """Why an item was taken from the cache, or not. Any thread; what is due has been written."""
        plan = self.plans.get(node)
        waiting = None if plan is None else plan.waiting.get(position)
        return explain(
            self.store,
            self.engine.run_id,
            node.id,
            node.key,
            position,
            parts=() if plan is None else plan.base.parts,
            arguments=None if waiting is None else _one(*waiting[1:]),
        )

    def flush(self) -> None:
        """Put the new entries into the store, and mark the runs whose values are used. The scribe's thread.

        An entry that cannot be written costs later runs a computation, and nothing else.
        """
        with self.lock:
            due, self.due = self.due, {}
            marks = {run: self.held[run] for run in self.unmarked}
            self.unmarked.clear()
        for run, items in marks.items():
            try:
                self.store.run(run).write(USERS + self.engine.run_id, str(items).encode())
            except StorageError as error:
                _log.warning("run %s is not told that its values are used here: %s", run, error)
        for folder, (head, lines) in due.items():
            try:
                write_segment(self.store.shared(), folder, head, lines)
            except StorageError as error:
                _log.warning("%d commits are not in the cache: %s", len(lines), error)
        self._beat()


def _items_in(receipt: Receipt) -> int:
    """Items of the whole partition, of which the receipt may name some."""
    if not isinstance(receipt.rows, int):
        return len(receipt.rows)
    if receipt.places is None:
        return len(receipt.positions)
    return receipt.part.rows // receipt.rows if receipt.rows else max(receipt.places) + 1


def _seconds(options: TaskOptions) -> float | None:
    lifetime = options.cache_expiration
    return None if lifetime is None else lifetime.total_seconds()


def _value(value: Any) -> Any:
    return value.result() if isinstance(value, (Future, MapFuture)) else value


def _one(arguments: Arguments, place: int) -> dict[str, tuple[str, str]]:
    """Argument -> digest and text of one item."""
    return {name: pairs[place if len(pairs) > 1 else 0] for name, pairs in arguments.items()}


def _columns(items: Sequence[tuple[Arguments, int]]) -> dict[str, list[list[str]]]:
    """Argument -> digests and texts: one for each item, or one where all are equal."""
    found: dict[str, list[list[str]]] = {}
    for name in items[0][0]:
        pairs = [told[name][place if len(told[name]) > 1 else 0] for told, place in items]
        if len({digest for digest, _ in pairs}) == 1:
            pairs = pairs[:1]
        found[name] = [list(each) for each in zip(*pairs, strict=True)]
    return found
