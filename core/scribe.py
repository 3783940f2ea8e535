"""The driver's pen: history and journal are written in groups, by one thread, off the engine.

It also beats the run's heart and fetches the requests that other processes left in history.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, TypeAlias
from uuid import UUID, uuid4

from .errors import HistoryError, StorageError, TakenOverError
from .given import Given
from .interfaces import History, HistoryEvent, Journal, Request

_GROUP_SECONDS = 0.25
_JOURNAL_SECONDS = 1.0
_EASE_SECONDS = 0.1
_LAST_ATTEMPTS = 5
_DOOMED_BYTES = 32 << 20
"""Bytes due to be removed for which the journal is written at once."""
_GROUP = 20_000
"""Entries that are written together at most."""
_log = logging.getLogger("headrace")


@dataclass(frozen=True, slots=True)
class _Removal:
    """Objects to be removed once the journal has the record; ``size``: their bytes together."""

    record: Mapping[str, Any]
    paths: Sequence[str]
    size: int


@dataclass(frozen=True, slots=True)
class _Listed:
    """The path of a list of many inputs."""

    path: str


class _Reached(threading.Event):
    """Set when all that was told before is written; ``journal``: the journal, too."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self.journal = journal


_Noted: TypeAlias = "tuple[HistoryEvent | None, Mapping[str, Any] | None]"
_Entry: TypeAlias = "_Noted | _Removal | _Listed | Given | _Reached | None"


