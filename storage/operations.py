"""Operations on datasets that need more than one partition, as mapped tasks of the current flow run.

Each adds its nodes to the run and gives a dataset at once, which waits for them when it is read.
Outside of a flow an operation is a flow run of its own. What a worker holds follows from
``partition_bytes``, not from the size of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, cast

import numpy as np

from ..core.annotations import unmapped
from ..core.errors import ConfigurationError
from ..core.futures import MapFuture
from .datasets import Dataset, check_positive, parse_bytes
from .exchange import BucketPiece, ByContent, ByFraction, ByPlace
from .grouping import map_groups
from .making import Input, Made, checked_columns
from .nodedata import PartPiece
from .ordering import Order
from .pieces import Piece
from .shares import Share, with_places
from .splitting import by_bytes, by_rows, small_together
from .steps import (
    choose_cuts,
    copy,
    draw,
    gather,
    gather_distinct,
    gather_sorted,
    limit_of,
    sample_keys,
    scatter,
    scatter_sorted,
    thin,
)

__all__ = [
    "compact",
    "distinct",
    "map_groups",
    "repartition",
    "sample",
    "shuffle",
    "sort",
    "split",
]

_SAMPLES = 512
"""Rows per bucket that are looked at to cut the sorted rows into buckets."""
_LEAST_ROW = 24
"""Bytes of a row, taken as few where rows are not counted."""


def shuffle(dataset: Dataset, seed: int, size: int) -> Dataset:
    """See `Dataset.shuffle`."""
    _check_seed("shuffle", seed)
    source = Input("shuffle", dataset)
    buckets = source.buckets(size)
    shares = source.task(scatter).map(
        source.shares(size), buckets, size // 2, ByPlace(seed), source.after
    )
    made = source.last(gather).map(range(buckets), unmapped(shares), buckets, size)
    return source.dataset(made, shares)


def distinct(dataset: Dataset, on: Sequence[str], size: int) -> Dataset:
    """See `Dataset.distinct`."""
    source = Input("distinct", dataset)
    columns = checked_columns("distinct", on or source.schema.names, source.schema)
    buckets = source.buckets(size)
    arrange = ByContent(columns, first_only=True)
    shares = source.task(scatter).map(
        source.shares(size), buckets, size // 2, arrange, source.after
    )
    made = source.last(gather_distinct).map(
        range(buckets), unmapped(shares), buckets, size, unmapped(columns)
    )
    return source.dataset(made, shares)


def sort(
    dataset: Dataset, by: str | Sequence[str], descending: bool | Sequence[bool], size: int
) -> Dataset:
    """See `Dataset.sort`."""
    source = Input("sort", dataset)
    order = Order.of(by, descending, source.schema)
    buckets = source.buckets(size)
    inputs = source.shares(size)
    stride = max(1, _rows_of(inputs, source.bytes) // (buckets * _SAMPLES))
    samples = source.task(sample_keys).map(inputs, order, size // 2, stride, source.after)
    cuts = source.task(choose_cuts).submit(cast("Any", samples), order, buckets)
    shares = source.task(scatter_sorted).map(
        inputs, buckets, size // 2, order, unmapped(cast("Any", cuts)), source.after
    )
    made = source.last(gather_sorted).map(range(buckets), unmapped(shares), buckets, size, order)
    return source.dataset(made, samples, cuts, shares)


def _check_seed(operation: str, seed: Any) -> None:
    if not isinstance(seed, Integral):
        raise ConfigurationError(f"{operation}() takes a whole number as its seed, not {seed!r}")


def _rows_of(inputs: Sequence[Share], size: int) -> int:
    """About how many rows there are."""
    counted = [share.counted for share in inputs]
    return size // _LEAST_ROW if None in counted else sum(filter(None, counted))


def split(
    dataset: Dataset, fractions: Sequence[float], by: Sequence[str], seed: int, size: int
) -> list[Dataset]:
    """See `Dataset.split`."""
    if not fractions or min(fractions) < 0 or not 0 < sum(fractions) <= 1 + 1e-9:
        raise ConfigurationError(
            f"split() takes fractions that come to at most 1, got {list(fractions)}"
        )
    _check_seed("split", seed)
    source = Input("split", dataset)
    columns = checked_columns("split", by, source.schema)
    limits = np.cumsum(fractions).tolist()
    if limits[-1] < 1 - 1e-9:
        limits.append(1.0)  # the rest, which nobody reads
    arrange = unmapped(ByFraction(tuple(limits), columns, seed))
    shares = source.task(scatter).map(
        source.shares(size), len(limits), size // 2, arrange, source.after
    )
    return [
        Dataset((), schema=source.schema, made=Made(shares, _Bucket(k, len(limits)), shared=True))
        for k in range(len(fractions))
    ]


class _Bucket:
    """From the pieces of what was scattered to those of one bucket."""

    def __init__(self, bucket: int, buckets: int) -> None:
        self.bucket, self.buckets = bucket, buckets

    def __call__(self, pieces: Sequence[Any]) -> Sequence[Piece]:
        return [BucketPiece(piece, self.bucket, self.buckets) for piece in pieces]


def sample(
    dataset: Dataset, fraction: float | None, n: int | None, seed: int, size: int
) -> Dataset:
    """See `Dataset.sample`."""
    if (fraction is None) == (n is None):
        raise ConfigurationError("sample() takes fraction= or n=")
    _check_seed("sample", seed)
    bad_count = n is not None and (not isinstance(n, Integral) or n < 0)
    if bad_count or (fraction is not None and not 0 <= fraction <= 1):
        raise ConfigurationError(
            f"sample() takes a fraction from 0 to 1, or a number of rows: {fraction}, {n}"
        )
    source = Input("sample", dataset)
    inputs = source.shares(size)
    below: Any = int((fraction or 0) * (1 << 64))
    if n is not None:
        drawn = source.task(draw).map(inputs, size // 2, seed, n, source.after)
        below = unmapped(source.task(limit_of).submit(cast("Any", drawn), n))
    return source.dataset(source.last(thin).map(inputs, size // 2, seed, below, source.after))


def repartition(
    dataset: Dataset, rows: int | None, bytes: int | str | None, files: int | None, size: int
) -> Dataset:
    """See `Dataset.repartition`."""
    aims = [aim for aim in (rows, bytes, files) if aim is not None]
    if len(aims) != 1:
        raise ConfigurationError("repartition() takes one of rows=, bytes= and files=")
    most = 1 if bytes is None else parse_bytes(bytes)
    for name, aim in (("rows", rows), ("bytes", most), ("files", files)):
        check_positive(name, aim)
    source = Input("repartition", dataset)
    if (
        not all(isinstance(piece, PartPiece) for piece in source.pieces)
        or source.scan.filter is not None
    ):
        # Only the rows of partitions can be counted and cut anywhere.
        source = Input("repartition", _copied(source, list(by_bytes(source.pieces, size)), size))
    if bytes is not None:
        groups = list(by_bytes(source.pieces, most))
    else:
        groups = list(by_rows(source.pieces, rows)) if rows else _evenly(source.pieces, files or 1)
    return _copied(source, groups, size)


def _evenly(pieces: Sequence[Piece], files: int) -> list[list[Piece]]:
    """Groups of as many rows, or one more."""
    total = sum(cast("int", piece.rows) for piece in pieces)
    limits = [total * k // files for k in range(files + 1)]
    groups: list[list[Piece]] = [[] for _ in range(files)]
    at = 0
    for piece in pieces:
        rows = cast("int", piece.rows)
        for group, first, stop in zip(groups, limits[:-1], limits[1:], strict=True):
            begin, end = max(first, at), min(stop, at + rows)
            if begin < end:
                group.append(cast("Piece", piece.cut(begin - at, end - begin)))
        at += rows
    return [group for group in groups if group]


def _copied(source: Input, groups: list[list[Piece]], size: int) -> Dataset:
    inputs = with_places(groups, source.scan)
    return source.dataset(source.last(copy).map(inputs, size // 2, source.after))


def compact(dataset: Dataset, size: int) -> Dataset:
    """See `Dataset.compact`."""
    source = Input("compact", dataset, keep=True)
    groups = list(small_together(source.pieces, size))
    small = [group for group in groups if len(group) > 1 or source.scan.filter is not None]
    if not small:
        return dataset
    future = source.last(copy).map(with_places(small, source.scan), size // 2, source.after)
    numbers = {id(group): number for number, group in enumerate(small)}
    layout = [numbers.get(id(group), group) for group in groups]
    if source.scan.filter is not None or len(small) == len(groups):
        return source.dataset(future)
    return Dataset(
        (),
        schema=dataset.full_schema,
        asked=source.scan.asked,
        stated=source.scan.stated,
        columns=source.scan.columns,
        made=Made(future, _Woven(layout, future), shared=True),
    )


class _Woven:
    """Copied groups of pieces and those that stayed, in their order."""

    def __init__(self, layout: list[Any], future: MapFuture[Any]) -> None:
        self.layout, self.future = layout, future

    def __call__(self, pieces: Sequence[Any]) -> Sequence[Piece]:
        receipts = self.future.engine.manifest(self.future.node).receipts
        path = {receipt.positions.runs[0][0]: receipt.part.path for receipt in receipts}
        by_path = {piece.part.path: piece for piece in pieces}
        out: list[Piece] = []
        for group in self.layout:
            if isinstance(group, int):
                made = by_path.get(path[group])  # one without rows has no piece
                out += [made] if made is not None else []
            else:
                out += group
        return out
