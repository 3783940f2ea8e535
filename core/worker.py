"""What happens to a batch on a worker: the body that every executor runs.

One thread runs the items (an ``async`` task's items share an event loop in it). A second one, the
`_Clerk`, commits what has finished at least every ``flush_seconds``, also while a long item runs,
obeys the control word and reports. User errors become `Failure` records; nothing is raised but
`StaleCodeError`, before anything ran.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import cloudpickle

from .context import TASK_RUN, Cursor
from .errors import AlreadyExistsError, HeadraceError, NotFoundError, UnreachableStoreError
from .identity import salted
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
from .logs import logged_prints
from .resident import ResidentMemory
from .shipping import StaleCodeError
from .stages import LoadedStage, load_stage, materialised
from .tracebacks import Interner, failure_of

_POLL_SECONDS = 0.05

Todo: TypeAlias = "Iterator[tuple[int, tuple[int, tuple[Any, ...]]]]"
"""(index, (position, mapped arguments)) of the items that have not started."""
Step: TypeAlias = "tuple[int, Callable[..., Any], Cursor, Callable[[int, Any, int, int], None], float | None, bool]"
"""Stage, function, context, what takes the value, time limit, and is there a stage behind it?"""


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
    KeyboardInterrupt
        The user pressed Ctrl-C while this, the main thread of the driver, ran an item.
    """
    marks[Mark.RUNNING] = -1
    marks[Mark.STARTED] = 0
    stages: list[LoadedStage] = []
    try:
        if batch.claim and not _claim(batch, worker):
            report(
                _last(batch, worker, End(Outcome.DUPLICATE, "another execution holds its claim"))
            )
            return
        for index in range(len(batch.stages)):  # one by one: the error tells which stage it was
            stages.append(load_stage(batch, index, in_child=in_child))  # noqa: PERF401
    except (StaleCodeError, Interrupted):
        raise
    except BaseException as error:  # noqa: BLE001 - modules and setup are user code
        report(_last(batch, worker, _refusal(batch, len(stages), error, worker)))
        return
    began = time.perf_counter()  # what is loaded once per process tells nothing of the items
    try:
        columns, ids = stages[0].columns(batch)
    except Interrupted:
        raise
    except BaseException as error:  # noqa: BLE001 - unpickling an argument runs user code
        report(_unloadable(batch, worker, error))
        return
    body = _Body(batch, stages, columns, ids, marks, worker, report, in_child=in_child)
    outcome = body.run()
    last = body.committed(End(outcome, suspects=body.unfinished(outcome)))
    assert last.end is not None
    report(replace(last, end=replace(last.end, seconds=time.perf_counter() - began)))


def _claim(batch: Batch, worker: WorkerInfo) -> bool:
    try:
        batch.store.write(f"claims/{batch.id:08d}", worker.id.encode(), if_absent=True)
    except AlreadyExistsError:
        return False
    return True


def _last(batch: Batch, worker: WorkerInfo, end: End) -> Report:
    return Report(batch.run_id, batch.id, worker, end=end)


def _unloadable(batch: Batch, worker: WorkerInfo, error: BaseException) -> Report:
    """Arguments do not load: the item's failure if it is one, else each is to be tried apart."""
    if len(batch.positions) > 1:
        cause = f"arguments could not be loaded: {type(error).__name__}: {error}"
        return _last(batch, worker, End(Outcome.RECALLED, cause, tuple(batch.positions)))
    (position,) = batch.positions
    stage = batch.stages[0]
    failure = failure_of(stage, position, error, time.time_ns(), FailureKind.ARGUMENT)
    return replace(_last(batch, worker, End(Outcome.DONE)), failures=(failure,))


def _refusal(batch: Batch, stage: int, error: BaseException, worker: WorkerInfo) -> End:
    key = batch.stages[stage].key
    if isinstance(error, NotFoundError):
        error = UnreachableStoreError(
            f"the worker {worker.id} on {worker.host} cannot see {batch.store.url}: {error}. Use a "
            "store that all workers share, such as s3:// or a shared folder: flow(storage=...)."
        )
    elif not isinstance(error, HeadraceError):
        error = HeadraceError(
            f"task {key!r} cannot be loaded on worker {worker.id}: {type(error).__name__}: {error}"
        )
    return End(Outcome.REFUSED, str(error), running=(stage, -1), error=cloudpickle.dumps(error))


