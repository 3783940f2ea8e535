"""Groups of equal rows, each handed whole to a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ..core.annotations import unmapped
from ..core.errors import ConfigurationError, UnstorableError
from ..core.hints import form_of
from ..core.rowmodels import parameter_hints
from ..core.tasks import Task
from .adapting import convert
from .datasets import Dataset
from .exchange import HASH, ByContent, as_table, first_rows, hash_ranges, rows_of_groups, runs_of
from .making import Input, Made, checked_columns
from .steps import parts_of, scatter
from .tables import freeze_table


def map_groups(dataset: Dataset, by: Sequence[str], fn: Any, size: int) -> Dataset:
    """See `Groups.map`."""
    if not callable(getattr(fn, "fn", fn)):
        raise ConfigurationError(f"group_by().map() takes a function or a task, not {fn!r}")
    source = Input("group", dataset)
    columns = checked_columns("group_by", by, source.schema)
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
            for each in result if isinstance(result, list) else [result]:
                if type(each) is not dict and freeze_table(each) is None and each is not None:
                    raise UnstorableError(
                        f"a group gave a {type(each).__name__}: return a table, a frame, a dict, a list of "
                        "dicts, or None"
                    )
                if each is not None:
                    yield each

    return over_groups


def _form_of(function: Callable[..., Any]) -> str:
    """The form in which a function's first parameter wants its rows."""
    hints = parameter_hints(function)
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
    runs = runs_of(parts_of(shares), bucket, buckets)
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
        if len(groups) > 1:  # else they are in order, and may be many
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
