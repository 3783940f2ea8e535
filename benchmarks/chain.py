"""Three maps in a chain, beside one map of the three functions composed.

python benchmarks/chain.py --executor processes --n 100000
"""

from __future__ import annotations

import report
from slots import EXECUTORS


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=list(EXECUTORS))
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        measure(executor, arguments.n, arguments.rounds)


def measure(executor: str, n: int, rounds: int) -> None:
    from headrace import flow, task

    @task
    def add(value: int) -> int:
        return value + 1

    @task
    def double(value: int) -> int:
        return value * 2

    @task
    def square(value: int) -> int:
        return value * value

    @task
    def composed(value: int) -> int:
        return ((value + 1) * 2) ** 2

    @flow(executor=executor)
    def chain(count: int) -> int:
        last = square.map(double.map(add.map(range(count))))
        last.wait()
        report.check(last.counts(), count)
        return last[count - 1].result()

    @flow(executor=executor)
    def one(count: int) -> int:
        last = composed.map(range(count))
        last.wait()
        report.check(last.counts(), count)
        return last[count - 1].result()

    if chain(1_000) != one(1_000):
        raise RuntimeError("the chain and its composition differ")
    seconds = report.interleaved({"chain": lambda: chain(n), "one": lambda: one(n)}, rounds)
    facts = {"executor": executor, "n": n}
    for name, taken in seconds.items():
        report.figure("chain", name, report.median(taken.wall), "s", **facts)
        report.figure("chain", f"{name}_core_time", report.median(taken.cores), "s", **facts)
    chained, alone = seconds["chain"], seconds["one"]
    report.figure("chain", "ratio", report.ratio(chained.wall, alone.wall), "ratio", **facts)
    report.figure("chain", "core_ratio", report.ratio(chained.cores, alone.cores), "ratio", **facts)


if __name__ == "__main__":
    main()
