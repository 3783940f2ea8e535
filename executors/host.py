"""Slots of one process: in the driver, or in a worker of Dask or Ray."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from ..core.interfaces import Batch, Control, End, Isolation, Outcome, Report, Sink
from .asked import Asked
from .devices import Devices
from .inprocess import ThreadSlot, Watch
from .launch import Launch
from .supervisor import ChildSlot

_COOPERATE_SECONDS = 5.0
_REMEMBERED = 10_000
"""Requests for batches that have not come yet; most of them never will."""


class Slot(Protocol):
    """One place where batches run, one at a time."""

    def run(self, batch: Batch, sink: Sink, asked: Asked) -> None: ...
    def control(self, request: Control, grace: float) -> None: ...
    def close(self, grace: float = 2.0) -> None: ...


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
    gpus
        Names of the GPUs that are shared out here.
    """

    def __init__(
        self,
        launch: Launch | None,
        *,
        max_items: int | None = None,
        node: str = "",
        gpus: Sequence[str] = (),
    ) -> None:
        self._launch, self._max_items, self._node = launch, max_items, node
        self._lock = threading.Condition()
        self._watch = Watch()
        self._devices = Devices(gpus)
        self._idle: list[ChildSlot] = []
        self._idle_threads: list[ThreadSlot] = []
        self._running: dict[tuple[str, int], Slot] = {}
        self._asked: OrderedDict[tuple[str, int], Control] = OrderedDict()
        self._calls = 0
        self._retired = self._closed = False

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run a batch here and now; returns when it has ended."""
        with self._lock:
            self._calls += 1
        try:
            self._run(batch, sink)
        finally:
            with self._lock:
                self._calls -= 1
                self._lock.notify_all()

    def _run(self, batch: Batch, sink: Sink) -> None:
        key, gpus = (batch.run_id, batch.id), batch.resources.gpus
        with self._lock:
            devices = self._devices.take(gpus)
            slot = None if self._retired or self._closed else self._pick(batch, devices)
            if slot is not None:
                self._running[key] = slot
            else:
                self._devices.give(devices, gpus)
        if slot is None:
            killed = End(Outcome.KILLED, "the pool was closed")
            sink(Report(*key, end=killed if self._closed else End(Outcome.RECALLED)))
            return
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
                self._devices.give(devices, gpus)
                self._lock.notify_all()
                closed = self._closed
                if not closed:
                    self._put_back(slot)
            if closed:
                slot.close()
            for report in held:
                sink(report)

    def _pick(self, batch: Batch, gpus: tuple[str, ...]) -> Slot:
        if self._launch is None or batch.isolation is Isolation.NONE:
            if self._idle_threads:
                return self._idle_threads.pop()
            return ThreadSlot(self._watch, self._node, *self._body())
        like = [slot for slot in self._idle if slot.threads == batch.threads]
        same = [slot for slot in like if slot.gpus == gpus]
        fit = same or ([] if gpus else like)  # without GPUs any of them will do
        if fit:
            self._idle.remove(fit[-1])
            return fit[-1]
        slot = (
            self._idle.pop(0) if self._idle else ChildSlot(self._launch, max_items=self._max_items)
        )
        slot.gpus = gpus
        return slot

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
            slot = self._running.get(key)
        if slot is not None:
            slot.control(request, grace)

    def _was_asked(self, key: tuple[str, int]) -> Control | None:
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
