"""Failed items as a table: the same columns of a run of this process and of a recorded one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .interfaces import ItemRecord
from .shown import show_some

_COLUMNS = (
    "node", "item", "name", "kind", "exception", "message", "traceback", "attempt", "worker", "input",
)  # fmt: skip
_WHOLE = ("item", "attempt")


def failures_table(records: Iterable[ItemRecord], key_of: Callable[[int], tuple[str, bool]]) -> Any:
    """The last attempts of failed items as a ``pyarrow.Table``.

    Parameters
    ----------
    key_of
        By a node's number its key, and whether it is a mapped one.
    """
    import pyarrow as pa

    schema = pa.schema([(c, pa.int64() if c in _WHOLE else pa.string()) for c in _COLUMNS])
    rows: list[tuple[Any, ...]] = []
    for record in records:
        key, mapped = key_of(record.node)
        name = f"{key!r} item {record.position}" if mapped else repr(key)
        rows.append(
            (
                key, record.position, name, record.kind, record.type_name, record.message,
                record.traceback, record.attempt, record.worker, record.input,
            )
        )  # fmt: skip
    columns = zip(*rows, strict=True) if rows else ([] for _ in _COLUMNS)
    show_some("failures", pa.Table, lambda table: table.schema.equals(schema))
    return pa.table(dict(zip(_COLUMNS, map(list, columns), strict=True)), schema=schema)
