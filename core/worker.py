"""What happens to a batch on a worker: the body that every executor runs.

One thread runs the items (an ``async`` task's items share an event loop in it). A second one, the
`_Clerk`, commits what has finished at least every ``flush_seconds``, also while a long item runs,
obeys the control word and reports. User errors become `Failure` records; nothing is raised but
`StaleCodeError`, before anything ran.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import compress, repeat
from operator import is_not, length_hint
from typing import Any, ClassVar, NamedTuple, TypeAlias

import cloudpickle
import numpy as np

from . import forks
from .checkpoints import Checkpoints
from .context import TASK_RUN, Cursor, CursorStage
from .errors import (
    AlreadyExistsError,
    HeadraceError,
    NotFoundError,
    Terminated,
    UnreachableStoreError,
)
from .identity import salted
from .interfaces import (
    Batch,
    Encoder,
    End,
    Failure,
    FailureKind,
    Inputs,
    LogLine,
    Mark,
    Outcome,
    Positions,
    Receipt,
    Report,
    Sink,
    WorkerInfo,
)
from .items import indices, runs_of
from .logs import logged_prints
from .resident import ResidentMemory
from .shipping import StaleCodeError
from .stages import SCALARS, LoadedStage, load_stage, materialised
from .tracebacks import Interner, failure_of

_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0

_NOTHING = object()
_NO_TYPES: frozenset[type] = frozenset()
_NAMES = frozenset({str})

Todo: TypeAlias = "Iterator[tuple[int, int, Any]]"
"""(index, position, mapped argument, or the tuple of several) of the items that have not started."""


class _Rarely(NamedTuple):
    """What the loop over items needs of a stage for some of them only."""

    place: CursorStage
    form: Callable[..., Any]
    """The function, for arguments of any kind."""
    keep: Callable[[int, Any, int, int], None]
    """Takes values of any kind."""
    rows: bool
    """Dicts of plain values are put like plain values."""
    inner: bool
    """There is a stage behind it."""


_Step: TypeAlias = (
    "tuple[int, Callable[..., Any], frozenset[type], list[Any], array[int], float | None, _Rarely]"
)
"""A stage as the loop over items needs it, looked up once for all: its number, its function for plain arguments, the
types whose values are put into the list after it, when calls ended, a time limit to see to, and the rest."""

_TIMES = "Q"
"""How arrays hold nanoseconds: unsigned, which `array` takes from an int faster than signed."""


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
            "store that all workers share, such as s3:// or a shared folder: flow(storage=...). If "
            "they do share it, it has vanished: removed, or its disk is not mounted any more."
        )
    elif not isinstance(error, HeadraceError):
        error = HeadraceError(
            f"task {key!r} cannot be loaded on worker {worker.id}: {type(error).__name__}: {error}"
        )
    return End(Outcome.REFUSED, str(error), running=(stage, -1), error=cloudpickle.dumps(error))


class _Finished:
    """One stage's plain values by the item's index in the batch, and when each of its calls ended."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [_NOTHING] * size
        self.ended = array(_TIMES, bytes(8 * size))
        self.taken = 0

    def take(self, started: int) -> tuple[int, list[Any]]:
        """The first index and the values that have come in, with holes; the last may still run."""
        first, stop = self.taken, min(started, len(self.values))
        if stop and self.values[stop - 1] is _NOTHING:
            stop -= 1
        if stop <= first:
            return first, []
        self.taken = stop
        values = self.values[first:stop]
        self.values[first:stop] = [_NOTHING] * len(values)
        return first, values


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
        self.places = indices(batch.positions)
        runs = batch.positions.runs
        self.positions: Sequence[int] = range(*runs[0]) if len(runs) == 1 else self.places.tolist()
        self.limit = len(self.positions)
        self.cancelled = False
        self.failures: list[Failure] = []
        self.logs: list[LogLine] = []
        self.passed: list[list[int]] = [[] for _ in stages]
        self.returned = Positions(())
        self.lost = ""
        last = len(stages) - 1
        inputs = stages[0].inputs
        self.encoders: list[Encoder | None] = []
        ids_of: list[bytes] = []
        for index, stage in enumerate(stages):
            ids = salted(ids, batch.stages[index].salt)
            ids_of.append(ids)
            keeps = stage.stage.persist or index == last
            if index:
                before = (*inputs.through, stages[index - 1].stage.key)
                inputs = Inputs((*inputs.common, *stage.origins), inputs.items, before)
            self.encoders.append(
                batch.store.encoder(stage.spec, batch, index, ids, inputs) if keeps else None
            )
        self.checkpoints = Checkpoints(batch, self.positions, ids_of)
        self.epoch = time.time_ns() - time.monotonic_ns()
        """What makes epoch times of the clock's."""
        size = 0 if stages[0].spec.is_async else self.limit
        self.begun = array(_TIMES, bytes(8 * size))
        """On the clock; by the item's index, of items that run one by one."""
        self.finished = [_Finished(size) for _ in stages]
        self.at_keyboard = not in_child and threading.current_thread() is threading.main_thread()
        self.alarm = in_child and any(s.timeout_seconds for s in batch.stages)
        self.announced = False
        self.receipts: list[Receipt] = []
        """Committed and not told yet."""
        self.ended = 0
        """Items that are over; of those that run one by one."""
        self.known = Interner()
        self.memory = ResidentMemory() if in_child else None
        self.over = threading.Event()
        self.telling = threading.Lock()
        """Held by the clerk while it commits and reports."""

    # -------------------------------------------------------------------------------- running

    def run(self) -> Outcome:
        clerk = _Clerk.beside(self)
        try:
            with self._alarms():
                try:
                    if self.stages[0].spec.is_async:
                        asyncio.run(self._run_async())
                    else:
                        self._run_sync()
                finally:
                    self._rest()
        except CancelRequest:
            self.cancelled = True
        except TimeLimit:  # too late: all items had ended
            pass
        finally:
            self._rest()  # what struck may have cut the first one short
            clerk.leave(self)
        if self.cancelled or self.marks[Mark.CONTROL] == 2:
            return Outcome.KILLED
        return Outcome.RECALLED if self.limit < len(self.positions) else Outcome.DONE

    def _rest(self) -> None:
        """No item runs any more, and the marks say so: from here on nobody interrupts this thread."""
        self.marks[Mark.STARTED] = self.started
        self.marks[Mark.RUNNING] = -1
        _let_come()

    def _run_sync(self) -> None:
        """Run item by item. A time limit may strike between two of them: then the loop goes on."""
        indexes = iter(range(len(self.positions)))
        todo = zip(indexes, self.positions, self._arguments(), strict=True)
        steps = list(map(self._step, range(len(self.stages))))
        cursor = self.stages[0].cursor(self.logs, self.checkpoints)
        before = TASK_RUN.set(cursor)
        try:
            with self._prints():
                while True:
                    try:
                        return self._run_items(todo, steps, cursor)
                    except TimeLimit as error:
                        started = len(self.positions) - length_hint(indexes)
                        if self.ended < started:
                            place = self.positions[started - 1]
                            self._fail(0, place, error, time.time_ns(), started)
        finally:
            TASK_RUN.reset(before)

    def _arguments(self) -> Iterable[Any]:
        """What each item gets: the value of its one column, or the tuple of several columns'."""
        if len(self.columns) == 1:
            return self.columns[0]
        return zip(*self.columns, strict=True) if self.columns else repeat((), len(self.positions))

    def _call(self, number: int) -> Callable[[Any], Any]:
        """A stage's function, of what `_arguments` gives or of the value of the stage before it."""
        spread = self.stages[number].spread
        return spread if number or len(self.columns) == 1 else partial(_call_with, spread)

    @property
    def started(self) -> int:
        """Items started so far; where they run one by one, the one that runs tells it."""
        return max(self.marks[Mark.STARTED], self.marks[Mark.RUNNING] + 1)

    def _step(self, number: int) -> _Step:
        stage, encoder, finished = self.stages[number], self.encoders[number], self.finished[number]
        passed = self.passed[number]
        seconds = self.batch.stages[number].timeout_seconds if self.alarm else None
        as_they_are = encoder is not None and stage.spec.schema is None
        rarely = _Rarely(
            stage.place,
            stage.form,
            (lambda position, *_: passed.append(position)) if encoder is None else encoder.add,
            as_they_are,
            number < len(self.stages) - 1,
        )
        plain = SCALARS if as_they_are else _NO_TYPES
        return number, self._call(number), plain, finished.values, finished.ended, seconds, rarely

    @contextmanager
    def _prints(self) -> Generator[None]:
        if any(stage.spec.log_prints for stage in self.stages):
            with logged_prints():
                yield
        else:
            yield

    def _run_items(  # noqa: C901 - in one for speed
        self, todo: Todo, steps: list[_Step], cursor: Cursor
    ) -> None:
        """Every item through all stages; each line here is paid for by each item.

        Of the marks ``SINCE_NS`` comes first: nobody must see an item begin when the last one did. It
        is for time limits alone.
        The end of one call is the start of the next. A plain value is put by the item's index, last
        of all, so neither a thread nor a signal finds half of what is told of it.
        """
        marks, begun, epoch = self.marks, self.begun, self.epoch
        clock, alarm = time.monotonic_ns, signal.setitimer
        are_plain, are_names = SCALARS.issuperset, _NAMES.issuperset
        chain, first = len(steps) > 1, steps[0][6].place
        timed = any(stage.timeout_seconds for stage in self.batch.stages)
        start = clock()
        for index, position, value in todo:
            if marks[0] and (marks[0] == 2 or index >= self.limit):
                return
            begun[index] = start
            if timed:
                marks[3] = start
            if chain:
                marks[2] = 0
                cursor.place = first
            marks[1] = index
            cursor.position = position
            formed = False
            for number, call, plain, values, ended, seconds, rarely in steps:
                if number:
                    if timed:
                        marks[3] = start
                    marks[2] = number
                    cursor.place = rarely.place
                    if formed:
                        call = rarely.form  # noqa: PLW2901 - for this item
                try:
                    if seconds:
                        alarm(signal.ITIMER_REAL, seconds)
                    value = call(value)  # noqa: PLW2901 - the next stage's argument
                    kind = type(value)
                    if kind in plain:
                        formed = False
                        ended[index] = end = clock()
                        values[index] = value
                    elif (
                        kind is dict
                        and rarely.rows
                        and are_plain(map(type, value.values()))
                        and are_names(map(type, value))
                    ):
                        formed = True
                        ended[index] = end = clock()
                        values[index] = value.copy()
                    else:
                        formed = True
                        if rarely.inner:
                            value = materialised(value)  # noqa: PLW2901 - as above
                        rarely.keep(position, value, epoch + start, epoch + clock())
                        ended[index] = end = clock()
                    if seconds:
                        alarm(signal.ITIMER_REAL, 0)
                except CancelRequest:
                    raise
                except BaseException as error:  # noqa: BLE001 - user code may raise anything
                    if seconds:
                        alarm(signal.ITIMER_REAL, 0)
                    self._fail(number, position, error, epoch + start, index + 1)
                    start = clock()
                    break
                start = end
            if timed:
                self.ended = index + 1

    async def _run_async(self) -> None:
        cursors = [stage.cursor(self.logs, self.checkpoints) for stage in self.stages]
        todo = enumerate(zip(self.positions, self._arguments(), strict=True))

        async def work() -> None:
            for index, (position, value) in todo:
                if index >= self.limit or self.marks[Mark.CONTROL] == 2:
                    return
                self.marks[Mark.STARTED] += 1
                await self._async_item(index, position, value, cursors)

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

    @contextmanager
    def _marked(self, index: int, number: int) -> Generator[None]:
        """The marks name the stage that began last, and its time while it runs.

        When that is over and none has begun since, no limit is due: others may have longer ones.
        """
        marks = self.marks
        marks[Mark.SINCE_NS] = time.monotonic_ns()
        marks[Mark.STAGE] = number
        marks[Mark.RUNNING] = index
        try:
            yield
        finally:
            if (marks[Mark.RUNNING], marks[Mark.STAGE]) == (index, number):
                marks[Mark.SINCE_NS] = 0

    async def _async_item(
        self, index: int, position: int, value: Any, cursors: list[Cursor]
    ) -> None:
        last = len(self.stages) - 1
        for number, stage in enumerate(self.stages):
            start = time.time_ns()
            limit = self.batch.stages[number].timeout_seconds
            cursor = cursors[number].at(position)
            try:
                with cursor.entered(), self._marked(index, number):
                    awaitable = (stage.form if number else self._call(0))(value)
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

    def _keep(self, number: int, position: int, value: Any, start: int) -> None:
        encoder = self.encoders[number]
        if encoder is None:
            self.passed[number].append(position)
        else:
            encoder.add(position, value, start, time.time_ns())

    def _fail(
        self, number: int, position: int, error: BaseException, start: int, ended: int = 0
    ) -> None:
        if isinstance(error, (KeyboardInterrupt, Terminated)) and self.at_keyboard:
            raise error  # the user's, in the thread that waits (inline): it ends the run
        stage = self.batch.stages[number]
        if isinstance(error, TimeLimit):
            failure = failure_of(stage, position, error, start, FailureKind.TIMEOUT)
        else:
            failure = failure_of(stage, position, error, start)
        failure = self.known.shared(failure)
        # No call in between, after which a time limit could strike: it would fail the item once more.
        self.failures += [failure]
        self.ended = ended

    @contextmanager
    def _alarms(self) -> Generator[None]:
        """In a child's main thread, an alarm raises `TimeLimit` inside the item that is late."""
        if not self.alarm:
            yield
            return

        def late(_signal: int, _frame: Any) -> None:
            if self.marks[Mark.RUNNING] >= 0:  # else it was set off too late
                raise TimeLimit

        before = signal.signal(signal.SIGALRM, late)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    # -------------------------------------------------------------------------------- reporting

    def pending_bytes(self) -> int:
        self._hand_over()
        return sum(encoder.pending_bytes for encoder in self.encoders if encoder is not None)

    def _hand_over(self) -> None:
        """Give the encoders the plain values that have come in; called by the thread that flushes."""
        before = self.begun
        for encoder, finished in zip(self.encoders, self.finished, strict=True):
            first, values = finished.take(self.started)
            if values and encoder is not None:
                self._add(encoder, first, values, before, finished.ended)
            before = finished.ended

    def _add(
        self, encoder: Encoder, first: int, values: list[Any], begun: array[int], ended: array[int]
    ) -> None:
        chosen: Any = slice(first, first + len(values))
        kinds = set(map(type, values))
        if object in kinds:  # of items that failed, or whose value is not plain
            kinds.remove(object)
            there = np.fromiter(map(is_not, values, repeat(_NOTHING)), np.bool_, len(values))
            values = list(compress(values, there))
            chosen = np.flatnonzero(there) + first
        if values:
            start, end = (np.frombuffer(each, np.int64)[chosen] for each in (begun, ended))
            times = start + self.epoch, end + self.epoch
            encoder.add_plain(self.places[chosen], values, kinds, *times)

    def recall(self) -> None:
        """Called by the clerk: start no further item; what will not start is handed back.

        An item that the running thread is just about to start is within the limit, so whatever is
        beyond it never starts here.
        """
        if self.limit < len(self.positions):
            return
        self.limit = min(self.started + 1, len(self.positions))
        # Items may have started before they saw it; after it no more than one can.
        self.limit = max(self.limit, min(self.started + 1, len(self.positions)))
        self.returned = Positions(tuple(runs_of(self.places[self.limit :])))

    def flush(self) -> None:
        """Commit what is pending; what was committed before something raised is told all the same."""
        self._hand_over()
        fresh: list[Receipt] = []
        for encoder in self.encoders:
            if encoder is not None:
                fresh.extend(receipts := encoder.flush())
                self.receipts.extend(receipts)
        self.checkpoints.drop(fresh)

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
            self.started,
            *(self.memory.told() if end and self.memory is not None else (0, 0)),
            end,
        )

    def _outcomes(self) -> tuple[tuple[Failure, ...], list[tuple[int, tuple[int, ...]]]]:
        failures = _drain(self.failures)
        nodes = [stage.node for stage in self.batch.stages]
        return failures, list(zip(nodes, map(_drain, self.passed), strict=True))

    def unfinished(self, outcome: Outcome) -> tuple[int, ...]:
        """Positions that had started when a kill came; the driver knows which of them ended."""
        return tuple(self.positions[: self.started]) if outcome is Outcome.KILLED else ()


