"""The state machine in the middle: events in, commands out, no I/O, no clock, no thread.

`core.engine` feeds it from one thread and carries out what it answers. Everything a run decides is
decided here: what is handed out when and how finely cut, what is tried again, what ends how.

The story of an item::

    Pending -> Running -> Completed
                 |  ^  `-> Failed | TimedOut | Crashed      (budget spent)
                 |  `---- AwaitingRetry                     (retries, after their delay)
                 `------> Pending                           (its worker was lost: no charge)
    anything not final -> Cancelled | Skipped
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .interfaces import (
    Control,
    End,
    Failure,
    FailureKind,
    Isolation,
    Outcome,
    Positions,
    Receipt,
    RefColumn,
    Report,
    Resources,
    WorkerInfo,
)
from .items import BAD, GOOD, STATE_NAMES, ItemState, ItemTable, without
from .sizing import Sizer

HOLD_SECONDS = 0.02
"""A mapped node's first hand-out waits so long for a consumer to fuse with (or until the flow blocks)."""
RECALL_AFTER = 0.25
"""A batch that has run so long may be split when a slot is idle."""

Column: TypeAlias = "list[Any] | RefColumn"


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the machine must know of a task."""

    retries: int = 0
    infra_retries: int = 2
    on_error: str = "raise"
    min_success_ratio: float | None = None
    resources: Resources = Resources()
    isolation: Isolation = Isolation.CHILD
    concurrency: int = 1
    is_async: bool = False
    persist: bool = True
    fuse: bool = True
    tags: frozenset[str] = frozenset()
    pool: str = "main"
    """``"caller"``: runs in the thread that called."""
    delay: Callable[[int], float] = lambda _retry: 0.0
    """Seconds before the n-th retry (from 1)."""


@dataclass(slots=True)
class Chunk:
    """Items that wait to be handed out, with their arguments. All are on the same attempt."""

    positions: Positions
    columns: list[Column]
    attempt: int = 1
    alone: bool = False
    """To be handed out as it is, one item a batch, on a fresh suspicion."""

    def take(self, count: int) -> tuple[Chunk, Chunk | None]:
        """Split off the first ``count`` items."""
        total = len(self.positions)
        if count >= total:
            return self, None
        head, tail = _split(self.positions, count)
        return (
            Chunk(head, [c[:count] for c in self.columns], self.attempt, self.alone),
            Chunk(tail, [c[count:] for c in self.columns], self.attempt, self.alone),
        )

    def pick(self, wanted: Positions) -> list[Column]:
        """The columns of some of the items."""
        if wanted == self.positions:
            return self.columns
        chosen = set(wanted)
        keep = [i for i, position in enumerate(self.positions) if position in chosen]
        return [_pick(column, keep) for column in self.columns]


def _split(positions: Positions, count: int) -> tuple[Positions, Positions]:
    head: list[tuple[int, int]] = []
    tail: list[tuple[int, int]] = []
    for start, stop in positions.runs:
        cut = min(stop, start + count)
        if cut > start:
            head.append((start, cut))
        if stop > cut:
            tail.append((cut, stop))
        count -= cut - start
    return Positions(tuple(head)), Positions(tuple(tail))


def _pick(column: Column, keep: Sequence[int]) -> Column:
    if isinstance(column, RefColumn):
        return RefColumn(
            column.parts,
            [column.part[i] for i in keep],
            [column.index[i] for i in keep],
            [column.first_row[i] for i in keep],
            [column.rows[i] for i in keep],
            column.inline,
        )
    return [column[i] for i in keep]


@dataclass(eq=False)
class Node:
    """One task call of the run, single or mapped."""

    id: int
    key: str
    task_name: str
    options: NodeOptions
    single: bool
    link: Node | None = None
    """The mapped node whose item i feeds item i of this one."""
    allow_failure: bool = False
    """A failed item of ``link`` is passed on as its exception."""
    waits: dict[tuple[int, int | None], bool] = field(default_factory=dict[Any, bool])
    """What must end before anything runs: (node, item or None) -> may it fail?"""
    depth: int = 0
    lined_up: bool = False
    hold_until: float = 0.0
    window: int | None = None
    items: ItemTable = field(default_factory=ItemTable)
    consumers: list[Node] = field(default_factory=list["Node"])
    queue: deque[Chunk] = field(default_factory=deque[Chunk])
    queued: int = 0
    total: int | None = None
    exhausted: bool = False
    opened: bool = False
    feeding: bool = False
    flights: int = 0
    delayed: int = 0
    sizer: Sizer = field(default_factory=Sizer)
    spent: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Position -> [user failures, infrastructure failures], where there are any."""
    failures: dict[int, Failure] = field(default_factory=dict[int, Failure])
    doomed: set[int] = field(default_factory=set[int])
    cancelled: bool = False
    error: BaseException | None = None
    """What failed the node as a whole: its iterable raised, its code was refused."""
    cause: str = ""
    """Why it was skipped or cancelled."""
    state: str = "Pending"
    bytes: int = 0
    busy_seconds: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state in FINAL_NODE

    def counts(self) -> dict[str, int]:
        """Items by state name."""
        return self.items.named_counts()

    def item_done(self, position: int) -> bool:
        return self.ended or self.items.final(position)

    def counts(self) -> dict[str, int]:
        """Items by state name."""
        return self.items.named_counts()


