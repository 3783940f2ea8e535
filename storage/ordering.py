"""Sorting tables by columns, stably, and cutting what is sorted at given rows.

The order is pyarrow's: nulls last, NaN before them, in either direction. Rows with equal keys keep
their order, and a *cut* (the key of some row of the dataset) has a place among those equal to it, so
that every row lies on one side of it, however many rows share a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import ConfigurationError


def _is_bare(kind: Any) -> bool:
    """Whether it is a struct without fields, or has one."""
    if not pa.types.is_struct(kind):
        return False
    return not kind.num_fields or any(_is_bare(field.type) for field in kind.fields)


@dataclass(frozen=True)
class Order:
    """Columns to sort by, and for each whether it descends."""

    by: Sequence[str]
    descending: Sequence[bool]

    @classmethod
    def of(cls, by: str | Sequence[str], descending: bool | Sequence[bool], schema: Any) -> Order:
        """An order that can be.

        Raises
        ------
        ConfigurationError
            A column is missing, or its type has no order.
        """
        names = (by,) if isinstance(by, str) else tuple(by)
        down = (descending,) * len(names) if isinstance(descending, bool) else tuple(descending)
        if not names or len(down) != len(names):
            raise ConfigurationError(
                f"sort() takes columns, and descending= for all or for each of them: {by!r}, "
                f"{descending!r}"
            )
        for name in names:
            if name not in schema.names:
                raise ConfigurationError(
                    f"cannot sort by {name!r}: there is {', '.join(schema.names) or 'no column'}"
                )
            if _is_bare(schema.field(name).type):  # pyarrow dies of it
                raise ConfigurationError(
                    f"cannot sort by {name!r}: {schema.field(name).type} has no order"
                )
        order = cls(names, down)
        try:
            for name in names:  # of several keys no types are looked at where there are no rows
                cls((name,), (False,)).indices(
                    pa.table({name: pa.nulls(1, schema.field(name).type)})
                )
            order.indices(schema.empty_table())
        except pa.ArrowException as error:
            raise ConfigurationError(f"cannot sort by {', '.join(names)}: {error}") from error
        return order

    def indices(self, table: Any) -> Any:
        """Where the rows of the sorted table are in this one (int64)."""
        values = self._numbers(table)
        if values is not None:
            return np.argsort(values, kind="stable")
        way = ["descending" if down else "ascending" for down in self.descending]
        keys: list[Any] = list(zip(self.by, way, strict=True))
        options = pc.SortOptions(sort_keys=keys)  # nulls last by default
        found = pc.call_function("sort_indices", [table.select(list(self.by))], options)
        return found.to_numpy().astype(np.int64)

    def _numbers(self, table: Any) -> Any:
        """The key as numbers that ascend, where it is one column of numbers without nulls."""
        if len(self.by) > 1:
            return None
        column = table.column(self.by[0])
        kind = column.type
        if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return None
        values = column.to_numpy()
        if pa.types.is_floating(kind) and np.isnan(values).any():
            return None
        if not self.descending[0]:
            return values
        return -values if pa.types.is_floating(kind) else ~values

    def arranged(self, table: Any, cuts: Any, at: Sequence[int]) -> tuple[Any, list[int]]:
        """Where the rows of the sorted table are in this one, and the cuts in the sorted one.

        ``cuts`` has the columns of the order, and ascends; ``at`` says for each how many of the
        table's rows come before it among those with an equal key.
        """
        rows, count = table.num_rows, cuts.num_rows
        keys = table.select(list(self.by))
        if not count:
            return self.indices(keys), []
        # The cuts stand as rows where ties want them; a stable sort brings them to their places.
        line = np.argsort(np.asarray(at), kind="stable")
        parts: list[Any] = []
        numbers: list[Any] = []
        before = 0
        for cut in line.tolist():
            stop = at[cut]
            parts += [keys.slice(before, stop - before), cuts.select(list(self.by)).slice(cut, 1)]
            numbers += [np.arange(before, stop), [rows + cut]]
            before = stop
        parts.append(keys.slice(before))
        numbers.append(np.arange(before, rows))
        merged = pa.concat_tables([part.cast(keys.schema) for part in parts]).combine_chunks()
        number = np.concatenate(numbers)[self.indices(merged)]
        is_cut = number >= rows
        found = np.flatnonzero(is_cut)
        borders = np.empty(count, np.int64)
        borders[number[found] - rows] = found - np.arange(count)
        return number[~is_cut], borders.tolist()


def evenly(table: Any, order: Order, parts: int) -> Any:
    """The rows of a sample that cut it into ``parts`` equal parts; fewer where there are few rows."""
    rows = table.num_rows
    if not rows or parts < 2:
        return table.slice(0, 0)
    where = np.unique(np.arange(1, parts) * rows // parts)
    return table.take(order.indices(table)[where])
