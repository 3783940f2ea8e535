"""What memory a batch takes is measured in its child, and fewer run where all do not fit."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from core.bodies import Bench
from core.engines import running

from headrace.core.footprint import Footprint
from headrace.core.settings import settings_override
from headrace.executors.processes import ProcessesExecutor


def test_what_a_child_held_before_is_told_apart_from_what_a_batch_takes() -> None:
    footprint = Footprint()
    assert footprint.need(10) == 0
    footprint.measured(100, 150, 10)
    footprint.measured(120, 140, 10)
    footprint.measured(0, 0, 10)
    assert footprint.need(10) == 170
    assert footprint.need(30) == 270, "three times the input, three times the growth"
    assert footprint.need(1) == 170
    footprint.measured(100, 1100, 100)
    assert footprint.need(50) == 1120, "never less than was seen"


def test_a_batch_tells_what_it_took(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def take(size: int) -> int:
        return len(bytearray(size)) and len(b"x" * size)

    bench.run(bench.batch([bench.spec(take)], [1]), in_child=True)  # libraries are loaded now
    for size in (64 << 20, 1):
        bench.reports.clear()
        bench.run(bench.batch([bench.spec(take)], [size]), in_child=True)
        last = bench.reports[-1]
        assert last.base_memory > 1 << 20
        grown = last.peak_memory - last.base_memory
        assert grown > 60 << 20 if size > 1 else grown < 30 << 20


def span(_x: int) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(0.01)
    return began, time.monotonic()


@pytest.mark.parametrize(("memory", "overlap"), [("1MB", False), ("", True)])
def test_batches_that_do_not_fit_run_one_at_a_time(
    tmp_path: Path, memory: str, overlap: bool
) -> None:
    with (
        settings_override(memory=memory),
        running(tmp_path, ProcessesExecutor(max_workers=2)) as run,
    ):
        spans: list[Any] = run.map(span, range(120), "_x").result()
    known = sorted(spans[4:])  # two were handed out to each slot before the first had ended
    assert any(b[0] < a[1] for a, b in pairwise(known)) is overlap
