"""A queue of batches in front of the slots of this process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
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
from .capacity import Capacity, Ledger, Place, cores
from .host import Host, Key
from .launch import Launch

_JOIN_SECONDS = 2.0


class Runner(Protocol):
    """Where a pool's batches run. Thread rule: every method from any thread."""

    def run(self, batch: Batch, sink: Sink, behind: Key | None = None) -> None:
        """Run a batch to its end in the calling thread. Never raises.

        ``behind`` is one that is about to end: it goes to the same slot, and begins when that one
        has ended. If that takes long, it ends as RECALLED without having begun.
        """
        ...

    def control(self, run_id: str, batch: int, request: Control, grace: float) -> None:
        """Ask something of a batch that runs, or soon will. Returns at once."""
        ...

    def close(self) -> None:
        """End all that runs, and everything that was started. Idempotent."""
        ...


@dataclass(eq=False, slots=True)
class _Entry:
    """A batch in a pool. Its fields belong to the pool's lock."""

    batch: Batch
    sink: Sink
    place: Place | None = None
    """What it holds of the ledger, once it has left the queue."""
    ending: bool | None = None
    """Is it about to end, and nothing waits behind it? None: it has not told."""

    @property
    def key(self) -> Key:
        return self.batch.run_id, self.batch.id

    def can_follow(self, other: _Entry) -> bool:
        """May it have the other's slot?"""
        a, b = self.batch, other.batch
        alike = (a.resources, a.isolation, a.threads) == (b.resources, b.isolation, b.threads)
        return alike and other.ending is True


class QueuePool:
    """Batches wait here, in order, until the runner has room for the first of them.

    One that is about to end shares its room with the next, which so waits beside its slot already.

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
        self._queue: deque[_Entry] = deque()
        self._active: dict[Key, _Entry] = {}
        self._ready: SimpleQueue[tuple[_Entry, Key | None] | None] = SimpleQueue()
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
            self._queue.append(_Entry(batch, sink))
            self._dispatch()

    def control(
        self, run_id: str, batch: int, request: Control, grace: float | None = None
    ) -> None:
        with self._lock:
            waiting = [entry for entry in self._queue if entry.key == (run_id, batch)]
            for entry in waiting:
                self._queue.remove(entry)
            active = self._active.get((run_id, batch))
        for entry in waiting:
            entry.sink(withdrawn(entry.batch, request))
        if active is not None:
            grace = active.batch.grace_seconds if grace is None else grace
            self._runner.control(run_id, batch, request, grace)

    def work(self, timeout: float) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, threads = list(self._queue), self._threads
            self._queue.clear()
        for entry in waiting:
            entry.sink(closed(entry.batch))
        self._runner.close()
        for _ in threads:
            self._ready.put(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:  # code of this process that does not cooperate is left to itself
            stuck = list(self._active.values())
            self._active.clear()
        for entry in stuck:
            entry.sink(closed(entry.batch))

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
        """Start what fits, or may wait behind what is about to end, in order; the lock is held."""
        while self._queue:
            entry, ahead = self._queue[0], None
            need = entry.batch.resources
            if self._ledger.take(need, self._capacity()):
                entry.place = Place(self._ledger, need)
            else:
                ahead = next(filter(entry.can_follow, self._active.values()), None)
                if ahead is None or ahead.place is None:
                    break
                ahead.ending, entry.place = False, ahead.place.join()
            self._active[entry.key] = self._queue.popleft()
            if self._free_threads:
                self._free_threads -= 1
            else:
                name = f"headrace-{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._ready.put((entry, ahead.key if ahead is not None else None))

    def _serve(self) -> None:
        while (todo := self._ready.get()) is not None:
            self._run(*todo)

    def _run(self, entry: _Entry, behind: Key | None) -> None:
        self._runner.run(entry.batch, lambda report: self._forward(entry, report), behind)

    def _forward(self, entry: _Entry, report: Report) -> None:
        if report.end is not None:
            with self._lock:
                if self._active.pop(entry.key, None) is None or entry.place is None:
                    return  # it was told at close
                entry.place.leave()
                self._free_threads += 1  # this thread takes what is ready as soon as it returns
                self._dispatch()
        elif report.ending and entry.ending is None:
            with self._lock:
                entry.ending = True
                self._dispatch()
        entry.sink(report)


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
        per_cpu = max(1.0, cores() / capacity.cpus) if launch is not None and launch.local else 1.0
        abilities = Capabilities(
            in_process=launch is None, kills=launch is not None, threads_per_cpu=per_cpu
        )
        super().__init__(name, lambda: capacity, Host(launch, max_items=max_items), abilities)


def withdrawn(batch: Batch, request: Control) -> Report:
    """The end of a batch that never left the queue."""
    outcome = Outcome.KILLED if request is Control.KILL else Outcome.RECALLED
    return Report(batch.run_id, batch.id, end=End(outcome))


def closed(batch: Batch) -> Report:
    """The end of a batch whose pool closes."""
    return Report(batch.run_id, batch.id, end=End(Outcome.KILLED, "the pool was closed"))
