"""What happens to a batch on a worker: the body that every executor runs.

One thread runs the items (an ``async`` task's items share an event loop in it). A second one, the
`_Clerk`, commits what has finished at least every ``flush_seconds``, also while a long item runs,
obeys the control word and reports. User errors become `Failure` records; nothing is raised but
`StaleCodeError`, before anything ran.
"""

from __future__ import annotations

import asyncio
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle

from .errors import AlreadyExistsError, HeadraceError, NotFoundError, UnreachableStoreError
from .interfaces import (
    Batch,
    Encoder,
    End,
    Failure,
    FailureKind,
    LogLine,
    Mark,
    Outcome,
    Positions,
    Receipt,
    Report,
    Sink,
    WorkerInfo,
)
from .shipping import StaleCodeError
from .stages import Cursor, LoadedStage, load_stage
from .tracebacks import failure_of

_POLL_SECONDS = 0.05


class Interrupted(BaseException):
    """Raised inside user code from outside; never seen by users who let BaseException pass."""


class TimeLimit(Interrupted):
    """The running item has passed its time limit."""


class CancelRequest(Interrupted):
    """The batch was asked to end now."""


def run_batch(
    batch: Batch, report: Sink, marks: memoryview, worker: WorkerInfo, *, in_child: bool
) -> None:
    """Run a whole batch in the calling thread; the last report carries its end.

    Parameters
    ----------
    batch
        What to run.
    report
        Takes the reports, in order.
    marks
        The slot's marks, see `Mark`.
    worker
        Who this is.
    in_child
        True in a child process, where this is the main thread: soft time limits use an alarm.

    Raises
    ------
    StaleCodeError
        This process holds other versions of the shipped modules; nothing has run.
    """
    began = time.perf_counter()
    marks[Mark.RUNNING] = -1
    marks[Mark.STARTED] = 0
    try:
        if batch.claim and not _claim(batch, worker):
            report(_last(batch, worker, End(Outcome.DUPLICATE, "another execution holds its claim")))
            return
        stages = [load_stage(batch, index, in_child=in_child) for index in range(len(batch.stages))]
        columns = stages[0].columns(batch)
    except StaleCodeError:
        raise
    except Exception as error:  # whatever loading raises refuses the batch, with its story
        report(_last(batch, worker, _refusal(batch, error, worker)))
        return
    body = _Body(batch, stages, columns, marks, worker, report, in_child=in_child)
    outcome = body.run()
    end = End(outcome, body.lost, seconds=time.perf_counter() - began, suspects=body.unfinished(outcome))
    report(body.report(end))


def _claim(batch: Batch, worker: WorkerInfo) -> bool:
    try:
        batch.store.write(f"claims/{batch.id:08d}", worker.id.encode(), if_absent=True)
    except AlreadyExistsError:
        return False
    return True


def _last(batch: Batch, worker: WorkerInfo, end: End) -> Report:
    return Report(batch.run_id, batch.id, worker, end=end)


def _refusal(batch: Batch, error: Exception, worker: WorkerInfo) -> End:
    key = batch.stages[0].key
    if isinstance(error, NotFoundError):
        error = UnreachableStoreError(
            f"the worker {worker.id} on {worker.host} cannot see {batch.store.url}: {error}. Use a "
            "store that all workers share, such as s3:// or a shared folder: flow(storage=...)."
        )
    elif not isinstance(error, HeadraceError):
        error = HeadraceError(
            f"task {key!r} cannot be loaded on worker {worker.id}: {type(error).__name__}: {error}"
        )
    return End(Outcome.REFUSED, str(error), error=cloudpickle.dumps(error))


