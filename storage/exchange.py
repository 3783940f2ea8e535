"""All-to-all: each item of a map writes one object with a place for every bucket in it.

The rows of a share go through memory a *chunk* at a time. A chunk is arranged (sorted, and cut into
buckets), and written as one record batch or row group per bucket, empty ones too, so that group
``chunk * buckets + b`` of the object holds the chunk's rows of bucket ``b``. Whoever wants a bucket
opens the footers and reads its groups, its *runs*, in the order of the dataset's rows. A bucket that
is larger than it should be (one key may have most rows) is taken a range of the order at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..core.interfaces import Origin
from .hashing import key_columns, place_hashes, row_hashes
from .nodedata import PartPiece
from .ordering import Order, evenly
from .partitions import MOST_GROUP_ROWS
from .pieces import Piece, Scan, scan_table
from .shares import PLACE, Share, plain_schema
from .streams import RowGroups
from .tables import one_batch

HASH = "__headrace_hash"
"""Column by which the rows of a bucket come, beside those of the dataset."""
_SAMPLES = 16
"""Rows per range that are looked at to cut a large bucket into ranges."""
_HALF = np.uint64(32)


class Arrangement(Protocol):
    """How a chunk's rows are ordered and cut into buckets."""

    def schema(self, schema: Any) -> Any:
        """What is written of rows of this schema."""
        ...

    def __call__(self, table: Any, places: Any, buckets: int) -> tuple[Any, Any]:
        """The arranged table, and the ``buckets + 1`` borders in it."""
        ...


def scattered(share: Share, buckets: int, size: int, arrange: Arrangement) -> RowGroups:
    """A share's rows as the object to write."""

    def batches() -> Iterator[Any]:
        for table, places in share.chunks(size):
            arranged, borders = arrange(table, places, buckets)
            whole = one_batch(arranged)
            for first, stop in pairwise(borders):
                yield whole.slice(first, stop - first)

    return RowGroups(arrange.schema(plain_schema(share.scan.result)), batches())


# ---------------------------------------------------------------------------------- arrangements


@dataclass(frozen=True)
class ByPlace:
    """Random order and buckets, from the rows' places and a seed."""

    seed: int

    def schema(self, schema: Any) -> Any:
        return _with_hash(schema)

    def __call__(self, table: Any, places: Any, buckets: int) -> tuple[Any, Any]:
        return _by_hash(table, place_hashes(places, self.seed), buckets)


@dataclass(frozen=True)
class ByContent:
    """Rows that are equal in some columns together, in the order of a hash of these."""

    columns: tuple[str, ...]
    first_only: bool = False
    """Of equal rows only the first is kept."""

    def schema(self, schema: Any) -> Any:
        return _with_hash(schema)

    def __call__(self, table: Any, places: Any, buckets: int) -> tuple[Any, Any]:
        if self.first_only:
            table = table.take(first_rows(table.select(list(self.columns))))
        return _by_hash(table, row_hashes(table.select(list(self.columns))), buckets)


@dataclass(frozen=True)
class BySort:
    """Sorted rows, with a bucket between any two neighbouring cuts."""

    order: Order
    cuts: Any
    """Ascending rows with the order's columns, and their places."""

    def schema(self, schema: Any) -> Any:
        return schema

    def __call__(self, table: Any, places: Any, buckets: int) -> tuple[Any, Any]:
        at = np.searchsorted(places, self.cuts.column(PLACE).to_numpy())
        line, borders = self.order.arranged(table, self.cuts, at.tolist())
        rows = table.num_rows
        missing = buckets - 1 - len(borders)
        return table.take(line), [0, *borders, *[rows] * missing, rows]


@dataclass(frozen=True)
class ByFraction:
    """A bucket for each fraction of the rows, drawn by their places or by what they hold."""

    limits: tuple[float, ...]
    """Where the fractions end, up to 1."""
    columns: tuple[str, ...]
    seed: int

    def schema(self, schema: Any) -> Any:
        return schema

    def __call__(self, table: Any, places: Any, buckets: int) -> tuple[Any, Any]:
        if self.columns:
            hashes = row_hashes(table.select(list(self.columns)), self.seed)
        else:
            hashes = place_hashes(places, self.seed)
        drawn = (hashes >> np.uint64(11)) * 2.0**-53
        number = np.searchsorted(self.limits[:-1], drawn, side="right")
        line = np.argsort(number, kind="stable")
        return table.take(line), np.searchsorted(number[line], np.arange(buckets + 1))


def _with_hash(schema: Any) -> Any:
    return schema.append(pa.field(HASH, pa.uint64()))


def _by_hash(table: Any, hashes: Any, buckets: int) -> tuple[Any, Any]:
    """Rows by ascending hash; a bucket has a range of hashes."""
    line = np.argsort(hashes, kind="stable")
    hashes = hashes[line]
    number = ((hashes >> _HALF) * np.uint64(buckets)) >> _HALF
    borders = np.searchsorted(number, np.arange(buckets + 1, dtype=np.uint64))
    return table.take(line).append_column(HASH, pa.array(hashes)), borders


def first_rows(keys: Any) -> Any:
    """Of each set of equal rows the first one's number, ascending."""
    plain = key_columns(keys)
    names = plain.column_names
    numbered = plain.append_column("row", pa.array(np.arange(keys.num_rows)))
    found = numbered.group_by(names, use_threads=False).aggregate([("row", "min")])
    return np.sort(found.column("row_min").to_numpy())


