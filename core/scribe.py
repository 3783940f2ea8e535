"""The driver's pen: history and journal are written in groups, by one thread, off the engine.

It also beats the run's heart and fetches the requests that other processes left in history.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from .errors import HistoryError, StorageError, TakenOverError
from .interfaces import History, HistoryEvent, Journal, Request

_GROUP_SECONDS = 0.25
_JOURNAL_SECONDS = 1.0
_log = logging.getLogger("headrace")


class Scribe(threading.Thread):
    """Writes what the engine tells it. Everything is written when `close` returns.

    Parameters
    ----------
    trouble
        Takes an error that the run must hear of (the run was taken over, the store is gone).
    request
        Takes a request that was left in history.
    """

    def __init__(
        self,
        run: UUID,
        history: History,
        journal: Callable[[], Journal],
        *,
        heartbeat_seconds: float,
        trouble: Callable[[Exception], None],
        request: Callable[[Request], None],
    ) -> None:
        super().__init__(name="headrace-scribe", daemon=True)
        self.run_id, self.history, self.journal_of = run, history, journal
        self.journal: Journal | None = None
        self.heartbeat_seconds = heartbeat_seconds
        self.trouble, self.request = trouble, request
        self.driver = uuid4().hex
        self.inbox: queue.SimpleQueue[tuple[HistoryEvent | None, Mapping[str, Any] | None] | None]
        self.inbox = queue.SimpleQueue()
        self.events: list[HistoryEvent] = []
        self.records: list[Mapping[str, Any]] = []
        self.seq = 0
        self.last_request = 0
        self.next_beat = 0.0
        self.warned = False

    def note(self, event: HistoryEvent) -> None:
        """An event for history."""
        self.inbox.put((event, None))

    def index(self, record: Mapping[str, Any]) -> None:
        """A record for the journal."""
        self.inbox.put((None, record))

    def close(self) -> None:
        """Write what is left and stop."""
        self.inbox.put(None)
        self.join()

    def run(self) -> None:
        journal_due = time.monotonic() + _JOURNAL_SECONDS
        open_ = True
        while open_:
            open_ = self._gather()
            now = time.monotonic()
            self._write_history(last=not open_)
            if self.records and (now >= journal_due or not open_):
                self._write_journal()
                journal_due = now + _JOURNAL_SECONDS
            if now >= self.next_beat and open_:
                self.next_beat = now + self.heartbeat_seconds
                self._beat()

    def _gather(self) -> bool:
        """Collect for a moment; False when the run is over."""
        deadline = time.monotonic() + _GROUP_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            try:
                entry = self.inbox.get(timeout=left)
            except queue.Empty:
                break
            if entry is None:
                return False
            event, record = entry
            if event is not None:
                self.events.append(event)
            if record is not None:
                self.records.append(record)
        return True

    def _write_history(self, *, last: bool) -> None:
        if not self.events:
            return
        for attempt in range(5 if last else 1):
            try:
                self.history.append(self.run_id, self.seq, self.events, driver=self.driver)
            except HistoryError as error:
                if not self.warned:
                    self.warned = True
                    _log.warning("history of run %s is not written: %s", self.run_id, error)
                if last:
                    time.sleep(0.1 * 2**attempt)
            else:
                self.seq += 1
                self.events = []
                return

    def _write_journal(self) -> None:
        try:
            if self.journal is None:
                self.journal = self.journal_of()
                self.journal.take()
            self.journal.append(self.records)
        except TakenOverError as error:
            self.records = []
            self.trouble(error)
        except StorageError as error:
            _log.warning("the journal of run %s is behind: %s", self.run_id, error)
        else:
            self.records = []

    def _beat(self) -> None:
        try:
            self.history.beat(self.run_id, datetime.now(UTC))
            requests: Sequence[Request] = self.history.requests(self.run_id, self.last_request)
        except HistoryError:
            return  # told by the next write, which comes with the next event
        for each in requests:
            self.last_request = max(self.last_request, each.id)
            self.request(each)
