"""The tasks that operations on datasets are made of.

``after`` is not looked at: while an item that has it may run, what it stands for is not dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ..core.tasks import task
from .datasets import Dataset
from .exchange import (
    HASH,
    Arrangement,
    BySort,
    as_table,
    first_rows,
    hash_ranges,
    runs_of,
    scattered,
    sorted_ranges,
    taken,
)
from .hashing import place_hashes
from .nodedata import PartPiece
from .ordering import Order, evenly
from .shares import PLACE, Share


@task(name="scatter")
def scatter(share: Share, buckets: int, size: int, arrange: Arrangement, after: Dataset) -> Any:
    """A share's rows, by bucket."""
    del after
    return scattered(share, buckets, size, arrange)


@task(name="scatter")
def scatter_sorted(
    share: Share, buckets: int, size: int, order: Order, cuts: pa.Table, after: Dataset
) -> Any:
    """A share's rows, by bucket of the order."""
    del after
    return scattered(share, buckets, size, BySort(order, cuts))


@task(name="gather")
def gather(bucket: int, shares: Dataset, buckets: int, size: int) -> Iterator[Any]:
    """A bucket's rows in the order of their hashes."""
    runs = runs_of(parts_of(shares), bucket, buckets)
    for part in hash_ranges(runs, size):
        table = as_table(part)
        hashes = table.column(HASH).to_numpy()
        line = np.argsort(hashes, kind="stable")
        yield from taken(table.drop_columns([HASH]), line, size // 4)


@task(name="gather")
def gather_distinct(
    bucket: int, shares: Dataset, buckets: int, size: int, columns: tuple[str, ...]
) -> Iterator[Any]:
    """A bucket's rows, of equal ones the first, in the order of their hashes."""
    runs = runs_of(parts_of(shares), bucket, buckets)
    for part in hash_ranges(runs, size):
        table = as_table(part)
        hashes = table.column(HASH).to_numpy()
        table = table.drop_columns([HASH])
        kept = first_rows(table.select(list(columns)))
        line = kept[np.argsort(hashes[kept], kind="stable")]
        yield from taken(table, line, size // 4)


@task(name="gather")
def gather_sorted(
    bucket: int, shares: Dataset, buckets: int, size: int, order: Order
) -> Iterator[Any]:
    """A bucket's rows in order."""
    runs = runs_of(parts_of(shares), bucket, buckets)
    for part in sorted_ranges(runs, order, size):
        table = as_table(part)
        yield from taken(table, order.indices(table), size // 4)


@task(name="sample-keys")
def sample_keys(
    share: Share, order: Order, size: int, stride: int, after: Dataset
) -> Iterator[Any]:
    """The keys of every ``stride``-th row or so, and their places."""
    del after
    for table, places in share.chunks(size, order.by):
        some = place_hashes(places, 0) % np.uint64(stride) == 0
        yield table.filter(some).append_column(PLACE, pa.array(places[some]))


@task(name="choose-cuts")
def choose_cuts(samples: Dataset, order: Order, buckets: int) -> pa.Table:
    """The keys between one bucket and the next."""
    return evenly(samples.to_table().combine_chunks(), order, buckets)


@task(name="copy")
def copy(share: Share, size: int, after: Dataset) -> Iterator[Any]:
    """A share's rows as they are."""
    del after
    for table, _ in share.chunks(size):
        yield table


@task(name="sample")
def thin(share: Share, size: int, seed: int, below: int, after: Dataset) -> Iterator[Any]:
    """The rows whose place has a hash below a limit."""
    del after
    for table, places in share.chunks(size):
        if below:
            yield table.filter(place_hashes(places, seed) <= np.uint64(below - 1))


@task(name="draw")
def draw(share: Share, size: int, seed: int, rows: int, after: Dataset) -> pa.Table:
    """The smallest hashes of the places of a share's rows, so many at most."""
    del after
    if share.counted is not None:
        columns = zip(share.pieces, share.places, strict=True)
        places = [np.arange(at, at + cast("int", piece.rows)) for piece, at in columns]
    else:
        places = [where for _, where in share.chunks(size)]
    least = np.empty(0, np.uint64)
    for each in places:
        least = _least(np.concatenate([least, place_hashes(each, seed)]), rows)
    return pa.table({HASH: pa.array(least)})


@task(name="draw-limit")
def limit_of(drawn: Dataset, rows: int) -> int:
    """The limit below which so many hashes are."""
    least = np.empty(0, np.uint64)
    for batch in drawn.iter_batches():
        least = _least(np.concatenate([least, batch.column(HASH).to_numpy()]), rows)
    return int(least.max()) + 1 if len(least) else 0


def _least(values: Any, count: int) -> Any:
    if len(values) <= count:
        return values
    return np.partition(values, count - 1)[:count] if count else values[:0]


def parts_of(shares: Dataset) -> list[PartPiece]:
    """The objects that were scattered, in the order of their shares."""
    return cast("list[PartPiece]", list(shares.pieces))