def rows_of_groups(keys: Any) -> tuple[Any, Any]:
    """The numbers of the rows of one group of equal rows after the other, and where each begins."""
    plain = key_columns(keys)
    names = plain.column_names
    numbered = plain.append_column("row", pa.array(np.arange(keys.num_rows)))
    found = numbered.group_by(names, use_threads=False).aggregate([("row", "list")])
    lists = found.column("row_list").combine_chunks()
    offsets = lists.offsets.to_numpy()
    return lists.flatten().to_numpy(), offsets - offsets[0]


# ----------------------------------------------------------------------------------------- runs


def runs_of(parts: Sequence[PartPiece], bucket: int, buckets: int) -> list[Any]:
    """The record batches of a bucket, in the order of the dataset's rows, on disk where they are many."""
    found = _groups(parts, bucket, buckets)
    if not parts or parts[0].on_disk:
        return list(found)
    return _spilled(found)


def _groups(parts: Sequence[PartPiece], bucket: int, buckets: int) -> Iterator[Any]:
    for part in parts:
        reader = part.reader()
        for number in range(bucket, reader.groups, buckets):
            batch = reader.group(number)
            if batch.num_rows:
                yield batch


def _spilled(batches: Iterator[Any]) -> list[Any]:
    """Batches that came over a network, in a file of their own that memory is mapped to."""
    first = next(batches, None)
    if first is None:
        return []
    handle, name = tempfile.mkstemp(prefix="headrace-")
    os.close(handle)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        file = pa.ipc.open_file(pa.memory_map(name))
        return [file.get_batch(number) for number in range(file.num_record_batches)]
    finally:
        os.unlink(name)


def as_table(runs: Sequence[Any], schema: Any = None) -> Any:
    """Runs as one table whose columns lie in one piece."""
    return pa.Table.from_batches(runs, schema=schema).combine_chunks()


def taken(table: Any, line: Any, size: int) -> Iterator[Any]:
    """A table's rows in another order, in tables of about ``size`` bytes."""
    rows = len(line)
    step = min(max(1, int(rows * min(1, size / max(1, table.nbytes)))), MOST_GROUP_ROWS)
    for first in range(0, rows, step):
        yield table.take(line[first : first + step])


def hash_ranges(runs: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Runs that ascend by `HASH`, as ranges of it of about ``size`` bytes, each with all of its rows.

    A range is larger only where rows with one hash are more than that.
    """
    total = sum(run.nbytes for run in runs)
    if total <= size:
        if runs:
            yield list(runs)
        return
    hashes = [run.column(HASH).to_numpy() for run in runs]
    rows = sum(map(len, hashes))
    pieces = -(-total // size)
    stride = max(1, rows // (pieces * _SAMPLES))
    sample = np.sort(np.concatenate([each[::stride] for each in hashes]))
    limits = sample[np.arange(1, pieces) * len(sample) // pieces]
    often = limits[1:][limits[1:] == limits[:-1]]  # a hash with more rows than a range should have
    limits = np.unique(np.concatenate([limits, often + np.uint64(1)]))
    borders = [[0, *np.searchsorted(each, limits).tolist(), len(each)] for each in hashes]
    for number in range(len(limits) + 1):
        cut = [
            run.slice(each[number], each[number + 1] - each[number])
            for run, each in zip(runs, borders, strict=True)
        ]
        if some := [run for run in cut if run.num_rows]:
            yield some


def sorted_ranges(runs: Sequence[Any], order: Order, size: int) -> Iterator[list[Any]]:
    """Sorted runs as ranges of the order of about ``size`` bytes, in the order."""
    total = sum(run.nbytes for run in runs)
    if total <= size:
        if runs:
            yield list(runs)
        return
    rows = sum(run.num_rows for run in runs)
    pieces = -(-total // size)
    stride = max(1, rows // (pieces * _SAMPLES))
    first_of = np.cumsum([0, *(run.num_rows for run in runs)])
    samples: list[Any] = []
    for first, run in zip(first_of, runs, strict=False):
        some = pa.Table.from_batches([run]).select(list(order.by))
        where = np.arange(0, run.num_rows, stride)
        samples.append(some.take(where).append_column(PLACE, pa.array(first + where)))
    cuts = evenly(pa.concat_tables(samples).combine_chunks(), order, pieces)
    places = cuts.column(PLACE).to_numpy()
    borders: list[list[int]] = []
    for first, run in zip(first_of, runs, strict=False):
        at = np.clip(places - first, 0, run.num_rows)
        _, found = order.arranged(pa.Table.from_batches([run]), cuts, at.tolist())
        borders.append([0, *found, run.num_rows])
    for number in range(cuts.num_rows + 1):
        cut = [
            run.slice(each[number], each[number + 1] - each[number])
            for run, each in zip(runs, borders, strict=True)
        ]
        if some := [run for run in cut if run.num_rows]:
            yield some


# --------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class BucketPiece:
    """One bucket's rows of one object, as part of a dataset."""

    part: PartPiece
    bucket: int
    buckets: int

    @property
    def name(self) -> str:
        return f"{self.part.name}#{self.bucket}"

    @property
    def origin(self) -> Origin:
        return self.part.origin

    @property
    def rows(self) -> int | None:
        return None

    @property
    def bytes(self) -> int:
        return self.part.bytes // self.buckets

    @property
    def fingerprint(self) -> str:
        return f"{self.part.fingerprint}#{self.bucket}/{self.buckets}"

    def schema(self) -> Any:
        return self.part.schema()

    def count(self) -> int:
        return sum(batch.num_rows for batch in _groups([self.part], self.bucket, self.buckets))

    def units(self) -> list[Piece]:
        return [self]

    def cut(self, first: int, rows: int) -> Piece | None:
        return None

    def batches(self, scan: Scan) -> Iterator[Any]:
        for batch in _groups([self.part], self.bucket, self.buckets):
            yield from scan_table(pa.Table.from_batches([batch]), scan)
