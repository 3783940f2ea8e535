"""A map over very many trivial items, on each executor, beside the raw engine in the same run.

    python benchmarks/wide.py --executor processes dask --n 100000 --kind int

Every item is tracked, stored and in history, and one in a hundred fails. The raw engines run in a
process of their own: one call per item over fewer items (``--raw-n``: they are too slow for all of
them, so what is compared is the rate), and chunks cut by hand over all, as large as the batches of
headrace's last round were. ``tracking`` is the difference in time on cores to those.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import report
from workload import TASKS, items


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=["threads", "processes", "dask", "ray"])
    parser.add_argument("--n", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--kind", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--raw-n", type=int, default=2_000)
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        for kind in arguments.kind:
            for n in arguments.n:
                measure(executor, kind, n, arguments.rounds, arguments.raw_n)


def measure(executor: str, kind: str, n: int, rounds: int, raw_n: int) -> None:
    import psutil

    from headrace import context, flow, task

    work = task(TASKS[kind], name=f"wide-{kind}", on_error="quarantine")

    values = items(kind, n)

    @flow(executor=executor)
    def wide(count: int) -> tuple[dict[str, int], str]:
        mapped = work.map(values[:count])
        mapped.wait()
        return mapped.counts(), context.flow_run_id

    _, run = wide(1_000)
    me = psutil.Process()
    idle = me.memory_info().rss
    walls: list[float] = []
    cores: list[float] = []
    peak = idle
    for _ in range(rounds):
        with Peak(me) as watch:
            before, start = report.core_seconds(me), time.perf_counter()
            counts, run = wide(n)
            walls.append(time.perf_counter() - start)
            cores.append(report.core_seconds(me) - before)
        peak = max(peak, watch.bytes)
        if counts.get("Failed") != n // 100 or counts.get("Completed") != n - n // 100:
            raise RuntimeError(f"{executor}, {n} {kind}: {counts}")
    facts = {"executor": executor, "kind": kind, "n": n}
    wall = report.median(walls)
    report.figure("wide", "wall", wall, "s", rounds=[round(w, 3) for w in walls], **facts)
    report.figure("wide", "rate", n / wall, "items/s", **facts)
    report.figure("wide", "core_time", report.median(cores) / n * 1e6, "us/item", **facts)
    report.figure("wide", "driver_memory", (peak - idle) / 1e6, "MB above idle", **facts)
    raw = raw_rates(executor, kind, raw_n, n, batch_sizes(run))
    untracked = raw.pop("chunked_core")
    tracking = report.median(cores) / n * 1e6 - untracked
    report.figure("wide", "tracking", tracking, "us/item", untracked=round(untracked, 2), **facts)
    for way, rate in raw.items():
        report.figure(
            "wide",
            f"raw_{way}",
            rate,
            "items/s",
            headrace_over_raw=round(n / wall / rate, 2),
            raw_n=raw_n if way == "one_by_one" else n,
            **facts,
        )


def batch_sizes(run: str) -> list[int]:
    """Items of each batch of a run, as history has them."""
    from headrace.core.runs import settled_history

    return [batch.items for batch in settled_history().batches(UUID(run), limit=1_000_000)]


def raw_rates(engine: str, kind: str, n: int, chunked_n: int, sizes: list[int]) -> dict[str, float]:
    script = Path(__file__).with_name("raw_engines.py")
    amounts = ["--n", str(n), "--chunked-n", str(chunked_n), "--rounds", "3", "--sizes"]
    command = [sys.executable, str(script), "--engine", engine, "--kind", kind, *amounts]
    done = subprocess.run(
        command, check=True, input=json.dumps(sizes), stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class Peak:
    """The most memory that a process holds while the block runs, looked at each 20 ms."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self.bytes = max(self.bytes, self.process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


if __name__ == "__main__":
    main()
