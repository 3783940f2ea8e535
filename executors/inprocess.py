"""A slot that runs batches in a thread of this process, and the watch over all such threads.

Code in this process cannot be killed. Time limits and cancelling raise an exception inside it: at
the next bytecode in any thread, and out of blocking calls, too, in the main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..core.errors import ExecutorError, HeadraceError
from ..core.hostname import hostname
from ..core.interfaces import Batch, Control, End, Mark, Outcome, Report, Sink, WorkerInfo
from ..core.process_marks import own_mark
from . import autopsy, wire
from . import marks as marks_memory
from .asked import Asked, nothing
from .marks import Running, running
from .supervisor import refused

_MARGIN_SECONDS = 0.05
"""Async items end themselves; this leaves them the time."""
_TICK_SECONDS = 0.02


class ThreadSlot:
    """One place where batches run in the calling thread."""

    def __init__(self, watch: Watch, node: str = "", body: str | None = None) -> None:
        self._watch = watch
        self._marks = marks_memory.private()
        self._lock = threading.Lock()
        self._batch: Batch | None = None
        self._ident = 0
        self._closed = False
        self._body_name = body or wire.BODY
        self._node = node or hostname()

    def run(self, batch: Batch, sink: Sink, asked: Asked = nothing) -> None:
        """Run a batch in this thread, to its end. Never raises."""
        marks, ended = self._marks, False

        def forward(report: Report) -> None:
            nonlocal ended
            ended = ended or report.end is not None
            sink(report)

        with self._lock:
            for word in Mark:
                marks[word] = 0
            marks[Mark.RUNNING] = -1
            self._batch, self._ident = batch, threading.get_ident()
            closed = self._closed
        if request := Control.KILL if closed else asked():
            self.control(request, batch.grace_seconds)
        info = WorkerInfo(
            f"{hostname()}-{os.getpid()}-{self._ident:x}",
            hostname(),
            os.getpid(),
            self._node,
            own_mark(),
        )
        end: End | None = None
        try:
            with _interruptible(), self._watch.over(self, batch):
                _body(self._body_name)(batch, forward, marks, info, in_child=False)
        except HeadraceError as error:  # stale code: this process cannot be replaced
            end = refused(ExecutorError(f"{error}; isolation='none' cannot run edited code"))
        except BaseException as error:  # an interrupt that came too late, or a bug of ours
            if marks[Mark.CONTROL] == 2:
                end = End(Outcome.KILLED)
            else:
                end = End(Outcome.LOST, f"the batch's body failed: {type(error).__name__}: {error}")
                if not isinstance(error, Exception):
                    _finish(forward, batch, end)
                    raise
        finally:
            with self._lock:
                self._batch = None
        if not ended:
            end = end or End(Outcome.LOST, "the batch's body returned without an end")
            _finish(forward, batch, end)

    def control(self, request: Control, grace: float) -> None:
        """Recall or kill the running batch. Any thread; returns at once."""
        value = 2 if request is Control.KILL else 1
        with self._lock:
            if self._batch is None:
                return
            self._marks[Mark.CONTROL] = max(value, self._marks[Mark.CONTROL])
        if request is Control.KILL:
            self._watch.hurry(self)

    def close(self, grace: float = 2.0) -> None:
        """Ask the running batch to end, and those that come."""
        with self._lock:
            self._closed = True
        self.control(Control.KILL, grace)

    # ---------------------------------------------------------------------------- for the watch

    def check(self, told: Running | None) -> Running | None:
        """Interrupt what runs if it must end; returns the item that was told so.

        The lock is held while the exception is raised, so it hits no later batch.
        """
        with self._lock:
            batch, item = self._batch, running(self._marks)
            if batch is None or item is None or item == told:
                return told
            from ..core.worker import CancelRequest, TimeLimit

            if self._marks[Mark.CONTROL] == 2:
                error: type[BaseException] = CancelRequest
            elif self._late(batch, item):
                error = TimeLimit
            else:
                return told
            if running(self._marks) == item:
                _raise_in(self._ident, error)
            return item

    def _late(self, batch: Batch, item: Running) -> bool:
        limit = batch.stages[item.stage].timeout_seconds
        elapsed = (time.monotonic_ns() - item.since_ns) / 1e9
        return limit is not None and item.since_ns > 0 and elapsed >= limit + _MARGIN_SECONDS


class Watch:
    """One thread that enforces time limits and kills on all slots of a pool; rests when it may."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._slots: dict[ThreadSlot, Running | None] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def over(self, slot: ThreadSlot, batch: Batch) -> Generator[None]:
        """Watch a batch that has time limits."""
        if autopsy.limits(batch):
            self.hurry(slot)
        try:
            yield
        finally:
            with self._wake:
                self._slots.pop(slot, None)

    def hurry(self, slot: ThreadSlot) -> None:
        """Watch a slot until its batch ends."""
        with self._wake:
            self._slots.setdefault(slot, None)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(
                    target=self._run, name="headrace-watch", daemon=True
                )
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            thread, self._thread = self._thread, None
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._slots and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                slots = list(self._slots.items())
            for slot, told in slots:
                now = slot.check(told)
                with self._wake:
                    if slot in self._slots:
                        self._slots[slot] = now
            time.sleep(_TICK_SECONDS)


_pending: list[type[BaseException]] = []


@contextmanager
def _interruptible() -> Generator[None]:
    """In the main thread, let a signal end blocking calls for as long as a batch runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: Any) -> None:
        if _pending:
            raise _pending.pop()

    before = signal.signal(signal.SIGURG, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGURG, before)
        _pending.clear()


def _raise_in(ident: int, error: type[BaseException]) -> None:
    if ident == threading.main_thread().ident and callable(signal.getsignal(signal.SIGURG)):
        _pending[:] = [error]
        signal.pthread_kill(ident, signal.SIGURG)
    else:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def _body(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def _finish(sink: Sink, batch: Batch, end: End) -> None:
    sink(Report(batch.run_id, batch.id, end=end))
