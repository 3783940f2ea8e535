"""One large partition through a generator task in a child process: what does the child hold?

    python benchmarks/large_partition.py --gigabytes 4

The partition is a Parquet file of one row group, or a whole file of CSV or of JSON lines. The task reads
record batches and yields half of their rows on. Beside it the same task takes a table (``--whole``).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import report
from datasets import measured, run_case

ROWS = 1_000_000
"""Of a block that is written again and again."""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--format", nargs="*", default=["parquet", "csv", "jsonl"])
    parser.add_argument("--whole", action="store_true", help="beside it a task over a table")
    parser.add_argument("--case", nargs=3, help="(one case, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        run_case(case(*arguments.case))
        return
    report.machine()
    for kind in arguments.format:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"one.{kind}"
            rows = WRITERS[kind](path, arguments.gigabytes * 1e9)
            size = round(path.stat().st_size / 1e9, 2)
            for form in ("reader", "table") if arguments.whole else ("reader",):
                took = measured(
                    [sys.executable, __file__, "--case", str(path), form, str(rows)], 900
                )
                if isinstance(took, str):
                    sys.exit(took)
                for name, (value, unit) in took.items():
                    facts = {"format": kind, "gigabytes": size, "argument": form}
                    report.figure("large_partition", name, value, unit, **facts)


def case(path: str, form: str, rows: str) -> Any:
    report.own_home()
    import pyarrow as pa
    import pyarrow.compute as pc

    import headrace
    from headrace import flow, task

    @task
    def reader(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
        for batch in rows:
            yield pa.Table.from_batches([batch.filter(pc.field("share") < 0.5)])

    @task
    def table(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.field("share") < 0.5)

    @flow(executor=headrace.ProcessesExecutor(1))
    def halve() -> None:
        data = headrace.open_dataset(path)
        parts = data.partitions(bytes=2 * Path(path).stat().st_size)
        if len(parts) != 1:
            raise RuntimeError(f"{len(parts)} partitions")
        made = {"reader": reader, "table": table}[form].map(parts).dataset().num_rows
        if not 0.49 < made / int(rows) < 0.51:
            raise RuntimeError(f"{made} of {rows} rows came")

    return halve


def block() -> Any:
    """Rows that neither a dictionary nor a codec makes small; some texts hold line ends."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(0)
    texts = [f"{n * 0x9E3779B97F4A7C15 % 2**64:047x}" for n in range(ROWS)]
    texts[::100] = [f"{text[:20]}\n{text[20:]}" for text in texts[::100]]
    columns: Any = {
        "number": random.integers(0, 2**62, ROWS),
        "share": random.random(ROWS),
        "text": texts,
    }
    return pa.table(columns)


def parquet(path: Path, size: float) -> int:
    """One row group, written a column chunk at a time: all of its rows at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = block()
    times = max(1, round(size / table.nbytes))
    with pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(pa.concat_tables([table] * times), row_group_size=times * ROWS)
    groups = pq.read_metadata(path).num_row_groups
    if groups != 1:
        raise RuntimeError(f"{groups} row groups")
    return times * ROWS


def csv(path: Path, size: float) -> int:
    """With a header, and texts in quotes."""
    import io

    from pyarrow import csv

    table, sink = block(), io.BytesIO()
    csv.write_csv(table, sink)
    head, _, rest = sink.getvalue().partition(b"\n")
    return repeated(path, size, head + b"\n", rest)


def jsonl(path: Path, size: float) -> int:
    import json

    lines = "".join(json.dumps(row) + "\n" for row in block().to_pylist())
    return repeated(path, size, b"", lines.encode())


def repeated(path: Path, size: float, head: bytes, rows: bytes) -> int:
    times = max(1, round(size / len(rows)))
    with path.open("wb") as file:
        file.write(head)
        for _ in range(times):
            file.write(rows)
    return times * ROWS


WRITERS = {"parquet": parquet, "csv": csv, "jsonl": jsonl}


if __name__ == "__main__":
    main()
