"""The log lines of a run as a list that reads like a log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from .interfaces import LogRecord
from .shown import Shown

MOST_SHOWN = 1000


class Logs(Shown, list[LogRecord]):
    """Log records of one run, oldest first; shows itself as lines, the last thousand of them.

    Parameters
    ----------
    run
        Its name, which stands at the lines of the flow itself.
    keys
        By a node's number its key.
    """

    shown_as = "logs"

    def __init__(
        self,
        records: Iterable[LogRecord] = (),
        run: str = "",
        keys: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(records)
        self.run = run
        self.keys = keys or {}

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Logs(found, self.run, self.keys) if isinstance(index, slice) else found

    def where(self, record: LogRecord) -> str:
        """Whose line it is: the run's, or a node's and its item's."""
        item = f"[{record.position}]" if record.position >= 0 else ""
        return f"{self.keys.get(record.node, self.run)}{item}"

    def line(self, record: LogRecord) -> str:
        """Time of day, level, whose line it is, and the line."""
        level = logging.getLevelName(record.level)
        return (
            f"{record.time.astimezone():%H:%M:%S} {level:7} {self.where(record)} - {record.message}"
        )

    def __repr__(self) -> str:
        lines = [self.line(record) for record in self[-MOST_SHOWN:]]
        if (more := len(self) - len(lines)) > 0:
            lines.insert(0, f"({more:,} earlier lines)")
        return "\n".join(lines) or "no log lines"
