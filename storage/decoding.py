"""Large Parquet row groups, decoded some rows at a time.

pyarrow's scanner decodes a row group at once; here a worker holds a few batches and, per column, a
buffer and a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .pieces import Scan, scan_table, with_constants

LARGE_BYTES = 64 << 20
_LARGE_ROWS = 2 << 20
"""What is encoded by a dictionary can be small in the file."""
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 128 << 10
_BUFFERS = 64 << 20


def is_large(groups: Sequence[Any]) -> bool:
    """Whether one of a fragment's row groups is too large to be decoded at once."""
    return any(g.total_byte_size > LARGE_BYTES or g.num_rows > _LARGE_ROWS for g in groups)


def windows(groups: Sequence[Any]) -> Iterator[list[int]]:
    """Numbers of row groups that are read together: of those, pyarrow holds all bytes, and reads on ahead."""
    window: list[int] = []
    size = 0
    for group in groups:
        if window and size + group.total_byte_size > LARGE_BYTES:
            yield window
            window, size = [], 0
        window.append(group.id)
        size += group.total_byte_size
    if window:
        yield window


def decoded(
    file: Any, groups: Sequence[Any], scan: Scan, constants: Sequence[tuple[str, Any]]
) -> Iterator[Any]:
    """Rows of some row groups of an open file."""
    metadata = pq.read_metadata(file)
    buffer = min(8 << 20, max(256 << 10, _BUFFERS // max(1, metadata.num_columns)))
    parquet = pq.ParquetFile(file, metadata=metadata, buffer_size=buffer, pre_buffer=False)
    wanted = needed_columns(scan)
    columns = [name for name in parquet.schema_arrow.names if name in wanted]
    for group in groups:
        rows = group.num_rows * _BATCH_BYTES // max(1, group.total_byte_size)
        for batch in parquet.iter_batches(
            min(_BATCH_ROWS, max(1, rows)), row_groups=[group.id], columns=columns or None
        ):
            table = pa.Table.from_batches([batch])
            yield from scan_table(with_constants(table, constants), scan)


def needed_columns(scan: Scan) -> set[str]:
    """Columns that are read: those that are wanted, and those that the filter looks at."""
    if scan.columns is None:
        return set(scan.schema.names)
    return set(scan.columns) | {n for n in scan.schema.names if _looks_at(scan, n)}


def _looks_at(scan: Scan, name: str) -> bool:
    """Found by trying: an expression does not tell its fields."""
    if scan.filter is None:
        return False
    rest = pa.schema([field for field in scan.schema if field.name != name])
    try:
        rest.empty_table().filter(scan.filter)
    except pa.ArrowInvalid:
        return True
    return False
