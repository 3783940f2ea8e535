"""A run as plain lines, for logs of machines: one now and then, and one at the end."""

from __future__ import annotations

import sys
from typing import TextIO

from ..core.interfaces import Display, RunView
from . import progress

EVERY_SECONDS = 10.0


class LineDisplay(Display):
    """Writes a line about a run every ten seconds of its time, and one when it has ended.

    Parameters
    ----------
    stream
        Where to; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._next = EVERY_SECONDS

    def update(self, view: RunView) -> None:
        """Write a line if it is time for one."""
        if view.elapsed_seconds >= self._next:
            self._next = view.elapsed_seconds + EVERY_SECONDS
            self._write(view)

    def close(self, view: RunView) -> None:
        """Write the last line."""
        self._write(view)

    def _write(self, view: RunView) -> None:
        print(progress.summary(view), file=self._stream or sys.stderr, flush=True)
