"""The process in which user code runs: ``python -m headrace.executors.child [--marks PATH]``.

It speaks `executors.wire` on its standard input and output, so that a shell or ssh can carry it.
Both are moved away first: user code finds an empty input, and what it prints goes to standard error.
Batches run in the main thread. The process ends when its input does: at once when idle, else after
the running item or the grace, whichever is first. SIGTERM (preemption) ends it in the same way but
without the limit; SIGINT is for the driver to decide and does nothing here; SIGURG ends the running
item when the batch is to be killed.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import io
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeAlias, cast

from ..core import forks
from ..core.hostname import hostname
from ..core.interfaces import Batch, End, Mark, Outcome, Report, Sink, WorkerInfo
from ..core.process_marks import own_mark
from . import marks as marks_memory
from . import pandas_later
from .autopsy import OUT_OF_MEMORY
from .wire import Hello, Setup, Unpacker, Writer, versions

Body: TypeAlias = Callable[..., None]
_OOM_SCORE = 500
_NAG_SECONDS = 0.05


class Child:
    """One child: the reader thread feeds it, the main thread runs."""

    def __init__(self, source: int, target: int, marks: memoryview | None) -> None:
        self.source, self.writer = source, Writer(target)
        self.shared = marks is not None
        # The body only reads and sets words, so what tells of them may stand for memory.
        told = marks_memory.Told(lambda words: self.writer.send("marks", words))
        self.marks = marks if marks is not None else cast("memoryview", told)
        self.setup = Setup()
        self.inbox: queue.SimpleQueue[tuple[str, int, bytes] | None] = queue.SimpleQueue()
        self.asked: dict[tuple[str, int], int] = {}
        self.current: tuple[str, int] | None = None
        self.lock = threading.RLock()
        self.leaving = False
        self.told = -1
        self.main = threading.get_ident()
        pid = os.getpid()
        self.info = WorkerInfo(f"{hostname()}-{pid}", hostname(), pid, process=own_mark())
        self.ready = threading.Event()

    # ------------------------------------------------------------------------- the reader thread

    def read(self) -> None:
        """Take messages until the input ends, then see to it that the process does."""
        unpacker = Unpacker()
        with suppress(OSError, EOFError, pickle.UnpicklingError):
            while data := os.read(self.source, 1 << 20):
                for message in unpacker.feed(data):
                    self.take(*message)
        self.leave()
        time.sleep(self.setup.grace_seconds)
        _end_group()

    def take(self, kind: str, *rest: Any) -> None:
        """Act on one message."""
        if kind == "batch":
            run_id, number, payload = rest
            self.inbox.put((run_id, number, payload))
        elif kind == "control":
            run_id, batch, value = rest
            with self.lock:
                self.asked[run_id, batch] = value
                if self.current == (run_id, batch):
                    self.apply(value)
        elif kind == "setup":
            self.setup = rest[0]
            self.ready.set()

    def apply(self, value: int) -> None:
        """Pass a control word on; a kill also ends the call that blocks the main thread."""
        self.marks[Mark.CONTROL] = max(value, self.marks[Mark.CONTROL])
        if value == 2:
            threading.Thread(target=self.nag, args=(self.current,), daemon=True).start()

    def nag(self, batch: tuple[str, int] | None) -> None:
        """Interrupt the main thread for as long as the batch goes on: it may be between items."""
        while self.current == batch:
            signal.pthread_kill(self.main, signal.SIGURG)
            time.sleep(_NAG_SECONDS)

    def leave(self) -> None:
        """Start nothing more; end when the running item does."""
        self.leaving = True
        self.inbox.put(None)
        if self.marks[Mark.CONTROL] == 0:
            self.marks[Mark.CONTROL] = 1
        self.ready.set()

    # --------------------------------------------------------------------------- the main thread

    def run(self) -> None:
        """Run batches until the input ends."""
        # Not SIG_IGN, which the user's processes would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.leave())
        signal.signal(signal.SIGURG, self.on_kill)
        forks.without_sigterm(_without_signals)
        threading.Thread(target=self.read, name="headrace-reader", daemon=True).start()
        self.ready.wait()
        self.prepare()
        body = _load(self.setup.body)
        while not self.leaving and (message := self.inbox.get()) is not None:
            self.run_batch(body, *message)

    def prepare(self) -> None:
        """Take over what the setup says of this process."""
        setup = self.setup
        if setup.cwd is not None:
            with suppress(OSError):
                os.chdir(setup.cwd)
        if setup.path is not None:
            sys.path[:] = setup.path
        if setup.python_path is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = setup.python_path
        self.info = replace(self.info, node=setup.node)

    def on_kill(self, _signal: int, _frame: Any) -> None:
        """End the running item, if one runs: the body writes the mark in this same thread.

        Each is told once, so that its clean-up is left in peace.
        """
        running = self.marks[Mark.RUNNING]
        if self.marks[Mark.CONTROL] == 2 and running not in (-1, self.told):
            from ..core.worker import CancelRequest

            self.told = running
            raise CancelRequest

    def run_batch(self, body: Body, run_id: str, number: int, payload: bytes) -> None:
        """Run one batch; whatever goes wrong, it ends or this process does."""
        with self.lock:
            self.current, self.told = (run_id, number), -1
            self.marks[Mark.RUNNING] = -1
            if not self.shared:
                for word in (Mark.CONTROL, Mark.STAGE, Mark.SINCE_NS, Mark.STARTED):
                    self.marks[word] = 0
            if self.asked.get((run_id, number)):
                self.apply(self.asked[run_id, number])
            if self.leaving:
                self.marks[Mark.CONTROL] = max(1, self.marks[Mark.CONTROL])
        try:
            self.attempt(body, run_id, number, payload)
        finally:
            with self.lock:
                self.current = None
                self.asked.clear()

    def attempt(self, body: Body, run_id: str, number: int, payload: bytes) -> None:
        """Call the body, in a process fit for this batch."""
        from ..core.shipping import StaleCodeError

        sink = self.sink()
        try:
            batch: Batch = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001 - whatever a store's unpickling raises
            sink(Report(run_id, number, self.info, end=_refusal(error, self.info)))
            return
        try:
            body(batch, sink, self.marks, self.info, in_child=True)
        except StaleCodeError:
            self.writer.send("stale", run_id, number)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except BaseException as error:  # noqa: BLE001 - a kill that fell between two items, or a bug of ours
            if self.marks[Mark.CONTROL] != 2:
                sys.excepthook(type(error), error, error.__traceback__)
                sys.stderr.flush()
                os._exit(70)
            sink(Report(run_id, number, self.info, end=End(Outcome.KILLED)))
            _end_group()

    def sink(self) -> Sink:
        """Send reports on."""
        send = self.writer.send
        return lambda report: send("report", report)


def _without_signals() -> None:
    """In a fork of user code's: what this child does on signals would recall its own batch."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGURG, signal.SIG_DFL)


