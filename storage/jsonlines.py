"""JSON lines as record batches, in which no field is passed over unseen.

pyarrow's dataset reader leaves out what it did not meet at a file's begin. Here that is an error, but
where columns are chosen or the schema was stated.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import pyarrow as pa
from pyarrow.json import ParseOptions, ReadOptions, open_json

from ..core.errors import ConfigurationError
from .decoding import needed_columns
from .pieces import Scan, scan_table, with_constants


def rows_of(
    name: str,
    open_lines: Callable[[], Any],
    block: int,
    scan: Scan,
    constants: Sequence[tuple[str, Any]],
) -> Iterator[Any]:
    """Rows of a file of JSON lines, read ``block`` bytes at a time.

    Raises
    ------
    ConfigurationError
        A line has a field that is not in the schema, which was guessed; a column's type was not to be
        guessed.
    """
    folders = {column for column, _ in constants}
    wanted = needed_columns(scan) - folders
    schema = pa.schema([field for field in scan.schema if field.name in wanted])
    every = scan.columns is None and not scan.stated
    options = ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="error" if every else "ignore"
    )
    done = 0
    try:
        with (
            open_lines() as lines,
            open_json(lines, ReadOptions(block_size=block), options) as reader,
        ):
            for batch in reader:
                done += batch.num_rows
                _check_lists(name, batch)
                table = pa.Table.from_batches([batch])
                yield from scan_table(with_constants(table, constants), scan)
    except pa.ArrowInvalid as error:
        if "unexpected field" not in str(error):
            raise
        raise ConfigurationError(
            f"{name} cannot be read as jsonl: field {_unexpected(open_lines(), done, schema)!r} first comes "
            "behind the lines from which columns are guessed, at the begin of each file: state them with "
            "schema=, or choose some with columns="
        ) from error


def _check_lists(name: str, batch: Any) -> None:
    """Pyarrow parses a list that holds nothing but nulls as one without its values."""
    try:
        batch.validate()
    except pa.ArrowInvalid as error:
        raise ConfigurationError(
            f"{name} has a column of lists with nothing but null in them, which pyarrow cannot read "
            f"without their type: state it, schema=pa.schema([...]) ({error})"
        ) from error


def _unexpected(lines: Any, done: int, schema: Any) -> str:
    """The first field that a schema lacks, behind some rows in which there is none."""
    with io.TextIOWrapper(lines, encoding="utf-8") as texts:
        for line in islice(texts, done, None):
            if line.strip() and (found := _unknown(json.loads(line), schema)):
                return found
    return ""


def _unknown(value: Any, kind: Any) -> str:
    """The path of a field in a value that its type lacks."""
    if isinstance(value, list):
        found = (_unknown(each, kind.value_type) for each in cast("list[Any]", value))
        return next(filter(None, found), "")
    if not isinstance(value, dict):
        return ""
    fields = {field.name: field.type for field in kind}
    for name, inner in cast("dict[str, Any]", value).items():
        if name not in fields:
            return name
        if found := _unknown(inner, fields[name]):
            return f"{name}.{found}"
    return ""
