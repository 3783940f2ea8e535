"""Group commit: who shares a transaction, and who does not suffer for whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from headrace.core.errors import HistoryError
from headrace.history.addresses import parse
from headrace.history.databases import Database
from headrace.history.writer import Writer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(parse(tmp_path / "some.db"))
    with database.write() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER PRIMARY KEY)"))
    yield database
    database.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    writer = Writer(database)
    yield writer
    writer.close()


def put(x: int):
    def work(connection: Connection) -> int:
        connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": x})
        # A transaction's connection is the same object for all its work.
        return id(connection)

    return work


def found(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT x FROM t ORDER BY x")).scalars())


class Gate:
    """Work that holds the writer until it is opened, so that more work gathers behind it."""

    def __init__(self, writer: Writer, threads: ThreadPoolExecutor) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.done = threads.submit(writer.do, self.hold)
        assert self.entered.wait(30)

    def hold(self, _connection: Connection) -> None:
        self.entered.set()
        assert self.opened.wait(30)


def gather(writer: Writer, threads: ThreadPoolExecutor, values: list[int]) -> list[Future[int]]:
    """Hand in work in order, behind a gate; open it when all of it waits."""
    gate = Gate(writer, threads)
    futures: list[Future[int]] = []
    for i, x in enumerate(values):
        futures.append(threads.submit(writer.do, put(x)))
        while writer.waiting <= i:
            pass
    gate.opened.set()
    return futures


def test_what_waits_shares_a_transaction(database: Database, writer: Writer) -> None:
    commits: list[int] = []
    write = database.write

    def counted():
        commits.append(1)
        return write()

    database.write = counted
    with ThreadPoolExecutor(12) as threads:
        futures = gather(writer, threads, list(range(10)))
        for future in futures:
            future.result(30)
    assert len(commits) == 2  # the gate's and the others'
    assert found(database) == list(range(10))


def test_one_that_fails_does_not_take_the_others_along(database: Database, writer: Writer) -> None:
    with ThreadPoolExecutor(12) as threads:
        futures = gather(writer, threads, [1, 2, 2, 3])
        results = [future.exception(30) for future in futures]
    assert [type(error) for error in results] == [type(None), type(None), HistoryError, type(None)]
    assert "UNIQUE" in str(results[2])
    assert found(database) == [1, 2, 3]


def test_it_returns_when_the_commit_is_done(database: Database, writer: Writer) -> None:
    for x in range(5):
        writer.do(put(x))
        assert found(database) == list(range(x + 1))


def test_closing_finishes_what_was_handed_in(database: Database, writer: Writer) -> None:
    with ThreadPoolExecutor(12) as threads:
        futures = gather(writer, threads, [1, 2, 3])
        writer.close()
        assert found(database) == [1, 2, 3]
        assert all(future.exception(30) is None for future in futures)
    with pytest.raises(HistoryError, match="closed"):
        writer.do(put(4))


def test_no_thread_starts_before_something_is_written(writer: Writer) -> None:
    others = set(threading.enumerate())  # those of histories that earlier tests opened

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in others]

    assert "headrace-history" not in names()
    writer.do(put(1))
    assert "headrace-history" in names()
    writer.close()
    assert "headrace-history" not in names()
