"""What shows itself in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar


class Shown:
    """Has an HTML face in notebooks, which the display room draws when it is first asked for."""

    __slots__ = ()

    shown_as: ClassVar[str]
    """What it is, in the display's words: ``"run"``, ``"map"``, ``"dataset"`` ..."""

    def _repr_html_(self) -> str:
        return page_of(self.shown_as, self)


def page_of(kind: str, thing: Any) -> str:
    """A thing as HTML."""
    from .registry import open_pages

    return open_pages()(kind, thing)


def show_live(run: Any) -> None:
    """Show a run below the notebook's cell that ends with it, and go on while it does."""
    from .registry import open_live

    open_live()(run)


def show_some(kind: str, made_by: type[Any], ours: Callable[[Any], bool]) -> None:
    """In a notebook: show some things of another library's class as headrace shows its own.

    Parameters
    ----------
    kind
        What they are, in the display's words.
    made_by
        The class. Of its other objects the notebook shows what it did before.
    ours
        Whether an object is one of them.
    """
    core = sys.modules.get("IPython")
    shell = None if core is None else core.get_ipython()
    if shell is None:
        return
    formatter = shell.display_formatter.formatters["text/html"]
    before: Callable[[Any], str | None] | None = formatter.for_type(made_by)
    if isinstance(before, _Some):
        return
    formatter.for_type(made_by, _Some(kind, ours, before))


class _Some:
    def __init__(
        self, kind: str, ours: Callable[[Any], bool], before: Callable[[Any], str | None] | None
    ) -> None:
        self.kind, self.ours, self.before = kind, ours, before

    def __call__(self, thing: Any) -> str | None:
        if self.ours(thing):
            return page_of(self.kind, thing)
        return None if self.before is None else self.before(thing)