class _Body:
    """The items of one batch execution. The calling thread runs them; the clerk reports."""

    def __init__(
        self,
        batch: Batch,
        stages: list[LoadedStage],
        columns: list[list[Any]],
        marks: memoryview,
        worker: WorkerInfo,
        sink: Sink,
        *,
        in_child: bool,
    ) -> None:
        self.batch, self.stages, self.columns = batch, stages, columns
        self.marks, self.worker, self.sink = marks, worker, sink
        self.positions = list(batch.positions)
        self.limit = len(self.positions)
        self.started = 0
        self.cancelled = False
        self.failures: list[Failure] = []
        self.logs: list[LogLine] = []
        self.passed: list[list[int]] = [[] for _ in stages]
        self.returned = Positions(())
        self.lost = ""
        last = len(stages) - 1
        self.encoders: list[Encoder | None] = [
            batch.store.encoder(stage.spec, batch, index)
            if stage.spec.persist or index == last
            else None
            for index, stage in enumerate(stages)
        ]
        self.alarm = in_child and any(s.timeout_seconds for s in batch.stages)
        self.announced = False
        self.reporting = threading.Lock()

    # -------------------------------------------------------------------------------- running

    def run(self) -> Outcome:
        clerk = _Clerk(self)
        clerk.start()
        try:
            with self._alarms():
                if self.stages[0].spec.is_async:
                    asyncio.run(self._run_async())
                else:
                    self._run_sync()
        except CancelRequest:
            self.cancelled = True
        finally:
            self.marks[Mark.RUNNING] = -1
            clerk.stop()
        self._flush_finally()
        if self.cancelled or self.marks[Mark.CONTROL] == 2:
            return Outcome.KILLED
        return Outcome.RECALLED if self.limit < len(self.positions) else Outcome.DONE

    def _run_sync(self) -> None:
        marks, positions = self.marks, self.positions
        cursors = [stage.cursor(self.logs) for stage in self.stages]
        rows = zip(*self.columns, strict=True) if self.columns else iter([()] * len(positions))
        simple = len(self.stages) == 1 and not self.alarm
        call, encoder, cursor = self.stages[0].call, self.encoders[0], cursors[0]
        now_ns, monotonic_ns = time.time_ns, time.monotonic_ns
        with cursor.entered() if simple else _nothing():
            for index, args in enumerate(rows):
                if index >= self.limit:
                    break
                self.started = index + 1
                marks[1] = index
                marks[3] = monotonic_ns()
                marks[4] = index + 1
                if not simple:
                    self._item(index, args, cursors)
                    continue
                position = cursor.position = positions[index]
                start = now_ns()
                try:
                    value = call(args)
                    encoder.add(position, value, start, now_ns())  # type: ignore[union-attr]
                except TimeLimit as error:
                    self._fail(0, position, error, start)
                except CancelRequest:
                    raise
                except BaseException as error:  # noqa: BLE001 - user code may raise anything
                    self._fail(0, position, error, start)
                if marks[0] == 2:
                    break

    def _item(self, index: int, args: Any, cursors: list[Cursor]) -> None:
        """One item through all stages, with the soft time limit of each."""
        position = self.positions[index]
        for number, (stage, cursor) in enumerate(zip(self.stages, cursors, strict=True)):
            start = time.time_ns()
            self.marks[Mark.STAGE] = number
            self.marks[Mark.SINCE_NS] = time.monotonic_ns()
            limit = self.batch.stages[number].timeout_seconds if self.alarm else None
            cursor.position = position
            try:
                with cursor.entered():
                    try:
                        if limit:
                            signal.setitimer(signal.ITIMER_REAL, limit)
                        value = stage.call(args)
                        self._keep(number, position, value, start)
                    finally:
                        if limit:
                            signal.setitimer(signal.ITIMER_REAL, 0)
            except CancelRequest:
                raise
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                self._fail(number, position, error, start)
                return
            args = (value,)
        if self.marks[Mark.CONTROL] == 2:
            raise CancelRequest

    async def _run_async(self) -> None:
        cursors = [stage.cursor(self.logs) for stage in self.stages]
        rows = zip(*self.columns, strict=True) if self.columns else iter([()] * len(self.positions))
        todo = enumerate(rows)

        async def work() -> None:
            for index, args in todo:
                if index >= self.limit or self.marks[Mark.CONTROL] == 2:
                    return
                self.started = max(self.started, index + 1)
                self.marks[Mark.STARTED] += 1
                self.marks[Mark.RUNNING] = index
                self.marks[Mark.SINCE_NS] = time.monotonic_ns()
                await self._async_item(index, args, cursors)

        width = max(1, min(self.stages[0].spec.concurrency, len(self.positions)))
        workers = [asyncio.ensure_future(work()) for _ in range(width)]
        waiting = asyncio.gather(*workers)
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=_POLL_SECONDS)
                if self.marks[Mark.CONTROL] == 2 and not waiting.done():
                    waiting.cancel()
                    await asyncio.wait([waiting], timeout=self.batch.grace_seconds)
                    raise CancelRequest
            waiting.result()
        finally:
            for worker in workers:
                worker.cancel()

    async def _async_item(self, index: int, args: Any, cursors: list[Cursor]) -> None:
        position = self.positions[index]
        for number, stage in enumerate(self.stages):
            start = time.time_ns()
            limit = self.batch.stages[number].timeout_seconds
            cursor = cursors[number].at(position)
            try:
                with cursor.entered():
                    awaitable = stage.call(args)
                    value = await (asyncio.wait_for(awaitable, limit) if limit else awaitable)
                self._keep(number, position, value, start)
            except asyncio.CancelledError:
                raise
            except TimeoutError as error:
                late = limit is not None and time.time_ns() - start >= limit * 1e9
                self._fail(number, position, TimeLimit() if late else error, start)
                return
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                self._fail(number, position, error, start)
                return
            args = (value,)

    def _keep(self, number: int, position: int, value: Any, start: int) -> None:
        encoder = self.encoders[number]
        if encoder is None:
            self.passed[number].append(position)
        else:
            encoder.add(position, value, start, time.time_ns())

    def _fail(self, number: int, position: int, error: BaseException, start: int) -> None:
        stage = self.batch.stages[number]
        if isinstance(error, TimeLimit):
            failure = failure_of(stage, position, error, start, FailureKind.TIMEOUT)
        else:
            failure = failure_of(stage, position, error, start)
        self.failures.append(failure)

    @contextmanager
    def _alarms(self) -> Iterator[None]:
        """In a child's main thread, an alarm raises `TimeLimit` inside the item that is late."""
        if not self.alarm:
            yield
            return

        def late(_signal: int, _frame: Any) -> None:
            raise TimeLimit

        before = signal.signal(signal.SIGALRM, late)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    # -------------------------------------------------------------------------------- reporting

    def pending_bytes(self) -> int:
        return sum(encoder.pending_bytes for encoder in self.encoders if encoder is not None)

    def recall(self) -> None:
        """Called by the clerk: start no further item; what will not start is handed back.

        An item that the running thread is just about to start is within the limit, so whatever is
        beyond it never starts here.
        """
        if self.limit < len(self.positions):
            return
        self.limit = min(self.started + 1, len(self.positions))
        self.returned = Positions.of(self.positions[self.limit :])

    def flush(self) -> tuple[Receipt, ...]:
        receipts: list[Receipt] = []
        for encoder in self.encoders:
            if encoder is not None:
                receipts.extend(encoder.flush())
        return tuple(receipts)

    def report(self, end: End | None = None, receipts: tuple[Receipt, ...] = ()) -> Report:
        """What happened since the last report. Receipts go first: a failure may stand on one."""
        failures, logs, passed, returned = self._take()
        worker = None if self.announced else self.worker
        self.announced = True
        return Report(
            self.batch.run_id,
            self.batch.id,
            worker,
            receipts or self._final_receipts,
            failures,
            logs,
            returned,
            passed,
            self.marks[Mark.STARTED],
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 if end else 0,
            end,
        )

    _final_receipts: tuple[Receipt, ...] = ()

    def _take(self) -> Any:
        failures = _drain(self.failures)
        logs = _drain(self.logs)
        passed = tuple(
            (stage.node, Positions.of(sorted(_drain(done))))
            for stage, done in zip(self.batch.stages, self.passed, strict=True)
            if done
        )
        returned, self.returned = self.returned, Positions(())
        return failures, logs, passed, returned

    def _flush_finally(self) -> None:
        """The last flush. What cannot be written is told in the end, as the items' failure."""
        try:
            self._final_receipts = self.flush()
        except Exception as error:  # the store's last word, after its own retries
            self.lost = f"{type(error).__name__}: {error}"

    def unfinished(self, outcome: Outcome) -> tuple[int, ...]:
        """Positions that had started when a kill came; the driver knows which of them ended."""
        return tuple(self.positions[: self.started]) if outcome is Outcome.KILLED else ()


