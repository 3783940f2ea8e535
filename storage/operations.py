"""Operations on datasets that need more than one partition, as mapped tasks of the current flow run.

Each adds its nodes to the run and gives a dataset at once, which waits for them when it is read.
Outside of a flow an operation is a flow run of its own. What a worker holds follows from
``partition_bytes``, not from the size of the data.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ..core.annotations import unmapped
from ..core.context import FLOW_RUN, TASK_RUN
from ..core.errors import ConfigurationError, NestedSubmitError
from ..core.flows import flow
from ..core.futures import MapFuture
from ..core.tasks import Task, task
from .adapting import convert, form_of
from .datasets import Dataset, parse_bytes
from .exchange import (
    HASH,
    Arrangement,
    BucketPiece,
    ByContent,
    ByFraction,
    ByPlace,
    BySort,
    as_table,
    first_rows,
    hash_ranges,
    rows_of_groups,
    runs_of,
    scattered,
    sorted_ranges,
    taken,
)
from .hashing import place_hashes, row_hashes
from .nodedata import PartPiece
from .ordering import Order, evenly
from .pieces import Piece
from .shares import PLACE, Share, plain_schema, shares_of, with_places
from .splitting import by_bytes, by_rows, small_together

_SAMPLES = 512
"""Rows per bucket that are looked at to cut the sorted rows into buckets."""
_LEAST_ROW = 24
"""Bytes of a row, taken as few where rows are not counted."""
_MOST_BUCKETS = 1 << 14


class Made:
    """What a future of the run gives as pieces of a dataset, when they are asked for."""

    def __init__(
        self,
        future: MapFuture[Any],
        pick: Callable[[Sequence[Any]], Sequence[Piece]] = lambda pieces: pieces,
        *,
        before: Sequence[Any] = (),
        shared: bool = False,
    ) -> None:
        self.future = future
        self.pick = pick
        self.before = before
        """Futures of the steps before: where one failed, its error tells more."""
        self.shared = shared
        """Other datasets have rows in the same objects, so they are not dropped with this one's use."""

    def dataset(self, *, keep: bool) -> Dataset:
        """Wait for it. With ``keep`` its partitions stay where intermediates are dropped."""
        self.future.wait()
        engine = self.future.engine
        if not self.future.state.is_completed():
            for step in self.before:
                if not step.state.is_completed():
                    engine.dataset(step.node)  # raises its error
        found = engine.dataset(self.future.node, keep=keep or self.shared)
        return Dataset(self.pick(found.pieces), find_schema=lambda: found.full_schema)

    def future_here(self) -> MapFuture[Any] | None:
        """The future, where its values go with it: in its own run."""
        flow_run = FLOW_RUN.get()
        here = flow_run is not None and flow_run.engine is self.future.engine and not self.shared
        return self.future if here else None


