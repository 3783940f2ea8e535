"""The dataset of a node: its committed partitions, in item order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..core.errors import ConfigurationError
from ..core.interfaces import Manifest, ObjectInfo, Origin, Part
from .loading import OpenPart
from .partitions import PartitionReader
from .pieces import Piece, Scan, scan_table
from .receipts import part_source
from .rowforms import PLACEHOLDER
from .tables import TABLE_KINDS
from .unifying import unified

if TYPE_CHECKING:
    from .datasets import Dataset
    from .store import ArrowRunStore

_ROWS = frozenset({"row", "rows", *TABLE_KINDS})
_NONE = "none"


@dataclass(frozen=True)
class PartPiece:
    """Consecutive rows of one committed partition."""

    run: ArrowRunStore
    part: Part
    first: int
    rows: int
    inline: bytes | None = None

    def __reduce__(self) -> Any:
        """Handles stay small: the bytes are in the store."""
        return PartPiece, (self.run, self.part, self.first, self.rows)

    @property
    def name(self) -> str:
        return f"{self.run.url}/{self.part.path}"

    @property
    def origin(self) -> Origin:
        return self.name, ""

    @property
    def bytes(self) -> int:
        return int(self.part.bytes * self.rows / max(1, self.part.rows))

    @property
    def fingerprint(self) -> str:
        return f"{self.part.path}:{self.part.checksum:08x}:{self.first}+{self.rows}"

    @property
    def uncut(self) -> bool:
        return self.first == 0 and self.rows == self.part.rows

    def open(self) -> OpenPart:
        return self.run.open_part(self.part, self.inline)

    @property
    def on_disk(self) -> bool:
        """Whether memory is mapped to it rather than filled from it."""
        return self.inline is not None or self.run.objects.local_path(self.part.path) is not None

    def reader(self) -> PartitionReader:
        """The whole partition, of which only what is asked for is read: no checksum of all is made."""
        objects = self.run.objects
        if self.inline is not None:
            source = pa.BufferReader(self.inline)
        else:
            source = part_source(objects, ObjectInfo(self.part.path, self.part.bytes, 0.0))
        return PartitionReader(source, self.part.format, objects.url_of(self.part.path))

    def schema(self) -> Any:
        schema = self.open().schema
        return pa.schema([field for field in schema if field.name != PLACEHOLDER])

    def count(self) -> int:
        return self.rows

    def units(self) -> list[Piece]:
        return [self]

    def cut(self, first: int, rows: int) -> Piece | None:
        return PartPiece(self.run, self.part, self.first + first, rows, self.inline)

    def join(self, other: Piece) -> Piece | None:
        """Both as one, where the other follows in the same partition."""
        if not isinstance(other, PartPiece) or other.part != self.part or other.run != self.run:
            return None
        if other.first != self.first + self.rows:
            return None
        return PartPiece(self.run, self.part, self.first, self.rows + other.rows, self.inline)

    def batches(self, scan: Scan) -> Iterator[Any]:
        table = self.open().table.slice(self.first, self.rows)
        yield from scan_table(table, scan)


def node_dataset(run: ArrowRunStore, manifest: Manifest) -> Dataset:
    """The lazily read dataset of a node.

    Items that are scalars make a column ``value``, dicts and tables their own columns. ``None``
    is a null among scalars; among rows and tables it has no rows.

    Raises
    ------
    ConfigurationError
        Some items are single values and others rows; says which.
    """
    from .datasets import Dataset
    from .store import read_schema

    stated = read_schema(manifest.schema)
    as_rows = _holds_rows(manifest) or stated is not None
    pieces = [
        piece for piece in _segments(run, manifest) if not (as_rows and piece.part.kind == _NONE)
    ]
    return Dataset(pieces, schema=stated, find_schema=lambda: _node_schema(pieces, manifest, run))


def _holds_rows(manifest: Manifest) -> bool:
    """Whether a node's items are rows or tables, and not single values."""
    by_kind: dict[bool, Any] = {}
    for receipt in manifest.receipts:
        kind = receipt.part.kind
        if kind != _NONE:
            by_kind.setdefault(kind in _ROWS, receipt)
    if len(by_kind) > 1:
        told = ", ".join(
            f"item {r.positions.runs[0][0]} is of kind {r.part.kind!r}"
            for r in sorted(by_kind.values(), key=lambda r: r.positions.runs)
        )
        raise ConfigurationError(
            f"the items of {manifest.key!r} make no one dataset, some are rows and some are not: "
            f"{told}; return one kind, or read them with .result()"
        )
    return True in by_kind


def _segments(run: ArrowRunStore, manifest: Manifest) -> list[PartPiece]:
    """Runs of rows in item order, each within one partition."""
    from .adapting import column_of

    column = column_of(manifest)
    rows = np.asarray(column.rows, np.int64)
    kept = np.flatnonzero(rows)
    if not len(kept):
        return []
    rows = rows[kept]
    part = np.asarray(column.part, np.int64)[kept]
    first = np.asarray(column.first_row, np.int64)[kept]
    breaks = np.flatnonzero((part[1:] != part[:-1]) | (first[1:] != first[:-1] + rows[:-1])) + 1
    starts = np.concatenate(([0], breaks))
    stops = np.concatenate((breaks, [len(rows)]))
    ends = np.concatenate(([0], rows.cumsum()))
    return [
        PartPiece(
            home_of(run, column.parts[part[a]]),
            column.parts[part[a]],
            int(first[a]),
            int(ends[b] - ends[a]),
            column.inline[part[a]],
        )
        for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def home_of(run: ArrowRunStore, part: Part) -> ArrowRunStore:
    """The run that holds a partition."""
    return run.store.run(part.run) if part.run else run


def _node_schema(pieces: list[PartPiece], manifest: Manifest, run: ArrowRunStore) -> Any:
    """Columns in the order in which the items, not the partitions, first have them."""
    named: list[tuple[str, Any]] = []
    blank: list[tuple[str, Any]] = []
    orders: list[tuple[int, tuple[str, ...]]] = []
    as_rows = _holds_rows(manifest)
    for receipt in manifest.receipts:
        if as_rows and receipt.part.kind == _NONE:
            continue
        opened = run.open_part(receipt.part, receipt.inline)
        schema = pa.schema([f for f in opened.schema if f.name != PLACEHOLDER])
        told = blank if receipt.part.kind == "rows" and not receipt.part.rows else named
        told.append((f"{home_of(run, receipt.part).url}/{receipt.part.path}", schema))
        header = opened.header
        if header.shapes:
            orders.extend(zip(header.firsts, header.shapes, strict=True))
        else:
            orders.append((receipt.positions.runs[0][0], tuple(schema.names)))
    # Of rows that are not there a model has told the columns; those that are there know better.
    fields = {field.name: field for field in unified(blank)}
    for field in unified(named):
        if field.type != pa.null():
            fields[field.name] = field
        fields.setdefault(field.name, field)
    names = dict.fromkeys(name for _, keys in sorted(orders) for name in keys)
    return pa.schema([fields[name] for name in names])
