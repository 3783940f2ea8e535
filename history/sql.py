"""History in an SQL database: SQLite in a file, PostgreSQL by URL."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Select, delete, select, update
from sqlalchemy.engine import Connection

from ..core import forks
from ..core.errors import RunNotFoundError
from ..core.interfaces import (
    BatchRecord,
    History,
    HistoryEvent,
    ItemRecord,
    LogRecord,
    NodeRecord,
    PartitionRecord,
    Request,
    RunRecord,
    StateRecord,
)
from . import addresses, inserts, queries, rows, schema
from .databases import Database
from .rows import stored_url
from .tables import OF_A_RUN, requests, runs, states
from .writer import Writer

UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
"""State types of a run that a driver may still have in hand."""

WITHOUT_DRIVER = ("Scheduled", "Late", "Suspended")
"""Names of unfinished states in which no driver is expected."""


def default_path() -> Path:
    """``history.db`` in the folder that ``HEADRACE_HOME`` names, or in ``~/.headrace``."""
    home = os.environ.get("HEADRACE_HOME") or "~/.headrace"
    return Path(home).expanduser() / "history.db"


def _now() -> datetime:
    return datetime.now(UTC)


class SqlHistory(History):
    """What happened, in SQLite or PostgreSQL.

    Opening makes the tables if they are missing and upgrades old ones; a database that is up to
    date costs a few milliseconds. On SQLite the file is in WAL mode with ``synchronous=NORMAL``:
    what `append` wrote survives the death of any process, and a power cut may cost the last
    moments. It needs a local disk; over NFS use PostgreSQL.

    Parameters
    ----------
    url
        A file path, ``sqlite:///<path>`` or ``postgresql://user:password@host/database``;
        None: `default_path`.
    workspace
        The workspace whose runs `runs`, `run` (by text) and `lapse` see.
    clock
        Gives the time of requests.

    Raises
    ------
    ConfigurationError
        The URL is of no known kind.
    MissingExtraError
        PostgreSQL without psycopg.
    HistoryError
        It cannot be opened, or a newer headrace wrote it.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        workspace: str = "default",
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._workspace = workspace
        self._clock = clock
        self._database = Database(addresses.parse(default_path() if url is None else url))
        try:
            schema.ensure(self._database)
        except BaseException:
            self._database.close()
            raise
        self._inserter = inserts.Inserter(sqlite=self._database.sqlite)
        self._writer = Writer(self._database)
        _open.add(self)

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._database.name

    def __repr__(self) -> str:
        return f"SqlHistory({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, run: UUID, seq: int, events: Sequence[HistoryEvent], *, driver: str) -> None:
        """Write events once, in one transaction; durable when it returns. See `History.append`."""
        events = tuple(events)

        def work(connection: Connection) -> None:
            self._inserter.append(connection, run, seq, events, driver)

        self._writer.do(work)

    def beat(self, run: UUID, time: datetime) -> None:
        """Move the run's heartbeat, never back."""

        def work(connection: Connection) -> None:
            inserts.require(connection, run)
            connection.execute(
                update(runs)
                .where(
                    runs.c.id == str(run),
                    (runs.c.heartbeat.is_(None)) | (runs.c.heartbeat < time),
                )
                .values(heartbeat=time)
            )

        self._writer.do(work)

    def lapse(
        self, now: datetime, after_seconds: float, gone: Callable[[RunRecord], bool]
    ) -> list[UUID]:
        """Mark unfinished runs as ``Crashed`` whose driver is taken for dead. See `History.lapse`."""
        limit = now - timedelta(seconds=after_seconds)
        driven = select(runs).where(
            runs.c.workspace == self._workspace,
            runs.c.state_type.in_(UNFINISHED),
            runs.c.state.not_in(WITHOUT_DRIVER),
            runs.c.heartbeat.is_not(None),
        )

        def lapsed(connection: Connection, query: Select[Any]) -> list[Any]:
            found = connection.execute(query).all()
            return [row for row in found if row.heartbeat < limit or gone(rows.read_run(row))]

        with self._database.read() as connection:
            numbers = [row.number for row in lapsed(connection, driven)]
        if not numbers:
            return []
        again = driven.where(runs.c.number.in_(numbers)).with_for_update()
        return self._writer.do(
            lambda connection: [_crash(connection, row, now) for row in lapsed(connection, again)]
        )

    def ask(self, run: UUID, kind: str) -> None:
        """Leave a request for the run's driver."""
        time = self._clock()

        def work(connection: Connection) -> None:
            # The lock keeps ids in the order of their commits, as `requests(after=)` needs.
            row = connection.execute(
                select(runs.c.number, runs.c.workspace)
                .where(runs.c.id == str(run))
                .with_for_update()
            ).first()
            if row is None:
                raise RunNotFoundError(f"history knows no run {run}")
            connection.execute(
                requests.insert().values(
                    run=row.number, workspace=row.workspace, kind=kind, time=time
                )
            )

        self._writer.do(work)

    def requests(self, run: UUID, after: int = 0) -> list[Request]:
        """Requests with an id above ``after``, oldest first."""
        with self._database.read() as connection:
            return queries.list_requests(connection, run, after)

    def runs(
        self,
        *,
        flow: str | None = None,
        state: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[RunRecord]:
        """Runs of the workspace, newest first."""
        with self._database.read() as connection:
            return queries.list_runs(connection, self._workspace, flow, state, limit, offset)

    def run(self, run: UUID | str) -> RunRecord:
        """One run by id, by an unambiguous beginning of its id, or by name (the newest)."""
        __tracebackhide__ = True
        with self._database.read() as connection:
            return queries.one_run(connection, self._workspace, run)

    def states(self, run: UUID) -> list[StateRecord]:
        """States of the run and its nodes, in the order in which they were written."""
        with self._database.read() as connection:
            return queries.list_states(connection, run)

    def nodes(self, run: UUID) -> list[NodeRecord]:
        """Nodes by number."""
        with self._database.read() as connection:
            return queries.list_nodes(connection, run)

    def batches(
        self, run: UUID, node: int | None = None, *, limit: int = 1000, offset: int = 0
    ) -> list[BatchRecord]:
        """Batches by number."""
        with self._database.read() as connection:
            return queries.list_batches(connection, run, node, limit, offset)

    def items(
        self,
        run: UUID,
        node: int | None = None,
        *,
        state: str | None = None,
        position: int | None = None,
        limit: int | None = None,
    ) -> list[ItemRecord]:
        """Attempts that have something to tell, by node, position and time of writing."""
        with self._database.read() as connection:
            return queries.list_items(connection, run, node, state, position, limit)

    def partitions(self, run: UUID, node: int | None = None) -> list[PartitionRecord]:
        """Partitions by node and path, those that were dropped, too."""
        with self._database.read() as connection:
            return queries.list_partitions(connection, run, node)

    def made_from(self, urls: Collection[str]) -> list[PartitionRecord]:
        """Partitions of the workspace's runs that were made of one of these."""
        known = list(map(stored_url, urls))
        with self._database.read() as connection:
            return queries.list_made_from(connection, self._workspace, known)

    def logs(
        self,
        run: UUID,
        node: int | None = None,
        *,
        position: int | None = None,
        level: int = 0,
        after: int = 0,
        limit: int = 10_000,
    ) -> list[tuple[int, LogRecord]]:
        """(sequence, record) pairs in order, from behind sequence ``after`` on."""
        with self._database.read() as connection:
            return queries.list_logs(connection, run, node, position, level, after, limit)

    def delete(self, run: UUID) -> None:
        """Remove a run and all its records; no error if there is none."""

        def work(connection: Connection) -> None:
            number = connection.execute(
                delete(runs).where(runs.c.id == str(run)).returning(runs.c.number)
            ).scalar()
            if number is not None:
                for table in OF_A_RUN:
                    connection.execute(delete(table).where(table.c.run == number))

        self._writer.do(work)

    def close(self) -> None:
        """Wait for what is under way and release the connections. Idempotent."""
        _open.discard(self)
        self._writer.close()
        self._database.close()

    def forked(self) -> None:
        """In a forked child: go on beside the parent, who writes what it was given before."""
        self._database.forked()
        self._writer = Writer(self._database)


_open: weakref.WeakSet[SqlHistory] = weakref.WeakSet()


@forks.in_child
def _go_on() -> None:
    for history in list(_open):
        history.forked()


def _crash(connection: Connection, row: Any, now: datetime) -> UUID:
    message = (
        f"No heartbeat since {row.heartbeat:%Y-%m-%d %H:%M:%S} UTC: the driver"
        f" (process {row.pid} on {row.host or 'an unknown host'}) is gone."
        " What is committed is kept; resume the run to go on."
    )
    connection.execute(
        update(runs)
        .where(runs.c.number == row.number)
        .values(state="Crashed", state_type="CRASHED", message=message, ended=row.heartbeat)
    )
    connection.execute(
        states.insert().values(
            workspace=row.workspace,
            run=row.number,
            node=None,
            name="Crashed",
            type="CRASHED",
            message=message,
            time=now,
        )
    )
    return UUID(row.id)
