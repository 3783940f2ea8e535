"""The tables of a history, as the queries see them. `migrations` makes them, and a test compares.

A run has a ``number`` of its own in the database, which the other tables carry in place of its
36-character id: a wide run has many rows. Numbers are never given twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(time: datetime) -> int:
    """Microseconds since the epoch. Raises `TypeError` for a time without a zone."""
    delta = time - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def utc(stored: int | datetime) -> datetime:
    """The UTC time of what either database stores."""
    if isinstance(stored, int):
        return EPOCH + timedelta(0, 0, stored)
    return stored.astimezone(UTC)


class UtcTime(TypeDecorator[datetime]):
    """An aware time: microseconds since the epoch on SQLite, ``TIMESTAMPTZ`` on PostgreSQL."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the column type of the database."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Make it what the database stores."""
        if value is None or dialect.name == "postgresql":
            return value
        return micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Make it an aware UTC time."""
        return None if value is None else utc(value)


# SQLite counts rows up by itself only in a column that is exactly INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()


def _workspace() -> Column[str]:
    return Column("workspace", Text, nullable=False, server_default=text("'default'"))


runs = Table(
    "runs",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    _workspace(),
    Column("id", Text, nullable=False),
    Column("flow", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_type", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("executor", Text, nullable=False),
    Column("storage", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("parent", Text),
    Column("version", Text, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("heartbeat", UtcTime),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("process", Text, nullable=False, server_default=""),
    UniqueConstraint("id", name="runs_id"),
    Index("runs_created", "workspace", "created"),
    Index("runs_name", "workspace", "name"),
    sqlite_autoincrement=True,
)
"""One row per flow run. ``tags`` and ``parameters`` are JSON."""

drivers = Table(
    "drivers",
    metadata,
    _workspace(),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("driver", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)
"""The last append of each driver of a run: an append that is not above it was seen."""

states = Table(
    "states",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _workspace(),
    Column("run", BigInteger, nullable=False),
    Column("node", BigInteger),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
    Index("states_run", "run", "id"),
)
"""Transitions of runs (``node`` NULL) and nodes, in the order in which they were written."""

nodes = Table(
    "nodes",
    metadata,
    _workspace(),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("node", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("mapped", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("total", BigInteger),
    Column("counts", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("busy_seconds", Double, nullable=False),
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("states", LargeBinary),
)
"""One row per node, whatever its width. ``counts`` and ``upstream`` are JSON."""

batches = Table(
    "batches",
    metadata,
    _workspace(),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("node", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("items", BigInteger, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("outcome", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("peak_memory", BigInteger, nullable=False),
    Index("batches_node", "run", "node", "batch"),
)
"""One row per batch."""

items = Table(
    "items",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _workspace(),
    Column("run", BigInteger, nullable=False),
    Column("node", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("type_name", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("started", UtcTime, nullable=False),
    Column("ended", UtcTime, nullable=False),
    Column("input", Text, nullable=False),
    Index("items_position", "run", "node", "position"),
    Index("items_state", "run", "state", "node", "position"),
)
"""One row per attempt of an item that has something to tell."""

origins = Table(
    "origins",
    metadata,
    _workspace(),
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("path", Text, primary_key=True),
    Column("url", Text, primary_key=True),
    Column("node", BigInteger, nullable=False),
    Column("code", Text, nullable=False),
    Column("stamp", Text, nullable=False),
    Index("origins_url", "workspace", "url"),
)
"""One row per partition and what it was made of; with an empty ``url`` where that is nothing."""

logs = Table(
    "logs",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _workspace(),
    Column("run", BigInteger, nullable=False),
    Column("node", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("level", BigInteger, nullable=False),
    Column("logger", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index("logs_run", "run", "id"),
    Index("logs_position", "run", "node", "position"),
)
"""Log lines of user code and of headrace's own about a run."""

requests = Table(
    "requests",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    _workspace(),
    Column("run", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
    Index("requests_run", "run", "id"),
    sqlite_autoincrement=True,
)
"""Commands to drivers. Ids are never given twice: drivers ask for what is above the last they saw."""

OF_A_RUN: tuple[Table, ...] = (drivers, states, nodes, batches, items, origins, logs, requests)
"""Every table with a ``run`` column."""
