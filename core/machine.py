"""The state machine in the middle: events in, commands out, no I/O, no clock, no thread.

`core.engine` feeds it from one thread and carries out what it answers. Everything a run decides is
decided here: what is handed out when and how finely cut, what is tried again, what ends how.

The story of an item::

    Pending -> Running -> Completed
                 |  ^  `-> Failed | TimedOut | Crashed      (budget spent)
                 |  `---- AwaitingRetry                     (retries, after their delay)
                 `------> Pending                           (its worker was lost: no charge)
    anything not final -> Cancelled | Skipped

The floors, each of which knows only those below it: `core.lanes` (tables and queues), `core.drops`
(which values go), `core.endings` (how items and nodes end), `core.handout` (what goes out),
`core.stragglers` (what is late), `core.returns` (what comes back), and here the events.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from .columns import Chunk
from .commands import Command, HandOver
from .interfaces import Failure, Positions, Receipt, Report
from .items import ItemState, without
from .nodes import Flight, Node
from .returns import Returns, Verdict

HOLD_SECONDS = 0.02
"""A mapped node's first hand-out waits so long for a consumer to fuse with (or until the flow blocks)."""
LATE_SECONDS = 0.1
"""So often an input is looked at that is slow to yield, while nothing of its node is queued."""

Waits = Mapping[int, Sequence[tuple[int, int | None]]]
"""Position -> what its arguments wait for."""


def _always(_failure: Failure) -> bool:
    return True


