"""Is a failed attempt tried again, and when? The user's own rules, asked on the driver."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from .calls import Call, TaskOptions, TaskRun
from .interfaces import Failure, FailureKind, Outcome, Report
from .outcomes import from_failure, name_of
from .returns import synthetic
from .states import Failed, TimedOut

if TYPE_CHECKING:
    from .engine import Engine
    from .nodes import Node


def delay_of(options: TaskOptions, rng: random.Random) -> Callable[[int], float]:
    """Seconds before the n-th retry (from 1).

    One number, a list whose last repeats, or a function of the number of retries that gives either;
    jitter adds up to its factor, as in Prefect.
    """
    given = options.retry_delay_seconds
    if callable(given):
        given = given(options.retries)
    delays: Sequence[float] = [given] if isinstance(given, (int, float)) else list(given)

    def delay(retry: int) -> float:
        if not delays:
            return 0.0
        base = float(delays[min(retry, len(delays)) - 1])
        factor = options.retry_jitter_factor
        return base * (1 + factor * rng.random()) if factor else base

    return delay


Verdicts: TypeAlias = "Mapping[tuple[int, int], bool]"
"""(node, position) -> may it be tried again, where the user's own condition was asked."""


class Judge:
    """Asks the tasks' ``retry_condition_fn``, off the engine's thread and in the reports' order.

    Where no task has one, reports pass straight through.
    """

    def __init__(self, engine: Engine, judged: Callable[[Report, Verdicts], None]) -> None:
        self.engine, self.judged = engine, judged
        self.inbox: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    def know(self, call: Call) -> None:
        """A call is about to be added; before any report of it."""
        if call.options.retry_condition_fn is not None and self.thread is None:
            self.thread = threading.Thread(target=self._work, name="headrace-judge", daemon=True)
            self.thread.start()

    def take(self, report: Report) -> None:
        """Take a report, and pass it on with the verdicts on its failures; any thread."""
        if self.thread is None:
            self.judged(report, {})
        else:
            self.inbox.put(report)

    def close(self) -> None:
        """End the thread."""
        if self.thread is not None:
            self.inbox.put(None)
            self.thread.join()

    def _work(self) -> None:
        while (report := self.inbox.get()) is not None:
            failures = [*report.failures, *self._timeout(report)]
            verdicts = {(f.node, f.position): self._may_retry(f) for f in failures}
            self.judged(report, verdicts)

    def _timeout(self, report: Report) -> Iterator[Failure]:
        """The failure of an item whose child was killed because it was late."""
        flight, end = self.engine.machine.flights.get(report.batch), report.end
        if flight is None or end is None or end.outcome is not Outcome.TIMEOUT:
            return
        if end.running is not None:
            yield synthetic(flight, *end.running, FailureKind.TIMEOUT, end.cause, time.time())

    def _may_retry(self, failure: Failure) -> bool:
        node = self.engine.nodes[failure.node]
        call = self.engine.calls[node]
        condition = call.options.retry_condition_fn
        if condition is None:
            return True
        error = from_failure(failure, name_of(node, failure.position))
        made = TimedOut if failure.kind is FailureKind.TIMEOUT else Failed
        state = made(f"{failure.type_name}: {failure.message}", error)
        run = task_run(self.engine, node, failure.position, failure.attempt)
        try:
            return bool(condition(call.task, run, state))
        except BaseException as raised:  # noqa: BLE001 - user code: a broken condition must not break the run
            text = f"retry_condition_fn of {node.key!r} raised: {raised!r}"
            self.engine.log(logging.ERROR, "headrace.task_runs", text)
            return False


def task_run(engine: Engine, node: Node, position: int, attempt: int) -> TaskRun:
    """What hooks and conditions are told of an item."""
    options: Any = engine.calls[node].options
    return TaskRun(
        id=f"{engine.run_id}/{node.key}/{position}",
        name=node.key if node.single else f"{node.key}[{position}]",
        task_name=options.name,
        flow_run_id=engine.run_id,
        position=position,
        run_count=attempt,
        tags=options.tags,
    )
