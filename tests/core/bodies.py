"""Runs batches through the worker's body in this process, on a real store."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle

from headrace.core.interfaces import (
    Batch,
    Encoder,
    Failure,
    Inputs,
    Mark,
    Positions,
    Receipt,
    RefColumn,
    Report,
    Stage,
    StageSpec,
    WorkerInfo,
)
from headrace.core.livecode import Live
from headrace.core.packing import pack, pack_static
from headrace.core.registry import open_store
from headrace.core.worker import run_batch

WORKER = WorkerInfo("w-1", "here", 1)


class FlakyStore:
    """A run store whose encoders raise while ``broken`` is set."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.broken: Exception | None = None
        self.flushes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encoder(
        self, spec: StageSpec, batch: Batch, stage: int, ids: bytes | None, inputs: Inputs
    ) -> Encoder:
        encoder = self.inner.encoder(spec, batch, stage, ids, inputs)
        plain = encoder.flush

        def flush() -> tuple[Receipt, ...]:
            self.flushes += 1
            if self.broken is not None:
                raise self.broken
            return plain()

        encoder.flush = flush
        return encoder


class Bench:
    """One run's store and the batches that are run on it."""

    def __init__(self, folder: Path) -> None:
        self.store = FlakyStore(open_store(str(folder)).run("run"))
        self.marks = memoryview(bytearray(8 * len(Mark))).cast("q")
        self.reports: list[Report] = []
        self.arrived = threading.Condition()
        self.batches = 0

    def spec(self, fn: Callable[..., Any], mapped: Sequence[str] = ("x",), **options: Any) -> str:
        static = options.pop("static", {})
        spec = StageSpec(
            "t",
            pickle.dumps(fn) if isinstance(fn, Live) else cloudpickle.dumps(fn),
            None,
            tuple(mapped),
            pack_static(static, live=False).data,
            positional=tuple(mapped),
            **options,
        )
        data = pickle.dumps(spec)
        path = f"specs/{hash(data) & 0xFFFFFFFF:x}"
        self.store.write(path, data)
        return path

    kept: ClassVar[dict[str, Any]] = {}

    def spec_of(self, fn: Callable[..., Any], **options: Any) -> str:
        """A spec of a function that stays in this process, with all that it closes over."""
        live = Live(fn)
        self.kept[f"live-{live.number}"] = live
        return self.spec(live, **options)

    def batch(self, specs: Sequence[str], values: Sequence[Any], **options: Any) -> Batch:
        timeouts = options.pop("timeouts", [None] * len(specs))
        persist = options.pop("persist", True)
        self.batches += 1
        stages = tuple(
            Stage(n, f"n{n}", spec, timeout_seconds=timeouts[n], persist=persist)
            for n, spec in enumerate(specs)
        )
        payload = options.pop("payload", None) or pack([list(values)]).data
        where = Positions.span(0, len(values))
        return Batch("run", self.batches, self.store, stages, where, payload, **options)  # type: ignore[arg-type]

    def sink(self, report: Report) -> None:
        with self.arrived:
            self.reports.append(report)
            self.arrived.notify_all()

    def run(self, batch: Batch, *, in_child: bool = False) -> Bench:
        for word in Mark:
            self.marks[word] = 0
        self.reports.clear()
        run_batch(batch, self.sink, self.marks, WORKER, in_child=in_child)
        return self

    def map(self, fn: Callable[..., Any], values: Sequence[Any], **options: Any) -> Bench:
        spec = {k: options.pop(k) for k in tuple(options) if k in StageSpec.__slots__}
        return self.run(self.batch([self.spec_of(fn, **spec)], values, **options))

    def wait(self, seen: Callable[[Bench], bool]) -> None:
        """Until the reports are as wanted."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: seen(self), timeout=20)

    # ------------------------------------------------------------------------ what came of it

    @property
    def end(self) -> Any:
        ends = [report.end for report in self.reports if report.end is not None]
        assert len(ends) == 1 and self.reports[-1].end is not None, "one end, and it comes last"
        return ends[0]

    @property
    def failures(self) -> dict[int, Failure]:
        all_ = [failure for report in self.reports for failure in report.failures]
        assert len({(f.node, f.position) for f in all_}) == len(all_)
        return {failure.position: failure for failure in all_}

    @property
    def logs(self) -> list[str]:
        return [line.message for report in self.reports for line in report.logs]

    def values(self, node: int = 0) -> dict[int, Any]:
        """Committed values by position, read back from the store."""
        out: dict[int, Any] = {}
        for report in self.reports:
            for receipt in report.receipts:
                if receipt.node != node:
                    continue
                first = 0
                for index, position in enumerate(receipt.positions):
                    rows = receipt.rows if isinstance(receipt.rows, int) else receipt.rows[index]
                    column = RefColumn((receipt.part,), [0], [index], [first], [rows], (None,))
                    assert position not in out, "committed twice"
                    (out[position],) = self.store.load(column)
                    first += rows
        return out
