"""The keeper of one child process: starts it, feeds it, watches it, ends it, tells why it ended."""

from __future__ import annotations

import pickle
import threading
import time
from dataclasses import replace
from typing import Any

import cloudpickle

from ..core.errors import ExecutorError, HeadraceError, UnpicklableError, VersionMismatchError
from ..core.interfaces import (
    Batch,
    Control,
    End,
    Mark,
    Outcome,
    Positions,
    Report,
    Sink,
)
from . import autopsy
from .asked import Asked, nothing
from .launch import Launch, Process
from .marks import Running, running
from .wire import pack

_START_SECONDS = 60.0
_STARTS = 3
_UNKILLABLE_SECONDS = 30.0


class ChildSlot:
    """One place where batches run in a child process, restarted lazily whenever it has died.

    Thread rule: one thread calls `run` at a time; `control` and `close` may come from any other.

    Parameters
    ----------
    launch
        How children are started.
    max_items
        Items after which a child is replaced by a fresh one, or None.
    """

    def __init__(self, launch: Launch, *, max_items: int | None = None) -> None:
        autopsy.memory_watch.start()
        self._launch = launch
        self._max_items = max_items
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._process: Process | None = None
        self._run: _Run | None = None
        self._items = 0
        self._closed = False
        self.gpus: tuple[str, ...] = ()
        """Those that the next batch may use; set by who calls `run`."""

    @property
    def threads(self) -> int:
        """Threads for which the current child was started; 0 without a child."""
        return self._process.threads if self._process is not None else 0

    # ------------------------------------------------------------------------------------ running

    def run(self, batch: Batch, sink: Sink, asked: Asked = nothing) -> None:
        """Run a batch to its end in this slot's child; blocks. Never raises."""
        with self._busy:
            run = _Run(batch, sink)
            with self._lock:
                self._run = run
                if self._closed:
                    run.ask(2, 0.0)
            if request := asked():
                self.control(request, batch.grace_seconds)
            try:
                end = self._attempts(run)
            except HeadraceError as error:
                end = refused(error)
            except Exception as error:  # noqa: BLE001 - a batch must end whatever happens here
                self._stop(0.0)
                end = End(Outcome.LOST, f"its supervisor failed: {type(error).__name__}: {error}")
            finally:
                with self._lock:
                    self._run = None
            if self._max_items is not None and self._items >= self._max_items:
                self._stop(batch.grace_seconds)
        run.finish(end)

    def _attempts(self, run: _Run) -> End:
        try:
            payload = pickle.dumps(replace(run.batch, live=()), 5)
        except Exception as error:  # whatever a store's pickling raises
            raise UnpicklableError(f"batch {run.batch.id} cannot travel: {error}") from error
        for _ in range(3):
            warm = self._process
            process = self._ready(run)
            if process is None:
                return End(Outcome.KILLED if run.asked == 2 else Outcome.RECALLED)
            run.begin(process, payload)
            while (end := run.step(process)) is None and not run.stale:
                pass
            if end is None:  # its modules have changed: a fresh child
                run.stale = False
                self._stop(run.batch.grace_seconds)
                continue
            if (
                end.outcome is Outcome.DIED
                and process is warm
                and not run.heard
                and not run.started
            ):
                self._stop(0.0)  # it was dying before the batch came
                continue
            self._items += run.started
            if process.ended:
                self._stop(0.0)
            return end
        raise ExecutorError("a fresh child process already held other versions of the modules")

    def _ready(self, run: _Run) -> Process | None:
        """A living child that fits; None when the batch was withdrawn meanwhile."""
        process = self._process
        wanted = run.batch.threads, self.gpus
        if process is not None and (
            process.has_ended() or (process.threads, process.gpus) != wanted
        ):
            self._stop(run.batch.grace_seconds)
        deaths = 0
        while not run.asked:
            process = self._process
            if process is None:
                process = self._process = self._launch.start(*wanted)
                self._items = 0
            run.watch(process, self._lock)
            if self._greeted(process, run):
                return None if run.asked else process
            if run.asked:
                break
            code = self._stop(0.0)
            deaths += 1
            if deaths >= (_STARTS if code is not None and code < 0 else 2):
                raise ExecutorError(
                    "a child process could not be started: it ended with "
                    f"{autopsy.cause_of(code)}{self._launch.diagnose()}"
                )
        return None  # a child that is about to start stays for the next batch

    def _greeted(self, process: Process, run: _Run) -> bool:
        """Wait for the child's first words; False when it ended, or the batch was withdrawn."""
        deadline = time.monotonic() + _START_SECONDS
        while process.hello is None:
            if time.monotonic() > deadline:
                self._stop(0.0)
                raise ExecutorError(f"a child process did not answer within {_START_SECONDS:.0f} s")
            if process.ended or run.asked:
                return False
            process.poll(deadline - time.monotonic())
            for message in process.messages():
                process.greeted(message)
        why = self._launch.misfit(process.hello)
        if why:
            host = process.hello.host
            self._stop(0.0)
            raise VersionMismatchError(f"worker {host} cannot be used: {why}")
        return True

    # -------------------------------------------------------------------------------- interference

    def control(self, request: Control, grace: float) -> None:
        """Recall or kill the running batch. Any thread; returns at once."""
        with self._lock:
            if self._run is not None:
                self._run.ask(2 if request is Control.KILL else 1, grace)

    def close(self, grace: float = 2.0) -> None:
        """Kill what runs, end the child and wait for it. Idempotent."""
        with self._lock:
            self._closed = True
            if self._run is not None:
                self._run.ask(2, 0.0)
        with self._busy:
            self._stop(grace)

    def _stop(self, grace: float) -> int | None:
        """End the child, whatever state it is in; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        return process.stop(grace)


class _Run:
    """One batch's stay in a slot."""

    def __init__(self, batch: Batch, sink: Sink) -> None:
        self.batch, self.sink = batch, sink
        self.asked = 0
        self.kill_at: float | None = None
        self.process: Process | None = None
        self.begun = False
        self.stale = False
        self.heard = False
        self.started = 0
        self.done: list[Positions] = []
        self.killed: tuple[Outcome, str] | None = None
        self.killed_at = 0.0
        self.limited = autopsy.limits(batch)
        self.last: Report | None = None
        self.peak_memory = 0
        """Of a child that died."""

    def ask(self, value: int, grace: float) -> None:
        """Take a control word; the slot's lock is held."""
        self.asked = max(self.asked, value)
        if value == 2:
            at = time.monotonic() + grace
            self.kill_at = at if self.kill_at is None else min(at, self.kill_at)
        process = self.process
        if process is not None:
            if self.begun:
                self._tell(process)
            process.wake()

    def _tell(self, process: Process) -> None:
        process.marks[Mark.CONTROL] = max(self.asked, process.marks[Mark.CONTROL])
        process.send(pack(("control", self.batch.run_id, self.batch.id, self.asked)))

    def watch(self, process: Process, lock: threading.Lock) -> None:
        """From here on, what is asked wakes this process's poll."""
        with lock:
            self.process = process
            if self.asked:
                process.wake()

    def begin(self, process: Process, payload: bytes) -> None:
        """Hand the batch to the child."""
        process.reset_marks()
        process.send(pack(("batch", self.batch.run_id, self.batch.id, payload)))
        self.begun = True
        if self.asked:
            self._tell(process)

    def step(self, process: Process) -> End | None:
        """Wait for the next thing to happen; the batch's end when it was that."""
        process.poll(self._patience(process))
        for message in process.messages():
            if end := self._take(message):
                return end
        if self.stale:
            return None
        if process.ended:
            return self._died(process)
        now = time.monotonic()
        if self.killed is not None:  # not even SIGKILL ends what hangs in the kernel
            return self._died(process) if now - self.killed_at > _UNKILLABLE_SECONDS else None
        if self.kill_at is not None and now >= self.kill_at:
            self._kill(process, Outcome.KILLED, "killed on request, by force")
        elif late := self._late(process):
            self._kill(process, Outcome.TIMEOUT, late)
        return None

    def _take(self, message: tuple[Any, ...]) -> End | None:
        kind, *rest = message
        if kind == "stale":
            self.stale = True
        elif kind == "report":
            report: Report = rest[0]
            if (report.run_id, report.batch) != (self.batch.run_id, self.batch.id):
                return None  # the last words of an earlier batch
            self.heard = True
            self.done += autopsy.settled(self.batch, report)
            self.started = max(self.started, report.started)
            if report.end is not None:
                self.last = report
                return report.end
            self.sink(report)
        return None

    def finish(self, end: End) -> None:
        """Tell the end, once: in the child's last report, or in one of our own."""
        last = self.last or Report(
            self.batch.run_id, self.batch.id, started=self.started, peak_memory=self.peak_memory
        )
        self.sink(replace(last, end=end))

    # ------------------------------------------------------------------------------- time and death

    def _patience(self, process: Process) -> float | None:
        """Seconds until something is due by the clock alone."""
        if self.killed is not None:
            return 1.0
        due: list[float] = []
        if self.kill_at is not None:
            due.append(self.kill_at - time.monotonic())
        if self.limited:
            item = running(process.marks)
            limit = autopsy.time_limit(self.batch, item.stage) if item else None
            if item and item.since_ns and limit:
                due.append(limit - (time.monotonic_ns() - item.since_ns) / 1e9)
            due.append(0.25 if due else 0.1)
        return max(min(due), 0.0) + 0.001 if due else None

    def _late(self, process: Process) -> str:
        """Why the running item must end now; empty if it need not."""
        item = running(process.marks) if self.limited else None
        if item is None or not item.since_ns:
            return ""
        limit = autopsy.time_limit(self.batch, item.stage)
        if limit is None or time.monotonic_ns() - item.since_ns < limit * 1e9:
            return ""
        if running(process.marks) != item:  # it ended while we looked
            return ""
        asked = self.batch.stages[item.stage].timeout_seconds
        return f"timeout_seconds={asked:g}: it did not stop by itself, so its process was killed"

    def _kill(self, process: Process, outcome: Outcome, cause: str) -> None:
        self.killed, self.killed_at = (outcome, cause), time.monotonic()
        process.kill()

    def _died(self, process: Process) -> End:
        item = running(process.marks)
        code = process.exit_code()
        self.peak_memory = process.peak_memory
        started = max(self.started, process.marks[Mark.STARTED], item.item + 1 if item else 0)
        self.started = started
        suspects = autopsy.suspects(self.batch, started, self.done)
        where = self._where(item)
        if self.killed is not None:
            outcome, cause = self.killed
            return End(outcome, cause, suspects, where)
        memory = code == autopsy.OUT_OF_MEMORY or (
            self.killed is None and autopsy.was_killed(code) and autopsy.memory_watch.claim()
        )
        cause = f"the child process died: {autopsy.cause_of(code)}"
        if memory and code != autopsy.OUT_OF_MEMORY:
            cause += ", sent by the kernel because memory ran out"
        return End(Outcome.DIED, cause, suspects, where, out_of_memory=memory)

    def _where(self, item: Running | None) -> tuple[int, int] | None:
        return (item.stage, autopsy.position(self.batch, item.item)) if item else None


def refused(error: HeadraceError) -> End:
    """The end of a batch that could not begin."""
    return End(Outcome.REFUSED, str(error), error=cloudpickle.dumps(error))


__all__ = ["ChildSlot", "Launch", "refused"]
