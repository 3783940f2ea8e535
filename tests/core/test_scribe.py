"""The driver's pen: what `Scribe.settle` promises of the journal, whatever the store does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace.core import scribe as module
from headrace.core.errors import HistoryError, StorageError, TakenOverError
from headrace.core.interfaces import Journal, LogRecord, RunRecord
from headrace.core.scribe import Scribe
from headrace.history.sql import SqlHistory
from headrace.storage.store import ArrowStore


class Refusing:
    """A journal whose store refuses so many appends."""

    def __init__(self, journal: Journal, times: float) -> None:
        self.journal, self.left = journal, times
        self.take, self.begin, self.records = journal.take, journal.begin, journal.records

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self.left > 0:
            self.left -= 1
            raise StorageError("the store is away")
        self.journal.append(records)


class Pen:
    """A scribe on a real history and a real store, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.store = ArrowStore(folder / "store").run("run")
        self.journal = Refusing(self.store.journal(), 0)
        self.troubles: list[Exception] = []
        self.history = SqlHistory(folder / "history.db")
        self.scribe = Scribe(
            uuid4(),
            self.history,
            lambda: self.journal,
            self.store.delete,
            lambda given: [],
            lambda path: pytest.fail(f"there is no list of inputs: {path}"),
            heartbeat_seconds=60.0,
            trouble=self.troubles.append,
            request=lambda request: None,
        )
        now = datetime.now(UTC)
        facts = ("flow", "run", "Running", "RUNNING", "", "threads", "", "{}", (), None, "", now)
        self.scribe.open([RunRecord(self.scribe.run_id, *facts)])
        self.scribe.start()

    def tell(self, number: int) -> None:
        self.scribe.index({"type": "told", "number": number})

    def written(self) -> list[int]:
        """What a reader of the store finds."""
        return [record["number"] for record in self.store.journal().records()]

    def close(self) -> None:
        self.scribe.close()
        self.history.close()


@pytest.fixture
def pen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pen]:
    monkeypatch.setattr(module, "_JOURNAL_SECONDS", 600.0)  # nothing is written unasked
    pen = Pen(tmp_path)
    yield pen
    pen.close()


def test_what_was_told_before_is_in_the_journal_after(pen: Pen) -> None:
    assert pen.scribe.settle(), "nothing was told"
    pen.tell(1)
    pen.tell(2)
    pen.scribe.sync()
    assert pen.written() == []
    assert pen.scribe.settle()
    assert pen.written() == [1, 2]
    pen.tell(3)
    assert pen.scribe.settle()
    assert pen.written() == [1, 2, 3]
    assert not pen.troubles


def test_an_outage_is_waited_out(pen: Pen) -> None:
    pen.journal.left = module._LAST_ATTEMPTS - 1
    pen.tell(1)
    assert pen.scribe.settle()
    assert pen.written() == [1]


def test_what_an_outage_has_kept_back_is_written_later(pen: Pen) -> None:
    pen.journal.left = module._LAST_ATTEMPTS
    pen.tell(1)
    assert pen.scribe.settle(), "the run is this driver's, as far as it knows"
    assert pen.written() == []
    pen.tell(2)
    assert pen.scribe.settle()
    assert pen.written() == [1, 2]
    assert not pen.troubles


def test_a_run_that_is_another_driver_s_is_lost_for_good(pen: Pen) -> None:
    pen.tell(1)
    assert pen.scribe.settle()
    other = pen.store.journal()
    other.take()
    for number in (2, 3):
        pen.tell(number)
        assert not pen.scribe.settle()
        assert [type(each) for each in pen.troubles] == [TakenOverError]
    other.append([{"type": "told", "number": 4}])
    assert pen.written() == [1, 4]


def test_a_history_that_stays_away_is_told_at_the_end(
    pen: Pen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise HistoryError("the server is away")

    monkeypatch.setattr(module, "_LAST_ATTEMPTS", 1)
    monkeypatch.setattr(pen.history, "append", away)
    now = datetime.now(UTC)
    pen.scribe.note(LogRecord(pen.scribe.run_id, 0, 0, now, 20, "", "a line"))
    pen.scribe.close()
    first, second = caplog.messages
    assert "is not written: the server is away" in first
    assert f"`headrace resume {pen.scribe.run_id}`" in second


def test_nobody_waits_for_a_scribe_that_has_ended(pen: Pen) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    pen.scribe.also = broken
    pen.tell(1)
    pen.scribe.settle()
    assert not pen.scribe.is_alive()
    assert pen.scribe.settle(), "and returns"
    assert [str(each) for each in pen.troubles] == ["a bug"]


def test_each_who_settles_finds_the_journal_written(
    pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also who asks while another one settles, whose journal is written just then."""
    writing, go_on, returned = threading.Event(), threading.Event(), threading.Event()
    append, gather = pen.journal.append, pen.scribe._gather

    def held(records: Sequence[Mapping[str, Any]]) -> None:
        writing.set()
        assert go_on.wait(60)
        append(records)

    def gather_later() -> bool:
        if writing.is_set():
            assert returned.wait(60)
        return gather()

    def first() -> None:
        pen.scribe.settle()
        returned.set()

    monkeypatch.setattr(pen.journal, "append", held)
    monkeypatch.setattr(pen.scribe, "_gather", gather_later)
    pen.tell(1)
    threads = [threading.Thread(target=first), threading.Thread(target=pen.scribe.settle)]
    threads[0].start()
    assert writing.wait(60)
    pen.tell(2)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert pen.written() == [1, 2]
