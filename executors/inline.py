"""The serial executor: everything runs in the thread that waits for it, so that pdb works."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from ..core.interfaces import Batch, Capabilities, Control, Resources, Sink
from ..core.shown import Shown
from .capacity import Capacity
from .host import Host
from .pool import closed, withdrawn

_ANY_CPUS = 1e6


@dataclass(frozen=True)
class InlineExecutor(Shown):
    """Runs one batch at a time in the calling thread."""

    shown_as = "executor"

    @property
    def name(self) -> str:
        return "inline"

    def key(self) -> Hashable:
        return self

    def open(self) -> InlinePool:
        return InlinePool()


class InlinePool:
    """A queue that `work` empties."""

    def __init__(self) -> None:
        self._host = Host(None)
        self._more = threading.Condition()
        self._queue: deque[tuple[Batch, Sink]] = deque()
        self._active: dict[tuple[str, int], Batch] = {}
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(in_process=True, caller_runs=True, kills=False)

    def slots(self, need: Resources) -> int:
        # One batch at a time has the whole machine: only what it lacks altogether is refused.
        Capacity(cpus=_ANY_CPUS).fits(need, "inline")
        return 1

    def submit(self, batch: Batch, sink: Sink) -> None:
        self.slots(batch.resources)
        with self._more:
            if self._closed:
                raise RuntimeError("the inline pool is closed")
            self._queue.append((batch, sink))
            self._more.notify()

    def control(
        self, run_id: str, batch: int, request: Control, grace: float | None = None
    ) -> None:
        with self._more:
            found = [e for e in self._queue if (e[0].run_id, e[0].id) == (run_id, batch)]
            for entry in found:
                self._queue.remove(entry)
            active = self._active.get((run_id, batch))
        for queued, sink in found:
            sink(withdrawn(queued, request))
        if active is not None:
            grace = active.grace_seconds if grace is None else grace
            self._host.control(run_id, batch, request, grace)

    def work(self, timeout: float) -> bool:
        with self._more:
            if not self._queue:
                self._more.wait(timeout)
            if not self._queue:
                return False
            batch, sink = self._queue.popleft()
            self._active[batch.run_id, batch.id] = batch
        try:
            self._host.run(batch, sink)
        finally:
            with self._more:
                del self._active[batch.run_id, batch.id]
        return True

    def close(self) -> None:
        with self._more:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            self._more.notify_all()
        for batch, sink in waiting:
            sink(closed(batch))
        self._host.close()