FINAL_NODE = frozenset(
    {"Completed", "Cached", "Failed", "TimedOut", "Crashed", "Cancelled", "Skipped"}
)


@dataclass(eq=False, slots=True)
class Flight:
    """A batch that was handed out and has not ended."""

    id: int
    nodes: list[Node]
    attempts: list[int]
    chunk: Chunk
    handed: float
    began: float | None = None
    worker: WorkerInfo | None = None
    started: int = 0
    recalled: bool = False
    returned: int = 0
    need: Resources = Resources()


# ------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Feed:
    """Pull up to ``items`` inputs, or ``bytes`` of them, and answer with `Machine.fed`."""

    node: Node
    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Open:
    """All that the node waits for has ended well: make its source ready."""

    node: Node


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand this batch to the pool."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask something of a batch."""

    flight: Flight
    request: Control


@dataclass(frozen=True, slots=True)
class Committed:
    """A receipt was taken in: it belongs into the journal."""

    node: Node
    receipt: Receipt
    fresh: Positions


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An attempt of one item did not complete: it belongs into history."""

    node: Node
    position: int
    state: ItemState
    failure: Failure
    worker: WorkerInfo | None
    chunk: Chunk | None


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """A batch has ended: it belongs into history."""

    flight: Flight
    end: End
    peak_memory: int


@dataclass(frozen=True, slots=True)
class NodeEnded:
    """Every item of the node is final."""

    node: Node


Command: TypeAlias = Feed | Open | Submit | Ask | Committed | ItemEvent | BatchEnded | NodeEnded


class Machine:
    """See the module. ``slots`` tells how many batches with a need can run at a time."""

    def __init__(
        self,
        slots: Callable[[str, Resources], int],
        *,
        prefetch: Callable[[str], int] = lambda _pool: 1,
        tag_limits: Mapping[str, int] | None = None,
        window_bytes: int = 256 << 20,
        batch_bytes: int = 32 << 20,
        recalls: bool = True,
    ) -> None:
        self.slots = slots
        self.prefetch = prefetch
        self.tag_limits = dict(tag_limits or {})
        self.window_bytes = window_bytes
        self.batch_bytes = batch_bytes
        self.recalls = recalls
        self.nodes: list[Node] = []
        self.flights: dict[int, Flight] = {}
        self.in_flight: dict[str, int] = {}
        self.tagged: dict[str, int] = {}
        self.dependents: dict[int, list[Node]] = {}
        """Node number -> nodes that wait for it or for items of it."""
        self.lanes: dict[Any, list[tuple[int, int, Node]]] = {}
        """Nodes with something to hand out, deepest and oldest first, by what limits them."""
        self.feedable: dict[Node, None] = {}
        self.holding: set[Node] = set()
        self.delays: list[tuple[float, int, Node, Chunk]] = []
        self.out: list[Command] = []
        self.changed: set[Node] = set()
        self._numbers = itertools.count()
        self._ties = itertools.count()
        self.cancelled = ""

    # -------------------------------------------------------------------------------- events

    def add(self, node: Node, chunk: Chunk | None, now: float) -> list[Command]:
        """A task was called. ``chunk`` holds a single call's arguments."""
        node.id = len(self.nodes)
        self.nodes.append(node)
        self.changed.add(node)
        node.sizer.concurrency = node.options.concurrency if node.options.is_async else 1
        node.sizer.batch_bytes = self.batch_bytes
        for other, _item in node.waits:
            node.depth = max(node.depth, self.nodes[other].depth + 1)
        if chunk is not None:
            node.items.grow(1)
            node.total = 1
            node.exhausted = True
            self._queue(node, chunk)
        if node.link is not None:
            node.depth = max(node.depth, node.link.depth + 1)
            node.link.consumers.append(node)
        elif not node.single:
            node.hold_until = now + HOLD_SECONDS
            self.holding.add(node)
        if self.cancelled:
            self._cancel(node, self.cancelled)
        for number in {number for number, _item in node.waits}:
            self.dependents.setdefault(number, []).append(node)
        self._settle_waits(node)
        if node.link is not None and not node.ended:
            self._catch_up(node, node.link)
        return self._done(now)

    def fed(
        self,
        node: Node,
        columns: list[list[Any]],
        size: int,
        *,
        exhausted: bool,
        error: BaseException | None,
        now: float,
    ) -> list[Command]:
        """The feeder answers: columns of equal length, their bytes, and whether there is more."""
        node.feeding = False
        count = len(columns[0]) if columns else 0
        if count:
            node.sizer.weighed(count, size)
            start = node.items.size
            node.items.grow(count)
            if node.cancelled or node.ended:
                node.items.move(Positions.span(start, start + count), ItemState.CANCELLED)
            else:
                self._queue(node, Chunk(Positions.span(start, start + count), list(columns)))
                for consumer in node.consumers:
                    self._grow_linked(consumer)
        if error is not None:
            node.error = error
        if exhausted or error is not None:
            self._exhaust(node)
        self.changed.add(node)
        return self._done(now)

    def blocked(self, now: float) -> list[Command]:
        """The flow waits: nothing more will be fused with what it has called so far."""
        self._release(list(self.holding))
        return self._done(now)

    def report(
        self, report: Report, now: float, may_retry: Callable[[Failure], bool] = lambda _f: True
    ) -> list[Command]:
        """A batch tells something."""
        flight = self.flights.get(report.batch)
        if flight is None:
            return []
        if flight.began is None:
            flight.began = now
        flight.worker = report.worker or flight.worker
        flight.started = max(flight.started, report.started)
        self.changed.update(flight.nodes)
        for receipt in report.receipts:
            self._receipt(flight, receipt)
        for number, positions in report.passed:
            self._passed(flight, number, positions)
        for failure in report.failures:
            self._failed(flight, failure, may_retry(failure), now)
        if report.returned.runs:
            self._returned(flight, report.returned)
        if report.end is not None:
            self._ended(flight, report.end, report.peak_memory, may_retry, now)
        return self._done(now)

    def unpackable(self, flight: Flight, failures: Sequence[Failure], now: float) -> list[Command]:
        """Arguments could not be pickled, so the batch never left: those items fail."""
        for failure in failures:
            self._failed(flight, failure, False, now)
        self._close(flight)
        self._requeue(flight, now=now, attempt_step=0)
        return self._done(now)

    def parked(
        self,
        flight: Flight,
        waits: Iterable[tuple[int, int | None]],
        bad: Mapping[int, str],
        now: float,
    ) -> list[Command]:
        """Arguments hold futures that have not ended (``waits``) or ended badly (``bad``)."""
        node = flight.nodes[0]
        self._close(flight)
        for position, cause in bad.items():
            self._finish(node, Positions.span(position, position + 1), ItemState.SKIPPED, cause)
        self._requeue(flight, now=now, attempt_step=0)
        for wait in waits:
            node.waits[wait] = False
            self.dependents.setdefault(wait[0], []).append(node)
        return self._done(now)

    def refuse(self, flight: Flight, error: BaseException, now: float) -> list[Command]:
        """The pool did not take the batch."""
        self._close(flight)
        self._abort(flight.nodes[0], error)
        self._requeue(flight, now=now)
        return self._done(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        while self.delays and self.delays[0][0] <= now:
            _, _, node, chunk = heapq.heappop(self.delays)
            node.delayed -= 1
            ready = node.items.select(chunk.positions, ItemState.AWAITING_RETRY)
            if ready.runs:
                node.items.move(ready, ItemState.PENDING)
                self._queue(node, chunk, first=True)
            self.changed.add(node)
        self._release([node for node in self.holding if node.hold_until <= now])
        if self.recalls:
            self._split_slow(now)
        return self._done(now)

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest."""
        times = [self.delays[0][0]] if self.delays else []
        times += [node.hold_until for node in self.holding]
        return min(times, default=None)

    def cancel(
        self, node: Node | None, position: int | None, reason: str, now: float
    ) -> list[Command]:
        """Hand out no more of it, drop what is queued, end what runs."""
        if node is None:
            self.cancelled = reason or "cancelled"
            for each in self.nodes:
                self._cancel(each, self.cancelled)
        elif position is None:
            self._cancel(node, reason or "cancelled")
        else:
            self._cancel_item(node, position, reason or "cancelled")
        return self._done(now)

    # ---------------------------------------------------------------------------- hand-out

    def _done(self, now: float) -> list[Command]:
        """What every event ends with: end nodes, hand out, feed; the commands that came of it."""
        self._end_nodes()
        self._hand_out(now)
        self._end_nodes()
        out, self.out = self.out, []
        return out

    def _end_nodes(self) -> None:
        todo = [node for node in self.changed if not node.ended]
        while todo:
            node = todo.pop()
            if self._maybe_end(node):
                for consumer in node.consumers:
                    self._exhaust_linked(consumer)
                    todo.append(consumer)
            for waiting in self.dependents.pop(node.id, ()):
                self._settle_waits(waiting)
                if any(number == node.id for number, _item in waiting.waits):
                    self.dependents.setdefault(node.id, []).append(waiting)
                else:
                    self.changed.add(waiting)
                    todo.append(waiting)

    def _settle_waits(self, node: Node) -> None:
        """Drop waits that are over; skip the node if one ended badly; open it when none is left."""
        if node.ended or node.cancelled:
            return
        for (number, item), may_fail in list(node.waits.items()):
            other = self.nodes[number]
            if not (other.ended if item is None else other.item_done(item)):
                continue
            del node.waits[number, item]
            if may_fail:
                continue
            good = (
                other.state in ("Completed", "Cached")
                if item is None
                else item < other.items.size and other.items.state(item) in GOOD
            )
            if not good and node.state == "Pending":
                what = other.key if item is None or other.single else f"{other.key}[{item}]"
                self._skip(node, f"{what} did not complete")
                return
        if node.waits:
            return
        if not node.opened:
            node.opened = True
            self.out.append(Open(node))
            if not node.single and node.link is None:
                self.feedable[node] = None
        self._line_up(node)

    def _release(self, nodes: list[Node]) -> None:
        """Mapped nodes have waited long enough for a consumer to fuse with."""
        for node in nodes:
            self.holding.discard(node)
            self._line_up(node)

    def _line_up(self, node: Node) -> None:
        """Enter a node's lane if it has something that may be handed out."""
        if not node.queue or node.lined_up or node.waits or node in self.holding:
            return
        options = node.options
        limited = frozenset(options.tags & self.tag_limits.keys())
        lane = self.lanes.setdefault((options.pool, options.resources, limited, node.window), [])
        heapq.heappush(lane, (-node.depth, node.id, node))
        node.lined_up = True

    def _hand_out(self, now: float) -> None:
        """Fill the free slots: deeper nodes first, so that few intermediates lie about."""
        for lane in sorted((lane for lane in self.lanes.values() if lane), key=lambda x: x[0]):
            while lane:
                node = lane[0][2]
                if node.ended or node.cancelled or node.waits or not node.queue:
                    heapq.heappop(lane)
                    node.lined_up = False
                elif not self._room(node):
                    break
                else:
                    self._launch(node, now)
        for node in list(self.feedable):
            if node.ended or node.exhausted:
                del self.feedable[node]
            else:
                self._feed(node)

    def _room(self, node: Node) -> bool:
        pool, need = node.options.pool, node.options.resources
        slots = self.slots(pool, need)
        for tag in node.options.tags:
            limit = self.tag_limits.get(tag)
            if limit is not None:
                width = node.options.concurrency if node.options.is_async else 1
                if self.tagged.get(tag, 0) + 1 > max(1, limit // max(1, min(width, limit))):
                    return False
        if node.window is not None and self._out_of(node) >= node.window:
            return False
        return self.in_flight.get(pool, 0) < slots * (1 + self.prefetch(pool))

    def _out_of(self, node: Node) -> int:
        return node.items.counts[ItemState.RUNNING]

    def _launch(self, node: Node, now: float) -> None:
        chunk = node.queue.popleft()
        pool = node.options.pool
        slots = max(1, self.slots(pool, node.options.resources))
        remaining = self._remaining(node, len(chunk.positions))
        size = 1 if chunk.alone else node.sizer.next(slots, remaining, len(chunk.positions))
        if node.window is not None:
            size = max(1, min(size, node.window - self._out_of(node)))
        head, tail = chunk.take(size)
        node.queued -= len(head.positions)
        if tail is not None:
            node.queue.appendleft(tail)
        if node.doomed and (gone := node.items.select(head.positions, *BAD)).runs:
            head.columns = head.pick(left := without(head.positions, gone))
            head.positions = left
            if not left.runs:
                return
        nodes = self._chain(node)
        flight = Flight(
            next(self._numbers),
            nodes,
            [head.attempt] + [1] * (len(nodes) - 1),
            head,
            now,
            need=node.options.resources,
        )
        for each in nodes:
            each.flights += 1
            if each.state == "Pending":
                each.state = "Running"
            each.items.move(
                each.items.select(head.positions, ItemState.PENDING), ItemState.RUNNING
            )
            self.changed.add(each)
        self.flights[flight.id] = flight
        self.in_flight[pool] = self.in_flight.get(pool, 0) + 1
        for tag in node.options.tags & self.tag_limits.keys():
            self.tagged[tag] = self.tagged.get(tag, 0) + 1
        self.out.append(Submit(flight))

    def _remaining(self, node: Node, at_hand: int) -> int | None:
        """Items not handed out, when known; a linked node's come with its upstream."""
        if node.exhausted:
            return node.queued
        if node.total is not None:
            return node.queued + node.total - node.items.size
        return None

    def _chain(self, node: Node) -> list[Node]:
        """The node and the consumers that its values flow into on the same worker."""
        chain = [node]
        while True:
            last = chain[-1]
            fusable = [c for c in last.consumers if self._fuses(last, c)]
            if len(fusable) != 1 or len(last.consumers) != 1:
                return chain
            chain.append(fusable[0])

    def _fuses(self, first: Node, then: Node) -> bool:
        a, b = first.options, then.options
        limited = (a.tags | b.tags) & self.tag_limits.keys()
        return (
            a.fuse
            and b.fuse
            and a.resources == b.resources
            and a.isolation == b.isolation
            and a.is_async == b.is_async
            and a.pool == b.pool
            and (not limited or a.tags == b.tags)
            and not then.waits
            and then.opened
            and not then.cancelled
            and not then.ended
            and then.window is None
        )

    def _feed(self, node: Node) -> None:
        """Ask for more input while the window has room."""
        if node.feeding:
            return
        slots = max(1, self.slots(node.options.pool, node.options.resources))
        want = node.sizer.next(slots, None, 1 << 40) * slots * 2
        if node.window is not None:
            want = min(want, node.window)
        if node.queued >= want:
            return
        held = sum(len(f.chunk.positions) for f in self.flights.values() if f.nodes[0] is node)
        room = self.window_bytes - int((held + node.queued) * node.sizer.item_bytes)
        if room <= 0 and held + node.queued:
            return
        node.feeding = True
        self.out.append(Feed(node, max(1, want - node.queued), max(room, 1)))

    def _split_slow(self, now: float) -> None:
        """A slot is idle and nothing is queued: what a slow batch has not started goes elsewhere."""
        if any(self.lanes.values()):
            return
        for pool in {f.nodes[0].options.pool for f in self.flights.values()}:
            flights = [f for f in self.flights.values() if f.nodes[0].options.pool == pool]
            begun = [f for f in flights if f.began is not None and f.worker is not None]
            if len(flights) >= self.slots(pool, flights[0].need):
                continue
            slow = [
                f
                for f in begun
                if not f.recalled
                and now - (f.began or now) > RECALL_AFTER
                and len(f.chunk.positions) - f.started >= 1
                and len(f.chunk.positions) > 1
            ]
            if slow:
                worst = max(slow, key=lambda f: len(f.chunk.positions) - f.started)
                worst.recalled = True
                self.out.append(Ask(worst, Control.RECALL))

    # ------------------------------------------------------------------------ what came back

    def _receipt(self, flight: Flight, receipt: Receipt) -> None:
        stage = next(i for i, n in enumerate(flight.nodes) if n.id == receipt.node)
        node = flight.nodes[stage]
        fresh = node.items.complete(receipt)
        if not fresh.runs:
            return
        node.bytes += receipt.part.bytes
        node.busy_seconds += receipt.busy_seconds
        self.out.append(Committed(node, receipt, fresh))
        fused = flight.nodes[stage + 1] if stage + 1 < len(flight.nodes) else None
        self._flow_on(node, fresh, fused)

    def _passed(self, flight: Flight, number: int, positions: Positions) -> None:
        node = self.nodes[number]
        running = node.items.select(positions, ItemState.RUNNING, ItemState.PENDING)
        node.items.move(running, ItemState.RUNNING)
        node.items.move(running, ItemState.COMPLETED)

    def _flow_on(self, node: Node, fresh: Positions, fused: Node | None) -> None:
        """Completed items feed the linked consumers that are not in the same batch."""
        for consumer in node.consumers:
            if consumer is fused or consumer.ended:
                continue
            self._grow_linked(consumer)
            ready = consumer.items.select(fresh, ItemState.PENDING)
            if ready.runs:
                self._queue(consumer, Chunk(ready, [node.items.column(ready)]))
            self.changed.add(consumer)

    def _grow_linked(self, consumer: Node) -> None:
        link = consumer.link
        if link is not None and consumer.items.size < link.items.size:
            consumer.items.grow(link.items.size - consumer.items.size)
            for further in consumer.consumers:
                self._grow_linked(further)

    def _catch_up(self, node: Node, link: Node) -> None:
        """A consumer was added late: take what its upstream has done so far."""
        self._grow_linked(node)
        good = link.items.where(*GOOD)
        if good.runs:
            self._queue(node, Chunk(good, [link.items.column(good)]))
        for position in link.items.where(*BAD):
            self._upstream_bad(node, link, Positions.span(position, position + 1))
        if link.ended:
            self._exhaust_linked(node)

    def _upstream_bad(self, node: Node, link: Node, positions: Positions) -> None:
        open_ = node.items.select(positions, ItemState.PENDING, ItemState.RUNNING)
        if not open_.runs:
            return
        if not node.allow_failure:
            self._finish(node, open_, ItemState.SKIPPED, f"{link.key} did not complete")
            return
        node.items.move(open_, ItemState.PENDING)
        column: list[Any] = [UpstreamFailure(link, position) for position in open_]
        self._queue(node, Chunk(open_, [column]))

    def _failed(self, flight: Flight, failure: Failure, may_retry: bool, now: float) -> None:
        stage = next(i for i, n in enumerate(flight.nodes) if n.id == failure.node)
        node, position = flight.nodes[stage], failure.position
        if node.items.final(position):
            return
        here = Positions.span(position, position + 1)
        spent = node.spent.setdefault(position, [0, 0])
        retryable = failure.kind in (FailureKind.ERROR, FailureKind.TIMEOUT)
        if retryable and may_retry and spent[0] < node.options.retries and not node.cancelled:
            spent[0] += 1
            when = now + max(0.0, node.options.delay(spent[0]))
            self._again(flight, stage, here, ItemState.AWAITING_RETRY, when=when)
            self._note(flight, node, failure, ItemState.AWAITING_RETRY)
            return
        state = {FailureKind.TIMEOUT: ItemState.TIMED_OUT, FailureKind.CRASH: ItemState.CRASHED}
        final = state.get(failure.kind, ItemState.FAILED)
        node.failures[position] = failure
        self._note(flight, node, failure, final)
        self._finish(node, here, final, "")
        if node.options.on_error == "fail_fast":
            self._cancel(node, f"item {position} failed (on_error='fail_fast')")

    def _note(self, flight: Flight, node: Node, failure: Failure, state: ItemState) -> None:
        chunk = flight.chunk if node is flight.nodes[0] else None
        self.out.append(ItemEvent(node, failure.position, state, failure, flight.worker, chunk))

    def _again(
        self,
        flight: Flight,
        stage: int,
        positions: Positions,
        state: ItemState,
        *,
        when: float | None = None,
        step: int = 1,
        alone: bool = False,
    ) -> None:
        """Items are to run again from a stage on: now, or (``when``) after a delay.

        Where the value that feeds the stage was not kept, they start further up.
        """
        node = flight.nodes[stage]
        for later in flight.nodes[stage + 1 :]:
            later.items.move(later.items.select(positions, ItemState.RUNNING), ItemState.PENDING)
        if stage == 0:
            columns = flight.chunk.pick(positions)
        elif (missing := self._unkept(flight.nodes[stage - 1], positions)).runs:
            above = flight.nodes[stage - 1]
            node.items.move(positions, ItemState.PENDING)
            above.items.move(above.items.select(missing, ItemState.COMPLETED), ItemState.PENDING)
            self._again(flight, stage - 1, missing, state, when=when, step=step, alone=alone)
            return
        else:
            columns = [flight.nodes[stage - 1].items.column(positions)]
        chunk = Chunk(positions, columns, flight.attempts[stage] + step, alone)
        if when is None:
            node.items.move(positions, ItemState.PENDING)
            self._queue(node, chunk, first=True)
        else:
            if node.items.state(next(iter(positions))) is ItemState.PENDING:
                node.items.move(positions, ItemState.RUNNING)
            node.items.move(positions, state)
            node.delayed += 1
            heapq.heappush(self.delays, (when, next(self._ties), node, chunk))

    @staticmethod
    def _unkept(node: Node, positions: Positions) -> Positions:
        return Positions.of(p for p in positions if node.items.receipt_of(p) is None)

    def _returned(self, flight: Flight, positions: Positions) -> None:
        flight.returned += len(positions)
        running = flight.nodes[0].items.select(positions, ItemState.RUNNING)
        if running.runs:
            self._again(flight, 0, running, ItemState.PENDING, step=0)

    def _ended(
        self,
        flight: Flight,
        end: End,
        peak: int,
        may_retry: Callable[[Failure], bool],
        now: float,
    ) -> None:
        self._close(flight)
        self.out.append(BatchEnded(flight, end, peak))
        first = flight.nodes[0]
        done = len(flight.chunk.positions) - flight.returned
        if end.outcome in (Outcome.DONE, Outcome.RECALLED) and end.seconds:
            first.sizer.measured(done, end.seconds)
        match end.outcome:
            case Outcome.DONE:
                self._lost_values(flight, end, now)
            case Outcome.RECALLED:
                self._requeue(flight, now=now, attempt_step=0)
            case Outcome.REFUSED:
                self._abort(first, refusal(end))
                self._requeue(flight, now=now)
            case Outcome.TIMEOUT:
                self._timed_out(flight, end, may_retry, now)
                self._requeue(flight, now=now)
            case Outcome.DIED:
                self._died(flight, end, now)
            case Outcome.KILLED | Outcome.LOST | Outcome.DUPLICATE:
                self._requeue(flight, now=now)

    def _open_items(self, flight: Flight, stage: int) -> Positions:
        node = flight.nodes[stage]
        return node.items.select(flight.chunk.positions, ItemState.RUNNING)

    def _lost_values(self, flight: Flight, end: End, now: float) -> None:
        """The batch is done, but some items have neither receipt nor failure: storage failed."""
        for stage, node in enumerate(flight.nodes):
            left = self._open_items(flight, stage)
            if stage and left.runs:
                above = flight.nodes[stage - 1].items
                waiting = without(left, above.select(left, *GOOD))
                node.items.move(waiting, ItemState.PENDING)
                left = without(left, waiting)
            for position in left:
                failure = synthetic(flight, stage, position, FailureKind.STORAGE, end.cause, now)
                self._failed(flight, failure, False, now)

    def _timed_out(
        self, flight: Flight, end: End, may_retry: Callable[[Failure], bool], now: float
    ) -> None:
        if end.running is None:
            return
        stage, position = end.running
        failure = synthetic(flight, stage, position, FailureKind.TIMEOUT, end.cause, now)
        self._failed(flight, failure, may_retry(failure), now)

    def _died(self, flight: Flight, end: End, now: float) -> None:
        """Find who killed the child: its own mark says so, or the suspects are tried alone."""
        if end.running is not None:
            guilty = [end.running]
        else:
            open_ = set(self._open_items(flight, 0)) & set(end.suspects)
            guilty = [(0, p) for p in open_] if len(open_) == 1 else []
        for stage, position in guilty:
            node = flight.nodes[stage]
            if node.items.final(position):
                continue
            spent = node.spent.setdefault(position, [0, 0])
            failure = synthetic(flight, stage, position, FailureKind.CRASH, end.cause, now)
            if spent[1] >= node.options.infra_retries:
                self._failed(flight, failure, False, now)
            else:
                spent[1] += 1
                self._note(flight, node, failure, ItemState.PENDING)
                here = Positions.span(position, position + 1)
                self._again(flight, stage, here, ItemState.PENDING, alone=True)
        suspects = Positions.of(sorted(end.suspects)) if not guilty else Positions(())
        self._requeue(flight, now=now, alone=suspects)

    def _requeue(
        self,
        flight: Flight,
        *,
        now: float,
        attempt_step: int = 1,
        alone: Positions | None = None,
    ) -> None:
        """Items of an ended batch that have not ended go back, deepest stage first."""
        for stage in range(len(flight.nodes) - 1, -1, -1):
            node = flight.nodes[stage]
            left = self._open_items(flight, stage)
            if stage:
                above = flight.nodes[stage - 1].items
                ready = above.select(left, *GOOD)
                node.items.move(without(left, ready), ItemState.PENDING)
                left = ready
            if node.cancelled or node.error:
                self._finish(node, left, ItemState.CANCELLED, node.cause)
                continue
            if node.doomed:
                doomed = Positions.of(p for p in left if p in node.doomed)
                self._finish(node, doomed, ItemState.CANCELLED, "cancelled")
                left = without(left, doomed)
            if alone is not None and alone.runs:
                mine = set(alone)
                for position in [p for p in left if p in mine]:
                    here = Positions.span(position, position + 1)
                    self._again(flight, stage, here, ItemState.PENDING, alone=True)
                left = Positions.of(p for p in left if p not in mine)
            if left.runs:
                self._again(flight, stage, left, ItemState.PENDING, step=attempt_step)

    def _close(self, flight: Flight) -> None:
        del self.flights[flight.id]
        pool = flight.nodes[0].options.pool
        self.in_flight[pool] -= 1
        for tag in flight.nodes[0].options.tags & self.tag_limits.keys():
            self.tagged[tag] -= 1
        for node in flight.nodes:
            node.flights -= 1
            self.changed.add(node)

    # ---------------------------------------------------------------------------- node ends

    def _queue(self, node: Node, chunk: Chunk, *, first: bool = False) -> None:
        (node.queue.appendleft if first else node.queue.append)(chunk)
        node.queued += len(chunk.positions)
        self.changed.add(node)
        self._line_up(node)

    def _finish(self, node: Node, positions: Positions, state: ItemState, cause: str) -> None:
        """Items end without a value; what depends on them hears of it."""
        if not positions.runs:
            return
        node.items.move(positions, state)
        node.cause = node.cause or cause
        self.changed.add(node)
        for consumer in node.consumers:
            self._grow_linked(consumer)
            self._upstream_bad(consumer, node, positions)

    def _exhaust(self, node: Node) -> None:
        node.exhausted = True
        node.total = node.items.size

    def _exhaust_linked(self, node: Node) -> None:
        """The upstream has ended, so no further item will come."""
        self._grow_linked(node)
        if node.link is not None and node.link.error is not None and node.error is None:
            node.cause = node.cause or f"{node.link.key} failed"
        self._exhaust(node)

    def _maybe_end(self, node: Node) -> bool:
        if node.ended:
            return False
        if not (node.exhausted or node.cancelled) or node.flights or node.feeding:
            return False
        if node.items.ended < node.items.size:
            return False
        if node.link is not None and not node.link.ended and not node.cancelled:
            return False
        if not node.opened and node.waits and not node.cancelled and not node.cause:
            return False
        node.total = node.items.size
        node.state = self._final_state(node)
        node.queue.clear()
        self.changed.add(node)
        self.out.append(NodeEnded(node))
        return True

    def _final_state(self, node: Node) -> str:
        counts, options = node.items.counts, node.options
        if node.error is not None:
            return "Failed"
        if node.single:
            return STATE_NAMES[node.items.state(0)]
        if node.cancelled and counts[ItemState.CANCELLED] + node.items.size == 0:
            return "Cancelled" if node.state != "Skipped" else "Skipped"
        failed = counts[ItemState.FAILED] + counts[ItemState.TIMED_OUT] + counts[ItemState.CRASHED]
        if node.cancelled and not (failed and options.on_error == "fail_fast"):
            return "Cancelled"
        if counts[ItemState.SKIPPED] and counts[ItemState.SKIPPED] == node.items.size:
            return "Skipped"
        if options.min_success_ratio is not None and node.items.size:
            good = counts[ItemState.COMPLETED] + counts[ItemState.CACHED]
            return "Completed" if good / node.items.size >= options.min_success_ratio else "Failed"
        if failed and options.on_error != "quarantine":
            return "Crashed" if counts[ItemState.CRASHED] == failed else "Failed"
        return "Completed"

    def _skip(self, node: Node, cause: str) -> None:
        """What it waits for did not complete: none of its items will run."""
        node.cause = cause
        node.waits.clear()
        node.opened = True
        left = node.items.where(ItemState.PENDING)
        node.queue.clear()
        node.queued = 0
        self._finish(node, left, ItemState.SKIPPED, cause)
        self._exhaust(node)
        if not node.items.size:
            node.state = "Skipped"
            self.out.append(NodeEnded(node))
        for consumer in node.consumers:
            if not consumer.ended:
                self._exhaust_linked(consumer)
        self.changed.add(node)

    def _abort(self, node: Node, error: BaseException) -> None:
        """The node as a whole cannot go on; what is committed stays."""
        if node.error is None:
            node.error = error
        self._stop(node, ItemState.CANCELLED, f"{node.key}: {error}")

    def _cancel(self, node: Node, reason: str) -> None:
        if node.ended or node.cancelled:
            return
        node.cancelled = True
        self._stop(node, ItemState.CANCELLED, reason)

    def _stop(self, node: Node, state: ItemState, cause: str) -> None:
        node.cause = node.cause or cause
        node.waits.clear()
        node.queue.clear()
        node.queued = 0
        left = node.items.where(ItemState.PENDING, ItemState.AWAITING_RETRY)
        self._finish(node, left, state, cause)
        self._exhaust(node)
        for flight in self.flights.values():
            if node in flight.nodes:
                self.out.append(Ask(flight, Control.KILL))

    def _cancel_item(self, node: Node, position: int, reason: str) -> None:
        if node.items.final(position) or position >= node.items.size:
            return
        node.doomed.add(position)
        here = Positions.span(position, position + 1)
        if node.items.state(position) is not ItemState.RUNNING:
            self._finish(node, here, ItemState.CANCELLED, reason)
            return
        for flight in self.flights.values():
            if node in flight.nodes and position in set(flight.chunk.positions):
                self.out.append(Ask(flight, Control.KILL))


@dataclass(frozen=True, slots=True)
class UpstreamFailure:
    """In a column: stands for the exception of an upstream's failed item (``allow_failure``)."""

    node: Node
    position: int


def synthetic(
    flight: Flight, stage: int, position: int, kind: FailureKind, cause: str, now: float
) -> Failure:
    """The failure of an item whose worker could not tell it."""
    node = flight.nodes[stage]
    names = {
        FailureKind.CRASH: "headrace.core.errors.TaskCrashed",
        FailureKind.TIMEOUT: "TimeoutError",
        FailureKind.STORAGE: "headrace.core.errors.StorageError",
    }
    return Failure(
        node=node.id,
        position=position,
        attempt=flight.attempts[stage],
        kind=kind,
        type_name=names.get(kind, "headrace.core.errors.TaskFailed"),
        message=cause,
        traceback="",
        exception=None,
        started=flight.began or flight.handed,
        ended=now,
    )


def refusal(end: End) -> BaseException:
    """The typed error with which a worker refused a batch."""
    import pickle

    from .errors import HeadraceError

    if end.error is not None:
        try:
            error = pickle.loads(end.error)  # noqa: S301 - our own worker made it
        except Exception:  # noqa: BLE001 - its class may be missing here: the text stands in
            return HeadraceError(end.cause)
        if isinstance(error, BaseException):
            return error
    return HeadraceError(end.cause)
