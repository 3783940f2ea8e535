"""A dataset larger than memory through clean, shuffle, sort, distinct and write: memory, disk and time.

    python benchmarks/large_dataset.py --gigabytes 8

What each operation has made is dropped once the next one has read it. Memory is sampled ten times a
second and leaves out files that are mapped, which the kernel can take back; the store's size is
sampled once a second. It needs five times as much disk. What was written is held against what DuckDB says of the input.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import report
from datasets import WORKERS, measured, synthesise

SHARED = 10
"""Of so many rows two have the same ``document``."""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--timeout", type=float, default=3600)
    parser.add_argument("--case", nargs=2, help="(the job, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        run_job(*arguments.case)
        return
    report.machine()
    folder = Path(tempfile.mkdtemp(prefix="headrace-large-"))
    os.environ["HEADRACE_HOME"] = str(folder / "home")
    os.environ["HEADRACE_INTERMEDIATES"] = "drop"
    os.environ.setdefault("HEADRACE_DISPLAY", "none")
    try:
        source, target = synthesise(folder / "in", arguments.gigabytes), folder / "out"
        facts = {"gigabytes": arguments.gigabytes, "executor": "processes", "workers": WORKERS}
        stop, most = threading.Event(), [0]
        watch = threading.Thread(target=sample, args=(folder / "home" / "storage", stop, most))
        watch.start()
        command = [sys.executable, __file__, "--case", str(source), str(target)]
        took = measured(command, arguments.timeout)
        stop.set()
        watch.join()
        if isinstance(took, str):
            raise SystemExit(f"the job failed: {took}")
        rows = checked(source, target)
        for name, (value, unit) in took.items():
            report.figure("large_dataset", name, value, unit, **facts)
        report.figure("large_dataset", "store", most[0] / 1e9, "GB at most", **facts)
        report.figure("large_dataset", "rows", rows, "rows written", **facts)
    finally:
        shutil.rmtree(folder)


def sample(store: Path, stop: threading.Event, most: list[int]) -> None:
    """How much the store holds at most."""
    while not stop.wait(1):
        most[0] = max(most[0], sum(map(size_of, store.rglob("*"))))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # dropped meanwhile
        return 0


def run_job(source: str, target: str) -> None:
    """The job, timed. Its tasks travel by value: this file is the main module."""
    import json

    import numpy as np
    import psutil
    import pyarrow as pa
    import pyarrow.compute as pc

    import headrace
    from headrace import ProcessesExecutor, flow, task

    @task
    def clean(rows: pa.Table) -> pa.Table:
        identity: Any = rows["id"]
        text = pc.utf8_trim_whitespace(rows["text"])
        doubled = np.asarray(identity) % SHARED == 1
        document = pc.subtract(identity, pa.array(doubled).cast(pa.int64()))
        return rows.set_column(3, "text", text).append_column("document", document)

    @flow(executor=ProcessesExecutor(WORKERS))
    def job() -> None:
        data = clean.map(headrace.open_dataset(source).partitions(bytes="128MB")).dataset()
        data = data.shuffle(1, partition_bytes="128MB")
        data = data.sort("value", partition_bytes="128MB")
        data.distinct("document", partition_bytes="128MB").write(target)

    me = psutil.Process()
    before = report.core_seconds(me)
    wall = report.timed(job)
    print(json.dumps({"wall": wall, "cores": report.core_seconds(me) - before}), flush=True)


def checked(source: Path, target: Path) -> int:
    """The rows are those that must come; gives how many.

    Raises
    ------
    RuntimeError
        They are not.
    """
    import duckdb

    one: Any = duckdb
    told = "select count(*), count(distinct document), sum(document) from {}"
    given = f"(select id - (id % {SHARED} = 1)::int as document from read_parquet('{source}/*.parquet'))"
    found = one.sql(told.format(f"read_parquet('{target}/**/*.parquet')")).fetchall()
    wanted = one.sql(told.format(f"(select distinct document from {given})")).fetchall()
    if found != wanted:
        raise RuntimeError(f"{found} came, and not {wanted}")
    return int(found[0][0])


if __name__ == "__main__":
    main()
