"""What shows itself in a notebook."""

from __future__ import annotations

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