class Machine(Returns):
    """See the module. ``slots`` tells how many batches with a need can run at a time."""

    def add(
        self, node: Node, chunk: Chunk | None, now: float, known: Sequence[Receipt] = ()
    ) -> list[Command]:
        """A task was called. ``chunk`` holds a single call's arguments.

        ``known`` are commits of its items by an earlier driver of the run.
        """
        self.nodes[node.id] = node
        self.unsealed.append(node)
        self.touch(node)
        node.sizer.concurrency = node.options.concurrency if node.options.is_async else 1
        node.sizer.batch_bytes = self.batch_bytes
        for other, _item in node.waits:
            node.depth = max(node.depth, self.nodes[other].depth + 1)
        if node.link is not None:
            node.depth = max(node.depth, node.link.depth + 1)
            node.link.consumers.append(node)
        elif not node.single:
            # What is dropped and not needed is known when the flow waits.
            node.hold_until = inf if self.resumed and node.options.drop else now + HOLD_SECONDS
            self.holding.add(node)
        self.read_by(node)
        if chunk is not None:
            node.items.grow(1)
            node.total = 1
            node.exhausted = True
            self.queue(node, chunk)
        if self.cancelled:
            self.cancel_node(node, self.cancelled)
        for number in {number for number, _item in node.waits}:
            self.dependents.setdefault(number, []).append(node)
            self.touch(self.nodes[number])
        self.grow_linked(node)
        for receipt in known:
            self.receipt(receipt)
            self.spare(node.link or node, receipt.positions)
        self.settle_waits(node)
        if node.link is not None:
            self.catch_up(node, node.link)
        return self._done(now)

    def fed(
        self,
        node: Node,
        columns: Sequence[list[Any]],
        size: int,
        *,
        exhausted: bool,
        error: BaseException | None,
        now: float,
        more: bool = False,
        known: Callable[[int], Sequence[Receipt]] = lambda _first: (),
    ) -> list[Command]:
        """The feeder answers: columns of equal length, their bytes, and whether there is more.

        ``more``: it was late, and this is what was there; what it was asked for is still to come.
        ``known`` gives what an earlier driver of the run has committed of the items from a position
        on, and of the same items further down the chain: that will not run again.
        """
        node.feeding = more and not node.exhausted
        self.touch(node)
        if node.exhausted or node.stopped or node.ended:
            return self._done(now)
        count = len(columns[0]) if columns else 0
        if count:
            node.sizer.weighed(count, size)
            start = node.items.size
            node.items.grow(count)
            for consumer in node.consumers:
                self.grow_linked(consumer)
            for receipt in known(start):
                self.receipt(receipt)
            self.spare(node, Positions.span(start, start + count))
            left = node.items.select(Positions.span(start, start + count), ItemState.PENDING)
            if left.runs:
                fresh = Chunk(Positions.span(start, start + count), list(columns))
                self.queue(node, fresh.only(left))
        if error is not None:
            node.error, node.cut = error, True
        if exhausted or error is not None:
            node.exhausted = True
            node.total = node.items.size
        return self._done(now)

    def blocked(self, now: float) -> list[Command]:
        """The flow waits: nothing more will be fused with what it has called so far."""
        new = list(self.unsealed)
        self.seal()
        for node in new:
            self.spare(node, Positions.span(0, node.items.size))
        self.release(list(self.holding))
        return self._done(now)

    def report(self, report: Report, now: float, may_retry: Verdict = _always) -> list[Command]:
        """A batch tells something."""
        flight = self.flights.get(report.batch)
        if flight is None:  # it ended, for all we knew; what it committed counts all the same
            for receipt in report.receipts:
                self.receipt(receipt)
            return self._done(now)
        if flight.began is None:
            flight.began = flight.progress = now
        if report.receipts or report.failures or report.started > flight.started:
            flight.progress = now
        flight.worker = report.worker or flight.worker
        flight.started = max(flight.started, report.started)
        if flight.started or report.receipts or report.failures:
            flight.told = True
            flight.nodes[0].stillborn = 0
        self.changed.update(flight.nodes)
        for receipt in report.receipts:
            self.receipt(receipt)
            flight.values += len(receipt.positions)
            flight.busy += receipt.busy_seconds
        for number, positions in report.passed:
            self.passed(self.nodes[number], without(positions, Positions.of(sorted(flight.gone))))
        for failure in report.failures:
            self.failed(flight, failure, may_retry(failure), now)
        if report.returned.runs:
            self.returned(flight, report.returned)
        if report.end is not None:
            self.learn(flight.nodes[0], report)
            self.ended(flight, report.end, report.peak_memory, may_retry, now)
        return self._done(now)

    def unpackable(self, flight: Flight, failures: Sequence[Failure], now: float) -> list[Command]:
        """Arguments could not be pickled, so the batch never left: those items fail."""
        for failure in failures:
            self.failed(flight, failure, False, now)
        self.close(flight)
        self.requeue(flight, Positions(()), Positions(()))
        return self._done(now)

    def parked(
        self, flight: Flight, waits: Waits, bad: Mapping[int, str], now: float
    ) -> list[Command]:
        """Arguments hold futures that have not ended (``waits``) or ended badly (``bad``)."""
        node = flight.nodes[0]
        self.close(flight)
        for stage, later in enumerate(flight.nodes[1:], start=1):
            later.items.move(flight.running(stage), ItemState.PENDING)
        bad = {position: cause for position, cause in bad.items() if flight.holds(position)}
        waits = {position: what for position, what in waits.items() if flight.holds(position)}
        for position, cause in bad.items():
            self.finish(node, Positions.span(position, position + 1), ItemState.SKIPPED, cause)
        alike: dict[tuple[tuple[int, int | None], ...], list[int]] = {}
        for position, what in waits.items():
            alike.setdefault(tuple(what), []).append(position)
        for what, positions in alike.items():
            here = Positions.of(sorted(positions))
            node.items.move(here, ItemState.PENDING)
            self.park(node, here, flight.chunk, what)
        self.requeue(flight, Positions(()), Positions(()))
        return self._done(now)

    def held(self, flight: Flight, positions: Positions, when: float, now: float) -> list[Command]:
        """A batch did not leave: others compute these items' values, which are looked for again then."""
        node = flight.nodes[0]
        self.close(flight)
        for stage, later in enumerate(flight.nodes[1:], start=1):
            later.items.move(flight.running(stage), ItemState.PENDING)
        node.items.move(positions, ItemState.PENDING)
        node.parked += len(positions)
        heapq.heappush(self.waiting, (when, next(self.ties), node, flight.chunk.only(positions)))
        self.requeue(flight, Positions(()), Positions(()))
        return self._done(now)

    def adopted(self, flight: Flight, known: Sequence[Receipt], now: float) -> list[Command]:
        """A batch did not leave: an earlier driver, or another run, has committed what it holds."""
        items = flight.nodes[0].items
        for receipt in known:
            if receipt.part.run:
                items.move(items.select(receipt.positions, ItemState.RUNNING), ItemState.PENDING)
            self.receipt(receipt)
        self.close(flight)
        self.requeue(flight, Positions(()), Positions(()))
        return self._done(now)

    def refuse(self, flight: Flight, error: BaseException, now: float) -> list[Command]:
        """The pool did not take the batch."""
        self.close(flight)
        self.abort(flight.nodes[0], error)
        self.requeue(flight, Positions(()), Positions(()))
        return self._done(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        while self.delays and self.delays[0][0] <= now:
            _, _, node, chunk = heapq.heappop(self.delays)
            ready = node.items.select(chunk.positions, ItemState.AWAITING_RETRY)
            if ready.runs:
                node.items.move(ready, ItemState.PENDING)
                self.queue(node, chunk.only(ready), first=True)
        while self.waiting and self.waiting[0][0] <= now:
            _, _, node, chunk = heapq.heappop(self.waiting)
            node.parked -= len(chunk)
            ready = node.items.select(chunk.positions, ItemState.PENDING)
            if ready.runs:
                self.queue(node, chunk.only(ready))
        self.release([node for node in self.holding if node.hold_until <= now])
        for node in self._starving():
            if node.asked + LATE_SECONDS <= now:
                node.asked = now
                self.out.append(HandOver(node))
        self.hurry(now)
        return self._done(now)

    def next_time(self) -> float | None:
        """When `tick` must be called at the latest."""
        times = [heap[0][0] for heap in (self.delays, self.waiting) if heap]
        times += [node.hold_until for node in self.holding]
        times += [node.asked + LATE_SECONDS for node in self._starving()]
        return min(times, default=None)

    def _starving(self) -> list[Node]:
        """Nodes of which nothing can be handed out before their input yields more."""
        return [node for node in self.feedable if node.feeding and not node.queued]

    def cancel(
        self, node: Node | None, position: int | None, reason: str, now: float
    ) -> list[Command]:
        """Hand out no more of it, drop what is queued, end what runs. None: the whole run."""
        if node is None:
            self.cancelled = reason or "the run was cancelled"
            for each in reversed(
                self.nodes.values()
            ):  # consumers first: theirs are cancelled, not skipped
                self.cancel_node(each, self.cancelled)
        elif position is None:
            self.cancel_node(node, reason or "it was cancelled")
        else:
            self.cancel_item(node, position, reason or "its future was cancelled")
        return self._done(now)

    def _done(self, now: float) -> list[Command]:
        """What every event ends with: end nodes, hand out, feed; the commands that came of it."""
        self.end_nodes()
        self.hand_out(now)
        while self.touched:
            self.end_nodes()
            self.hand_out(now)
        out, self.out = self.out, []
        return out
