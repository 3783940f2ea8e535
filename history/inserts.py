"""Writing an append: events to rows, rows to tables, inside the writer's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast
from uuid import UUID

from sqlalchemy import Table, select
from sqlalchemy.engine import Connection

from ..core.errors import RunNotFoundError
from ..core.interfaces import (
    BatchRecord,
    HistoryEvent,
    ItemRecord,
    LogRecord,
    NodeRecord,
    PartitionRecord,
    RunRecord,
    StateRecord,
)
from . import tables
from .rows import Encoder, Row

Detail: TypeAlias = (
    StateRecord | NodeRecord | BatchRecord | ItemRecord | PartitionRecord | LogRecord
)
"""All events that belong to a run."""

COPY_FROM = 8
"""From how many rows on COPY is worth its start."""

HEARTBEAT = (
    "heartbeat = CASE WHEN excluded.heartbeat IS NULL OR runs.heartbeat > excluded.heartbeat"
    " THEN runs.heartbeat ELSE excluded.heartbeat END"
)
"""A heartbeat never goes back, whatever order records and beats come in."""


class Inserter:
    """The statements of one database, made once, and what runs them."""

    def __init__(self, *, sqlite: bool) -> None:
        self._sqlite = sqlite
        encode = Encoder(sqlite=sqlite)
        self._encode_run, self._encode_origins = encode.run, encode.origins
        self._places: dict[type[Detail], tuple[Table, Callable[[Any, int, str], Row]]] = {
            StateRecord: (tables.states, encode.state),
            NodeRecord: (tables.nodes, encode.node),
            BatchRecord: (tables.batches, encode.batch),
            ItemRecord: (tables.items, encode.item),
            LogRecord: (tables.logs, encode.log),
        }
        mark = "?" if sqlite else "%s"
        self._upserts = {
            tables.runs: _upsert(tables.runs, mark, ("id",), {"heartbeat": HEARTBEAT}),
            tables.nodes: _upsert(tables.nodes, mark, ("run", "node"), {}),
            tables.batches: _upsert(tables.batches, mark, ("run", "batch"), {}),
            tables.origins: _insert(tables.origins, mark) + " ON CONFLICT DO NOTHING",
        }
        self._inserts = {
            table: _insert(table, mark) for table in (tables.states, tables.items, tables.logs)
        }
        self._seen = (
            _insert(tables.drivers, mark) + " ON CONFLICT (run, driver) DO UPDATE"
            " SET seq = excluded.seq WHERE drivers.seq < excluded.seq"
        )

    def append(
        self,
        connection: Connection,
        run: UUID,
        seq: int,
        events: Sequence[HistoryEvent],
        driver: str,
    ) -> None:
        """Write events unless this append was seen."""
        known = find(connection, run)
        if known is not None and not self._first_time(connection, known, driver, seq):
            return
        self._put_runs(connection, [e for e in events if isinstance(e, RunRecord)])
        if known is None:
            known = find(connection, run)
            if known is None:
                raise RunNotFoundError(
                    f"history knows no run {run}: it was deleted, or its RunRecord never came"
                )
            self._first_time(connection, known, driver, seq)
        details = [e for e in events if not isinstance(e, RunRecord)]
        self._put_details(connection, details, {run: known})

    def _first_time(
        self, connection: Connection, known: tuple[int, str], driver: str, seq: int
    ) -> bool:
        number, workspace = known
        row = (workspace, number, driver, seq)
        return connection.exec_driver_sql(self._seen, row).rowcount > 0

    def _put_runs(self, connection: Connection, records: Iterable[RunRecord]) -> None:
        for record in records:
            row = self._encode_run(record)
            connection.exec_driver_sql(self._upserts[tables.runs], row)

    def _put_details(
        self,
        connection: Connection,
        events: Sequence[Detail],
        numbers: dict[UUID, tuple[int, str]],
    ) -> None:
        rows: dict[Table, list[Row]] = {}
        for (kind, run), many in _grouped(events).items():
            if run not in numbers:
                numbers[run] = require(connection, run)
            number, workspace = numbers[run]
            if kind is PartitionRecord:
                for one in many:
                    rows.setdefault(tables.origins, []).extend(
                        self._encode_origins(cast("PartitionRecord", one), number, workspace)
                    )
                continue
            table, encode = self._places[kind]
            rows.setdefault(table, []).extend([encode(one, number, workspace) for one in many])
        for table, many in rows.items():
            self._put(connection, table, many)

    def _put(self, connection: Connection, table: Table, rows: list[Row]) -> None:
        if table in self._upserts:
            connection.exec_driver_sql(self._upserts[table], rows)
        elif self._sqlite or len(rows) < COPY_FROM:
            connection.exec_driver_sql(self._inserts[table], rows)
        else:
            _copy(connection, table, rows)


def _grouped(
    events: Sequence[Detail],
) -> dict[tuple[type[Detail], UUID], list[Detail]]:
    """Events by kind and run, in order within each. Most appends have long stretches of one."""
    groups: dict[tuple[type[Detail], UUID], list[Detail]] = {}
    kind: type[Detail] | None = None
    run: UUID | None = None
    group: list[Detail] = []
    for event in events:
        if type(event) is not kind or event.run is not run:
            kind, run = type(event), event.run
            group = groups.setdefault((kind, run), [])
        group.append(event)
    return groups


def find(connection: Connection, run: UUID) -> tuple[int, str] | None:
    """A run's number and workspace, or None. On PostgreSQL it cannot be deleted meanwhile."""
    query = (
        select(tables.runs.c.number, tables.runs.c.workspace)
        .where(tables.runs.c.id == str(run))
        .with_for_update(read=True)
    )
    row = connection.execute(query).first()
    return None if row is None else (int(row[0]), str(row[1]))


def require(connection: Connection, run: UUID) -> tuple[int, str]:
    """A run's number and workspace; `RunNotFoundError` if history does not know it."""
    known = find(connection, run)
    if known is None:
        raise RunNotFoundError(f"history knows no run {run}")
    return known


def _columns(table: Table) -> list[str]:
    """The columns that a row gives: all but a number that the database draws."""
    return [c.name for c in table.columns if c.autoincrement is not True]


def _insert(table: Table, mark: str) -> str:
    names = _columns(table)
    quoted = ", ".join(f'"{name}"' for name in names)
    values = ", ".join([mark] * len(names))
    return f'INSERT INTO "{table.name}" ({quoted}) VALUES ({values})'  # noqa: S608 - our own names


def _upsert(table: Table, mark: str, key: tuple[str, ...], special: dict[str, str]) -> str:
    changes = [
        special.get(name, f'"{name}" = excluded."{name}"')
        for name in _columns(table)
        if name not in key
    ]
    conflict = ", ".join(f'"{name}"' for name in key)
    return _insert(table, mark) + f" ON CONFLICT ({conflict}) DO UPDATE SET {', '.join(changes)}"


def _copy(connection: Connection, table: Table, rows: list[Row]) -> None:
    # COPY takes three times as many rows a second as INSERT does (COMPONENTS: 178k to 52k).
    cursor = connection.connection.cursor()
    names = ", ".join(f'"{name}"' for name in _columns(table))
    try:
        with cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
    finally:
        cursor.close()
