"""One thread that writes, and gathers what waits into one transaction (group commit)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from sqlalchemy.engine import Connection

from ..core.errors import HistoryError
from .databases import Database

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], Any]

MOST = 256
"""Pieces of work in one transaction at most: the first must not wait long for the last."""


class Writer:
    """Runs pieces of work on one connection, one after another; callers wait for the commit.

    What has come in while a commit was under way shares the next one. When a transaction of
    several fails, each is done again by itself, so that nobody suffers for another's error.
    Any thread may call; the thread starts with the first call and ends with `close`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[tuple[Work, Future[Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def do(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction and return its value when that is committed.

        Raises
        ------
        HistoryError
            The writer is closed, or the database refused; what ``work`` itself raises comes as is.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise HistoryError(f"history {self._database.name} is closed: open it anew")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop, name="headrace-history", daemon=True
                )
                self._thread.start()
            self._queue.put((work, future))
        return future.result()

    @property
    def waiting(self) -> int:
        """Pieces of work that no transaction has taken up yet."""
        return self._queue.qsize()

    def close(self) -> None:
        """Finish what was handed in and end the thread. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            ending = False
            while len(group) < MOST:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                    break
                group.append(more)
            self._commit(group)
            if ending:
                return
            del first, group  # what callers handed in is not kept while waiting

    def _commit(self, group: list[tuple[Work, Future[Any]]]) -> None:
        try:
            with self._database.write() as connection:
                values = [work(connection) for work, _ in group]
        except BaseException as error:  # noqa: BLE001  (it is the callers' to raise)
            if len(group) == 1:
                group[0][1].set_exception(error)
            else:
                for one in group:
                    self._commit([one])
            return
        for (_, future), value in zip(group, values, strict=True):
            future.set_result(value)
