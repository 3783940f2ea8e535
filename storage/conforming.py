"""A task's stated schema: its tables are checked against it, and cast where nothing is lost."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyarrow as pa

from ..core.errors import UnstorableError
from .forms import PICKLE, Form, array_of, freeze, is_pickled
from .rowforms import freeze_rows


class Stated:
    """A stated schema, to which one dict after the other is held."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self._types = {field.name: field.type for field in schema}
        self._needed = {field.name for field in schema if not field.nullable}

    def frozen(self, row: dict[str, Any]) -> list[tuple[Form, Any]]:
        """What `forms.freeze` makes of each value of a dict that conforms. Raises `UnstorableError`."""
        frozen = list(map(freeze, row.values()))
        if not (self._needed <= row.keys() and all(map(self._takes, row, frozen))):
            rows = freeze_rows([row])
            assert rows is not None
            conform_rows(rows.table(), self.schema)  # tells what does not
        return frozen

    def _takes(self, name: str, frozen: tuple[Form, Any]) -> bool:
        form, payload = frozen
        kind = self._types.get(name)
        if kind is None or form.restore == PICKLE:
            return False
        if payload is None:
            return name not in self._needed
        if form.type == kind:
            return True
        try:
            if form.raw and _alike(form.type, kind):
                pa.array([payload], kind)
            else:
                _cast(array_of(form, [payload]), kind)
        except (pa.ArrowException, OverflowError):
            return False
        return True


@lru_cache(maxsize=256)
def _alike(own: Any, stated: Any) -> bool:
    """Whether Arrow makes of a Python value what a cast would, for which it needs five times as long."""
    kinds = (pa.types.is_integer, pa.types.is_floating)
    texts = (pa.string(), pa.large_string())
    return any(kind(own) and kind(stated) for kind in kinds) or (own in texts and stated in texts)


def conform_rows(table: Any, schema: Any) -> Any:
    """As `conform`, for what was dicts: a column that none of them has is null."""
    for field in schema:
        if field.name not in table.column_names and field.nullable:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return conform(table, schema)


def conform(table: Any, schema: Any) -> Any:
    """The table in the stated schema: columns in its order, types cast where that is lossless.

    Raises
    ------
    UnstorableError
        A column is missing, is not in the schema, or does not cast: names the first such column.
    """
    for field in table.schema:
        if is_pickled(field) and field.name in schema.names:
            raise UnstorableError(
                f"column {field.name!r} has values of several types, or such as Arrow has no type for, and "
                f"the task's schema says {schema.field(field.name).type}: return values of that type"
            )
    if table.schema.equals(schema, check_metadata=False):
        return table
    names = set(table.column_names)
    for name in schema.names:
        if name not in names:
            raise UnstorableError(f"column {name!r} of the task's schema is missing in its table")
    for name in table.column_names:
        if name not in schema.names:
            raise UnstorableError(f"column {name!r} is not in the task's schema")
    columns: list[Any] = []
    for field in schema:
        column = table.column(field.name)
        try:
            column = column if column.type == field.type else _cast(column, field.type)
        except pa.ArrowException as error:
            raise UnstorableError(
                f"column {field.name!r} is {column.type}, and the task's "
                f"schema says {field.type}: {error}"
            ) from error
        if column.null_count and not field.nullable:
            raise UnstorableError(
                f"column {field.name!r} has nulls, which the task's schema forbids"
            )
        columns.append(column)
    return pa.table(columns, schema=schema)


def _cast(column: Any, kind: Any) -> Any:
    """The column in another type; where Arrow would drop a part of its values, `pyarrow.ArrowInvalid`."""
    name = _left_out(column.type, kind)
    if name is not None:
        raise pa.ArrowInvalid(f"its field {name!r} would be lost")
    cast = column.cast(kind, safe=True)
    truncates = pa.types.is_boolean(kind) or pa.types.is_date(kind)
    if truncates and not pa.types.is_string(column.type) and cast.cast(column.type) != column:
        raise pa.ArrowInvalid("a part of its values would be lost")
    return cast


def _left_out(kind: Any, wanted: Any) -> str | None:
    """A field of a struct, at any depth, that the other type has not."""
    if pa.types.is_struct(kind) and pa.types.is_struct(wanted):
        names = [field.name for field in wanted]
        for field in kind:
            if field.name not in names:
                return str(field.name)
        pairs = [(field.type, wanted.field(field.name).type) for field in kind]
    else:
        depth = min(kind.num_fields, wanted.num_fields)
        pairs = [(kind.field(n).type, wanted.field(n).type) for n in range(depth)]
    found = (_left_out(own, other) for own, other in pairs)
    return next((name for name in found if name is not None), None)
