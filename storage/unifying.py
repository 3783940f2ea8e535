"""One schema for many files, by a stated rule.

Columns are matched by name, in the order in which they first appear; one that a file lacks is null
there. Types widen where every value keeps its meaning: null to anything, integers to wider integers,
integers to floats, float to double, short text to large text, coarser to finer timestamps, decimals
to wider ones, and so inside lists and structs (a struct gets the fields of all). Everything else, text
beside numbers for instance, is an error that says which file has what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from ..core.errors import ConfigurationError
from .forms import EXTENSION_KEY


def unified(named: Iterable[tuple[str, Any]]) -> Any:
    """The schema of all files, given as (name for messages, schema) pairs.

    Raises
    ------
    ConfigurationError
        A column's types do not go together; shows which file has which.
    """
    columns: dict[str, dict[Any, tuple[Any, str]]] = {}
    for name, schema in named:
        twice = [column for column, count in Counter(schema.names).items() if count > 1]
        if twice:
            raise ConfigurationError(
                f"{name} has several columns {twice[0]!r}: give each another name where they are made"
            )
        for field in schema:
            seen = columns.setdefault(field.name, {})
            seen.setdefault((field.type, _extension(field)), (field, name))
    # In the order of their names, so that of several misfits always the same one is told.
    fields = {name: _one(name, list(columns[name].values())) for name in sorted(columns)}
    return pa.schema([fields[name] for name in columns])


def check_fits(name: str, own: Any, schema: Any, asked: int) -> None:
    """Hold the schema of a file that was not asked for it against that of those that were.

    Raises
    ------
    ConfigurationError
        It has a column that they lack, or one whose values do not fit their type; shows who has which.
    """
    if own.equals(schema, check_metadata=False):
        return
    others = f"the {asked} files that were asked"
    for field in unified([(others, schema), (name, own)]):
        place = schema.get_field_index(field.name)
        if place >= 0 and schema.field(place).type == field.type:
            continue
        there = schema.field(place).type if place >= 0 else "no such column"
        raise ConfigurationError(
            f"column {field.name!r} is not the same in all files:\n  {there}  in  {others}\n"
            f"  {own.field(field.name).type}  in  {name}\nOf very many files only some are asked what is in "
            'them: state it with schema=, or have all of them asked with schema="all".'
        )


def _extension(field: Any) -> bytes | None:
    return (field.metadata or {}).get(EXTENSION_KEY)


def _one(name: str, seen: Sequence[tuple[Any, str]]) -> Any:
    """The column that holds all types of it; the order in which they were met makes no difference."""
    solid = [(field, where) for field, where in seen if field.type != pa.null()]
    if not solid:
        return pa.field(name, pa.null())
    marks = {_extension(field) for field, _ in solid}
    groups = {_family(field.type) for field, _ in solid}
    if len(marks) > 1 or len(groups) > 1:
        raise _mismatch(name, seen)
    kind: Any = None
    for field, _ in sorted(solid, key=lambda pair: str(pair[0].type)):
        kind = field.type if kind is None else _wider(kind, field.type)
        if kind is None:
            raise _mismatch(name, seen)
    return pa.field(name, kind, metadata=solid[0][0].metadata if marks != {None} else None)


def _family(kind: Any) -> str:
    """Text and bytes never meet, although Arrow would make bytes of both."""
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return "bytes" if binary or pa.types.is_fixed_size_binary(kind) else "other"


def _wider(a: Any, b: Any) -> Any | None:
    if a == b:
        return a
    if pa.types.is_dictionary(a) or pa.types.is_dictionary(b):
        a = a.value_type if pa.types.is_dictionary(a) else a
        b = b.value_type if pa.types.is_dictionary(b) else b
    try:
        both = [pa.schema([("x", a)]), pa.schema([("x", b)])]
        return pa.unify_schemas(both, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _mismatch(name: str, seen: Sequence[tuple[Any, str]]) -> ConfigurationError:
    lines = [
        f"  {'pickled objects' if _extension(field) else field.type}  in  {where}"
        for field, where in seen
    ]
    return ConfigurationError(
        f"column {name!r} has types that do not go together:\n"
        + "\n".join(lines)
        + "\nCast it to one type where it is made, or read these files as separate datasets."
    )


def align(table: Any, schema: Any) -> Any:
    """A table in a unified schema: missing columns null, others cast.

    Raises
    ------
    ConfigurationError
        A value does not survive the cast (an integer beyond 2**53 to a float).
    """
    if table.schema.equals(schema, check_metadata=False):
        if not table.schema.names:
            return table
        return pa.Table.from_arrays(table.columns, schema=schema)  # a cast breaks lists of nulls
    names = set(table.column_names)
    columns: list[Any] = []
    for field in schema:
        if field.name not in names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        try:
            columns.append(column if column.type == field.type else _cast(column, field.type))
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"column {field.name!r} ({column.type}) cannot be read as {field.type} without loss: "
                f"{error}"
            ) from error
    return pa.table(columns, schema=schema)


def _cast(column: Any, kind: Any) -> Any:
    try:
        return column.cast(kind)
    except (
        pa.ArrowIndexError
    ):  # of codes without a value below a null struct, which pyarrow looks at
        return pa.array(column.to_pylist(), kind)
