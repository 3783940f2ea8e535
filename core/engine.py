"""The engine of one flow run: one thread around a queue, and the machine that decides.

Whatever happens becomes an entry in the queue: a call from the flow's thread, inputs from a feeder,
a report from a pool, a request from history. The thread hands it to `core.machine`, carries out the
commands that come back, and wakes those who wait. Callbacks from outside only ever put entries.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from . import checkpoints, logs, orphans, pools, records, specs
from .caching import WAIT_SECONDS, Caching
from .calls import Call
from .commands import (
    Ask,
    BatchEnded,
    Command,
    Committed,
    Dropped,
    Feed,
    HandOver,
    ItemEvent,
    NodeEnded,
    Submit,
    WithoutValue,
)
from .context import live_run
from .dispatch import Dispatcher
from .earlier import Earlier
from .errors import (
    Cancelled,
    HeadraceError,
    HistoryError,
    MappingError,
    NotFoundError,
    RunError,
    RunNotFoundError,
    StorageError,
)
from .feeding import Feeder
from .futures import Future, MapFuture
from .given import Given, Keeper, given_again
from .headers import write_header
from .identity import SIZE, item_ids, key_ids, salted, split_ids
from .interfaces import (
    LISTED,
    Batch,
    Control,
    LogRecord,
    Manifest,
    NodeView,
    Outcome,
    Pool,
    Positions,
    Receipt,
    Report,
    Request,
    Resources,
    RunView,
    data_prefix,
)
from .items import BAD, GOOD, ItemState
from .lineage import Lineage, nobody
from .machine import Machine
from .nodes import Flight, Node, NodeOptions
from .notes import Notes
from .outcomes import (
    exception_of,
    first_bad,
    from_record,
    item_message,
    name_of,
    node_message,
    state_name,
)
from .packing import Dependency, dependency_of, pack
from .process_marks import mark_of
from .retries import Judge, Verdicts, delay_of
from .returns import kept_column, not_kept
from .rowmodels import models_of
from .scribe import Scribe
from .states import Crashed, State, type_of_name
from .task_hooks import TaskHooks
from .views import Views, failures_of, graph_of

if TYPE_CHECKING:
    from .explaining import Explanation
    from .forecasts import NodeForecast
    from .graph import Graph
    from .runs import RunInfo

_TICK_SECONDS = 0.05
_EXPLAIN_SECONDS = 10.0
"""For which an explanation waits until new entries of the cache are written."""
_AT_ONCE_SECONDS = 2.0
"""What a run that is interrupted twice waits for its killed batches, so that their states are told."""
_jitter = random.Random()
_log = logging.getLogger("headrace")
_FUTURES = frozenset({Future, MapFuture})
_ADOPT = (Outcome.DIED, Outcome.LOST, Outcome.TIMEOUT, Outcome.KILLED, Outcome.DUPLICATE)
"""Ends after which a batch's partitions are listed: reports may have been lost."""
_PULL_KNOWN = 10_000
"""Inputs pulled at once where an earlier driver has committed some: most of them will not run."""
_BACKLOG = 50_000
"""Records that may wait to be written before the engine waits for them."""


