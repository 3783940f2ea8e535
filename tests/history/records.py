"""Records to write, with every field set to something that could get lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

from headrace.core.interfaces import (
    BatchRecord,
    ItemRecord,
    LogRecord,
    NodeRecord,
    PartitionRecord,
    RunRecord,
    StateRecord,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ODD = "naïve \N{SNOWMAN} 'quoted' \"%s\" \\ ; DROP TABLE runs --"


def later(seconds: float) -> datetime:
    """A time after noon, in another zone."""
    return (NOON + timedelta(seconds=seconds)).astimezone(timezone(timedelta(hours=5)))


def a_run(id: UUID | None = None, **changes: object) -> RunRecord:
    fields: dict[str, object] = {
        "id": id or uuid4(),
        "flow": "prepare",
        "name": "brave-otter",
        "state": "Running",
        "state_type": "RUNNING",
        "message": ODD,
        "executor": "dask",
        "storage": "s3://bucket/runs",
        "parameters": '{"source": "s3://raw"}',
        "tags": ("nightly", "ü"),
        "parent": uuid4(),
        "version": "1.2",
        "created": NOON,
        "started": later(1),
        "ended": None,
        "heartbeat": later(2),
        "host": "machine-1",
        "pid": 4321,
    }
    return RunRecord(**(fields | changes))  # type: ignore[arg-type]


def a_state(run: UUID, name: str = "Running", node: int | None = None) -> StateRecord:
    return StateRecord(run, node, name, name.upper(), ODD, later(3))


def a_node(run: UUID, node: int = 0, **changes: object) -> NodeRecord:
    fields: dict[str, object] = {
        "run": run,
        "node": node,
        "key": f"clean-{node}",
        "task": "clean",
        "mapped": True,
        "state": "Running",
        "total": 1_000_000,
        "counts": {"Completed": 999_000, "Failed": 7},
        "upstream": ((0, "data"), (1, "wait_for")),
        "bytes": 1 << 40,
        "busy_seconds": 12.5,
        "started": later(4),
        "ended": None,
        "states": bytes(range(256)),
    }
    return NodeRecord(**(fields | changes))  # type: ignore[arg-type]


def a_batch(run: UUID, batch: int = 0, node: int = 0, outcome: str = "done") -> BatchRecord:
    return BatchRecord(
        run, batch, node, 2, 500, 1000, 1499, "w-1", "machine-2", 77,
        later(5), later(6), outcome, ODD, 3 << 30,
    )  # fmt: skip


def an_item(
    run: UUID, position: int = 0, attempt: int = 1, state: str = "Failed", node: int = 0
) -> ItemRecord:
    return ItemRecord(
        run, node, position, attempt, state, "error", "pkg.BadError", ODD, f"Traceback\n{ODD}",
        "w-1", "machine-2", later(7), later(8), "{'text': 'x'}",
    )  # fmt: skip


def a_log(
    run: UUID, message: str = ODD, position: int = -1, node: int = 0, level: int = 20
) -> LogRecord:
    return LogRecord(run, node, position, later(9), level, "prepare.clean", message)


def a_partition(run: UUID, path: str = "data/00000/a.arrow", *urls: str) -> PartitionRecord:
    return PartitionRecord(run, 3, path, "c0de", tuple((url, f"stamp of {url}") for url in urls))
