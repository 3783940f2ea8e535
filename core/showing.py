"""Shows a run while it goes on: a thread takes a snapshot a few times a second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .interfaces import Display, RunView

PERIOD_SECONDS = 0.25
PATIENCE_SECONDS = 0.5
"""Runs shorter than this are shown once, at their end."""


class Show:
    """One run's display. Nothing that a display raises reaches the run.

    Parameters
    ----------
    display
        What shows it.
    view
        Takes a snapshot.
    """

    def __init__(self, display: Display, view: Callable[[], RunView]) -> None:
        self.display, self.view = display, view
        self.over = threading.Event()
        self.broken = False
        self.thread = threading.Thread(target=self._run, name="headrace-show", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self.thread.start()

    def close(self) -> None:
        """Show the end, and stop."""
        self.over.set()
        self.thread.join()
        self._try(lambda: self.display.close(self.view()))

    def _run(self) -> None:
        wait = PATIENCE_SECONDS
        while not self.over.wait(wait) and not self.broken:
            self._try(lambda: self.display.update(self.view()))
            wait = PERIOD_SECONDS

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception as error:  # noqa: BLE001 - a front end may raise anything; the run goes on unseen
            if not self.broken:
                logging.getLogger("headrace").warning("the display of the run failed: %r", error)
            self.broken = True
