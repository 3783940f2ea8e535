"""What comes back from workers: values, failures, and the many ways in which a batch can end."""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Callable
from math import ceil
from typing import TypeAlias

from .columns import Chunk, Column
from .commands import BatchEnded, Committed, ItemEvent
from .errors import ExecutorError, HeadraceError, RunError
from .interfaces import End, Failure, FailureKind, Outcome, Positions, Receipt, RefColumn
from .items import BAD, GOOD, ItemState, common, split, without
from .nodes import KEPT_FAILURES, Flight, Node
from .stragglers import Stragglers

STILLBORN = 5
"""Children that may die in a row before an item of a node began; then the node is given up."""
SUSPECTS_APART = 8
"""The suspects of a death are tried again in so many groups, until each is alone."""

_FINAL = {FailureKind.TIMEOUT: ItemState.TIMED_OUT, FailureKind.CRASH: ItemState.CRASHED}

Verdict: TypeAlias = Callable[[Failure], bool]
"""May this failure be tried again, as far as the user's own rules go?"""


class Returns(Stragglers):
    """Takes in what batches tell."""

    # --------------------------------------------------------------------------------- values

    def receipt(self, receipt: Receipt) -> None:
        """Values were committed; also by a batch that ended long ago."""
        node = self.nodes[receipt.node]
        if node.ended:
            return
        fresh = node.items.complete(receipt)
        if not fresh.runs:
            return
        if not receipt.part.run:
            node.bytes += receipt.part.bytes
            node.busy_seconds += receipt.busy_seconds
            node.lengths.add(len(receipt.positions), receipt.busy_seconds)
        self.out.append(Committed(node, receipt, fresh))
        self.touch(node)
        above, held = node.link, fresh
        while above is not None and self._only_passed(above, receipt.batch):
            held = without(held, above.items.select(held, *BAD))  # its failure was passed on
            self.passed(above, held)
            above = above.link
        self.flow_on(node, fresh)

    def spare(self, node: Node, positions: Positions) -> None:
        """Values that an earlier driver dropped are made again only where something needs them."""
        for consumer in node.consumers:
            self.spare(consumer, positions)
        unused = not node.consumers or any(consumer.allow_failure for consumer in node.consumers)
        if not self.resumed or unused or node.readers or not self._droppable(node):
            return
        used = node.items.select(positions, ItemState.PENDING)
        for consumer in node.consumers:
            used = consumer.items.select(used, *GOOD)
        self.passed(node, used)

    def _only_passed(self, node: Node, batch: int) -> bool:
        """Did, or (where nobody knows) may, this batch pass a node's values on uncommitted?"""
        flight = self.flights.get(batch)
        stage = flight.stage_of(node.id) if flight is not None else None
        if flight is None or stage is None:
            return not node.options.persist or self.passes(node)
        return not flight.committed[stage]

    def passed(self, node: Node, positions: Positions) -> None:
        """Items completed without being committed: the next stage has their values."""
        if node.ended:
            return
        done = node.items.select(
            positions, ItemState.RUNNING, ItemState.PENDING, ItemState.AWAITING_RETRY
        )
        node.items.move(done, ItemState.COMPLETED)
        self.touch(node)
        for consumer in node.consumers:  # one that came too late to share the batch
            missed = consumer.items.select(done, ItemState.PENDING)
            if missed.runs and not consumer.stopped:
                self.finish(consumer, missed, ItemState.SKIPPED, not_kept(node))

    def flow_on(self, node: Node, fresh: Positions) -> None:
        """Completed items feed the linked consumers that are not about to run in the same batch."""
        for consumer in node.consumers:
            if consumer.stopped or consumer.ended:
                continue
            self.grow_linked(consumer)
            ready = consumer.items.select(fresh, ItemState.PENDING)
            if ready.runs:
                self.offer(consumer, Chunk(ready, [node.items.column(ready)]))

    def offer(self, node: Node, chunk: Chunk) -> None:
        """Items of a linked map are ready: those that the cache has need not run."""
        if node.options.cached:
            for receipt in self.look_up(node, chunk):
                self.receipt(receipt)
            chunk = chunk.only(node.items.select(chunk.positions, ItemState.PENDING))
        if chunk.positions.runs:
            self.queue(node, chunk)

    def catch_up(self, node: Node, link: Node) -> None:
        """A consumer was added late: take what its upstream has done so far."""
        if link.ended:
            self.exhaust_linked(node, link)
        if node.stopped:
            return
        done = node.items.select(link.items.where(*GOOD), ItemState.PENDING)
        kept = link.items.kept(done)
        if kept.runs:
            self.offer(node, Chunk(kept, [link.items.column(kept)]))
        self.finish(node, without(done, kept), ItemState.SKIPPED, not_kept(link))
        self.upstream_bad(node, link, link.items.where(*BAD))

    # ------------------------------------------------------------------------------- failures

    def failed(self, flight: Flight, failure: Failure, may_retry: bool, now: float) -> None:
        """An attempt of an item did not complete."""
        stage = flight.stage_of(failure.node)
        position = failure.position
        flight.copies.discard(position)
        if stage is None or not flight.holds(position):
            return
        node = flight.nodes[stage]
        here = Positions.span(position, position + 1)
        if node.items.state(position) is not ItemState.RUNNING:
            # Its value is there all the same: from elsewhere, or a time limit struck behind the item.
            behind = [n for n in flight.nodes[stage + 1 : stage + 2] if node.items.good(position)]
            if any(n.items.state(position) is ItemState.RUNNING for n in behind):
                self._back(flight, stage + 1, here, counted=False)
            return
        if not self.give_up(flight, here).runs:
            return
        again = self._has_retries(node, failure, may_retry)
        stopped = again and self._why_stopped(flight, stage, position)
        if again and not stopped:
            node.spent.add(here)
            delay = max(0.0, node.options.delay(node.spent.at(position)))
            self._note(flight, node, failure, ItemState.AWAITING_RETRY)
            when = now + delay if delay else None
            self.restart(flight, stage, here, counted=True, when=when)
            return
        if stopped:
            final = ItemState.CANCELLED
            self._note(flight, node, failure, ItemState.AWAITING_RETRY)
        else:
            final = _FINAL.get(failure.kind, ItemState.FAILED)
            if len(node.failures) < KEPT_FAILURES:
                node.failures[position] = failure
            self._note(flight, node, failure, final)
        for later in flight.nodes[stage + 1 :]:
            later.items.move(later.items.select(here, ItemState.RUNNING), ItemState.PENDING)
        if flight.nodes[stage + 1 :]:
            flight.leave(self._completed_above(flight, stage, here))
        self.finish(node, here, final, stopped or "")
        if node.options.on_error == "fail_fast" and not stopped:
            self.cancel_node(node, f"item {position} failed (on_error='fail_fast')", "fail_fast")

    @staticmethod
    def _completed_above(flight: Flight, stage: int, here: Positions) -> Positions:
        """The item, if this flight has nothing more to tell of it in the stages above."""
        for above in flight.nodes[:stage]:
            if above.items.select(here, ItemState.RUNNING).runs:
                return Positions(())
        return here

    @staticmethod
    def _has_retries(node: Node, failure: Failure, allowed: bool) -> bool:
        return (
            allowed
            and failure.kind in (FailureKind.ERROR, FailureKind.TIMEOUT)
            and node.spent.at(failure.position) < node.options.retries
        )

    def _why_stopped(self, flight: Flight, stage: int, position: int) -> str:
        """Why an item that is to run again cannot; empty if it can."""
        node = flight.nodes[stage]
        if node.stopped:
            return node.cause or "it was cancelled"
        if position in node.doomed:
            return "its future was cancelled"
        if not self._can_restart(flight, stage, Positions.span(position, position + 1)):
            return self._without_input(flight, stage)
        return ""

    @staticmethod
    def _without_input(flight: Flight, stage: int) -> str:
        return f"its input was not kept, and {flight.nodes[stage - 1].key!r} has stopped"

    @staticmethod
    def _can_restart(flight: Flight, stage: int, positions: Positions) -> bool:
        """Is the input at hand, or can it be made again?"""
        while stage and flight.nodes[stage - 1].items.kept(positions) != positions:
            stage -= 1
            if flight.nodes[stage].stopped:
                return False
        return True

    def _note(self, flight: Flight, node: Node, failure: Failure, state: ItemState) -> None:
        nodes = tuple(flight.nodes[: flight.nodes.index(node) + 1])
        position, worker = failure.position, flight.worker
        self.out.append(ItemEvent(node, position, state, failure, worker, nodes, flight.chunk))
        self.touch(node)

    # --------------------------------------------------------------------------------- again

    def restart(
        self,
        flight: Flight,
        stage: int,
        positions: Positions,
        *,
        counted: bool,
        when: float | None = None,
        most: int = 0,
        alone: bool = False,
    ) -> None:
        """Items leave a flight and are to run again from a stage on: now, or after a delay.

        Where the value that feeds the stage was not kept, they start further up. ``counted``: what
        ran was an attempt.
        """
        node = flight.nodes[stage]
        flight.leave(positions)
        for later in flight.nodes[stage + 1 :]:
            later.items.move(later.items.select(positions, ItemState.RUNNING), ItemState.PENDING)
        if counted:
            node.tries.add(positions)
        if stage:
            above = flight.nodes[stage - 1]
            kept = above.items.kept(positions)
            lacking = without(positions, kept)
            if lacking.runs:
                node.items.move(lacking, ItemState.PENDING)
                self._remake(
                    flight, stage - 1, lacking, counted=counted, when=when, most=most, alone=alone
                )
            positions = kept
            if not positions.runs:
                return
            columns: list[Column] = [above.items.column(positions)]
        else:
            columns = flight.chunk.only(positions).columns
        node.items.move(positions, ItemState.PENDING)
        chunk = Chunk(positions, columns, most, alone=alone)
        if when is None:
            self.queue(node, chunk, first=True)
        else:
            node.items.move(positions, ItemState.AWAITING_RETRY)
            heapq.heappush(self.delays, (when, next(self.ties), node, chunk))
            self.touch(node)

    def _remake(
        self,
        flight: Flight,
        stage: int,
        positions: Positions,
        *,
        counted: bool,
        when: float | None,
        most: int,
        alone: bool,
    ) -> None:
        """Values that were not kept are needed again."""
        items = flight.nodes[stage].items
        again = items.select(positions, ItemState.COMPLETED, ItemState.RUNNING)
        items.move(again, ItemState.PENDING)
        if again.runs:
            self.restart(flight, stage, again, counted=counted, when=when, most=most, alone=alone)

    def returned(self, flight: Flight, positions: Positions) -> None:
        """Items were handed back on recall: they did not start."""
        flight.returned += len(positions)
        flight.copies.difference_update(positions)
        mine = common(flight.running(0), positions)
        if mine.runs:
            self._back(flight, 0, mine, counted=False)

    def requeue(
        self, flight: Flight, begun: Positions, suspects: Positions, *, alone: bool = False
    ) -> None:
        """Items of an ended batch that have not ended go back, deepest stage first."""
        most = ceil(len(suspects) / SUSPECTS_APART) if suspects.runs else 0
        for stage in range(len(flight.nodes) - 1, -1, -1):
            node = flight.nodes[stage]
            left = flight.running(stage)
            if stage and left.runs and not node.stopped:
                above = flight.nodes[stage - 1].items
                ready = above.select(left, *GOOD)
                node.items.move(without(left, ready), ItemState.PENDING)
                left = ready
            if not left.runs:
                continue
            accused = common(left, suspects) if suspects.runs else suspects
            left = without(left, accused)
            tried = common(left, begun) if begun.runs else begun
            for mine, counted, together in (
                (without(left, tried), False, 0),
                (tried, True, 0),
                (accused, True, most),
            ):
                if mine.runs:
                    apart = alone and together > 0
                    self._back(flight, stage, mine, counted=counted, most=together, alone=apart)

    def _back(
        self,
        flight: Flight,
        stage: int,
        positions: Positions,
        *,
        counted: bool,
        most: int = 0,
        alone: bool = False,
    ) -> None:
        """Items that did not end go back, unless they were cancelled meanwhile."""
        node = flight.nodes[stage]
        if node.stopped:
            self.finish(node, positions, ItemState.CANCELLED, node.cause)
            return
        if node.doomed:
            positions = self.doom(node, positions)
        if not self._can_restart(flight, stage, positions):
            self.finish(node, positions, ItemState.CANCELLED, self._without_input(flight, stage))
        elif positions.runs:
            self.restart(flight, stage, positions, counted=counted, most=most, alone=alone)

    # ---------------------------------------------------------------------------------- ends

    def ended(self, flight: Flight, end: End, peak: int, may_retry: Verdict, now: float) -> None:
        """A batch has ended: whatever it left open fails, or goes back."""
        self.close(flight)
        self.out.append(BatchEnded(flight, end, peak))
        first = flight.nodes[0]
        if end.outcome in (Outcome.DONE, Outcome.RECALLED) and end.seconds:
            first.sizer.measured(len(flight.chunk) - flight.returned, end.seconds)
            if flight.values == len(flight.chunk) * len(flight.nodes):  # else nobody knows
                first.sizer.beside(max(0.0, end.seconds - flight.busy))
        begun, suspects = self._begun(flight, end), Positions(())
        match end.outcome:
            case Outcome.DONE:
                self._lost_values(flight, end, now)
            case Outcome.RECALLED:
                if end.suspects:
                    suspects = begun
                elif end.cause:
                    self._lost_values(flight, end, now)
                begun = Positions(())
            case Outcome.REFUSED:
                stage = end.running[0] if end.running is not None else 0
                self.abort(flight.nodes[stage], refusal(end))
                begun = Positions(())
            case Outcome.TIMEOUT if end.running is not None and self._overlap(flight, begun):
                suspects = begun
            case Outcome.TIMEOUT if end.running is not None:
                failure = synthetic(flight, *end.running, FailureKind.TIMEOUT, end.cause, now)
                self.failed(flight, failure, may_retry(failure), now)
            case Outcome.DIED | Outcome.TIMEOUT:
                suspects = self._died(flight, end, begun, now)
            case _:
                pass
        self.requeue(flight, begun, suspects, alone=end.out_of_memory)
        for node in flight.nodes:
            self.drain(node, flight.chunk.positions)

    @staticmethod
    def _begun(flight: Flight, end: End) -> Positions:
        """Items that had begun and are not known to have ended."""
        if end.suspects:
            return Positions.of(sorted(end.suspects))
        return split(flight.chunk.positions, flight.started)[0]

    def _lost_values(self, flight: Flight, end: End, now: float) -> None:
        """All has run, but some items have neither receipt nor failure: storage failed."""
        for stage, node in enumerate(flight.nodes):
            left = flight.running(stage)
            if stage and left.runs:
                ready = flight.nodes[stage - 1].items.select(left, *GOOD)
                node.items.move(without(left, ready), ItemState.PENDING)
                left = ready
            for position in left:
                cause = end.cause or "its worker told neither a value nor an error"
                failure = synthetic(flight, stage, position, FailureKind.STORAGE, cause, now)
                self.failed(flight, failure, False, now)

    def _died(self, flight: Flight, end: End, begun: Positions, now: float) -> Positions:
        """Find who killed the child: its own mark says so, or the suspects are tried apart.

        Gives the suspects, if the guilty one is not known.
        """
        first = flight.nodes[0]
        if not flight.told and not begun.runs and end.running is None:
            first.stillborn += 1
            if first.stillborn >= STILLBORN:
                message = f"{STILLBORN} workers in a row died before an item of {first.key!r} began"
                self.abort(first, ExecutorError(f"{message}: {end.cause}"))
            return Positions(())
        guilty = self._guilty(flight, end, begun)
        if guilty is None:
            return begun
        stage, position = guilty
        node, here = flight.nodes[stage], Positions.span(position, position + 1)
        failure = synthetic(flight, stage, position, FailureKind.CRASH, end.cause, now)
        crowded = end.out_of_memory and not flight.chunk.alone  # others took memory, too: no charge
        again = crowded or node.infra_spent.at(position) < node.options.infra_retries
        if again and not node.stopped and self._can_restart(flight, stage, here):
            if not crowded:
                node.infra_spent.add(here)
            self._note(flight, node, failure, ItemState.PENDING)
            self._back(flight, stage, here, counted=True, most=1, alone=end.out_of_memory)
        else:
            self.failed(flight, failure, False, now)
        return Positions(())

    @staticmethod
    def _overlap(flight: Flight, begun: Positions) -> bool:
        """Did several items run at the same time? The mark names the one that began last."""
        if not flight.nodes[0].options.is_async:
            return False
        stages = range(len(flight.nodes))
        return len({p for stage in stages for p in common(flight.running(stage), begun)}) > 1

    def _guilty(self, flight: Flight, end: End, begun: Positions) -> tuple[int, int] | None:
        """(stage, position) of the one item that can have killed its child."""
        open_ = [
            (stage, position)
            for stage in range(len(flight.nodes))
            for position in common(flight.running(stage), begun)
        ]
        alone = {position for _stage, position in open_}
        if end.running is not None and not self._overlap(flight, begun):
            stage, position = end.running
            here = Positions.span(position, position + 1)
            if flight.holds(position) and (
                flight.nodes[stage].items.select(here, ItemState.RUNNING).runs
            ):
                return stage, position
        if len(alone) != 1:
            return None
        ready = [(s, p) for s, p in open_ if not s or flight.nodes[s - 1].items.good(p)]
        return ready[0] if ready else open_[0]


