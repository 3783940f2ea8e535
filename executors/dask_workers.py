"""What the driver keeps of each Dask worker, and of each batch under way."""

from __future__ import annotations

import threading
from typing import Any

from ..core.interfaces import Batch, End, Report, Sink
from .capacity import Capacity, Ledger


class Flight:
    """A batch under way."""

    def __init__(self, batch: Batch, sink: Sink) -> None:
        self.key = batch.run_id, batch.id
        self.sink = sink
        self.last: Report | None = None
        self.done = threading.Event()

    def hear(self, report: Report) -> None:
        """Take a report from the worker."""
        if self.done.is_set():
            return
        if report.end is None:
            self.sink(report)
        else:
            self.last = report
            self.done.set()

    def finish(self, end: End) -> None:
        """End it from this side."""
        if not self.done.is_set():
            self.last = Report(*self.key, end=end)
            self.done.set()


class Worker:
    """A Dask worker as the driver knows it. Its fields belong to the runner's lock."""

    def __init__(self, address: str, info: dict[str, Any], memory: int = 0) -> None:
        self.address = address
        custom = dict(info.get("resources") or {})
        gpus = custom.pop("GPU", 0.0)
        memory = info.get("memory_limit") or memory
        self.capacity = Capacity(info["nthreads"], gpus, memory, custom)
        self.ledger = Ledger()
        self.flights: dict[tuple[str, int], Flight] = {}
        self.leases: dict[str, Any] = {}
        self.held: set[str] = set()
        self.orders: list[tuple[Any, ...]] = []
        self.sending = False
        self.acknowledged = 0
        self.ready = self.leaving = False

    def leave(self) -> None:
        """It is about to end: what it runs is listened to, and nothing more is placed there."""
        self.leaving = True
        self.held.clear()
        self.leases.clear()

    def now(self) -> Capacity:
        """What may be used: the threads on which a lease is held."""
        whole = self.capacity
        return Capacity(len(self.held), whole.gpus, whole.memory, whole.custom)
