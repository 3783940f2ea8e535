"""History after a map of a million items: its size, and how long questions to it take.

    python benchmarks/history_size.py --n 1000000

One item in a hundred fails. Questions are asked of the closed run, each several times, as a page or
a person asks them, through `History`; then a new process, with driver and pool gone, reads value,
state and start time of random items through the public interface, and checks them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import report
from workload import TASKS, items


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--executor", default="processes")
    parser.add_argument("--items", type=int, default=100, help="random items to read")
    parser.add_argument("--read", help="what the new process does: read this run")
    arguments = parser.parse_args()
    if arguments.read:
        read_back(arguments.read, arguments.n, arguments.items)
        return
    home = report.own_home()
    report.machine("sqlalchemy")
    ask(arguments.executor, arguments.n, Path(home))
    run = the_run()
    command = [sys.executable, __file__, "--read", run, "--n", str(arguments.n)]
    driver = subprocess.run(command, check=True, env=os.environ, stdout=subprocess.PIPE, text=True)
    print(driver.stdout, end="", flush=True)


def the_run() -> str:
    import headrace

    return str(headrace.runs(limit=1)[0].id)


def ask(executor: str, n: int, home: Path) -> None:
    """Run the map in a process of its own, whose end closes the history; then ask."""
    import multiprocessing

    worker = multiprocessing.get_context("spawn").Process(target=wide, args=(executor, n))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise RuntimeError(f"the run ended with exit code {worker.exitcode}")

    from headrace.core.runs import settled_history

    history = settled_history()
    run = history.runs(limit=1)[0].id
    facts = {"n": n, "failed": n // 100}
    size = sum(path.stat().st_size for path in home.glob("history.db*"))
    report.figure("history_size", "file", size / 1e6, "MB", **facts)
    chosen = [k * 100 + 99 for k in random.Random(0).sample(range(n // 100), 9)]
    of_item = iter(chosen)
    questions: dict[str, Callable[[], Any]] = {
        "state_and_error_of_item": lambda: history.items(run, 0, position=next(of_item)),
        "all_failed_items": lambda: history.items(run, 0, state="Failed"),
        "counts_by_state": lambda: history.nodes(run)[0].counts,
    }
    for name, question in questions.items():
        walls: list[float] = []
        cores: list[float] = []
        found: Any = None
        for _ in range(len(chosen)):
            wall, core = time.perf_counter(), time.thread_time()
            found = question()
            walls.append((time.perf_counter() - wall) * 1e3)
            cores.append((time.thread_time() - core) * 1e3)
        if name == "counts_by_state" and found != {"Completed": n - n // 100, "Failed": n // 100}:
            raise RuntimeError(f"counts are {found}")
        report.figure(
            "history_size",
            name,
            report.median(walls),
            "ms",
            core_ms=round(report.median(cores), 2),
            first_ms=round(walls[0], 1),
            found=len(found),
            **facts,
        )


def wide(executor: str, n: int) -> None:
    from headrace import flow, task

    work = task(TASKS["int"], name="work", on_error="quarantine")

    @flow(executor=executor)
    def wide_map() -> None:
        work.map(items("int", n)).wait()

    wide_map()


def read_back(run: str, n: int, count: int) -> None:
    """Value, state and start time of random items, in a process that never ran any."""
    import headrace

    begun = time.perf_counter()
    record = headrace.attach(run)
    lasted = record.record()
    assert lasted.started is not None
    assert lasted.ended is not None
    for position in random.Random(1).sample(range(n), count):
        item = record.item("work-0", position)
        if item.started is None or not lasted.started <= item.started <= lasted.ended:
            raise RuntimeError(f"item {position} started at {item.started}: {lasted}")
        value = item.state.result(raise_on_failure=False)
        failing = position % 100 == 99
        good = isinstance(value, Exception) if failing else value == position + 1
        if not good or item.state.name != ("Failed" if failing else "Completed"):
            raise RuntimeError(f"item {position} is {item.state!r} with {value!r}")
    report.figure(
        "history_size",
        "random_items_in_a_new_process",
        (time.perf_counter() - begun) * 1e3 / count,
        "ms/item",
        items=count,
        n=n,
    )


if __name__ == "__main__":
    main()
