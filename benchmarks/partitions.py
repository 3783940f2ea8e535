"""The map step of the corpus job over large partitions, beside the engines alone, in one run.

    python benchmarks/partitions.py --partitions 32 --megabytes 14 --rounds 3

Each partition of installed source files is read, decoded, normalised, measured and judged (the
corpus job's own `clean`), and written as an Arrow file. The rivals do it with a loop on a
`ProcessPoolExecutor` (its chunk size is swept), on `client.submit` and `ray.remote`, and with
`dask.dataframe` and `ray.data`. All outputs are compared row by row.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import partition_work as work
import report
from rivals import Rival
from slots import with_slots

HANDS = {
    "processes": ("partitions_on_processes.py", {}),
    "dask": ("partitions_on_dask.py", {"dask by hand": "submit", "dask.dataframe": "dataframe"}),
    "ray": ("partitions_on_ray.py", {"ray by hand": "remote", "ray.data": "data"}),
}
"""Executor -> the rival's script, and its cases by name; on processes one for each chunk size."""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--megabytes", type=float, default=1.0, help="of text in a partition")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--executor", nargs="*", choices=list(HANDS), default=list(HANDS))
    parser.add_argument("--chunksize", nargs="*", choices=["1", "2", "4"], default=["1", "2", "4"])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    home = report.own_home()
    target = tempfile.mkdtemp(prefix="headrace-partitions-")
    report.machine("dask", "ray")
    try:
        for executor in arguments.executor:
            measure(arguments, executor, target)
    finally:
        shutil.rmtree(target)
        shutil.rmtree(home, ignore_errors=True)


def measure(arguments: argparse.Namespace, executor: str, target: str) -> None:
    """One executor beside the rivals of its family, round by round."""
    script, others = HANDS[executor]
    hands = others or {f"processes by hand, chunks of {n}": n for n in arguments.chunksize}
    packs = work.packs(arguments.partitions, arguments.megabytes)
    told = [
        f"--{name}={getattr(arguments, name)}" for name in ("partitions", "megabytes", "workers")
    ]
    last: list[Any] = []
    flow = cleaning(executor, arguments.workers)

    def headrace() -> None:
        last[:] = [flow(packs)]

    with contextlib.ExitStack() as stack:
        rival = stack.enter_context(Rival(script, *told, f"--target={target}"))
        cases: dict[str, Callable[[], object]] = {
            name: partial(rival.run, case) for name, case in hands.items()
        }
        cases[f"headrace on {executor}"] = headrace
        flow(work.small_packs(8 * arguments.workers))
        taken = report.interleaved(cases, arguments.rounds)
    expected = work.written(target, next(iter(hands)))
    by_hand = [name for name in hands if "by hand" in name]
    best = min(by_hand, key=lambda name: report.median(taken[name].wall))
    for name, its in taken.items():
        output = work.written(target, name) if name in hands else last[0]
        facts = {
            "case": name,
            "same_output": output.equals(expected),
            "partitions": len(packs),
            "bytes": sum(file.size for pack in packs for file in pack.files),
        }
        for what, ours, theirs in (
            ("wall", its.wall, taken[best].wall),
            ("core_time", its.cores, taken[best].cores),
        ):
            report.figure(
                "partitions",
                what,
                report.median(ours),
                "s",
                ratio_to_hand=round(report.ratio(ours, theirs), 3),
                rounds=[round(each, 3) for each in ours],
                **facts,
            )


def cleaning(executor: str, workers: int) -> Callable[[list[Any]], Any]:
    """A flow that cleans packs, and gives what was stored as one table, read after the run."""
    from headrace import flow, unmapped
    from headrace.examples.corpus import clean
    from headrace.examples.python_text import Rules

    kept: list[Any] = []

    @flow(executor=with_slots(executor, workers))
    def cleaned(packs: list[Any]) -> None:
        mapped = clean.map(packs, unmapped(work.ORIGIN), unmapped(Rules()))
        mapped.wait()
        report.check(mapped.counts(), len(packs))
        kept[:] = [mapped]

    def run(packs: list[Any]) -> Any:
        cleaned(packs)
        return Stored(kept[0])

    return run


class Stored:
    """What a run has stored, read when it is asked for: not within the time that is taken."""

    def __init__(self, mapped: Any) -> None:
        self.mapped = mapped

    def equals(self, table: Any) -> bool:
        return self.mapped.dataset().to_table().equals(table)


if __name__ == "__main__":
    main()
