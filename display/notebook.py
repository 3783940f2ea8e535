"""A run in a notebook: HTML that is updated in place, and stays in the saved file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from ..core.interfaces import Display, RunView
from . import html, progress


class Handle(Protocol):
    """What IPython gives for something that is shown and may change."""

    def update(self, obj: Any, **options: Any) -> None:
        """Put something else in its place."""
        ...


class NotebookDisplay(Display):
    """Shows a run below the cell in which this is made, with nothing but IPython.

    Make it in the thread that runs the cell; `update` and `close` may come from another thread,
    also after the cell has ended.
    """

    def __init__(self) -> None:
        from IPython import display

        show = cast("Callable[..., Handle]", getattr(display, "display"))  # noqa: B009  (untyped)
        self._shown: dict[str, str] = {"text/plain": ""}
        self._handle = show(dict(self._shown), raw=True, display_id=True)

    def update(self, view: RunView) -> None:
        """Show a newer snapshot, if it looks different."""
        bundle = {"text/html": html.run_card(view), "text/plain": progress.summary(view)}
        if bundle != self._shown:
            self._shown = bundle
            self._handle.update(dict(bundle), raw=True)

    def close(self, view: RunView) -> None:
        """Show the last one; it is plain HTML that needs no kernel."""
        self.update(view)
