"""A warm second flow run with one trivial task: what a run itself costs.

python benchmarks/warm.py --executor threads --n 30
"""

from __future__ import annotations

import report
from slots import EXECUTORS


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=["inline", *EXECUTORS])
    parser.add_argument("--n", type=int, default=30, help="runs")
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        measure(executor, arguments.n)


def measure(executor: str, n: int) -> None:
    from headrace import flow, task

    @task
    def add(value: int) -> int:
        return value + 1

    @flow(executor=executor)
    def small(value: int) -> int:
        return add.submit(value).result()

    first = report.timed(lambda: small(1))
    small(2)
    taken = sorted(report.timed(lambda: small(3)) for _ in range(n))
    facts = {"executor": executor, "n": n}
    report.figure("warm", "first_run", first * 1e3, "ms", **facts)
    report.figure("warm", "warm_run", report.median(taken) * 1e3, "ms", **facts)
    report.figure("warm", "warm_run_p90", taken[int(n * 0.9)] * 1e3, "ms", **facts)


if __name__ == "__main__":
    main()
