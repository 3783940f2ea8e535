"""The questions that a history answers, as SQLAlchemy Core, the same on both databases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.types import NullType

from ..core.errors import RunNotFoundError
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
from . import rows
from .tables import batches, items, logs, nodes, origins, requests, runs, states

_AT_ONCE = 500
"""URLs in a query: databases have limits."""

# Times come as they are stored: a type's conversion per value costs as much as the reading.
ITEMS = select(
    *(
        type_coerce(items.c[name], NullType) if name in ("started", "ended") else items.c[name]
        for name in rows.ITEM_COLUMNS
    )
)


def number(run: UUID) -> ScalarSelect[Any]:
    """A run's number, as part of a query."""
    return select(runs.c.number).where(runs.c.id == str(run)).scalar_subquery()


def list_runs(
    connection: Connection,
    workspace: str,
    flow: str | None,
    state: str | None,
    limit: int,
    offset: int,
) -> list[RunRecord]:
    """Runs, newest first."""
    query = select(runs).where(runs.c.workspace == workspace)
    if flow is not None:
        query = query.where(runs.c.flow == flow)
    if state is not None:
        query = query.where(runs.c.state == state)
    query = query.order_by(*NEWEST).limit(limit).offset(offset)
    return [rows.read_run(row) for row in connection.execute(query).all()]


NEWEST = (runs.c.created.desc(), runs.c.number.desc())


def one_run(connection: Connection, workspace: str, key: UUID | str) -> RunRecord:
    """The run with an id, with an id that begins so, or the newest with a name.

    Raises
    ------
    RunNotFoundError
        None is, or several ids begin so; names the candidates.
    """
    if isinstance(key, UUID):
        row = connection.execute(select(runs).where(runs.c.id == str(key))).first()
        if row is None:
            raise RunNotFoundError(f"history knows no run {key}")
        return rows.read_run(row)
    mine = select(runs).where(runs.c.workspace == workspace)
    begun = _by_beginning(connection, mine, key)
    if len(begun) == 1:
        return rows.read_run(begun[0])
    named = mine.where(runs.c.name == rows.clean(key)).order_by(*NEWEST).limit(1)
    row = connection.execute(named).first()
    if row is not None:
        return rows.read_run(row)
    if begun:
        raise RunNotFoundError(
            f"{key!r} begins the ids of several runs: "
            + ", ".join(f"{row.id} ({row.name})" for row in begun[:5])
            + ("..." if len(begun) > 5 else "")
            + ". Give more of the id."
        )
    raise RunNotFoundError(f"history knows no run with id or name {key!r}")


def _by_beginning(connection: Connection, mine: Select[Any], key: str) -> list[Any]:
    digits = key.strip().lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        return []
    cuts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    beginning = "-".join(cut for cut in cuts if cut)
    return list(connection.execute(mine.where(runs.c.id.startswith(beginning)).limit(6)).all())


def list_states(connection: Connection, run: UUID) -> list[StateRecord]:
    """States of a run and its nodes, in order."""
    query = select(states).where(states.c.run == number(run)).order_by(states.c.id)
    return [rows.read_state(run, row) for row in connection.execute(query).all()]


def list_nodes(connection: Connection, run: UUID) -> list[NodeRecord]:
    """Nodes of a run by number."""
    query = select(nodes).where(nodes.c.run == number(run)).order_by(nodes.c.node)
    return [rows.read_node(run, row) for row in connection.execute(query).all()]


def list_batches(
    connection: Connection, run: UUID, node: int | None, limit: int, offset: int
) -> list[BatchRecord]:
    """Batches of a run or node by number."""
    query = select(batches).where(batches.c.run == number(run))
    if node is not None:
        query = query.where(batches.c.node == node)
    query = query.order_by(batches.c.batch).limit(limit).offset(offset)
    return [rows.read_batch(run, row) for row in connection.execute(query).all()]


def list_items(
    connection: Connection,
    run: UUID,
    node: int | None,
    state: str | None,
    position: int | None,
    limit: int | None,
) -> list[ItemRecord]:
    """Items' attempts by node, position and time of writing."""
    query = ITEMS.where(items.c.run == number(run))
    if node is not None:
        query = query.where(items.c.node == node)
    if state is not None:
        query = query.where(items.c.state == state)
    if position is not None:
        query = query.where(items.c.position == position)
    query = query.order_by(items.c.node, items.c.position, items.c.id)
    if limit is not None:
        query = query.limit(limit)
    parts = connection.execute(query).partitions(1000)  # rows of all at once cost the collector
    return [record for part in parts for record in rows.read_items(run, part)]


PARTITIONS = select(
    runs.c.id, origins.c.path, origins.c.node, origins.c.code, origins.c.url, origins.c.stamp
).join(runs, runs.c.number == origins.c.run)


def list_partitions(connection: Connection, run: UUID, node: int | None) -> list[PartitionRecord]:
    """Partitions of a run or node, with all that they were made of."""
    query = PARTITIONS.where(runs.c.id == str(run))
    if node is not None:
        query = query.where(origins.c.node == node)
    query = query.order_by(origins.c.node, origins.c.path, origins.c.url)
    return rows.read_partitions(connection.execute(query))


def list_made_from(
    connection: Connection, workspace: str, urls: Sequence[str]
) -> list[PartitionRecord]:
    """Partitions that were made of one of these, the newest runs' first."""
    found: list[Any] = []
    for at in range(0, len(urls), _AT_ONCE):
        query = PARTITIONS.where(
            origins.c.workspace == workspace, origins.c.url.in_(urls[at : at + _AT_ONCE])
        )
        found += connection.execute(query.order_by(runs.c.number.desc(), origins.c.path))
    return rows.read_partitions(found)


def list_logs(
    connection: Connection,
    run: UUID,
    node: int | None,
    position: int | None,
    level: int,
    after: int,
    limit: int,
) -> list[tuple[int, LogRecord]]:
    """Log lines behind a sequence number, in order."""
    conditions: list[ColumnElement[bool]] = [logs.c.run == number(run), logs.c.id > after]
    if node is not None:
        conditions.append(logs.c.node == node)
    if position is not None:
        conditions.append(logs.c.position == position)
    if level > 0:
        conditions.append(logs.c.level >= level)
    query = select(logs).where(*conditions).order_by(logs.c.id).limit(limit)
    return [rows.read_log(run, row) for row in connection.execute(query).all()]


def list_requests(connection: Connection, run: UUID, after: int) -> list[Request]:
    """Requests behind an id, oldest first."""
    query = (
        select(requests)
        .where(requests.c.run == number(run), requests.c.id > after)
        .order_by(requests.c.id)
    )
    return [rows.read_request(run, row) for row in connection.execute(query).all()]
