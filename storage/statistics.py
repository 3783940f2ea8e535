"""What Parquet footers and folders' names tell of columns: least, greatest, nulls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .scanning import FilePiece


@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Of one column: the least and the greatest value (None: no value at all), and how many nulls."""

    min: Any
    max: Any
    nulls: int

    @property
    def single(self) -> bool:
        """Whether all rows are known to hold the same; what is not a number is not counted in floats."""
        plain = self.min == self.max and not isinstance(self.min, float)
        return plain and (self.min is None or not self.nulls)

    def __add__(self, other: ColumnStatistics) -> ColumnStatistics:
        if self.min is None or other.min is None:
            low, high = (self.min, self.max) if other.min is None else (other.min, other.max)
        else:
            low, high = min(self.min, other.min), max(self.max, other.max)
        return ColumnStatistics(low, high, self.nulls + other.nulls)


Columns = dict[str, ColumnStatistics]


def of_piece(piece: FilePiece, footer: Any) -> Columns:
    """Of the columns that its folder or its footer (None: it has none) tell of."""
    if footer is None:
        return {}
    groups = range(footer.num_row_groups) if piece.groups is None else piece.groups
    found = together(_of_group(footer.row_group(group)) for group in groups)
    rows = sum(footer.row_group(group).num_rows for group in groups)
    for name, value in piece.constants:
        plain = value.as_py()
        told = ColumnStatistics(plain, plain, 0 if value.is_valid else rows)
        found.setdefault(name, told)  # the file may have the column, too, with its type
    return found


def together(parts: Iterable[Columns]) -> Columns:
    """Of all parts; columns that one of them does not tell of are left out."""
    listed = list(parts)
    return reduce(lambda a, b: {n: a[n] + b[n] for n in a if n in b}, listed) if listed else {}


def _of_group(group: Any) -> Columns:
    found: Columns = {}
    for index in range(group.num_columns):
        column = group.column(index)
        told = column.statistics
        name = column.path_in_schema
        if told is None or not told.has_null_count or "." in name:
            continue  # with a dot it is within another column
        if told.has_min_max:
            found[name] = ColumnStatistics(told.min, told.max, told.null_count)
        elif told.null_count == group.num_rows:
            found[name] = ColumnStatistics(None, None, told.null_count)
    return found