class _Body:
    """The items of one batch execution. The calling thread runs them; the clerk reports."""

    def __init__(
        self,
        batch: Batch,
        stages: list[LoadedStage],
        columns: list[list[Any]],
        ids: bytes,
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
        self.cancelled = False
        self.failures: list[Failure] = []
        self.logs: list[LogLine] = []
        self.passed: list[list[int]] = [[] for _ in stages]
        self.returned = Positions(())
        self.lost = ""
        last = len(stages) - 1
        self.encoders: list[Encoder | None] = []
        for index, stage in enumerate(stages):
            ids = salted(ids, batch.stages[index].salt)
            keeps = stage.stage.persist or index == last
            self.encoders.append(
                batch.store.encoder(stage.spec, batch, index, ids) if keeps else None
            )
        self.at_keyboard = not in_child and threading.current_thread() is threading.main_thread()
        self.alarm = in_child and any(s.timeout_seconds for s in batch.stages)
        self.announced = False
        self.receipts: list[Receipt] = []
        """Committed and not told yet."""
        self.ended = 0
        """Items that are over; of those that run one by one."""
        self.known = Interner()
        self.memory = ResidentMemory() if in_child else None

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
        except TimeLimit:  # too late: all items had ended
            pass
        finally:
            self.marks[Mark.RUNNING] = -1
            clerk.stop()
        if self.cancelled or self.marks[Mark.CONTROL] == 2:
            return Outcome.KILLED
        return Outcome.RECALLED if self.limit < len(self.positions) else Outcome.DONE

    def _run_sync(self) -> None:
        """Run item by item. A time limit may strike between two of them: then the loop goes on."""
        rows = zip(*self.columns, strict=True) if self.columns else iter([()] * len(self.positions))
        todo = enumerate(zip(self.positions, rows, strict=True))
        steps = list(map(self._step, range(len(self.stages))))
        before = TASK_RUN.set(None)
        try:
            with self._prints():
                while True:
                    try:
                        return self._run_items(todo, steps)
                    except TimeLimit as error:
                        started = self.marks[Mark.STARTED]
                        if self.ended < started:
                            self.ended = started
                            self._fail(0, self.positions[started - 1], error, time.time_ns())
        finally:
            TASK_RUN.reset(before)

    def _step(self, number: int) -> Step:
        """What is done with an item in one stage, looked up once for all items."""
        stage, encoder = self.stages[number], self.encoders[number]
        seconds = self.batch.stages[number].timeout_seconds if self.alarm else None
        keep = self._passing(number) if encoder is None else encoder.add
        inner = number < len(self.stages) - 1
        return number, stage.spread, stage.cursor(self.logs), keep, seconds, inner

    def _passing(self, number: int) -> Callable[[int, Any, int, int], None]:
        passed = self.passed[number]
        return lambda position, _value, _started, _ended: passed.append(position)

    @contextmanager
    def _prints(self) -> Generator[None]:
        if any(stage.spec.log_prints for stage in self.stages):
            with logged_prints():
                yield
        else:
            yield

    def _run_items(self, todo: Todo, steps: list[Step]) -> None:  # noqa: C901 - in one for speed
        """Every item through all stages; each line here is paid for by each item.

        Of the marks ``SINCE_NS`` comes first: nobody must see an item begin when the last one did.
        """
        marks, enter, clock, alarm = self.marks, TASK_RUN.set, time.monotonic_ns, signal.setitimer
        epoch, chain = time.time_ns() - clock(), len(steps) > 1
        enter(steps[0][2])
        for index, (position, args) in todo:
            if index >= self.limit:
                return
            marks[4] = index + 1
            for number, call, cursor, keep, seconds, inner in steps:
                marks[3] = start = clock()
                if chain:
                    marks[2] = number
                    enter(cursor)
                marks[1] = index
                cursor.position = position
                try:
                    if seconds:
                        alarm(signal.ITIMER_REAL, seconds)
                    value = call(*args)
                    if inner:
                        value = materialised(value)
                    keep(position, value, epoch + start, epoch + clock())
                    if seconds:
                        alarm(signal.ITIMER_REAL, 0)
                except CancelRequest:
                    raise
                except BaseException as error:  # noqa: BLE001 - user code may raise anything
                    if seconds:
                        alarm(signal.ITIMER_REAL, 0)
                    self._fail(number, position, error, epoch + start)
                    break
                if inner:
                    args = (value,)  # noqa: PLW2901 - the next stage's
            self.ended = index + 1
            if marks[0] == 2:
                return

    async def _run_async(self) -> None:
        cursors = [stage.cursor(self.logs) for stage in self.stages]
        rows = zip(*self.columns, strict=True) if self.columns else iter([()] * len(self.positions))
        todo = enumerate(zip(self.positions, rows, strict=True))

        async def work() -> None:
            for index, (position, args) in todo:
                if index >= self.limit or self.marks[Mark.CONTROL] == 2:
                    return
                self.marks[Mark.STARTED] += 1
                self.marks[Mark.RUNNING] = index
                self.marks[Mark.SINCE_NS] = time.monotonic_ns()
                await self._async_item(position, args, cursors)

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
        except asyncio.CancelledError:
            raise CancelRequest from None
        finally:
            for worker in workers:
                worker.cancel()
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # seen: it came from a worker that was cancelled

    async def _async_item(self, position: int, args: Any, cursors: list[Cursor]) -> None:
        last = len(self.stages) - 1
        for number, stage in enumerate(self.stages):
            start = time.time_ns()
            limit = self.batch.stages[number].timeout_seconds
            cursor = cursors[number].at(position)
            try:
                with cursor.entered():
                    awaitable = stage.spread(*args)
                    value = await (asyncio.wait_for(awaitable, limit) if limit else awaitable)
                    if number < last:
                        value = materialised(value)
                    self._keep(number, position, value, start)
            except CancelRequest:
                raise
            except asyncio.CancelledError as error:
                if self.marks[Mark.CONTROL] == 2:
                    raise
                self._fail(number, position, error, start)  # the user's own: something it awaited
                return
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
        if isinstance(error, KeyboardInterrupt) and self.at_keyboard:
            raise error  # the user's, in the thread that waits (inline): it ends the run
        stage = self.batch.stages[number]
        if isinstance(error, TimeLimit):
            failure = failure_of(stage, position, error, start, FailureKind.TIMEOUT)
        else:
            failure = failure_of(stage, position, error, start)
        self.failures.append(self.known.shared(failure))

    @contextmanager
    def _alarms(self) -> Generator[None]:
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
        self.limit = min(self.marks[Mark.STARTED] + 1, len(self.positions))
        self.returned = Positions.of(self.positions[self.limit :])

    def flush(self) -> None:
        """Commit what is pending; what was committed before something raised is told all the same."""
        for encoder in self.encoders:
            if encoder is not None:
                self.receipts.extend(encoder.flush())

    def committed(self, end: End | None = None) -> Report:
        """Commit, and tell all that happened since the last report.

        A failure or a passed value in a chain stands on values of the stages before it. So it is
        taken before the flush, and told only if that went well, or in the end.
        """
        failures, passed = self._outcomes()
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - the store's last word, after its own retries
            if end is None:
                self.failures[:0] = failures
                for (_node, done), kept in zip(passed, self.passed, strict=True):
                    kept[:0] = done
                return self.report()
            self.lost = f"{type(error).__name__}: {error}"
            end = replace(end, cause=self.lost)
        return self.report(failures, passed, end)

    def report(
        self,
        failures: Sequence[Failure] = (),
        passed: Sequence[tuple[int, Sequence[int]]] = (),
        end: End | None = None,
    ) -> Report:
        """Receipts, logs and what was handed back since the last report, beside what is given."""
        receipts, logs = _drain(self.receipts), _drain(self.logs)
        returned, self.returned = self.returned, Positions(())
        worker = None if self.announced else self.worker
        self.announced = True
        return Report(
            self.batch.run_id,
            self.batch.id,
            worker,
            receipts,
            tuple(failures),
            logs,
            returned,
            tuple((node, Positions.of(sorted(done))) for node, done in passed if done),
            self.marks[Mark.STARTED],
            *(self.memory.told() if end and self.memory is not None else (0, 0)),
            end,
        )

    def _outcomes(self) -> tuple[tuple[Failure, ...], list[tuple[int, tuple[int, ...]]]]:
        failures = _drain(self.failures)
        nodes = [stage.node for stage in self.batch.stages]
        return failures, list(zip(nodes, map(_drain, self.passed), strict=True))

    def unfinished(self, outcome: Outcome) -> tuple[int, ...]:
        """Positions that had started when a kill came; the driver knows which of them ended."""
        return (
            tuple(self.positions[: self.marks[Mark.STARTED]]) if outcome is Outcome.KILLED else ()
        )


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
                body.sink(body.committed())
                flushed = time.monotonic()
            elif not body.announced or body.returned.runs:
                body.sink(body.report())


def _drain(values: list[Any]) -> tuple[Any, ...]:
    """Take what is in a list that another thread appends to."""
    count = len(values)
    taken = tuple(values[:count])
    del values[:count]
    return taken
