"""Who takes time on cores while 1,000 tasks of 10 ms compute: the children, the driver, the engine.

    python benchmarks/beside_tasks.py --executor dask ray

Linux only: sums what the kernel tells of each thread. Each process is told twice: for as long as the
pool was idle, and for the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import report
from slots import with_slots
from workload import compute

NAMES = {
    "headrace.executors.child": "children",
    "SlotActor": "actors",
    "log_monitor": "log monitor",
    "gcs_server": "gcs",
    "raylet/raylet": "raylet",
}
"""What a command line has in it, and what its process is called here."""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=["processes", "dask", "ray"])
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds")
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        measure(executor, arguments.n, arguments.seconds, arguments.slots, arguments.idle)


def measure(executor: str, n: int, seconds: float, slots: int, idle: float) -> None:
    from headrace import flow, task

    tick = task(compute, name="tick")

    @flow(executor=with_slots(executor, slots))
    def small(n: int) -> None:
        ticks = tick.map([seconds] * n)
        ticks.wait()
        report.check(ticks.counts(), n)

    small(20)
    whats: dict[str, Callable[[], object]] = {
        "idle": lambda: time.sleep(idle),
        "computing": lambda: small(n),
    }
    for name, what in whats.items():
        before = core_nanoseconds()
        wall = report.timed(what)
        taken = core_nanoseconds() - before
        beside = taken.total() - taken["children"]
        facts = {each: round(took / 1e6, 1) for each, took in taken.most_common()}
        report.figure(
            "beside_tasks",
            name,
            beside / 1e6,
            "ms",
            executor=executor,
            wall=round(wall, 3),
            **facts,
        )


def core_nanoseconds() -> Counter[str]:
    """Time on cores of this process and all below it, by what they are."""
    me = psutil.Process()
    found: Counter[str] = Counter()
    for process in (me, *me.children(recursive=True)):
        with suppress(OSError, psutil.NoSuchProcess):
            name = "driver" if process == me else name_of(process)
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                found[name] += int((thread / "schedstat").read_text().split()[0])
    return found


def name_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((name for part, name in NAMES.items() if part in line), "others")


if __name__ == "__main__":
    main()