def kept_column(node: Node, positions: Positions, *, inline_limit: int = 1 << 20) -> RefColumn:
    """References to the values of completed items.

    Raises
    ------
    RunError
        They were not kept; says why.
    """
    if node.items.kept(positions) != positions:
        raise RunError(not_kept(node))
    return node.items.column(positions, inline_limit=inline_limit)


def not_kept(node: Node) -> str:
    """Why what needs a node's values cannot run."""
    if not node.options.persist:
        return f"the values of {node.key!r} were not kept (persist_result=False)"
    return (
        f"the values of {node.key!r} were not kept: other tasks have used them, and intermediates "
        "are dropped then. Set intermediates='keep' (HEADRACE_INTERMEDIATES, or the flow's option), "
        "or call all tasks that use them before the flow waits for one"
    )


def synthetic(
    flight: Flight, stage: int, position: int, kind: FailureKind, cause: str, now: float
) -> Failure:
    """The failure of an item whose worker could not tell it."""
    names = {
        FailureKind.CRASH: "headrace.core.errors.TaskCrashed",
        FailureKind.TIMEOUT: "TimeoutError",
        FailureKind.STORAGE: "headrace.core.errors.StorageError",
    }
    return Failure(
        node=flight.nodes[stage].id,
        position=position,
        attempt=flight.attempts[stage],
        kind=kind,
        type_name=names[kind],
        message=cause,
        traceback="",
        exception=None,
        started=flight.began or flight.handed,
        ended=now,
    )


def refusal(end: End) -> BaseException:
    """The typed error with which a worker refused a batch."""
    if end.error is not None:
        try:
            error = pickle.loads(end.error)
        except Exception:  # noqa: BLE001 - its class may be missing here: the text stands in
            return HeadraceError(end.cause)
        if isinstance(error, BaseException):
            return error
    return HeadraceError(end.cause)
