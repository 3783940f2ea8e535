"""Snapshots of a run that another process drives, for displays: history is asked again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import HistoryError, RunNotFoundError
from .states import State, type_of_name
from .views import Rates, recorded_view

if TYPE_CHECKING:
    from .interfaces import ItemRecord, RunView
    from .recorded import RecordedRun


class Watcher:
    """Makes snapshots of one run; remembers the last few seconds for the rates."""

    def __init__(self, run: RecordedRun) -> None:
        self.run = run
        self.over = False
        """The run has ended, or has been deleted: the last snapshot stays."""
        self._rates = Rates()
        self._bad: list[int] = []
        self._failed: list[ItemRecord] = []
        self._last: RunView | None = None

    def view(self) -> RunView:
        """The run as history knows it now; while history cannot be read, as it was known last."""
        try:
            record, nodes = self.run.record(), self.run.nodes()
            bad = [self.run.failed_items(node) for node in nodes]
            if bad != self._bad:  # failures may be many, and are read only when there are more
                self._failed, self._bad = list(self.run.last_failures()), bad
        except (HistoryError, RunNotFoundError) as error:
            self.over = isinstance(error, RunNotFoundError)
            if self._last is None:
                raise
            return self._last
        self.over = State(type_of_name(record.state)).is_final()
        self._last = recorded_view(record, nodes, self._failed, self._rates)
        return self._last
