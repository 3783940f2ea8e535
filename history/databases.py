"""Opening a database: one engine that writes, one that reads, and what their errors mean."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from ..core import forks
from ..core.errors import HistoryError, MissingExtraError
from . import addresses

BUSY_SECONDS = 30.0
CONNECT_SECONDS = 15
CACHE_BYTES = 64 << 20
FORK_SECONDS = 5.0
"""A fork of this process waits so long for a moment without a transaction."""


class _BetweenForks:
    """Entered while SQLite is at work. A fork waits until it is not: what it had locked would stay so."""

    def __init__(self) -> None:
        self._changes = threading.Condition()
        self._inside = 0
        os.register_at_fork(
            before=self._wait, after_in_parent=self._go_on, after_in_child=self._start_anew
        )

    def __enter__(self) -> None:
        with self._changes:
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._changes:
            self._inside -= 1
            self._changes.notify_all()

    def _wait(self) -> None:
        self._changes.acquire()
        self._changes.wait_for(lambda: not self._inside, FORK_SECONDS)

    def _go_on(self) -> None:
        self._changes.release()

    def _start_anew(self) -> None:
        self._changes, self._inside = threading.Condition(), 0


_between_forks = _BetweenForks()


class Database:
    """The two engines of one database. Opening connects to nothing yet; any thread may use it.

    Writers begin with the right to write (a transaction that reads first and writes later would
    fail at once on SQLite, whatever the timeout); readers never write.
    """

    def __init__(self, url: URL) -> None:
        self.name = addresses.public(url)
        if url.drivername == "sqlite":
            self.sqlite = True
            self._using: AbstractContextManager[None] = _between_forks
            _make_folder(Path(str(url.database)), self.name)
            self.writer = _sqlite_engine(url, write=True)
            self.reader = _sqlite_engine(url, write=False)
        else:
            self.sqlite = False
            self._using = nullcontext()
            self.writer = _postgres_engine(url, pool_size=1)
            self.reader = _postgres_engine(url, pool_size=4)

    @contextmanager
    def write(self) -> Generator[Connection]:
        """One transaction that may write; committed on leaving, rolled back on an exception."""
        with self.explained("written"), self._using, self.writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One transaction that sees a single state of the database."""
        with self.explained("read"), self._using, self.reader.begin() as connection:
            yield connection

    @contextmanager
    def explained(self, verb: str) -> Generator[None]:
        """Turn database errors into `HistoryError`: what, which database, what to do."""
        try:
            yield
        except PoolTimeoutError as error:
            raise HistoryError(
                f"history {self.name} cannot be {verb}: all its connections are in use"
            ) from error
        except DBAPIError as error:
            reason = _reason(error.orig)
            # The database's own error is left out of the chain's text: it repeats the URL.
            raise HistoryError(
                f"history {self.name} cannot be {verb}: {reason}. {self._remedy(reason)}"
            ) from error.orig
        except SQLAlchemyError as error:
            raise HistoryError(f"history {self.name} cannot be {verb}: {error}") from error

    def _remedy(self, reason: str) -> str:
        for words, remedy in REMEDIES:
            if words in reason:
                return remedy
        if self.sqlite:
            return "See that the file and its folder can be written and the disk has room."
        return "See that the server runs, and that the URL's host, user and password are right."

    def forked(self) -> None:
        """In a forked child: connect anew, and leave the parent's connections to it.

        SQLite's must be closed here, which the parent does not notice: as long as one is open, SQLite
        believes of its locks that this process has them.
        """
        for engine in (self.writer, self.reader):
            forks.keep(engine.pool)
            engine.dispose(close=self.sqlite)

    def close(self) -> None:
        """Release all connections. Idempotent."""
        with self._using:
            self.writer.dispose()
            self.reader.dispose()


REMEDIES = (
    ("not a database", "Give the path of a history, or of a file that does not exist yet."),
    ("readonly", "Give a path that can be written (setting history, HEADRACE_HISTORY)."),
    (
        "unable to open",
        "Give a path whose folder can be written (setting history, HEADRACE_HISTORY).",
    ),
    ("locked", "Another process holds it; see which one, and try again."),
    (
        "disk is full",
        "Make room, or give a path on another disk (setting history, HEADRACE_HISTORY).",
    ),
    ("malformed", "The file is damaged: restore it from a copy, or move it away."),
    ("no such table", "Open it anew: its tables are made on opening."),
    ("already exists", "Give headrace a database or a search_path of its own."),
    ("authentication", "Give the right user and password in the URL."),
    ("does not exist", "Create it first, or give the right name in the URL."),
)


def _reason(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _make_folder(path: Path, name: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoryError(
            f"history {name} cannot be made: folder {path.parent} cannot be made"
            f" ({error.strerror}). Give a path that can be written (setting history, HEADRACE_HISTORY)."
        ) from error
    if path.is_dir():
        raise HistoryError(f"history {name} is a folder. Give the path of a file in it.")


def _sqlite_engine(url: URL, *, write: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1 if write else 4,
        max_overflow=0 if write else 16,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        hide_parameters=True,
    )
    begin = "BEGIN IMMEDIATE" if write else "BEGIN"

    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        # From here on transactions begin and end only where SQLAlchemy says so.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        if write:
            _enter_wal(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
        else:
            connection.execute("PRAGMA query_only=ON")
            # An index leads all over the file; by default only 2 MB of it stay at hand.
            connection.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
            connection.execute(f"PRAGMA mmap_size={CACHE_BYTES}")

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    # Changing the mode does not wait for the busy timeout when another process changes it too.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgres_engine(url: URL, *, pool_size: int) -> Engine:
    query = dict(url.query)
    query.setdefault("connect_timeout", str(CONNECT_SECONDS))
    query.setdefault("application_name", "headrace")
    try:
        return create_engine(
            url.set(query=query),
            pool_size=pool_size,
            max_overflow=0 if pool_size == 1 else 16,
            pool_pre_ping=True,
            hide_parameters=True,
        )
    except ImportError as error:
        raise MissingExtraError(
            f'history in PostgreSQL needs psycopg ({error}): pip install "headrace[postgres]"'
        ) from error