class _Clerk(threading.Thread):
    """Commits and reports beside the running items, and obeys the control word."""

    def __init__(self, body: _Body) -> None:
        super().__init__(name="headrace-clerk", daemon=True)
        self.body = body
        self.ending = threading.Event()

    def stop(self) -> None:
        self.ending.set()
        self.join()

    def run(self) -> None:
        body, batch = self.body, self.body.batch
        flushed = time.monotonic()
        while not self.ending.wait(_POLL_SECONDS):
            if body.marks[Mark.CONTROL] == 1:
                body.recall()
            now = time.monotonic()
            due = now - flushed >= batch.flush_seconds or body.pending_bytes() >= batch.flush_bytes
            if due:
                flushed = now
                self._report(body)
            elif not body.announced or body.returned.runs:
                body.sink(body.report())

    def _report(self, body: _Body) -> None:
        try:
            receipts = body.flush()
        except Exception:  # noqa: BLE001 - stays pending: the last flush tells the story
            receipts = ()
        body.sink(body.report(receipts=receipts))


def _drain(values: list[Any]) -> tuple[Any, ...]:
    """Take what is in a list that another thread appends to."""
    count = len(values)
    taken = tuple(values[:count])
    del values[:count]
    return taken


@contextmanager
def _nothing() -> Iterator[None]:
    yield
