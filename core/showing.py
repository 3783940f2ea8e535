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
    """Where one run is shown: nowhere, or on any number of displays.

    Nothing that a display raises reaches the run.

    Parameters
    ----------
    view
        Takes a snapshot.
    ended
        The last snapshot was that of the end, where nobody says so by `close`.
    """

    def __init__(
        self, view: Callable[[], RunView], ended: Callable[[], bool] = lambda: False
    ) -> None:
        self.view = view
        self.ended = ended
        self.displays: list[Display] = []
        self.lock = threading.Lock()
        self.begun = False
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """The run has begun: show it where it is to be shown."""
        with self.lock:
            self.begun = True
            self._go_on()

    def add(self, display: Display) -> bool:
        """Show it there, too; False: it is over, and nothing more will be shown."""
        with self.lock:
            if self.over.is_set():
                return False
            self.displays.append(display)
            self._go_on()
        return True

    def _go_on(self) -> None:
        if self.begun and self.displays and self.thread is None:
            self.thread = threading.Thread(target=self._run, name="headrace-show", daemon=True)
            self.thread.start()

    def close(self) -> None:
        """Show the end, and stop."""
        with self.lock:
            self.over.set()
        self.join()

    def join(self) -> None:
        """Wait until the end is shown."""
        if self.thread is not None:
            self.thread.join()

    def _run(self) -> None:
        # Also the last picture is shown from here: messages of the flow's own thread count as those
        # of the cell that called it, and what executes a notebook takes none of a cell that has ended.
        wait = PATIENCE_SECONDS
        while not self.over.wait(wait):
            view = self.view()
            for display in list(self.displays):
                self._try(display, display.update, view)
            wait = PERIOD_SECONDS
            if self.ended():
                with self.lock:
                    self.over.set()
        view = self.view()
        for display in list(self.displays):
            self._try(display, display.close, view)

    def _try(self, display: Display, show: Callable[[RunView], None], view: RunView) -> None:
        try:
            show(view)
        except Exception as error:  # noqa: BLE001 - a front end may raise anything; the run goes on unseen
            logging.getLogger("headrace").warning("the display of the run failed: %r", error)
            with self.lock:
                self.displays.remove(display)