class Input:
    """A dataset as the input of an operation: its pieces, and the future that they come from."""

    def __init__(self, operation: str, dataset: Dataset, *, keep: bool = False) -> None:
        self.operation = operation
        self.pieces, future = dataset.handed_on(keep=keep)
        self.after = unmapped(future)
        """Argument of the tasks that read it: it is dropped when they are through, if it may be."""
        self.scan = dataset.scan()
        self.schema = plain_schema(self.scan.result)
        self.bytes = sum(piece.bytes for piece in self.pieces)

    def shares(self, size: int) -> list[Share]:
        return shares_of(self.pieces, self.scan, size)

    def buckets(self, size: int) -> int:
        return min(max(1, -(-self.bytes // size)), _MOST_BUCKETS)

    def task(self, step: Task[..., Any]) -> Task[..., Any]:
        """A step under the operation's name."""
        return step.with_options(name=f"{self.operation}-{step.name}")

    def last(self, step: Task[..., Any]) -> Task[..., Any]:
        """A step whose result has the source's schema, also without rows."""
        return self.task(step).with_options(schema=self.schema)

    def dataset(self, future: MapFuture[Any], *before: Any) -> Dataset:
        return Dataset((), schema=self.schema, made=Made(future, before=before))


def in_a_flow(name: str, build: Callable[[], Any]) -> Any:
    """Build nodes in the current run, or in one of its own whose datasets are there when it ends.

    Raises
    ------
    NestedSubmitError
        In a running task: it has one slot, and these need more.
    """
    if TASK_RUN.get() is not None:
        raise NestedSubmitError(
            f"dataset.{name} was called in a running task; call it in the flow, and map over its result"
        )
    if FLOW_RUN.get() is not None:
        return build()

    def operation() -> Any:
        built = build()
        for dataset in built.values() if isinstance(built, dict) else _listed(built):
            dataset.files  # noqa: B018 - waits for it, and keeps it
        return built

    return flow(operation, name=f"dataset-{name.replace('_', '-')}")()


def _listed(built: Any) -> list[Any]:
    return cast("list[Any]", built) if isinstance(built, list) else [built]


# ----------------------------------------------------------------------------------------- tasks
# ``after`` is not looked at: while an item of these may run, what it stands for is not dropped.


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
    runs = runs_of(_parts(shares), bucket, buckets)
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
    runs = runs_of(_parts(shares), bucket, buckets)
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
    runs = runs_of(_parts(shares), bucket, buckets)
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


def _parts(shares: Dataset) -> list[PartPiece]:
    return cast("list[PartPiece]", list(shares.pieces))


# ------------------------------------------------------------------------------------ operations


def shuffle(dataset: Dataset, seed: int, size: int) -> Dataset:
    """See `Dataset.shuffle`."""
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
    columns = _columns_of("distinct", on or source.schema.names, source.schema)
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
    source = Input("split", dataset)
    columns = _columns_of("split", by, source.schema)
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
    if (fraction is not None and not 0 <= fraction <= 1) or (n is not None and n < 0):
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
    if any(isinstance(aim, int) and aim < 1 for aim in (rows, files, most)):
        raise ConfigurationError("repartition() takes a positive number")
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


def _columns_of(what: str, names: Sequence[str], schema: Any) -> tuple[str, ...]:
    for name in names:
        if name not in schema.names:
            raise ConfigurationError(
                f"{what}(): no column {name!r}: there is {', '.join(schema.names) or 'none'}"
            )
    row_hashes(schema.empty_table().select(list(names)))  # raises where a type has no hash
    return tuple(names)


# ---------------------------------------------------------------------------------------- groups


def map_groups(dataset: Dataset, by: Sequence[str], fn: Any, size: int) -> Dataset:
    """See `Groups.map`."""
    source = Input("group", dataset)
    columns = _columns_of("group_by", by, source.schema)
    buckets = source.buckets(size)
    shares = source.task(scatter).map(
        source.shares(size), buckets, size // 2, ByContent(columns), source.after
    )
    given: Mapping[str, Any] = fn.given if isinstance(fn, Task) else {}
    function = cast("Any", fn).fn if isinstance(fn, Task) else fn
    name = given.get("name") or getattr(function, "__name__", "groups")
    over = Task(_over_groups(function, columns), cast("Any", {**given, "name": name}))
    made = over.map(range(buckets), unmapped(shares), buckets, size)
    return Dataset((), made=Made(made, before=[shares]))


def _over_groups(function: Callable[[Any], Any], columns: tuple[str, ...]) -> Callable[..., Any]:
    """A task's function that calls the user's for each group of a bucket."""
    form = _form_of(function)

    def over_groups(bucket: int, shares: Dataset, buckets: int, size: int) -> Iterator[Any]:
        for group in groups_of(shares, columns, bucket, buckets, size, form == "reader"):
            result = function(convert(group, form))
            if isinstance(result, list):
                yield from result
            elif result is not None:
                yield result

    return over_groups


def _form_of(function: Callable[..., Any]) -> str:
    """The form in which a function's first parameter wants its rows."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - annotations are user code: those that fail ask for nothing
        hints = dict(getattr(function, "__annotations__", {}))
    hints.pop("return", None)
    return form_of(next(iter(hints.values()), None)) or "table"


def groups_of(
    shares: Dataset,
    columns: Sequence[str],
    bucket: int,
    buckets: int,
    size: int,
    streaming: bool,
) -> Iterator[Any]:
    """Each group of a bucket whole, as a table; or as a reader where one is larger than ``size``.

    Groups come by the hash of their key, rows of a group in their order.
    """
    runs = runs_of(_parts(shares), bucket, buckets)
    for part in hash_ranges(runs, size):
        large = sum(run.nbytes for run in part) > size
        if streaming and large and _one_group(part, columns):
            schema = part[0].drop_columns([HASH]).schema
            rows = (_cut(run.drop_columns([HASH]), size // 4) for run in part)
            yield pa.RecordBatchReader.from_batches(schema, (b for each in rows for b in each))
            continue
        table = as_table(part)
        hashes = table.column(HASH).to_numpy()
        table = table.drop_columns([HASH])
        line, offsets = rows_of_groups(table.select(list(columns)))
        groups = np.argsort(hashes[line[offsets[:-1]]], kind="stable").tolist()
        lengths = np.diff(offsets)
        line = np.concatenate([line[offsets[g] : offsets[g + 1]] for g in groups])
        table = table.take(line)
        at = 0
        for group in groups:
            yield table.slice(at, int(lengths[group]))
            at += int(lengths[group])


def _cut(batch: Any, size: int) -> Iterator[Any]:
    step = max(1, int(batch.num_rows * min(1, size / max(1, batch.nbytes))))
    for first in range(0, batch.num_rows, step):
        yield batch.slice(first, step)


def _one_group(part: Sequence[Any], columns: Sequence[str]) -> bool:
    """Whether all rows of a range are of one group."""
    firsts: list[Any] = []
    for run in part:
        keys = pa.Table.from_batches([run]).select(list(columns))
        found = first_rows(keys)
        if len(found) > 1:
            return False
        firsts.append(keys.take(found))
    return len(first_rows(pa.concat_tables(firsts))) == 1
