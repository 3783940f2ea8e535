"""A run in a notebook: HTML that is updated in place, and stays in the saved file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from ..core.interfaces import Display, RunView
from ..core.recorded import RecordedRun
from ..core.runs import FlowRun
from . import html, pages, progress
from .choose import in_kernel


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
        self.cell = _cell()
        """Number of the cell."""
        self._shown: dict[str, str] = {"text/plain": ""}
        self._handle = _display(dict(self._shown), display_id=True)

    def update(self, view: RunView) -> None:
        """Show a newer snapshot, if it looks different."""
        bundle = {"text/html": html.run_card(view), "text/plain": progress.summary(view)}
        if bundle != self._shown:
            self._shown = bundle
            self._handle.update(dict(bundle), raw=True)

    def close(self, view: RunView) -> None:
        """Show the last one; it is plain HTML that needs no kernel."""
        self.update(view)


def show_run(run: FlowRun[Any] | RecordedRun) -> None:
    """Show a run that is the last line of a cell: it goes on while the run does.

    Nothing more is shown where the run was begun in this very cell, and is shown there already.
    """
    shown = run.info.display if isinstance(run, FlowRun) else None
    if isinstance(shown, NotebookDisplay) and shown.cell == _cell():
        return
    if in_kernel() and not run.done() and run.show.add(NotebookDisplay()):
        return
    _display({"text/plain": repr(run), "text/html": pages.page_of(run.shown_as, run)})


def _display(bundle: dict[str, str], **options: Any) -> Handle:
    from IPython import display

    show = cast("Callable[..., Handle]", getattr(display, "display"))  # noqa: B009  (untyped)
    return show(bundle, raw=True, **options)


def _cell() -> int | None:
    """Number of the cell that runs; None outside of IPython."""
    core = sys.modules.get("IPython")
    shell = None if core is None else core.get_ipython()
    return None if shell is None else shell.execution_count