class Engine:
    """Implements `EngineAPI`. Made by `open`, begun once, finished once."""

    def __init__(self, info: RunInfo, pool: Pool, caller: Pool) -> None:
        self.info = info
        self.store = info.store.run(str(info.id))
        self.pools = {"main": pool, "caller": caller}
        self.settings = info.settings
        self.inbox: queue.SimpleQueue[Callable[[float], list[Command]] | None]
        self.inbox = queue.SimpleQueue()
        self.machine = Machine(
            self._slots,
            prefetch=lambda name: self.pools[name].capabilities.prefetch,
            tag_limits=info.tag_limits,
            window_items=self.settings.max_in_flight,
            window_bytes=self.settings.max_in_flight_bytes,
        )
        self.changes = threading.Condition()
        self.sequence = 0
        self.adding = threading.RLock()
        self.nodes: dict[int, Node] = {}
        self.free_numbers = itertools.count()
        self.earlier: Earlier | None = None
        """What earlier drivers of the run have committed, if this one resumes it."""
        self.ids: dict[Node, bytearray] = {}
        """Of a resumed run: the ids of what was fed to a mapped node so far."""
        self.calls: dict[Node, Call] = {}
        self.by_key: dict[str, Node] = {}
        self.ordinals: dict[str, itertools.count[int]] = {}
        self.feeders: dict[Node, Feeder] = {}
        self.watchers: dict[Node, list[tuple[int | None, Callable[[], None]]]] = {}
        self.attempt = 1
        self.cancel_reason = ""
        self.state_name = "Running"
        self.disturbed = info.resumes
        """Workers have ended that may have left something behind."""
        self.trouble: BaseException | None = None
        self.over = False
        """Whether the thread will read what is put from now on is not known."""
        self.notes = Notes(info)
        self.keeper = Keeper(self)
        self.scribe = Scribe(
            info.id,
            info.history,
            self.store.journal,
            self.store.delete,
            self.keeper.write,
            self.notes.inputs,
            heartbeat_seconds=self.settings.heartbeat_seconds,
            trouble=self._troubled,
            request=self._requested,
        )
        self.caching = Caching(self)
        self.scribe.also = self.caching.flush
        self.machine.look_up = self.caching.offered
        self.specs = specs.SpecWriter(
            self.store,
            flow_name=info.flow_name,
            run_name=info.name,
            parameters=info.short_parameters,
            log_level=info.log_level,
            live=pool.capabilities.in_process,
        )
        self.dispatcher = Dispatcher(self)
        self.hooks = TaskHooks(self)
        self.judge = Judge(self, self._judged)
        self.lineage = Lineage()
        self.views = Views(self)
        self.thread = threading.Thread(target=self._run, name="headrace-engine", daemon=True)

    @classmethod
    def open(cls, info: RunInfo) -> Engine:
        """Lease the pool and make the engine; nothing runs yet.

        Raises
        ------
        ExecutorError
            The executor cannot be started or reached.
        StorageError
            The store is only in this process, and the executor's workers are not.
        """
        pool = pools.lease(info.executor)
        if info.store.run(str(info.id)).in_process and not pool.capabilities.in_process:
            raise StorageError(
                f"the store {info.store.url} exists in this process only, and the workers of the "
                f"executor {info.executor.name!r} cannot see it. Use a folder or an object store: "
                "flow(storage=...) or HEADRACE_STORAGE."
            )
        from .registry import resolve_executor

        caller = resolve_executor("inline").open()
        return cls(info, pool, caller)

    @property
    def run_id(self) -> str:
        """The run's id as text."""
        return str(self.info.id)

    @property
    def caller_runs(self) -> bool:
        """See `EngineAPI.caller_runs`."""
        return self.pools["main"].capabilities.caller_runs

    # ------------------------------------------------------------------------- begin, finish

    def begin(self) -> None:
        """Write the header and the first records, and start.

        Raises
        ------
        StorageError
            The store cannot be written.
        """
        if self.info.resumes:
            self._take_over()
        else:
            write_header(self.store, self.info, self.notes)
        self.scribe.open(self.notes.begun())
        self.scribe.start()
        self.thread.start()

    def _take_over(self) -> None:
        """Become the run's driver in place of an earlier one, and learn what it has done."""
        journal = self.store.journal()
        with contextlib.suppress(RunNotFoundError):
            before = self.info.history.run(self.info.id)
            if before.process and mark_of(before.pid) != before.process:
                orphans.await_children(before.process)  # what they commit yet is to be found
        self.earlier = Earlier(self.store, journal, verify=self.info.verify)
        for receipt in self.earlier.unlisted:
            self._tell_origins(receipt)
        self.scribe.journal = journal
        self.machine.resumed = True
        self.machine.numbers = itertools.count(self.earlier.first_batch)
        self.free_numbers = itertools.count(self.earlier.free_number())

    def begin_attempt(self, attempt: int) -> None:
        """The flow's function runs again: node keys count anew, marked with the attempt."""
        with self.adding:
            self.attempt = attempt
            self.ordinals.clear()

    def finish(self, state: State[Any]) -> State[Any]:
        """Wait for all nodes, write the run's last state, and free what the run used."""
        try:
            self.block(self._all_ended, None, until_end=True)
        except BaseException:  # interrupted while it ends in order: now it ends at once
            self.cancel(grace=0.0)
            self.block(self._all_ended, _AT_ONCE_SECONDS, until_end=True)
            raise
        finally:
            for feeder in self.feeders.values():
                feeder.stop()
            self._put(lambda _now: self._kill_rest(0.0))
            self.over = True
            self.inbox.put(None)
            self.thread.join()
            self.judge.close()
            self.hooks.close()
            self.pools["caller"].close()
            self._clear(state)
            self.state_name = state.name
            self.scribe.index({"type": "ended", "state": state.name})
            if self.scribe.settle():
                for event in self.notes.ended(state):
                    self.scribe.note(event)
            else:
                state = Crashed(str(self.trouble), self.trouble)
            self.scribe.close()
        return state

    def _troubled(self, error: Exception) -> None:
        """The run was taken over, or its store is gone: stop and say so."""
        self.trouble = error
        self.cancel(reason=str(error))

    def _requested(self, request: Request) -> None:
        if request.kind == "cancel":
            live = live_run(self.run_id)  # it knows the runs of the flows that this one called
            (live.run if live is not None else self).cancel(reason="cancelled on request")

    # ------------------------------------------------------------------------------- the API

    def add(self, call: Call) -> Node:
        """See `EngineAPI.add`."""
        options = self._options(call)
        with self.adding:
            if self.cancel_reason:
                raise Cancelled(f"the run was cancelled: {self.cancel_reason}")
            if not call.caller:
                self._slots("main", call.options.resources)
            key = self._key(call)
            number = self._number(key)
            plan = self.caching.plan(call)
            spec, static = self.specs.write(call, self._tag_cap(call))
            node = Node(
                number,
                key,
                call.options.name,
                options,
                call.single,
                window=None if call.single else call.window,
                expected=call.expected,
                keyed=call.key_fn is not None,
            )
            chunk = self.dispatcher.prepare(node, call, spec, static)
            self._depend(node, call, static)
            context = contextvars.copy_context()
            self.nodes[number] = node
            self.by_key[key] = node
            self.calls[node] = call
            self.judge.know(call)
            if not call.single and node.link is None:
                self.feeders[node] = self._feeder(node, call, context)
            self._own(node, call)
            sample = self.info.sample
            if sample is not None and (live := live_run(self.run_id)) is not None:
                sample.looked_at[number] = frozenset({*live.seen, *node.reads})
                sample.given_whole[number] = frozenset(d.node.id for d in static.dependencies)
            self.scribe.index(records.opened_record(node))
            if plan is not None:
                self.caching.open(node, plan)
            self._put(lambda now: self.machine.add(node, chunk, now, self._known_so_far(node)))
        return node

    def _number(self, key: str) -> int:
        """A node that an earlier driver has opened keeps its number."""
        if self.earlier is not None and key in self.earlier.numbers:
            number = self.earlier.numbers[key]
            if number not in self.nodes:
                return number
        return next(self.free_numbers)

    def _own(self, node: Node, call: Call) -> None:
        """Say whose code makes a node's values; of what earlier drivers committed take what may stay."""
        node.code = self.lineage.code_of(call, node.link)
        if self.earlier is None:
            return
        changed = self.info.recompute == "changed"
        if changed and self.earlier.had_other_code(node.key, node.code):
            begun = self.store.list(checkpoints.folder_of(node.key))
            self.store.delete([each.path for each in begun])
        others = self.earlier.made_by_others(node.key, node.code)
        if others and changed:
            self.earlier.disown(node.key, others)
            self.scribe.index(records.dropped_record(node.id, others))
        elif others:
            node.mixed = nobody()
        self.earlier.load(node.key)

    def _known_so_far(self, node: Node) -> list[Receipt]:
        """What is committed of a map that another one feeds, of the items that were fed so far.

        Of a single call: what the cache has.
        """
        source = _source_of(node)
        if self.earlier is None or source is node:
            return self.caching.called(node)
        return self.earlier.known(node.key, node.id, self._ids(node, 0, None), 0)

    def _ids(self, node: Node, start: int, stop: int | None) -> bytes:
        """Ids of a map's items, from those that were fed to the map at the head of its chain."""
        chain = [node]
        while chain[-1].link is not None:
            chain.append(chain[-1].link)
        end = None if stop is None else stop * SIZE
        ids = bytes(self.ids.get(chain[-1], b"")[start * SIZE : end])
        for each in reversed(chain):
            ids = salted(ids, self.dispatcher.salt(each))
        return ids

    def ids_of(self, node: Node, positions: Positions) -> bytes | None:
        """Ids of items of a map; None where they were not kept. The engine's thread."""
        ids = b"".join([self._ids(node, start, stop) for start, stop in positions.runs])
        return ids if len(ids) == SIZE * len(positions) else None

    def _options(self, call: Call) -> NodeOptions:
        options = call.options
        return NodeOptions(
            retries=options.retries,
            infra_retries=options.infra_retries,
            on_error=options.on_error,
            min_success_ratio=options.min_success_ratio,
            resources=options.resources,
            isolation=options.isolation,
            concurrency=options.concurrency,
            is_async=specs.is_async(call.fn),
            apart=specs.is_generator(call.fn)
            or bool(models_of(call.fn))
            or options.schema is not None,
            persist=options.persist_result or self.info.sample is not None,
            drop=self.info.intermediates == "drop" and self.info.sample is None,
            fuse=options.fuse,
            backups=options.backups,
            cached=bool(options.cache_policy),
            tags=options.tags,
            pool="caller" if call.caller else "main",
            delay=delay_of(options, _jitter),
        )

    def _tag_cap(self, call: Call) -> int | None:
        caps = [self.info.tag_limits[t] for t in call.options.tags if t in self.info.tag_limits]
        return min(caps, default=None)

    def _key(self, call: Call) -> str:
        mark = f"#{self.attempt}" if self.attempt > 1 else ""
        if call.name is not None:
            if call.name + mark in self.by_key:
                raise MappingError(f"a node named {call.name!r} is already in this run")
            return call.name + mark
        ordinal = self.ordinals.setdefault(call.options.name, itertools.count())
        while (key := f"{call.options.name}-{next(ordinal)}{mark}") in self.by_key:
            pass
        return key

    def _depend(self, node: Node, call: Call, static: Any) -> None:
        """Edges: what must end before the node starts, and the map that it is linked to."""
        sources = list(call.mapped.values())
        if len(sources) == 1 and isinstance(sources[0], MapFuture):
            source = sources[0]
            if (
                source.engine.run_id == self.run_id
                and not source.node.single
                and call.key_fn is None
            ):
                node.link = source.node
                node.allow_failure = next(iter(call.mapped)) in call.allow_failure
        for source in sources:  # what it maps over must be there before the feeder starts
            if isinstance(source, Future) and source.engine.run_id == self.run_id:
                node.waits[source.node.id, source.position] = False
        for dependency in static.dependencies:
            node.waits[dependency.node.id, dependency.position] = dependency.allow_failure
        for each in call.wait_for:
            for dependency in dependencies_in(each):
                node.waits[dependency.node.id, dependency.position] = dependency.allow_failure
        self.notes.edges[node] = self._edges(node, call, static)
        taken = [*static.dependencies, *self.dispatcher.dependencies(node)]
        for source in sources:
            inner = cast("Sequence[Any]", source) if type(source) in (list, tuple) else [source]
            if not _FUTURES.isdisjoint(map(type, inner)):
                taken += filter(None, map(dependency_of, inner))
        for each in taken:
            if each.node is not node.link and self.by_key.get(each.node.key) is each.node:
                whole = each.position is None or each.node.single
                node.reads[each.node.id] = whole or node.reads.get(each.node.id, False)

    def _edges(self, node: Node, call: Call, static: Any) -> tuple[tuple[int, str], ...]:
        data = {d.node.id for d in static.dependencies}
        for source in call.mapped.values():
            if (dependency := dependency_of(source)) is not None:
                data.add(dependency.node.id)
        order = {d.node.id for each in call.wait_for for d in dependencies_in(each)} - data
        return (*((n, "data") for n in sorted(data)), *((n, "wait_for") for n in sorted(order)))

    def _feeder(self, node: Node, call: Call, context: contextvars.Context) -> Feeder:
        fed = 0

        def answer(
            columns: list[list[Any]],
            size: int,
            ended: bool,
            error: BaseException | None,
            *,
            more: bool,
        ) -> None:
            nonlocal fed
            known: Callable[[int], list[Receipt]] = lambda _first: []  # noqa: E731
            try:
                keys = self.caching.keys(node, columns, fed)
                fed += len(columns[0]) if columns else 0
                if call.key_fn is not None:
                    ids = key_ids([call.key_fn(*row) for row in zip(*columns, strict=True)])
                    columns = [*columns, split_ids(ids)]
                elif self.earlier is not None or keys is not None:
                    ids = item_ids(columns)
                else:
                    ids = b""
            except Exception as broken:  # noqa: BLE001 - the user's key function may raise anything
                told = MappingError(f"{node.key}: key= raised {type(broken).__name__}: {broken}")
                told.__cause__ = broken
                columns, ended, error, more = [], True, told, False
            else:
                known = lambda first: [  # noqa: E731
                    *self._known(node, ids, first),
                    *self.caching.fed(node, keys, first),
                ]
            self._put(
                lambda now: self.machine.fed(
                    node,
                    columns,
                    size,
                    exhausted=ended,
                    error=error,
                    now=now,
                    more=more,
                    known=known,
                )
            )

        sample = self.info.sample
        if sample is None:
            return Feeder(node.key, call.mapped, self._wait_quietly, answer, context)

        def cut(inputs: list[Iterator[Any]], length: int | None) -> list[Iterator[Any]]:
            sample.lengths[node.id] = length
            return sample.cut(inputs, length)

        return Feeder(node.key, call.mapped, self._wait_quietly, answer, context, cut)

    def _known(self, node: Node, ids: bytes, first: int) -> list[Receipt]:
        """What is committed of items that were just fed, in the whole chain, its end first."""
        if self.earlier is not None or node.options.cached:
            self.ids.setdefault(node, bytearray()).extend(ids)
        if self.earlier is None:
            return []
        chain, found = [node], list[Receipt]()
        for each in chain:
            chain.extend(each.consumers)
        for each in reversed(chain):
            own = self._ids(each, first, None)
            found += self.earlier.known(each.key, each.id, own, first)
        return found

    def _all_ended(self) -> bool:
        return all(node.ended for node in list(self.nodes.values()))

    def _wait_quietly(self, done: Callable[[], bool]) -> bool:
        """For feeders: wait for a future; False when the run ends first."""
        with self.changes:
            while not done():
                if self.cancel_reason or not self.thread.is_alive():
                    return False
                self.changes.wait(1.0)
        return True

    def block(
        self, done: Callable[[], bool], timeout: float | None = None, *, until_end: bool = False
    ) -> bool:
        """See `EngineAPI.block`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if done():
            return True
        self._put(self.machine.blocked)
        workers = [p for p in self.pools.values() if p.capabilities.caller_runs]
        while True:
            seen = self.sequence
            if done():
                return True
            over = self._all_ended() or not self.thread.is_alive()
            if not until_end and self.cancel_reason and over:
                if done():
                    return True
                raise self.trouble or Cancelled(f"the run was cancelled: {self.cancel_reason}")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if any(pool.work(0) for pool in workers):
                continue
            with self.changes:
                if self.sequence == seen:
                    self.changes.wait(1.0 if left is None else min(left, 1.0))

    def watch(self, node: Node, position: int | None, done: Callable[[], None]) -> None:
        """See `EngineAPI.watch`."""
        once = [done]

        def tell() -> None:
            """From the engine's thread, or where that reads no more; whichever comes first."""
            try:
                first = once.pop()
            except IndexError:
                return
            first()

        def watch(_now: float) -> list[Command]:
            self.watchers.setdefault(node, []).append((position, tell))
            self.machine.changed.add(node)
            return []

        self._put(watch)
        if self.over:
            tell()

    def state(self, node: Node, position: int | None) -> State[Any]:
        """See `EngineAPI.state`."""
        run = f"{self.run_id}/{node.key}" + ("" if position is None else f"/{position}")
        name = node.state if position is None else state_name(node, position)
        kind = type_of_name(name)
        message = node_message(node) if position is None else item_message(node, position)
        loader: Callable[[], Any] | None = None
        if name in ("Completed", "Cached"):
            loader = (
                (lambda: self.values(node))
                if position is None and not node.single
                else (lambda: self.value(node, position or 0))
            )
        elif node.ended or (position is not None and node.item_done(position)):
            loader = lambda: self.error(node, position)  # noqa: E731
        if position is not None:
            origin: Any = Future(self, node, position)
        else:
            origin = Future(self, node, 0) if node.single else MapFuture(self, node)
        return State(kind, name, message, loader=loader, run=run, origin=origin)

    def error(self, node: Node, position: int | None) -> BaseException:
        """The exception of an item, or (None) the first one of a node, that did not complete."""
        if position is not None:
            return self._exception(node, position)
        if node.error is not None:
            return node.error
        first = first_bad(node)
        error = self._exception(node, first)
        if not node.single:
            error.add_note(f"{node_message(node)}; the first is item {first}")
        return error

    def _exception(self, node: Node, position: int) -> BaseException:
        """An item's exception; of those that are not kept in memory, what history has."""
        known = position in node.failures or position >= node.items.size
        if not known and node.items.state(position) in range(
            ItemState.FAILED, ItemState.CRASHED + 1
        ):
            self.scribe.sync()
            with contextlib.suppress(HistoryError):
                records = self.info.history.items(self.info.id, node.id, position=position)
                if records:
                    return from_record(records[-1], name_of(node, position))
        told = self.notes.items.get((node.id, position))
        return exception_of(node, position, "" if told is None else told.input)

    def value(self, node: Node, position: int) -> Any:
        """See `EngineAPI.value`."""
        __tracebackhide__ = True
        if position < node.items.size and node.items.good(position):
            return self._load(node, Positions.span(position, position + 1))[0]
        raise self._exception(node, position)

    def values(self, node: Node) -> list[Any]:
        """See `EngineAPI.values`."""
        __tracebackhide__ = True
        if not node.good:
            raise self.error(node, None)
        return self._load(node, node.items.where(*GOOD))

    def _load(self, node: Node, positions: Positions) -> list[Any]:
        try:
            return self.store.load(kept_column(node, positions, inline_limit=1 << 30))
        except NotFoundError:
            if node.items.kept(positions) != positions:  # they went meanwhile
                raise RunError(not_kept(node)) from None
            raise

    def manifest(self, node: Node) -> Manifest:
        """See `EngineAPI.manifest`."""
        good = node.items.where(*GOOD)
        if node.items.kept(good) != good:
            raise RunError(not_kept(node))
        winners = list(node.items.winners())
        return Manifest(
            node.id,
            node.key,
            tuple(receipt for receipt, _ in winners),
            node.items.size,
            node.items.where(*BAD),
            tuple(positions for _, positions in winners),
            specs.schema_of(self.calls[node]),
        )

    def dataset(self, node: Node, *, keep: bool = True) -> Any:
        """See `EngineAPI.dataset`."""
        __tracebackhide__ = True
        if not node.good:
            raise self.error(node, None)
        node.pinned = node.pinned or keep
        return self.store.dataset(self.manifest(node))

    def quarantined(self, node: Node) -> Any:
        """See `EngineAPI.quarantined`."""
        return self.store.quarantined([receipt for receipt, _ in node.items.winners()])

    def given(self, key: str, position: int) -> Given | None:
        """See `RunEngine.given`."""
        return given_again(self, key, position) if key in self.by_key else None

    def forecast(self) -> list[NodeForecast]:
        """See `RunEngine.forecast`."""
        from .forecasts import nodes_of

        return nodes_of(self)

    def functions(self) -> dict[int, Callable[..., Any]]:
        """See `RunEngine.functions`."""
        return {node.id: call.fn for node, call in list(self.calls.items())}

    def failures(self, node: Node | None = None) -> Any:
        """See `EngineAPI.failures`."""
        return failures_of(self, [node] if node is not None else list(self.nodes.values()))

    def explain(self, node: Node, position: int) -> Explanation:
        """See `EngineAPI.explain`."""
        self._catch_up(_EXPLAIN_SECONDS)
        self.scribe.settle(_EXPLAIN_SECONDS)
        return self.caching.explain(node, position)

    def cancel(
        self,
        node: Node | None = None,
        position: int | None = None,
        *,
        grace: float | None = None,
        reason: str = "",
    ) -> None:
        """See `EngineAPI.cancel`."""
        if node is None and not self.cancel_reason:
            self.cancel_reason = reason or "on request"

        def end(now: float) -> list[Command]:
            commands = self.machine.cancel(node, position, reason, now)
            if grace is None:
                return commands
            if node is None:  # also what was asked before, with more time
                self._kill_rest(grace)
            return [replace(each, grace=grace) if type(each) is Ask else each for each in commands]

        self._put(end)

    def log(self, level: int, logger: str, message: str, *, time: float | None = None) -> None:
        """See `EngineAPI.log`."""
        moment = datetime.now(UTC) if time is None else datetime.fromtimestamp(time, UTC)
        if level >= self.info.log_level:
            self.scribe.note(LogRecord(self.info.id, -1, -1, moment, level, logger, message))

    def view(self) -> RunView:
        """See `EngineAPI.view`."""
        return self.views.view()

    def node_view(self, node: Node) -> NodeView:
        """See `EngineAPI.node_view`."""
        return self.views.node(node)

    def graph(self) -> Graph:
        """See `EngineAPI.graph`."""
        return graph_of(self)

    # ------------------------------------------------------------------------- intermediates

    def _remove(self, node: Node, paths: list[str], size: int = 0) -> None:
        """Objects of a node that are needed no more: the journal says so before they go."""
        self.scribe.remove(records.dropped_record(node.id, paths), paths, size)

    def _clear(self, state: State[Any]) -> None:
        """At the end of a run: all that is left of dropped intermediates.

        ``until_run_ends``: these are what a completed run has used; of another its resume makes use.
        """
        if self.disturbed and state.is_completed():
            self._clear_checkpoints()
        at_the_end = self.info.intermediates == "until_run_ends" and state.is_completed()
        for node in self.nodes.values():
            if at_the_end and (node.consumers or node.read_whole) and not node.pinned:
                for number in range(len(node.items.receipts)):
                    node.items.drop(number)
            elif not node.options.drop or not (node.consumers or node.read_whole):
                continue
            if node.items.kept(Positions.span(0, node.items.size)).runs:
                continue
            try:
                left = [each.path for each in self.store.list(data_prefix(node.id))]
            except StorageError as error:
                _log.warning("what is left of %r is not removed: %s", node.key, error)
            else:
                self._remove(node, left)

    def _clear_checkpoints(self) -> None:
        """Those of items whose worker died between the item's commit and the end of its checkpoint."""
        try:
            self.store.delete([each.path for each in self.store.list(checkpoints.FOLDER)])
        except StorageError as error:
            _log.warning("the checkpoints of run %s are not removed: %s", self.run_id, error)

    # ---------------------------------------------------------------------------- the thread

    def _put(self, event: Callable[[float], list[Command]]) -> None:
        self.inbox.put(event)

    def _catch_up(self, timeout: float) -> None:
        """Wait until the engine's thread has carried out what it has decided so far."""
        reached = threading.Event()

        def reach(_now: float) -> list[Command]:
            reached.set()
            return []

        self._put(reach)
        deadline = time.monotonic() + timeout
        while self.thread.is_alive() and self.thread is not threading.current_thread():
            if reached.wait(0.1) or time.monotonic() > deadline:
                return

    def _slots(self, pool: str, need: Resources) -> int:
        return self.pools[pool].slots(need)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - a bug of ours: the run must end, and tell it
            self._fall(error)

    def _fall(self, error: BaseException) -> None:
        """The engine itself has failed: end the run, tell why, and stop what runs."""
        logging.getLogger("headrace").critical(
            "the engine of run %s has failed", self.run_id, exc_info=error
        )
        self.trouble = HeadraceError(
            f"internal error in the engine of run {self.run_id}: {type(error).__name__}: {error}"
        )
        self.trouble.__cause__ = error
        self.cancel_reason = str(self.trouble)
        for node in self.nodes.values():
            if not node.ended:
                node.error, node.state = node.error or self.trouble, "Failed"
        with self.changes:
            self.sequence += 1
            self.changes.notify_all()
        with contextlib.suppress(Exception):  # the machine may be in any state by now
            self._kill_rest(0.0)
        with contextlib.suppress(Exception):
            self._wake(set(self.nodes.values()))

    def _kill_rest(self, grace: float) -> list[Command]:
        """End all batches that are under way."""
        for flight in list(self.machine.flights.values()):
            self._ask(flight, Control.KILL, grace)
        return []

    def _loop(self) -> None:
        ticked = 0.0
        while True:
            now = time.time()
            due = self.machine.next_time()
            wait = _TICK_SECONDS if self.machine.flights else 5.0
            if due is not None:
                wait = max(0.0, min(wait, due - now))
            with contextlib.suppress(queue.Empty):
                event = self.inbox.get(timeout=wait)
                if event is None:
                    return
                self._carry_out(event(time.time()))
            now = time.time()
            if (due is not None and due <= now) or now - ticked >= _TICK_SECONDS:
                ticked = now
                self._carry_out(self.machine.tick(now))
            if self.machine.changed:
                changed, self.machine.changed = self.machine.changed, set()
                self._wake(changed)
            self.scribe.ease(_BACKLOG)

    def _wake(self, changed: set[Node]) -> None:
        self.notes.changed(changed, self.scribe.note)
        with self.changes:
            self.sequence += 1
            self.changes.notify_all()
        for node in changed & self.watchers.keys():
            waiting = self.watchers.pop(node)
            left: list[tuple[int | None, Callable[[], None]]] = []
            for position, done in waiting:
                if node.settled(position):
                    done()
                else:
                    left.append((position, done))
            if left:
                self.watchers[node] = left

    def _carry_out(self, commands: Sequence[Command]) -> None:
        todo, failed = list(commands), list[ItemEvent]()
        for command in todo:
            match command:
                case Submit(flight):
                    todo.extend(self._submit(flight))
                case Feed() | HandOver():
                    self._feed(command)
                case Ask(flight, request, grace):
                    self._ask(flight, request, grace)
                case Committed(node, receipt, fresh):
                    self.caching.committed(node, receipt, fresh)
                    if self.earlier is None or self.earlier.is_new(receipt):
                        self.scribe.index(records.receipt_record(receipt))
                case Dropped(node, receipt):
                    self.dispatcher.inline_left += len(receipt.inline or b"")
                    self._remove(node, [receipt.part.path], receipt.part.bytes)
                case BatchEnded(flight, end, peak):
                    self.scribe.note(self.notes.batch(flight, end, peak))
                case ItemEvent():
                    self.scribe.note(self.notes.item(command, self.calls[command.node]))
                    self._hook(command)
                    failed.append(command)
                case WithoutValue(node, positions):
                    self.caching.lost(node, positions)
                case NodeEnded(node):
                    self._node_ended(node)
        self.keeper.keep(failed)

    def _feed(self, command: Feed | HandOver) -> None:
        node = command.node
        if isinstance(command, HandOver):
            self.feeders[node].hand_over()
            return
        most = _PULL_KNOWN if self.earlier and node.key in self.earlier else 0
        self.feeders[node].pull(max(self.caching.pull(node, command.items), most), command.bytes)

    def _submit(self, flight: Flight) -> list[Command]:
        now = time.time()
        if (waited := self._gated(flight, now)) is not None:
            return waited
        prepared = self.dispatcher.batch(flight)
        if isinstance(prepared, list):
            return self.machine.unpackable(flight, prepared, now)
        if isinstance(prepared, tuple):
            return self.machine.parked(flight, *prepared, now)
        known = self._known_late(flight, prepared) or self.caching.late(flight, prepared)
        if known:
            return self.machine.adopted(flight, known, now)
        if (waited := self._gated(flight, now)) is not None:  # of keys that were made just now
            return waited
        broken = self.caching.errors(flight)
        if broken:
            failures = [self.dispatcher.failure(flight, *each) for each in broken]
            return self.machine.unpackable(flight, failures, now)
        name = flight.nodes[0].options.pool
        try:
            self.pools[name].submit(prepared, self._report)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises: nothing was handed over
            return self.machine.refuse(flight, error, now)
        if flight.backup_of is None:
            self.hooks.running(flight.nodes, flight.chunk.positions)
        if self.pools[name].capabilities.caller_runs:
            with self.changes:
                self.sequence += 1
                self.changes.notify_all()
        return []

    def _gated(self, flight: Flight, now: float) -> list[Command] | None:
        """What becomes of a batch whose values others have computed by now, or are computing."""
        known, held = self.caching.gate(flight)
        if known:
            return self.machine.adopted(flight, known, now)
        if held.runs:
            return self.machine.held(flight, held, now + WAIT_SECONDS, now)
        return None

    def _known_late(self, flight: Flight, batch: Batch) -> list[Receipt]:
        """What is committed of a single call, or of a chained map that had to wait for others.

        (What its items stand on was not there yet when they were fed.)
        """
        node = flight.nodes[0]
        if self.earlier is None or node.key not in self.earlier:
            return []
        if node.single:
            return self.earlier.known(node.key, node.id, batch.ids or b"", 0)
        found: list[Receipt] = []
        if node.link is not None:
            for start, stop in flight.chunk.positions.runs:
                own = self._ids(node, start, stop)
                found += self.earlier.known(node.key, node.id, own, start)
        return found

    def _ask(self, flight: Flight, request: Control, grace: float | None = None) -> None:
        pool = self.pools[flight.nodes[0].options.pool]
        pool.control(self.run_id, flight.id, request, grace)

    def _report(self, report: Report) -> None:
        """The sink of all pools; any thread."""
        end = report.end
        if end is not None and (end.outcome in _ADOPT or end.cause):
            threading.Thread(target=self._adopt, args=(report,), daemon=True).start()
        else:
            self.judge.take(report)

    def _adopt(self, report: Report) -> None:
        """A batch ended badly: what it committed counts, whether or not it could tell."""
        self.disturbed = True
        flight = self.machine.flights.get(report.batch)
        receipts = list(report.receipts)
        if report.end is not None and report.end.outcome is Outcome.LOST:
            orphans.await_end(flight and flight.worker, lambda: bool(self.cancel_reason))
        try:
            for node in flight.nodes if flight is not None else ():
                receipts += self.store.receipts(node.id, report.batch)
        except StorageError as error:
            # A batch that could not commit fails its items by itself; of one that died nobody knows
            # what it has committed, and nothing of that may run again.
            if report.end is None or report.end.outcome in _ADOPT:
                self._troubled(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch's end must be told
            self._troubled(StorageError(f"partitions cannot be listed: {error!r}"))
        self.judge.take(records.with_receipts(report, tuple(receipts)))

    def _judged(self, report: Report, verdicts: Verdicts) -> None:
        self._put(lambda now: self._reported(report, verdicts, now))

    def _tell_origins(self, receipt: Receipt) -> None:
        """What a partition was made of, for history."""
        for url, stamp in receipt.inputs:
            if stamp == LISTED:
                self.scribe.list_of(url.removeprefix(f"{self.store.url}/"))
        self.scribe.note(self.notes.partition(receipt))

    def _reported(self, report: Report, verdicts: Verdicts, now: float) -> list[Command]:
        for line in report.logs:
            node = self.nodes[line.node]
            self.scribe.note(self.notes.line(line))
            logs.echo(
                line.level, line.logger, line.message, name_of(node, line.position), line.time
            )
        for receipt in report.receipts:
            self._tell_origins(receipt)
        return self.machine.report(
            self.dispatcher.kept(report),
            now,
            lambda failure: verdicts.get((failure.node, failure.position), True),
        )

    def _hook(self, event: ItemEvent) -> None:
        if event.state is not ItemState.AWAITING_RETRY:
            self.hooks.item(event.node, event.position)

    def _node_ended(self, node: Node) -> None:
        self.scribe.index(records.node_record(node))
        good = node.items.where(*GOOD)
        if node.good and not node.single and node.items.kept(good) == good:
            self.scribe.index(records.manifest_record(self.manifest(node)))
        self.caching.ended(node)
        self.hooks.node(node)
        feeder = self.feeders.pop(node, None)
        if feeder is not None:
            feeder.stop()


def _source_of(node: Node) -> Node:
    """The map at the head of a map's chain."""
    while node.link is not None:
        node = node.link
    return node


def dependencies_in(value: Any) -> Sequence[Dependency]:
    """All futures inside any value."""
    found = dependency_of(value)
    return [found] if found is not None else pack(value).dependencies