class Scribe(threading.Thread):
    """Writes what the engine tells it. Everything is written when `close` returns.

    Parameters
    ----------
    write_given
        Writes what failed items were given; gives the journal's records of it.
    read_list
        Reads a list of inputs; gives history's record of it.
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
        delete: Callable[[Sequence[str]], None],
        write_given: Callable[[Sequence[Given]], Sequence[Mapping[str, Any]]],
        read_list: Callable[[str], HistoryEvent],
        *,
        heartbeat_seconds: float,
        trouble: Callable[[Exception], None],
        request: Callable[[Request], None],
    ) -> None:
        super().__init__(name="headrace-scribe", daemon=True)
        self.run_id, self.history, self.journal_of, self.delete = run, history, journal, delete
        self.write_given, self.read_list = write_given, read_list
        self.lists: set[str] = set()
        """Those that history has."""
        self.journal: Journal | None = None
        self.heartbeat_seconds = heartbeat_seconds
        self.trouble, self.request = trouble, request
        self.also: Callable[[], None] = lambda: None
        """What is to be written whenever the journal would be."""
        self.driver = uuid4().hex
        self.inbox: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self.synced: list[_Reached] = []
        self.events: list[HistoryEvent] = []
        self.sending: list[HistoryEvent] = []
        """What was sent under `seq` and not confirmed: only the very same may be sent again."""
        self.records: list[Mapping[str, Any]] = []
        self.given: list[Given] = []
        """What failed items were given, to be written before the journal's next segment."""
        self.doomed: list[str] = []
        """Objects to be removed when the journal says that they are gone; and their bytes."""
        self.doomed_bytes = 0
        self.seq = 0
        self.last_request = 0
        self.next_beat = 0.0
        self.warned = False
        self.behind = False
        """The journal cannot be written, and that was told."""
        self.lost = False
        """Another driver has taken the run over: nothing more is written."""

    def open(self, events: Sequence[HistoryEvent]) -> None:
        """Write the first records at once: from now on others find the run.

        Raises
        ------
        HistoryError
            History cannot be written.
        """
        self.history.append(self.run_id, self.seq, events, driver=self.driver)
        self.seq += 1
        self.next_beat = time.monotonic() + self.heartbeat_seconds  # the first records hold one

    def note(self, event: HistoryEvent) -> None:
        """An event for history."""
        self.inbox.put((event, None))

    def index(self, record: Mapping[str, Any]) -> None:
        """A record for the journal."""
        self.inbox.put((None, record))

    def keep(self, given: Given) -> None:
        """What items were given that failed: to be written, and to be found by the journal."""
        self.inbox.put(given)

    def list_of(self, path: str) -> None:
        """A list of inputs that is to be in history, once."""
        self.inbox.put(_Listed(path))

    def remove(self, record: Mapping[str, Any], paths: Sequence[str], size: int) -> None:
        """Write a record to the journal, then remove objects, which are of so many bytes together."""
        self.inbox.put(_Removal(record, paths, size))

    def ease(self, most: int) -> None:
        """Wait until fewer than ``most`` entries are due, as long as they get fewer."""
        while (due := self.inbox.qsize()) > most and self.is_alive():
            time.sleep(_EASE_SECONDS)
            if self.inbox.qsize() >= due:
                return

    def sync(self, timeout: float = 10.0, *, journal: bool = False) -> None:
        """Wait until history, or the ``journal`` as well, has all that was told so far."""
        if threading.current_thread() is not self:
            written = _Reached(journal=journal)
            self.inbox.put(written)
            deadline = time.monotonic() + timeout
            while self.is_alive() and (left := deadline - time.monotonic()) > 0:
                if written.wait(min(left, 1.0)):
                    return

    def settle(self, timeout: float = inf) -> bool:
        """Bring the journal up to date; False if the run is another driver's by now.

        An outage of the store is waited out as long as the store itself does.
        """
        self.sync(timeout, journal=True)
        return not self.lost

    def close(self) -> None:
        """Write what is left and stop."""
        self.inbox.put(None)
        self.join()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - a bug of ours or of a store: the run must hear
            _log.critical("nothing more is written of run %s", self.run_id, exc_info=error)
            self.trouble(error)
        finally:
            while self.synced:
                self.synced.pop().set()

    def _work(self) -> None:
        journal_due = time.monotonic() + _JOURNAL_SECONDS
        open_ = True
        while open_:
            open_ = self._gather()
            now = time.monotonic()
            last = not open_ or any(each.journal for each in self.synced)
            if now >= journal_due or last:
                self.also()
            due = now >= journal_due or last or self.doomed_bytes > _DOOMED_BYTES
            if due and (self.records or self.given):
                self._write_given()
                self._write_journal(last=last)
                journal_due = now + _JOURNAL_SECONDS
            self._write_history(last=not open_)
            while self.synced:
                self.synced.pop().set()
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
            if isinstance(entry, _Reached):
                self.synced.append(entry)
                break
            if isinstance(entry, Given):
                self.given.append(entry)
                continue
            if isinstance(entry, _Listed):
                self._take_list(entry.path)
                continue
            if isinstance(entry, _Removal):
                self.records.append(entry.record)
                self.doomed += entry.paths
                self.doomed_bytes += entry.size
                continue
            event, record = entry
            if event is not None:
                self.events.append(event)
            if record is not None:
                self.records.append(record)
            if len(self.events) >= _GROUP:
                break
        return True

    def _take_list(self, path: str) -> None:
        if path in self.lists:
            return
        self.lists.add(path)
        try:
            self.events.append(self.read_list(path))
        except StorageError as error:
            _log.warning("history lacks the inputs that %s lists: %s", path, error)

    def _write_history(self, *, last: bool) -> None:
        if self.lost:
            self.events, self.sending = [], []  # of a run that is another driver's
        attempts = _LAST_ATTEMPTS if last else 1
        while attempts and (self.sending or self.events):
            if not self.sending:
                self.sending, self.events = self.events, []
            try:
                self.history.append(self.run_id, self.seq, self.sending, driver=self.driver)
            except HistoryError as error:
                attempts -= 1
                if not self.warned:
                    self.warned = True
                    _log.warning("history of run %s is not written: %s", self.run_id, error)
                if attempts:
                    time.sleep(0.1 * 2 ** (_LAST_ATTEMPTS - attempts))
            else:
                self.seq += 1
                self.sending = []
        if last and self.sending:
            _log.warning(
                "history lacks the end of run %s, whose storage has it: when history can be written again, "
                "`headrace resume %s` brings it up to date, and runs nothing that is done",
                *(self.run_id, self.run_id),
            )

    def _write_given(self) -> None:
        """Write what failed items were given; where that fails they cannot be replayed, no more."""
        given, self.given = self.given, []
        if not given or self.lost:
            return
        try:
            self.records.extend(self.write_given(given))
        except StorageError as error:
            _log.warning("inputs of failed items are not kept: %s", error)

    def _write_journal(self, *, last: bool) -> None:
        if self.lost:
            self.records = []  # told once
            return
        for left in reversed(range(_LAST_ATTEMPTS if last else 1)):
            try:
                if self.journal is None:
                    journal = self.journal_of()
                    journal.begin()
                    self.journal = journal
                self.journal.append(self.records)
            except TakenOverError as error:
                self.records = []
                self.lost = True
                self.trouble(error)
                return
            except StorageError as error:
                if not self.behind:
                    self.behind = True
                    _log.warning("the journal of run %s is behind: %s", self.run_id, error)
                if left:
                    time.sleep(0.1)
            else:
                self.records = []
                self.behind = False
                self._remove()
                return

    def _remove(self) -> None:
        """Remove what the journal has let go."""
        doomed, self.doomed, self.doomed_bytes = self.doomed, [], 0
        try:
            if doomed:
                self.delete(doomed)
        except StorageError as error:
            _log.warning("%d dropped partitions are still there: %s", len(doomed), error)

    def _beat(self) -> None:
        try:
            self.history.beat(self.run_id, datetime.now(UTC))
            requests: Sequence[Request] = self.history.requests(self.run_id, self.last_request)
        except HistoryError:
            return  # told by the next write, which comes with the next event
        for each in requests:
            self.last_request = max(self.last_request, each.id)
            self.request(each)
