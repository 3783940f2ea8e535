"""A map whose items are all in the cache, in a process that did not put them there.

    python benchmarks/cached.py --n 100000

The first process computes the items, the second one maps over the same inputs: what it takes from the
call until the map has ended, the reading of the index included. `without` is the same map of the same
task without a policy, in a process of its own as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import report

ROUNDS = 3
INPUTS_OF = {
    "int": lambda i: i,
    "text": lambda i: f"text number {i}",
    "row": lambda i: {"id": i, "text": f"text number {i}"},
}


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--executor", default="threads")
    parser.add_argument("--case", nargs=2, help="(one case, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        kind, role = arguments.case
        measure(kind, role, arguments.executor, arguments.n)
        return
    report.own_home()
    report.machine()
    for kind in INPUTS_OF:
        for role in ("without", "computed", *["hits"] * ROUNDS):
            same = ["--n", str(arguments.n), "--executor", arguments.executor]
            subprocess.run([sys.executable, __file__, "--case", kind, role, *same], check=True)


def measure(kind: str, role: str, executor: str, n: int) -> None:
    from headrace import INPUTS, NO_CACHE, flow, task

    def body(value: Any) -> int:
        return len(str(value))

    work = task(body, name=f"work-{kind}", cache_policy=NO_CACHE if role == "without" else INPUTS)
    values = list(map(INPUTS_OF[kind], range(n)))

    @flow(executor=executor)
    def maps() -> tuple[float, float, dict[str, int]]:
        wall, cores = time.perf_counter(), time.process_time()
        future = work.map(values)
        future.wait()
        return time.perf_counter() - wall, time.process_time() - cores, future.counts()

    wall, cores, counts = maps()
    if counts != {"Cached" if role == "hits" else "Completed": n}:
        raise RuntimeError(f"{role}: {counts}")
    facts = {"items": n, "inputs": kind, "executor": executor, "pid": os.getpid()}
    report.figure("cached", f"{role}_seconds", wall, "s", cpu_seconds=round(cores, 3), **facts)


if __name__ == "__main__":
    main()
