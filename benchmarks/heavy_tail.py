"""Durations that differ a thousandfold: how well batches balance, against a perfect list schedule.

    python benchmarks/heavy_tail.py --executor processes --seeds 0 1 2

Items sleep for log-normal times, the longest 500 times the median, 30 s in all. The rival is
simulated: a list schedule without any overhead, which hands each item, in order, to the slot that is
free first. It knows no durations ahead, as headrace does not.
"""

from __future__ import annotations

import heapq
import time

import numpy as np
import report
from slots import EXECUTORS, with_slots


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=list(EXECUTORS))
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--total", type=float, default=30.0, help="seconds of all items together")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(11)))
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        ratios = [
            ratio(executor, durations(seed, arguments.n, arguments.total), arguments.slots)
            for seed in arguments.seeds
        ]
        report.figure(
            "heavy_tail",
            "ratio_to_list_schedule",
            report.median(ratios),
            "ratio",
            executor=executor,
            n=arguments.n,
            total=arguments.total,
            slots=arguments.slots,
            seeds=arguments.seeds,
            ratios=[round(each, 3) for each in ratios],
        )


def durations(seed: int, n: int, total: float) -> list[float]:
    """Log-normal seconds, the longest 500 times the median, with this sum."""
    drawn = np.random.default_rng(seed).standard_normal(n)
    drawn -= np.median(drawn)
    scaled = np.exp(drawn * np.log(500) / drawn.max())
    return (scaled * total / scaled.sum()).tolist()


def list_schedule(seconds: list[float], slots: int) -> float:
    """When the last item ends (Graham, 1966)."""
    free = [0.0] * slots
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def ratio(executor: str, seconds: list[float], slots: int) -> float:
    from headrace import flow, task

    @task
    def nap(length: float) -> None:
        time.sleep(length)

    @flow(executor=with_slots(executor, slots))
    def tail(values: list[float]) -> None:
        naps = nap.map(values)
        naps.wait()
        report.check(naps.counts(), len(values))

    tail([0.001] * 20)
    return report.timed(lambda: tail(seconds)) / list_schedule(seconds, slots)


if __name__ == "__main__":
    main()
