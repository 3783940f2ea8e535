"""A Parquet file of one row group, through a generator task in a child process: what does the child hold?

    python benchmarks/large_row_group.py [GB]

The task reads record batches and yields them on, so that the child never holds the row group. Beside it
the same task takes a table. The child's peak is what Linux tells as VmHWM: ``ru_maxrss`` would begin
with what the process held that started it.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import headrace
from headrace import flow, task

SCHEMA = pa.schema([("number", pa.int64()), ("share", pa.float64()), ("text", pa.string())])
ROW_BYTES = 68


def synthesise(path: Path, rows: int) -> None:
    """Rows that neither a dictionary nor a codec makes small, in one row group."""
    random = np.random.default_rng(0)
    texts = pa.array([f"{n * 0x9E3779B97F4A7C15 % 2**64:048x}" for n in range(100_000)])
    with pq.ParquetWriter(path, SCHEMA, compression="none", use_dictionary=False) as writer:
        columns = [
            pa.array(random.integers(0, 2**62, rows)),
            pa.array(random.random(rows)),
            pa.chunked_array([texts] * (rows // len(texts))),
        ]
        writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=rows)


def peak() -> int:
    """What this process held at most, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


@task
def streamed(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Half of the rows, a batch at a time."""
    for batch in rows:
        yield pa.Table.from_batches([batch.filter(pc.field("share") < 0.5)])
    print(f"streaming task: peak of its process {peak()} MB")


@task
def whole(rows: pa.Table) -> pa.Table:
    """Half of the rows at once."""
    kept = rows.filter(pc.field("share") < 0.5)
    print(f"task over a table: peak of its process {peak()} MB")
    return kept


@flow(executor=headrace.ProcessesExecutor(1), log_prints=True)
def halve(path: str, over: str) -> int:
    parts = headrace.open_dataset(path).partitions()
    assert len(parts) == 1
    return {"streamed": streamed, "whole": whole}[over].map(parts).dataset().num_rows


def main() -> None:
    rows = (
        int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * 1e9 / ROW_BYTES) // 100_000 * 100_000
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.parquet"
        synthesise(path, rows)
        groups = pq.read_metadata(path).num_row_groups
        print(f"{path.stat().st_size / 1e9:.2f} GB, {rows} rows, {groups} row group")
        kept = {over: halve(str(path), over) for over in ("streamed", "whole")}
        assert kept["streamed"] == kept["whole"]


if __name__ == "__main__":
    main()
