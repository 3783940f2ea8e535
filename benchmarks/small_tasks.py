"""A thousand tasks of 10 ms, sleeping and computing: how much of the slots' time is used.

    python benchmarks/small_tasks.py --executor processes --n 1000

The ideal is the tasks' own time divided by the slots. Pools are warm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import report
from slots import EXECUTORS, with_slots
from workload import compute

WORK: dict[str, Callable[[float], None]] = {"sleeping": time.sleep, "computing": compute}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=list(EXECUTORS))
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="*", default=list(WORK), choices=list(WORK))
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    ideal = arguments.n * arguments.seconds / arguments.slots
    for executor in arguments.executor:
        for name in arguments.work:
            taken = walls(executor, WORK[name], arguments)
            report.figure(
                "small_tasks",
                f"share_of_ideal_{name}",
                ideal / report.median(taken),
                "ratio",
                executor=executor,
                n=arguments.n,
                seconds=arguments.seconds,
                slots=arguments.slots,
                rounds=[round(each, 3) for each in taken],
            )


def walls(
    executor: str, work: Callable[[float], None], arguments: argparse.Namespace
) -> list[float]:
    from headrace import flow, task

    def busy(seconds: float) -> None:
        work(seconds)

    tick = task(busy, name="tick")

    @flow(executor=with_slots(executor, arguments.slots))
    def small(n: int) -> None:
        ticks = tick.map([arguments.seconds] * n)
        ticks.wait()
        report.check(ticks.counts(), n)

    small(20)
    return [report.timed(lambda: small(arguments.n)) for _ in range(arguments.rounds)]


if __name__ == "__main__":
    main()
