"""The first tables: runs, drivers, states, nodes, batches, items, logs and requests."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time = sa.BigInteger().with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


def _workspace() -> sa.Column[Any]:
    return sa.Column("workspace", sa.Text, nullable=False, server_default=sa.text("'default'"))


def _text(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _number(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _key(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False) for name in names]


def _serial(name: str) -> sa.Column[Any]:
    return sa.Column(name, Serial, primary_key=True, autoincrement=True)


def _time(*names: str, nullable: bool = True) -> list[sa.Column[Any]]:
    return [sa.Column(name, Time, nullable=nullable) for name in names]


def upgrade() -> None:
    """Make the tables."""
    _make_runs()
    _make_nodes()
    _make_items()


def _make_runs() -> None:
    op.create_table(
        "runs",
        _serial("number"),
        _workspace(),
        *_text("id", "flow", "name", "state", "state_type", "message"),
        *_text("executor", "storage", "parameters", "tags"),
        sa.Column("parent", sa.Text),
        *_text("version"),
        *_time("created", nullable=False),
        *_time("started", "ended", "heartbeat"),
        *_text("host"),
        *_number("pid"),
        sa.UniqueConstraint("id", name="runs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("runs_created", "runs", ["workspace", "created"])
    op.create_index("runs_name", "runs", ["workspace", "name"])
    op.create_table(
        "drivers",
        _workspace(),
        *_key("run"),
        sa.Column("driver", sa.Text, primary_key=True),
        *_number("seq"),
    )
    op.create_table(
        "requests",
        _serial("id"),
        _workspace(),
        *_number("run"),
        *_text("kind"),
        *_time("time", nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("requests_run", "requests", ["run", "id"])


def _make_nodes() -> None:
    op.create_table(
        "states",
        _serial("id"),
        _workspace(),
        *_number("run"),
        sa.Column("node", sa.BigInteger),
        *_text("name", "type", "message"),
        *_time("time", nullable=False),
    )
    op.create_index("states_run", "states", ["run", "id"])
    op.create_table(
        "nodes",
        _workspace(),
        *_key("run", "node"),
        *_text("key", "task"),
        sa.Column("mapped", sa.Boolean, nullable=False),
        *_text("state"),
        sa.Column("total", sa.BigInteger),
        *_text("counts", "upstream"),
        *_number("bytes"),
        sa.Column("busy_seconds", sa.Double, nullable=False),
        *_time("started", "ended"),
        sa.Column("states", sa.LargeBinary),
    )


def _make_items() -> None:
    op.create_table(
        "batches",
        _workspace(),
        *_key("run", "batch"),
        *_number("node", "attempt", "items", "first", "last"),
        *_text("worker", "host"),
        *_number("pid"),
        *_time("started", "ended"),
        *_text("outcome", "cause"),
        *_number("peak_memory"),
    )
    op.create_index("batches_node", "batches", ["run", "node", "batch"])
    op.create_table(
        "items",
        _serial("id"),
        _workspace(),
        *_number("run", "node", "position", "attempt"),
        *_text("state", "kind", "type_name", "message", "traceback", "worker", "host"),
        *_time("started", "ended", nullable=False),
        *_text("input"),
    )
    op.create_index("items_position", "items", ["run", "node", "position"])
    op.create_index("items_state", "items", ["run", "state", "node", "position"])
    op.create_table(
        "logs",
        _serial("id"),
        _workspace(),
        *_number("run", "node", "position"),
        *_time("time", nullable=False),
        *_number("level"),
        *_text("logger", "message"),
    )
    op.create_index("logs_run", "logs", ["run", "id"])
    op.create_index("logs_position", "logs", ["run", "node", "position"])
