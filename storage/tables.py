"""Whole tables as item values: Arrow, pandas and polars, each back with its exact type.

Recognised by module and name, so that pandas and polars are imported only where values of theirs are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TABLE_KINDS = frozenset({"table", "batch", "reader", "pandas", "polars", "lazy"})


@dataclass(slots=True)
class FrozenTable:
    """A table with the kind of object that it came from.

    ``extra`` is what the kind needs beside the data to come back; equal for items of one partition.
    """

    kind: str
    table: Any
    extra: str = ""

    def group_key(self) -> Any:
        """Items with equal keys share a partition; None: this item wants one of its own."""
        if any(_has_dictionary(field.type) for field in self.table.schema):
            return None
        return (self.kind, self.extra, self.table.schema.serialize().to_pybytes())


def _has_dictionary(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(i).type) for i in range(kind.num_fields))


def freeze_table(value: Any) -> FrozenTable | None:
    """The frozen form of a value that is a table; None for all others, and where it would change."""
    cls = type(value)
    if cls is pa.Table:
        return FrozenTable("table", _own_dictionaries(value))
    if cls is pa.RecordBatch:
        return FrozenTable("batch", pa.Table.from_batches([value]))
    root = cls.__module__.partition(".")[0]
    if cls.__qualname__ == "DataFrame" and root == "pandas":
        return _freeze_pandas(value)
    if cls.__qualname__ == "DataFrame" and root == "polars":
        return _freeze_polars(value)
    if cls.__qualname__ == "LazyFrame" and root == "polars":
        frozen = _freeze_polars(value.collect())
        return None if frozen is None else FrozenTable("lazy", frozen.table)
    return None


def _own_dictionaries(table: Any) -> Any:
    """One dictionary per column: an Arrow file cannot hold several."""
    if any(_has_dictionary(field.type) for field in table.schema):
        return table.unify_dictionaries()
    return table


# ------------------------------------------------------------------------------------ pandas


def _freeze_pandas(frame: Any) -> FrozenTable | None:
    import pandas as pd

    if type(frame) is not pd.DataFrame or frame.attrs or not frame.shape[1]:
        return None
    if not all(type(name) is str for name in frame.columns) or not frame.columns.is_unique:
        return None
    if type(frame.columns) is not pd.Index or frame.columns.name is not None:
        return None
    plain = _is_plain_index(frame.index)
    try:
        # A copy: Arrow takes numpy memory as it is, and the caller may change the frame later.
        table = pa.Table.from_pandas(frame.copy(), preserve_index=False if plain else None)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    metadata = table.schema.metadata or {}
    extra = metadata.get(b"pandas", b"").decode()
    if plain:
        extra = _without_lengths(extra)
    frozen = FrozenTable("pandas", table.replace_schema_metadata(None), extra)
    return frozen if _same_frame(frame, _thaw_pandas(frozen.table, extra)) else None


def _is_plain_index(index: Any) -> bool:
    import pandas as pd

    return (
        type(index) is pd.RangeIndex
        and index.equals(pd.RangeIndex(len(index)))
        and (index.name is None)
    )


def _without_lengths(extra: str) -> str:
    """The metadata without what differs from frame to frame."""
    described = json.loads(extra)
    described["index_columns"] = []
    return json.dumps(described, sort_keys=True)


def _thaw_pandas(table: Any, extra: str) -> Any:
    return table.replace_schema_metadata({b"pandas": extra.encode()}).to_pandas()


def _same_frame(a: Any, b: Any) -> bool:
    """Equal with every dtype, the index, and the Python type of each object."""
    if not a.dtypes.equals(b.dtypes) or type(a.columns) is not type(b.columns):
        return False
    if a.columns.dtype != b.columns.dtype or not a.columns.equals(b.columns):
        return False
    if not _same_index(a.index, b.index) or not a.equals(b):
        return False
    for i, dtype in enumerate(a.dtypes):
        if dtype.kind == "O":
            left, right = a.iloc[:, i], b.iloc[:, i]
            if list(map(type, left)) != list(map(type, right)):
                return False
    return True


def _same_index(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or list(a.names) != list(b.names) or not a.equals(b):
        return False
    same = bool(a.dtypes.equals(b.dtypes)) if a.nlevels > 1 else a.dtype == b.dtype
    if same and hasattr(a, "freq") and a.freq != b.freq:
        return False
    return same and (a.dtype != object or list(map(type, a)) == list(map(type, b)))


# ------------------------------------------------------------------------------------ polars


def _freeze_polars(frame: Any) -> FrozenTable | None:
    import polars as pl

    if type(frame) is not pl.DataFrame or not frame.width:
        return None
    try:
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        back = pl.from_arrow(table.slice(0, 0))
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError):
        return None
    if not isinstance(back, pl.DataFrame) or back.schema != frame.schema:
        return None
    return FrozenTable("polars", _own_dictionaries(table))


def _thaw_polars(table: Any, extra: str) -> Any:
    import polars as pl

    return pl.from_arrow(table, rechunk=True)


# -------------------------------------------------------------------------------------- back


def one_batch(table: Any) -> Any:
    """A table's rows as one record batch."""
    batches = table.combine_chunks().to_batches()
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=table.schema)
    if len(batches) == 1:
        return batches[0]
    arrow: Any = pa  # its stubs lack it
    return arrow.concat_batches(batches)


def _thaw_batch(table: Any, extra: str) -> Any:
    return one_batch(table)


THAW: dict[str, Callable[[Any, str], Any]] = {
    "table": lambda table, extra: table,
    "batch": _thaw_batch,
    "reader": lambda table, extra: table.to_reader(),
    "pandas": _thaw_pandas,
    "polars": _thaw_polars,
    "lazy": lambda table, extra: _thaw_polars(table, extra).lazy(),
}


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type's values are texts or byte strings."""
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
        )
    )
