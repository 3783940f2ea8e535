"""Records as rows and rows as records. Rows are tuples in the order of their table's columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, make_dataclass
from datetime import datetime
from itertools import repeat
from typing import Any, TypeAlias
from uuid import UUID

from ..core.interfaces import (
    BatchRecord,
    ItemRecord,
    LogRecord,
    NodeRecord,
    PartitionRecord,
    Request,
    RunRecord,
    StateRecord,
)
from .tables import EPOCH, micros, utc

Row: TypeAlias = tuple[Any, ...]
_LONGEST_URL = 2048
"""Bytes. PostgreSQL takes 2,704 of a row into an index."""

StoredTime: TypeAlias = Callable[[datetime], Any]
"""Makes a time what the database stores."""


def clean(text: str) -> str:
    """The text without what no database takes: NUL, and halves of surrogate pairs, as escapes."""
    if text.isascii():
        return text if "\0" not in text else text.replace("\0", "\\x00")
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return safe.replace("\0", "\\x00")


def clean_all(*texts: str) -> tuple[str, ...]:
    """`clean` for several texts, with one look at all of them when none needs it."""
    together = "".join(texts)
    if together.isascii() and "\0" not in together:
        return texts
    return tuple(map(clean, texts))


def stored_url(url: str) -> str:
    """The URL, cut where it is longer than what a database keeps in an index."""
    return clean(url).encode()[:_LONGEST_URL].decode(errors="ignore")


def stored_time(*, sqlite: bool) -> StoredTime:
    """How this database stores a time. Times without a zone raise `TypeError` on both."""
    return micros if sqlite else _aware


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise TypeError("can't store a time without a zone")
    return time


class Encoder:
    """Makes rows of records for one database."""

    def __init__(self, *, sqlite: bool) -> None:
        self.time = stored_time(sqlite=sqlite)

    def when(self, time: datetime | None) -> Any:
        """A time that may be absent."""
        return None if time is None else self.time(time)

    def run(self, record: RunRecord) -> Row:
        """Row of ``runs`` without its number."""
        return (
            clean(record.workspace),
            str(record.id),
            clean(record.flow),
            clean(record.name),
            record.state,
            record.state_type,
            clean(record.message),
            clean(record.executor),
            clean(record.storage),
            clean(record.parameters),
            json.dumps(list(record.tags)),
            None if record.parent is None else str(record.parent),
            clean(record.version),
            self.time(record.created),
            self.when(record.started),
            self.when(record.ended),
            self.when(record.heartbeat),
            clean(record.host),
            record.pid,
            record.process,
        )

    def state(self, record: StateRecord, run: int, workspace: str) -> Row:
        """Row of ``states`` without its id."""
        return (
            workspace,
            run,
            record.node,
            record.name,
            record.type,
            clean(record.message),
            self.time(record.time),
        )

    def node(self, record: NodeRecord, run: int, workspace: str) -> Row:
        """Row of ``nodes``."""
        return (
            workspace,
            run,
            record.node,
            clean(record.key),
            clean(record.task),
            record.mapped,
            record.state,
            record.total,
            json.dumps(dict(record.counts)),
            json.dumps(record.upstream),
            record.bytes,
            record.busy_seconds,
            self.when(record.started),
            self.when(record.ended),
            record.states,
        )

    def batch(self, record: BatchRecord, run: int, workspace: str) -> Row:
        """Row of ``batches``."""
        return (
            workspace,
            run,
            record.batch,
            record.node,
            record.attempt,
            record.items,
            record.first,
            record.last,
            clean(record.worker),
            clean(record.host),
            record.pid,
            self.when(record.started),
            self.when(record.ended),
            record.outcome,
            clean(record.cause),
            record.peak_memory,
        )

    def item(self, record: ItemRecord, run: int, workspace: str) -> Row:
        """Row of ``items`` without its id."""
        type_name, message, traceback, worker, host, given = clean_all(
            record.type_name,
            record.message,
            record.traceback,
            record.worker,
            record.host,
            record.input,
        )
        return (
            workspace,
            run,
            record.node,
            record.position,
            record.attempt,
            record.state,
            record.kind,
            type_name,
            message,
            traceback,
            worker,
            host,
            self.time(record.started),
            self.time(record.ended),
            given,
        )

    def origins(self, record: PartitionRecord, run: int, workspace: str) -> list[Row]:
        """Rows of ``origins``."""
        path, node, code = clean(record.path), record.node, record.code
        told = [(stored_url(url), clean(stamp)) for url, stamp in record.inputs]
        return [(workspace, run, path, url, node, code, stamp) for url, stamp in told or [("", "")]]

    def log(self, record: LogRecord, run: int, workspace: str) -> Row:
        """Row of ``logs`` without its id."""
        return (
            workspace,
            run,
            record.node,
            record.position,
            self.time(record.time),
            record.level,
            *clean_all(record.logger, record.message),
        )


def read_run(row: Any) -> RunRecord:
    """The record of a row of ``runs`` that has all columns."""
    return RunRecord(
        id=UUID(row.id),
        flow=row.flow,
        name=row.name,
        state=row.state,
        state_type=row.state_type,
        message=row.message,
        executor=row.executor,
        storage=row.storage,
        parameters=row.parameters,
        tags=tuple(json.loads(row.tags)),
        parent=None if row.parent is None else UUID(row.parent),
        version=row.version,
        created=row.created,
        started=row.started,
        ended=row.ended,
        heartbeat=row.heartbeat,
        host=row.host,
        pid=row.pid,
        process=row.process,
        workspace=row.workspace,
    )


def read_state(run: UUID, row: Any) -> StateRecord:
    """The record of a row of ``states``."""
    return StateRecord(run, row.node, row.name, row.type, row.message, row.time)


def read_node(run: UUID, row: Any) -> NodeRecord:
    """The record of a row of ``nodes``."""
    return NodeRecord(
        run=run,
        node=row.node,
        key=row.key,
        task=row.task,
        mapped=row.mapped,
        state=row.state,
        total=row.total,
        counts=json.loads(row.counts),
        upstream=tuple((node, kind) for node, kind in json.loads(row.upstream)),
        bytes=row.bytes,
        busy_seconds=row.busy_seconds,
        started=row.started,
        ended=row.ended,
        states=None if row.states is None else bytes(row.states),
    )


def read_batch(run: UUID, row: Any) -> BatchRecord:
    """The record of a row of ``batches``."""
    return BatchRecord(
        run=run,
        batch=row.batch,
        node=row.node,
        attempt=row.attempt,
        items=row.items,
        first=row.first,
        last=row.last,
        worker=row.worker,
        host=row.host,
        pid=row.pid,
        started=row.started,
        ended=row.ended,
        outcome=row.outcome,
        cause=row.cause,
        peak_memory=row.peak_memory,
    )


_Thawed = make_dataclass("_Thawed", [field.name for field in fields(ItemRecord)], slots=True)
"""An `ItemRecord` that can still be written: making a frozen one takes five times as long."""


def read_items(run: UUID, found: Sequence[Sequence[Any]]) -> list[ItemRecord]:
    """The records of rows of ``items`` in the order of `ITEM_COLUMNS`. There may be very many."""
    if not found:
        return []
    columns: list[Any] = list(zip(*found, strict=True))
    for place in TIMES:
        columns[place] = _times(columns[place])
    records: list[Any] = list(map(_Thawed, repeat(run), *columns))
    for record in records:
        record.__class__ = ItemRecord
    return records


def _times(stored: Sequence[Any]) -> Iterable[datetime]:
    """A column of times, which some databases have as microseconds."""
    import numpy as np  # here, so that what reads no items starts faster

    if isinstance(stored[0], int):
        return map(EPOCH.__add__, np.array(stored, "m8[us]").tolist())
    return map(utc, stored)


ITEM_COLUMNS = (
    "node",
    "position",
    "attempt",
    "state",
    "kind",
    "type_name",
    "message",
    "traceback",
    "worker",
    "host",
    "started",
    "ended",
    "input",
)
"""Columns of ``items`` in the order of `ItemRecord`'s fields behind ``run``."""

TIMES = ITEM_COLUMNS.index("started"), ITEM_COLUMNS.index("ended")


def read_log(run: UUID, row: Any) -> tuple[int, LogRecord]:
    """The (sequence, record) pair of a row of ``logs``."""
    return row.id, LogRecord(
        run, row.node, row.position, row.time, row.level, row.logger, row.message
    )


def read_partitions(found: Iterable[Any]) -> list[PartitionRecord]:
    """The records of rows of ``origins`` with their runs' ids, in the order of first rows."""
    inputs: dict[tuple[str, str], list[Any]] = {}
    made: dict[tuple[str, str], tuple[int, str]] = {}
    for row in found:
        key = row.id, row.path
        made.setdefault(key, (row.node, row.code))
        own = inputs.setdefault(key, [])
        if row.url:
            own.append((row.url, row.stamp))
    return [
        PartitionRecord(UUID(run), node, path, code, tuple(inputs[run, path]))
        for (run, path), (node, code) in made.items()
    ]


def read_request(run: UUID, row: Any) -> Request:
    """The record of a row of ``requests``."""
    return Request(row.id, run, row.kind, row.time)
