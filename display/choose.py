"""Which display a run gets: the one that the setting names, or the one that fits the surroundings."""

from __future__ import annotations

import sys

from ..core.errors import ConfigurationError
from ..core.interfaces import Display

CHOICES = ("auto", "terminal", "notebook", "log", "none")


def choose(setting: str = "auto") -> Display | None:
    """Make the display of one run, or None where nothing is to be shown.

    Call it in the thread in which the user called the flow: a notebook shows it below that cell.

    Parameters
    ----------
    setting
        One of `CHOICES`. ``auto``: HTML in a Jupyter kernel, rich where standard error is a
        terminal, else nothing.

    Raises
    ------
    ConfigurationError
        There is no such choice, or ``notebook`` was asked for without IPython.
    """
    if setting not in CHOICES:
        raise ConfigurationError(
            f"unknown display {setting!r}: choose one of {', '.join(map(repr, CHOICES))}"
        )
    if setting == "auto":
        setting = _fitting()
    # Imported when needed: rich and IPython cost more than a short run.
    match setting:
        case "terminal":
            from .terminal import TerminalDisplay

            return TerminalDisplay()
        case "notebook":
            from .notebook import NotebookDisplay

            try:
                return NotebookDisplay()
            except ImportError as error:
                raise ConfigurationError(
                    'display "notebook" needs IPython: pip install "headrace[notebook]"'
                ) from error
        case "log":
            from .lines import LineDisplay

            return LineDisplay()
        case _:
            return None


def _fitting() -> str:
    if in_kernel():
        return "notebook"
    # Without a console (pythonw, some services) there is no stream at all.
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "none"


def in_kernel() -> bool:
    """Whether this process is a Jupyter kernel with a front end that takes display messages."""
    # A kernel has imported it; importing it here would tell nothing.
    kernel = sys.modules.get("ipykernel.kernelapp")
    application = getattr(kernel, "IPKernelApp", None)
    return application is not None and bool(application.initialized())
