"""Ten thousand items of ``asyncio.sleep(0.1)`` on two workers: how well an async task's items overlap.

    python benchmarks/async_naps.py --executor processes --n 10000 --concurrency 1000

The ideal is the items' own time divided by the slots and the concurrency.
"""

from __future__ import annotations

import asyncio

import report
from slots import EXECUTORS, with_slots


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=list(EXECUTORS))
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    ideal = arguments.n * arguments.seconds / arguments.slots / arguments.concurrency
    for executor in arguments.executor:
        taken = walls(
            executor, arguments.slots, arguments.concurrency, arguments.n, arguments.seconds,
            arguments.rounds,
        )  # fmt: skip
        report.figure(
            "async_naps",
            "wall",
            report.median(taken),
            "s",
            executor=executor,
            n=arguments.n,
            concurrency=arguments.concurrency,
            ideal=ideal,
            rounds=[round(each, 3) for each in taken],
        )


def walls(
    executor: str, slots: int, concurrency: int, n: int, seconds: float, rounds: int
) -> list[float]:
    from headrace import flow, task

    @task(concurrency=concurrency)
    async def nap(length: float) -> None:
        await asyncio.sleep(length)

    @flow(executor=with_slots(executor, slots))
    def naps(count: int) -> None:
        mapped = nap.map([seconds] * count)
        mapped.wait()
        report.check(mapped.counts(), count)

    naps(20)
    return [report.timed(lambda: naps(n)) for _ in range(rounds)]


if __name__ == "__main__":
    main()
