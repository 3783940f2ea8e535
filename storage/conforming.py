"""A task's stated schema: its tables are checked against it, and cast where nothing is lost."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..core.errors import UnstorableError


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
            column = column if column.type == field.type else column.cast(field.type, safe=True)
        except pa.ArrowException as error:
            raise UnstorableError(
                f"column {field.name!r} is {table.schema.field(field.name).type}, and the task's "
                f"schema says {field.type}: {error}"
            ) from error
        if column.null_count and not field.nullable:
            raise UnstorableError(
                f"column {field.name!r} has nulls, which the task's schema forbids"
            )
        columns.append(column)
    return pa.table(columns, schema=schema)
