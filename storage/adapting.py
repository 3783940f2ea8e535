"""The annotation of a parameter decides the form in which Arrow data comes.

Forms are recognised by module and name, so that pandas and polars are imported only by those who ask
for them. What is not Arrow data passes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.hints import FRAMES, form_of
from ..core.interfaces import Manifest, RefColumn
from ..core.rowmodels import is_model
from .loading import places_of
from .tables import one_batch

if TYPE_CHECKING:
    from .store import ArrowRunStore


def form_of_value(value: Any) -> str | None:
    """Which form a value has, or None where it is not Arrow data."""
    if type(value) is list:
        return "rows" if value and all(type(each) is dict for each in value) else None
    cls = type(value)
    root = cls.__module__.partition(".")[0]
    if root not in ("pyarrow", "pandas", "polars", "headrace"):
        return None
    return FRAMES.get((root, cls.__qualname__))


def adapt(value: Any, annotation: Any) -> Any:
    """A value in the form that its annotation asks for."""
    by_row = is_model(annotation)
    wanted = form_of(annotation)
    if wanted is None and not by_row:
        return value
    have = form_of_value(value)
    if have is None or have == wanted:
        return value
    return form(_as_table_source(value, have), annotation)


def form(source: Any, annotation: Any, default: str | None = None) -> Any:
    """A table, a reader or a dataset as an annotation asks for it; where it does not, in a default form."""
    if is_model(annotation):
        from .modelrows import ModelRows

        return ModelRows(convert(source, "reader"), annotation)
    wanted = form_of(annotation) or default
    return source if wanted is None else convert(source, wanted)


def _as_table_source(value: Any, have: str) -> Any:
    import pyarrow as pa

    if have == "rows":
        from .rowforms import freeze_rows

        frozen = freeze_rows(value)
        return pa.Table.from_pylist(value) if frozen is None else frozen.table()
    if have == "batch":
        return pa.Table.from_batches([value])
    if have == "pandas":
        return pa.Table.from_pandas(value)
    if have == "polars":
        return value.to_arrow()
    if have == "lazy":
        return value.collect().to_arrow()
    return value


def convert(source: Any, wanted: str) -> Any:
    """A table, a reader or a dataset in the wanted form.

    A reader streams, and so does a `polars.LazyFrame` of a dataset, which reads the columns that its
    query asks for; the others are whole in memory.
    """
    import pyarrow as pa

    if wanted == "dataset":
        from .datasets import dataset_of_table

        return (
            source
            if not isinstance(source, (pa.Table, pa.RecordBatchReader))
            else (dataset_of_table(source if isinstance(source, pa.Table) else source.read_all()))
        )
    if wanted == "reader":
        if isinstance(source, pa.RecordBatchReader):
            return source
        return pa.RecordBatchReader.from_stream(source)
    if wanted == "lazy" and not isinstance(source, (pa.Table, pa.RecordBatchReader)):
        return _lazy_polars(source)
    table = source
    if isinstance(source, pa.RecordBatchReader):
        table = source.read_all()
    elif not isinstance(source, pa.Table):
        table = source.to_table()
    return _FROM_TABLE[wanted](table)


def _polars(table: Any) -> Any:
    import polars as pl

    return pl.from_arrow(table)


def _lazy_polars(dataset: Any) -> Any:
    import polars as pl
    from polars.io.plugins import register_io_source

    def batches(
        columns: list[str] | None, predicate: Any, rows: int | None, _batch_rows: int | None
    ) -> Iterator[Any]:
        left = rows
        for batch in dataset.iter_batches(columns=columns or None):
            frame: Any = pl.from_arrow(batch)
            if predicate is not None:
                frame = frame.filter(predicate)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            yield frame
            if left == 0:
                return

    return register_io_source(batches, schema=_polars(dataset.schema.empty_table()).schema)


_FROM_TABLE: dict[str, Callable[[Any], Any]] = {
    "table": lambda table: table,
    "batch": one_batch,
    "pandas": lambda table: table.to_pandas(),
    "polars": _polars,
    "lazy": lambda table: _polars(table).lazy(),
    "rows": lambda table: table.to_pylist(),
}


# ------------------------------------------------------------------------- a whole node's values


def load_manifest(run: ArrowRunStore, manifest: Manifest, annotation: Any) -> Any:
    """A node's values in item order, or its dataset in the form that the annotation asks for.

    Positions without a value are left out.
    """
    wanted = form_of(annotation)
    if is_model(annotation) or (wanted is not None and wanted != "rows"):
        return form(run.dataset(manifest), annotation)
    values = run.load(column_of(manifest))
    if wanted == "rows" and values and all(type(value) is list for value in values):
        return [row for value in values for row in value]
    return values


def column_of(manifest: Manifest, positions: Iterable[int] | None = None) -> RefColumn:
    """References to a node's values in position order; of all positions, or of these.

    Of a position that several receipts hold, the one counts that the manifest's ``winners`` name.
    """
    from ..core.items import indices

    where: list[Any] = []
    parts: list[Any] = []
    index: list[Any] = []
    first_rows: list[Any] = []
    rows: list[Any] = []
    for number, receipt in enumerate(manifest.receipts):
        held = indices(receipt.positions)
        place = (
            np.arange(len(held), dtype=np.int64)
            if receipt.places is None
            else np.asarray(receipt.places, np.int64)
        )
        first, each = places_of(receipt.rows, int(place.max(initial=-1)) + 1)
        where.append(held)
        parts.append(np.full(len(held), number, np.int64))
        index.append(place)
        first_rows.append(first[place])
        rows.append(each[place])
    refs = tuple(receipt.part for receipt in manifest.receipts)
    inline = tuple(receipt.inline for receipt in manifest.receipts)
    if not where:
        return RefColumn(refs, [], [], [], [], inline)
    every = np.concatenate(where)
    if manifest.winners:
        wins = [
            np.isin(held, indices(won)) for held, won in zip(where, manifest.winners, strict=True)
        ]
        kept = np.flatnonzero(np.concatenate(wins))
        chosen = kept[np.argsort(every[kept], kind="stable")]
    else:
        chosen = np.argsort(every, kind="stable")
    if positions is not None:
        wanted = np.fromiter(positions, np.int64)
        places = np.searchsorted(every[chosen], wanted)
        chosen = chosen[places]
    return RefColumn(
        refs,
        np.concatenate(parts)[chosen],
        np.concatenate(index)[chosen],
        np.concatenate(first_rows)[chosen],
        np.concatenate(rows)[chosen],
        inline,
    )