def _refusal(error: Exception, worker: WorkerInfo) -> End:
    import cloudpickle

    from ..core.errors import ExecutorError

    cause = f"worker {worker.id} cannot read the batch: {type(error).__name__}: {error}"
    return End(Outcome.REFUSED, cause, error=cloudpickle.dumps(ExecutorError(cause)))


def _load(name: str) -> Body:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def _end_group(code: int = 1) -> None:
    """End this process and all that user code started in its group."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if os.getpgrp() == os.getpid():
        with suppress(OSError):
            os.killpg(0, signal.SIGKILL)
    os._exit(code)


def _take_pipes() -> tuple[int, int]:
    """Move the protocol's pipes out of reach of user code."""
    source, target = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, target


def _whole_lines() -> None:
    """Write what user code prints a line at a time, where the environment wants it unbuffered.

    (As in kernels and many images.) Else the parts of a line mix with what other children print.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.write_through:
            stream.reconfigure(line_buffering=True, write_through=False)


def _die_first() -> None:
    """When memory runs out, the kernel shall choose the child, not the driver or the engine."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        score = max(int(file.read()), _OOM_SCORE)
        file.seek(0)
        file.write(str(score))


def main() -> None:
    """Run until standard input ends."""
    source, target = _take_pipes()
    _whole_lines()
    parser = argparse.ArgumentParser(prog="headrace.executors.child", description=__doc__)
    parser.add_argument("--marks", help="file to map for the marks; default: private memory")
    parser.add_argument("--libraries", action="store_true", help="tell library versions, too")
    options = parser.parse_args()
    faulthandler.enable()
    _die_first()
    words = None
    if options.marks:
        with suppress(OSError, ValueError):
            words = marks_memory.attach(options.marks)
    child = Child(source, target, words)
    told = versions(libraries=options.libraries)
    child.writer.send("hello", Hello(child.info.pid, child.info.host, told, child.shared))
    atexit.register(_end_group, 0)  # registered first, so it comes last
    pandas_later.defer()
    child.run()


if __name__ == "__main__":
    main()
