"""A queue of batches in front of the slots of this process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from ..core.interfaces import (
    Batch,
    Capabilities,
    Control,
    End,
    Outcome,
    Report,
    Resources,
    Sink,
)
from .capacity import Capacity, Ledger, cores
from .devices import visible
from .host import Host
from .launch import Launch

_JOIN_SECONDS = 2.0


class Runner(Protocol):
    """Where a pool's batches run. Thread rule: every method from any thread."""

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run a batch to its end in the calling thread. Never raises."""
        ...

    def control(self, run_id: str, batch: int, request: Control, grace: float) -> None:
        """Ask something of a batch that runs, or soon will. Returns at once."""
        ...

    def close(self) -> None:
        """End all that runs, and everything that was started. Idempotent."""
        ...


class QueuePool:
    """Batches wait here, in order, until the runner has room for the first of them.

    Parameters
    ----------
    name
        The executor's name, for errors.
    capacity
        What there is to run on at this time. Whoever sees it grow calls `refresh`.
    runner
        What runs them.
    capabilities
        What the engine may count on.
    fits
        How often a need fits at a time, where that does not follow from the capacity alone.
    """

    def __init__(
        self,
        name: str,
        capacity: Callable[[], Capacity],
        runner: Runner,
        capabilities: Capabilities,
        fits: Callable[[Resources], int] | None = None,
    ) -> None:
        self._name, self._capacity, self._runner = name, capacity, runner
        self._capabilities = capabilities
        self._fits = fits or (lambda need: self._capacity().fits(need, name))
        self._ledger = Ledger()
        self._lock = threading.Lock()
        self._queue: deque[tuple[Batch, Sink]] = deque()
        self._active: dict[tuple[str, int], tuple[Batch, Sink]] = {}
        self._ready: SimpleQueue[tuple[Batch, Sink] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._free_threads = 0
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def slots(self, need: Resources) -> int:
        return self._fits(need)

    def submit(self, batch: Batch, sink: Sink) -> None:
        self.slots(batch.resources)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the {self._name} pool is closed")
            self._queue.append((batch, sink))
            self._dispatch()

    def control(
        self, run_id: str, batch: int, request: Control, grace: float | None = None
    ) -> None:
        with self._lock:
            waiting = [entry for entry in self._queue if entry[0].id == batch]
            waiting = [entry for entry in waiting if entry[0].run_id == run_id]
            for entry in waiting:
                self._queue.remove(entry)
            active, _ = self._active.get((run_id, batch), (None, None))
        for queued, sink in waiting:
            sink(withdrawn(queued, request))
        if active is not None:
            grace = active.grace_seconds if grace is None else grace
            self._runner.control(run_id, batch, request, grace)

    def work(self, timeout: float) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, threads = list(self._queue), self._threads
            self._queue.clear()
        for batch, sink in waiting:
            sink(closed(batch))
        self._runner.close()
        for _ in threads:
            self._ready.put(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:  # code of this process that does not cooperate is left to itself
            stuck = [(batch, sink) for batch, sink in self._active.values()]
            self._active.clear()
        for batch, sink in stuck:
            sink(closed(batch))

    def refresh(self) -> None:
        """Look again at what there is to run on."""
        with self._lock:
            if not self._closed:
                self._dispatch()

    @property
    def waiting(self) -> int:
        """Batches in the queue."""
        return len(self._queue)

    # --------------------------------------------------------------------------------- running

    def _dispatch(self) -> None:
        """Start what fits, in order; the lock is held."""
        while self._queue and self._ledger.take(self._queue[0][0].resources, self._capacity()):
            batch, sink = self._queue.popleft()
            self._active[batch.run_id, batch.id] = batch, sink
            if self._free_threads:
                self._free_threads -= 1
            else:
                name = f"headrace-{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._ready.put((batch, sink))

    def _serve(self) -> None:
        while (entry := self._ready.get()) is not None:
            batch, sink = entry
            self._run(batch, sink)

    def _run(self, batch: Batch, sink: Sink) -> None:
        self._runner.run(batch, lambda report: self._forward(batch, sink, report))

    def _forward(self, batch: Batch, sink: Sink, report: Report) -> None:
        if report.end is not None:
            with self._lock:
                if self._active.pop((batch.run_id, batch.id), None) is None:
                    return  # it was told at close
                self._ledger.give(batch.resources)
                self._free_threads += 1  # this thread takes what is ready as soon as it returns
                self._dispatch()
        sink(report)


class SlotPool(QueuePool):
    """Runs batches on this machine, or wherever ``launch`` starts children.

    This is what a third party builds on when it can start a process somewhere::

        SlotPool("ssh", Capacity(cpus=8), Launch(spawn=over_ssh, shared_marks=False, local=False))

    Parameters
    ----------
    name
        The executor's name, for errors.
    capacity
        What there is to run on.
    launch
        How children are started; None: batches run in threads of this process.
    max_items
        Items after which a child is replaced by a fresh one, or None.
    """

    def __init__(
        self, name: str, capacity: Capacity, launch: Launch | None, *, max_items: int | None = None
    ) -> None:
        per_cpu, gpus = 1.0, list[str]()
        if launch is not None and launch.local:
            per_cpu = max(1.0, cores() / capacity.cpus)
            gpus = visible(capacity.gpus, launch.environment)
        abilities = Capabilities(
            in_process=launch is None, kills=launch is not None, threads_per_cpu=per_cpu
        )
        host = Host(launch, max_items=max_items, gpus=gpus)
        super().__init__(name, lambda: capacity, host, abilities)


def withdrawn(batch: Batch, request: Control) -> Report:
    """The end of a batch that never left the queue."""
    outcome = Outcome.KILLED if request is Control.KILL else Outcome.RECALLED
    return Report(batch.run_id, batch.id, end=End(outcome))


def closed(batch: Batch) -> Report:
    """The end of a batch whose pool closes."""
    return Report(batch.run_id, batch.id, end=End(Outcome.KILLED, "the pool was closed"))