class _Clerk(threading.Thread):
    """Commits and reports beside the running items, and obeys the control word.

    It is there for one batch after another, as a thread's start and end take a fifth of what a short
    batch takes beside its items, and ends when there was none for a while.
    """

    idle: ClassVar[list[_Clerk]] = forks.own([])

    def __init__(self) -> None:
        super().__init__(name="headrace-clerk", daemon=True)
        self.desk: queue.SimpleQueue[_Body] = queue.SimpleQueue()

    @classmethod
    def beside(cls, body: _Body) -> _Clerk:
        """A clerk for a batch, until it may `leave`."""
        clerk = None
        with suppress(IndexError):
            while clerk is None or not clerk.is_alive():  # an error has ended it
                clerk = cls.idle.pop()
        if clerk is None or not clerk.is_alive():
            clerk = cls()
            clerk.start()
        clerk.desk.put(body)
        return clerk

    def leave(self, body: _Body) -> None:
        """When it returns, nothing more is told of the batch from here."""
        body.over.set()
        with body.telling:
            self.idle.append(self)

    def run(self) -> None:
        while True:
            try:
                self.attend(self.desk.get(timeout=_IDLE_SECONDS))
            except queue.Empty:
                with suppress(ValueError):  # it has just been taken
                    self.idle.remove(self)
                    return

    def attend(self, body: _Body) -> None:
        """Look after a batch until its items have ended."""
        flushed = time.monotonic()
        while not body.over.wait(_POLL_SECONDS):
            with body.telling:
                if not body.over.is_set():
                    flushed = self.look(body, flushed)

    def look(self, body: _Body, flushed: float) -> float:
        """Do what is due; gives when it was last committed."""
        if body.marks[Mark.CONTROL] == 1:
            body.recall()
        batch, now = body.batch, time.monotonic()
        if now - flushed >= batch.flush_seconds or body.pending_bytes() >= batch.flush_bytes:
            body.sink(body.committed())
            return time.monotonic()
        if not body.announced or body.returned.runs:
            body.sink(body.report())
        return flushed


def _let_come() -> None:
    """Where a function begins, what others have raised in this thread comes: now, and not later."""


def _call_with(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _drain(values: list[Any]) -> tuple[Any, ...]:
    """Take what is in a list that another thread appends to."""
    count = len(values)
    taken = tuple(values[:count])
    del values[:count]
    return taken
