"""A wide run whose driver is killed half way, and that a new process completes.

    python benchmarks/resumed.py --n 1000000 --executor processes

One item in a hundred fails, and runs again in the second process. ``again`` counts items that had a
partition when the driver died and have another one since. The driver is killed after half the time
that an undisturbed run takes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import report
from workload import TASKS, items


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--executor", default="processes")
    parser.add_argument("--role", choices=["drive", "resume"], help="what a process of this does")
    parser.add_argument("--run", default="")
    arguments = parser.parse_args()
    if arguments.role == "drive":
        drive(arguments.executor, arguments.n)
    elif arguments.role == "resume":
        resume(arguments.run)
    else:
        report.own_home()
        report.machine()
        compare(arguments.executor, arguments.n)


def compare(executor: str, n: int) -> None:
    facts = {"executor": executor, "n": n}
    whole = subprocess.Popen(command(executor, n, "drive"), stdout=subprocess.PIPE, text=True)
    assert whole.stdout is not None
    whole.stdout.readline()
    undisturbed = float(whole.stdout.readline())
    whole.wait()
    report.figure("resumed", "undisturbed", undisturbed, "s", **facts)

    driver = subprocess.Popen(command(executor, n, "drive"), stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    run = driver.stdout.readline().strip()
    time.sleep(undisturbed / 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = committed(run)
    report.figure("resumed", "killed_at", len(before) / n, "of all items", **facts)
    second = subprocess.run(
        [*command(executor, n, "resume"), "--run", run],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    took, good = second.stdout.split()
    if int(good) != n - n // 100:
        raise RuntimeError(f"{good} of {n} items completed")
    since = committed(run, later=True)
    report.figure("resumed", "resumed", float(took), "s", **facts)
    report.figure("resumed", "again", len(np.intersect1d(before, since)), "items", **facts)


def command(executor: str, n: int, role: str) -> list[str]:
    own = Path(__file__)
    return [sys.executable, str(own), "--executor", executor, "--n", str(n), "--role", role]


def drive(executor: str, n: int) -> None:
    """Run it, tell its id, and how long it took once the pool was warm."""
    from headrace import flow, task

    work = task(TASKS["int"], name="work", on_error="quarantine")

    @flow(executor=executor)
    def wide_map(size: int) -> None:
        work.map(items("int", size)).wait()

    wide_map(100)
    started = time.perf_counter()
    run = wide_map.start(n)
    print(run.id, flush=True)
    run.result()
    print(time.perf_counter() - started, flush=True)


def resume(run: str) -> None:
    """Complete it; tell how long that took, with the pool's start, and how many items have a value."""
    import headrace

    started = time.perf_counter()
    resumed = headrace.resume(run)
    resumed.result()
    counts = resumed.nodes()[0].counts
    print(time.perf_counter() - started, counts["Completed"])


def committed(run: str, *, later: bool = False) -> np.ndarray:
    """Positions that have a partition: of all drivers so far, or only of later ones."""
    from headrace.core.interfaces import GENERATION
    from headrace.core.items import indices
    from headrace.core.registry import open_store
    from headrace.core.settings import get_settings

    receipts = open_store(get_settings().storage_url, {}).run(run).receipts(None)
    chosen = [r for r in receipts if not later or r.batch >= GENERATION]
    return np.concatenate([np.zeros(0, np.int64), *(indices(r.positions) for r in chosen)])


if __name__ == "__main__":
    main()
