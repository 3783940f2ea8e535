"""Slots of one process: in the driver, or in a worker of Dask or Ray."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..core.interfaces import Batch, Control, End, Isolation, Outcome, Report, Sink
from .asked import Asked
from .inprocess import ThreadSlot, Watch
from .launch import Launch
from .supervisor import ChildSlot

Key: TypeAlias = tuple[str, int]
"""Run id and number of a batch."""

_COOPERATE_SECONDS = 5.0
LEAD_SECONDS = 0.05
"""So long before a batch's end the next one leaves for a slot that is far away."""
_BEHIND_SECONDS = 2 * LEAD_SECONDS
"""For which it waits there at most; then it goes back."""
_REMEMBERED = 10_000
"""Requests for batches that have not come yet; most of them never will."""


class Slot(Protocol):
    """One place where batches run, one at a time."""

    def run(self, batch: Batch, sink: Sink, asked: Asked) -> None: ...
    def control(self, request: Control, grace: float) -> None: ...
    def close(self, grace: float = 2.0) -> None: ...


@dataclass(eq=False, slots=True)
class _Todo:
    """A batch that came to a host. Its fields belong to the host's lock."""

    batch: Batch
    sink: Sink
    behind: Key | None
    taken: bool = False
    """The thread of the batch that it came behind runs it."""

    @property
    def key(self) -> Key:
        return self.batch.run_id, self.batch.id


class Host:
    """Runs batches in the calling threads, each in a slot that fits; keeps idle slots warm.

    Thread rule: every method from any thread.

    Parameters
    ----------
    launch
        How children are started; None: everything runs in this process.
    max_items
        Items after which a child is replaced.
    node
        Name of this place in `WorkerInfo`.
    """

    def __init__(
        self, launch: Launch | None, *, max_items: int | None = None, node: str = ""
    ) -> None:
        self._launch, self._max_items, self._node = launch, max_items, node
        self._lock = threading.Condition()
        self._watch = Watch()
        self._idle: list[ChildSlot] = []
        self._idle_threads: list[ThreadSlot] = []
        self._running: dict[Key, Slot] = {}
        self._next: dict[Key, _Todo] = {}
        """What waits behind batches that run."""
        self._asked: OrderedDict[Key, Control] = OrderedDict()
        self._calls = 0
        self._retired = self._closed = False

    def run(self, batch: Batch, sink: Sink, behind: Key | None = None) -> None:
        """Run a batch here and now; returns when it has ended.

        Behind another one it begins when that one has ended, in that one's thread, and this one
        returns. If that takes long, or it is asked for meanwhile, it ends without having begun.
        """
        with self._lock:
            self._calls += 1
        try:
            mine = _Todo(batch, sink, behind)
            todo = None if self._waits(mine) else mine
            while todo is not None:
                todo = self._run(todo)
        finally:
            with self._lock:
                self._calls -= 1
                self._lock.notify_all()

    def _waits(self, todo: _Todo) -> bool:
        """Wait for a while where it came behind another; True when that one's thread has it."""
        behind = todo.behind
        with self._lock:
            if behind is None or behind not in self._running:
                return False
            self._next[behind] = todo
            self._lock.wait_for(
                lambda: todo.taken or todo.key in self._asked or self._retired, _BEHIND_SECONDS
            )
            del self._next[behind]
            return todo.taken

    def _run(self, todo: _Todo) -> _Todo | None:
        """Run a batch to its end; gives the one that has waited behind it."""
        key, batch, sink = todo.key, todo.batch, todo.sink
        with self._lock:
            shut = self._retired or self._closed or todo.behind in self._running
            slot = None if shut else self._pick(batch)
            if slot is not None:
                self._running[key] = slot
        if slot is None:
            sink(Report(*key, end=self._unbegun(key)))
            return None
        held: list[Report] = []

        def forward(report: Report) -> None:
            # Whoever hears of the end must find the slot free again.
            if report.end is None:
                sink(report)
            else:
                held.append(report)

        try:
            slot.run(batch, forward, lambda: self._was_asked(key))
        finally:
            with self._lock:
                self._running.pop(key, None)
                self._asked.pop(key, None)
                self._lock.notify_all()
                closed = self._closed
                if not closed:
                    self._put_back(slot)
            if closed:
                slot.close()
            for report in held:
                sink(report)
        with self._lock:
            following = self._next.get(key)
            if following is not None:
                following.taken = True
                self._lock.notify_all()
            return following

    def _unbegun(self, key: Key) -> End:
        """The end of a batch that did not come to its turn."""
        with self._lock:
            killed = self._asked.pop(key, None) is Control.KILL
            if self._closed:
                return End(Outcome.KILLED, "the pool was closed")
        return End(Outcome.KILLED if killed else Outcome.RECALLED)

    def _pick(self, batch: Batch) -> Slot:
        if self._launch is None or batch.isolation is Isolation.NONE:
            if self._idle_threads:
                return self._idle_threads.pop()
            return ThreadSlot(self._watch, self._node, *self._body())
        for slot in reversed(self._idle):
            if slot.threads == batch.threads:
                self._idle.remove(slot)
                return slot
        if self._idle:
            return self._idle.pop(0)
        return ChildSlot(self._launch, max_items=self._max_items)

    def _body(self) -> tuple[str, ...]:
        return () if self._launch is None else (self._launch.setup.body,)

    def _put_back(self, slot: Slot) -> None:
        if isinstance(slot, ChildSlot):
            self._idle.append(slot)
        elif isinstance(slot, ThreadSlot):
            self._idle_threads.append(slot)

    def control(self, run_id: str, batch: int, request: Control, grace: float) -> None:
        """Ask something of a batch that runs here, or will soon. Returns at once."""
        key = run_id, batch
        with self._lock:
            if self._asked.get(key) is not Control.KILL:
                self._asked[key] = request
            while len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)
            self._lock.notify_all()
            slot = self._running.get(key)
        if slot is not None:
            slot.control(request, grace)

    def _was_asked(self, key: Key) -> Control | None:
        with self._lock:
            return self._asked.get(key)

    def retire(self, seconds: float) -> None:
        """End in order: what runs ends with its running items, and hands back the rest. Blocks.

        For at most so long; then all is ended as by `close`. When it returns, every sink has been told.
        """
        with self._lock:
            self._retired = True
            running = list(self._running)
        for key in running:
            self.control(*key, Control.RECALL, seconds)
        with self._lock:
            self._lock.wait_for(lambda: not self._calls, seconds)
        self.close()
        with self._lock:
            self._lock.wait_for(lambda: not self._calls, _COOPERATE_SECONDS)

    def close(self) -> None:
        """End all slots and wait for their children. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            running = list(self._running.values())
        threads = [
            threading.Thread(target=slot.close, name="headrace-close", daemon=True)
            for slot in [*idle, *running]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._lock:  # code in this process ends when it cooperates, or not at all
            self._lock.wait_for(lambda: not self._running, _COOPERATE_SECONDS)
        self._watch.close()
