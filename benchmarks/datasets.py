"""Operations across partitions: wall time, core time and memory beside other engines, same rows out.

    python benchmarks/datasets.py --gigabytes 2 --engine headrace ray dask duckdb polars

Each case is a process of its own that reads Parquet files and writes Parquet files. Two in five rows
have one key. What was written is held against what DuckDB says of the input.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import report

OPERATIONS = ("distinct", "shuffle", "sort", "group_by")
ENGINES = ("headrace", "ray", "dask", "duckdb", "polars")
ROW_BYTES = 160
FILES = 16
WORKERS = 2
Case = Callable[[str, str, str], object]


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--engine", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--operation", nargs="*", default=list(OPERATIONS), choices=OPERATIONS)
    parser.add_argument("--partition-bytes", default="128MB", help="of headrace")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for a case")
    parser.add_argument("--case", nargs=4, help="(one case, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        engine, operation, source, target = arguments.case
        os.environ["PARTITION_BYTES"] = arguments.partition_bytes
        case = CASES[engine]()
        run_case(lambda: case(operation, source, target))
        return
    report.machine("ray", "dask", "duckdb", "polars")
    folder = Path(tempfile.mkdtemp(prefix="headrace-datasets-"))
    try:
        source = synthesise(folder / "in", arguments.gigabytes)
        for operation in arguments.operation:
            for engine in arguments.engine:
                target = folder / "out"
                case = [engine, operation, str(source), str(target)]
                facts = {"engine": engine, "gigabytes": arguments.gigabytes}
                if engine == "headrace":
                    facts["partition_bytes"] = arguments.partition_bytes
                size = ["--partition-bytes", arguments.partition_bytes]
                command = [sys.executable, __file__, *size, "--case", *case]
                took = measured(command, arguments.timeout)
                if isinstance(took, str):
                    print(json.dumps({"benchmark": operation, "failed": took, **facts}), flush=True)
                else:
                    checked(operation, source, target)
                    for name, (value, unit) in took.items():
                        report.figure(operation, name, value, unit, **facts)
                shutil.rmtree(target, ignore_errors=True)
    finally:
        shutil.rmtree(folder)


def synthesise(folder: Path, gigabytes: float) -> Path:
    """Parquet files of rows of about 160 bytes in memory."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rows = int(gigabytes * 1e9 / ROW_BYTES / FILES)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)
    for number in range(FILES):
        random = np.random.default_rng(number)
        key = np.where(random.random(rows) < 0.4, 0, random.integers(1, 50_000, rows))
        data = letters[random.integers(0, 32, rows * 128, np.uint8)]
        offsets: Any = pa.array(np.arange(rows + 1, dtype=np.int32) * 128)
        text = pa.StringArray.from_buffers(rows, offsets.buffers()[1], pa.py_buffer(data.tobytes()))
        columns: Any = {
            "id": np.arange(number * rows, (number + 1) * rows),
            "key": key,
            "value": random.random(rows),
            "text": text,
        }
        pq.write_table(
            pa.table(columns), folder / f"{number:03d}.parquet", row_group_size=128 * 1024
        )
    return folder


def measured(
    command: list[str],
    timeout: float,
    look: Callable[[float, Sequence[Any]], None] = lambda _seconds, _processes: None,
) -> dict[str, tuple[float, str]] | str:
    """Wall and core seconds of the operation itself, and the most memory that any process held.

    ``look`` is called ten times a second with the seconds since the start and the processes below.
    """
    import psutil

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        me = psutil.Process(child.pid)
        driver = worker = 0
        began = time.monotonic()
        while child.poll() is None:
            if time.monotonic() - began > timeout:
                for process in (*me.children(recursive=True), me):
                    process.kill()
                child.wait()
                return f"not done after {timeout:g} s"
            driver = max(driver, own_memory(child.pid))
            below = me.children(recursive=True)
            for process in below:
                worker = max(worker, own_memory(process.pid))
            look(time.monotonic() - began, below)
            time.sleep(0.1)
        out.seek(0)
        err.seek(0)
        lines = [line for line in out.read().splitlines() if line.startswith('{"wall"')]
        if child.returncode or not lines:
            said = err.read().strip()
            print(said, file=sys.stderr)
            return (said.splitlines() or ["?"])[-1][:300]
        told = json.loads(lines[-1])
    return {
        "wall": (told["wall"], "s"),
        "cores": (told["cores"], "s of core time"),
        "driver_memory": (driver / 1e6, "MB anonymous and shared"),
        "worker_memory": (worker / 1e6, "MB anonymous and shared"),
    }


def own_memory(pid: int) -> int:
    """Anonymous and shared memory of a process; files that are mapped can be had again, and do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * sum(
        int(sizes[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in sizes
    )


def run_case(case: Callable[[], object]) -> None:
    """In the process of a case: tell `measured` what it took."""
    import psutil

    me = psutil.Process()
    before = report.core_seconds(me)
    wall = report.timed(case)
    print(json.dumps({"wall": wall, "cores": report.core_seconds(me) - before}), flush=True)


def checked(operation: str, source: Path, target: Path) -> None:
    """The rows are those that must come.

    Raises
    ------
    RuntimeError
        They are not.
    """
    import duckdb

    one: Any = duckdb
    files = f"read_parquet('{target}/**/*.parquet')"
    given = f"read_parquet('{source}/*.parquet')"
    told = {
        "distinct": "select count(*), count(distinct key), sum(key) from {}",
        "shuffle": "select count(*), sum(id), sum(length(text)) from {}",
        "sort": "select count(*), sum(id), sum(length(text)) from {}",
        "group_by": "select count(*), sum(rows), round(sum(total)) from {}",
    }[operation]
    expected = {
        "distinct": f"(select distinct key from {given})",
        "group_by": f"(select key, count(*) as rows, sum(value) as total from {given} group by key)",
    }.get(operation, given)
    if operation == "distinct":
        told = told.replace("sum(key)", "sum(key::hugeint)")
    found, wanted = (one.sql(told.format(of)).fetchall() for of in (files, expected))
    if found != wanted:
        raise RuntimeError(f"{operation}: {found} came, and not {wanted}")
    if operation == "sort":
        import pyarrow.dataset as ds

        last = -1.0
        for path in in_order(target):
            column = ds.dataset(path).to_table(columns=["value"])["value"].to_numpy()
            if len(column) and (column[0] < last or (column[1:] < column[:-1]).any()):
                raise RuntimeError(f"{path} is not in order")
            last = float(column[-1]) if len(column) else last


def in_order(folder: Path) -> list[Path]:
    """The Parquet files of a folder in the order of their rows."""
    return sorted(folder.rglob("*.parquet"), key=_numbers)


def _numbers(path: Path) -> list[int]:
    """The numbers in a name, by which files are in order (``part.10`` behind ``part.9``)."""
    return [int(number) for number in re.findall(r"\d+", path.name)]


# ------------------------------------------------------------------------------------------ cases


def headrace_case() -> Case:
    report.own_home()
    os.environ["HEADRACE_INTERMEDIATES"] = "drop"
    import numpy as np
    import pyarrow as pa

    import headrace
    from headrace import ProcessesExecutor, flow, task

    def totals(rows: pa.Table) -> dict[str, Any]:
        value: Any = rows["value"]
        return {
            "key": rows["key"][0].as_py(),
            "rows": rows.num_rows,
            "total": float(np.sum(value.to_numpy())),
        }

    executor = ProcessesExecutor(WORKERS)

    @task
    def wake(number: int) -> int:
        time.sleep(0.5)
        return number

    @flow(executor=executor)
    def warm() -> None:
        wake.map(range(2 * WORKERS)).wait()

    warm()

    @flow(executor=executor)
    def job(operation: str, source: str, target: str) -> None:
        data = headrace.open_dataset(source)
        size = os.environ["PARTITION_BYTES"]
        if operation == "distinct":
            made = data.distinct("key", partition_bytes=size)
        elif operation == "shuffle":
            made = data.shuffle(1, partition_bytes=size)
        elif operation == "sort":
            made = data.sort("value", partition_bytes=size)
        else:
            made = data.group_by("key", partition_bytes=size).map(totals)
        made.write(target)

    return job


def ray_case() -> Case:
    import ray

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, logging_level=40)

    def first(rows: Any) -> Any:
        return rows.head(1)

    def totals(rows: Any) -> Any:
        import pandas as pd

        key, total = rows["key"].iloc[0], rows["value"].sum()
        return pd.DataFrame([{"key": key, "rows": len(rows), "total": total}])

    def job(operation: str, source: str, target: str) -> None:
        data: Any = ray.data.read_parquet(source)
        if operation == "distinct":
            data = data.groupby("key").map_groups(first, batch_format="pandas")
        elif operation == "shuffle":
            data = data.random_shuffle(seed=1)
        elif operation == "sort":
            data = data.sort("value")
        else:
            data = data.groupby("key").map_groups(totals, batch_format="pandas")
        data.write_parquet(target)

    return job


def dask_case() -> Case:
    import dask.dataframe as dd
    from distributed import Client

    Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)

    def totals(rows: Any) -> Any:
        import pandas as pd

        # (pandas 3 leaves the key out of what it hands to the function.)
        return pd.Series({"key": rows.name, "rows": len(rows), "total": rows["value"].sum()})

    def job(operation: str, source: str, target: str) -> None:
        data: Any = dd.read_parquet(source)
        if operation == "distinct":
            data = data.drop_duplicates(subset=["key"])
        elif operation == "shuffle":
            mixed = data.map_partitions(with_random)
            data = mixed.shuffle("random").map_partitions(lambda part: part.sample(frac=1))
        elif operation == "sort":
            data = data.sort_values("value")
        else:
            meta = {"key": "i8", "rows": "i8", "total": "f8"}
            data = data.groupby("key").apply(totals, meta=meta).reset_index(drop=True)
            data = data.astype({"key": "i8", "rows": "i8"})
        data.to_parquet(target, write_index=False)

    return job


def with_random(part: Any) -> Any:
    """A frame with a column of random numbers, by which Dask shuffles."""
    import numpy as np

    return part.assign(random=np.random.default_rng(1).integers(0, 1 << 60, len(part)))


def duckdb_case() -> Case:
    import duckdb

    queries: Mapping[str, str] = {
        "distinct": "select distinct on (key) * from {}",
        "shuffle": "select * from {} order by hash(id)",
        "sort": "select * from {} order by value",
        "group_by": "select key, count(*) as rows, sum(value) as total from {} group by key",
    }

    def job(operation: str, source: str, target: str) -> None:
        os.makedirs(target)
        query = queries[operation].format(f"read_parquet('{source}/*.parquet')")
        duckdb.execute(f"set threads = {WORKERS}")
        duckdb.execute(f"copy ({query}) to '{target}/0.parquet' (format parquet, codec zstd)")

    return job


def polars_case() -> Case:
    os.environ["POLARS_MAX_THREADS"] = str(WORKERS)
    import polars as pl

    def job(operation: str, source: str, target: str) -> None:
        os.makedirs(target)
        data = pl.scan_parquet(f"{source}/*.parquet")
        if operation == "distinct":
            data = data.unique("key")
        elif operation == "shuffle":
            data = data.sort(pl.col("id").hash(1))
        elif operation == "sort":
            data = data.sort("value")
        else:
            data = data.group_by("key").agg(pl.len().alias("rows"), total=pl.col("value").sum())
        data.sink_parquet(f"{target}/0.parquet", engine="streaming")

    return job


CASES: Mapping[str, Callable[[], Case]] = {
    "headrace": headrace_case,
    "ray": ray_case,
    "dask": dask_case,
    "duckdb": duckdb_case,
    "polars": polars_case,
}


if __name__ == "__main__":
    main()
