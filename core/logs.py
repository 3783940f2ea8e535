"""Log lines of flows and tasks: where a line goes when user code logs or prints.

A line of a task goes into its batch's list of lines, which the worker empties with each report.
A line of a flow goes to its engine, and to standard error by the handler of the logger
``headrace``. Lines of tasks reach standard error when they reach the driver, through `echo`.
"""

from __future__ import annotations

import builtins
import io
import logging
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from . import forks
from .context import FLOW_RUN, TASK_RUN
from .errors import RunError

ROOT = "headrace"
FLOW_LOGGER = "headrace.flow_runs"
TASK_LOGGER = "headrace.task_runs"


class _RunHandler(logging.Handler):
    """Routes a record to the run in whose context it was made."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            deliver(record.levelno, record.name, self.format(record))
        except Exception:  # noqa: BLE001 - logging's own rule: a log call never raises into user code
            self.handleError(record)


class _Formatter(logging.Formatter):
    """The message, and the traceback when there is one."""

    def __init__(self) -> None:
        super().__init__("%(message)s")


def deliver(level: int, logger: str, message: str) -> None:
    """Hand a line to the current task run, or else to the current flow run."""
    task = TASK_RUN.get()
    if task is not None:
        task.log(level, logger, message)
        return
    flow = FLOW_RUN.get()
    if flow is not None and not flow.tracing:
        flow.engine.log(level, logger, message)
        echo(level, logger, message, flow.info.name)


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever ``sys.stderr`` is at that moment (notebooks and tests exchange it)."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(
            logging.Formatter("%(asctime)s.%(msecs)03d | %(levelname)-7s | %(message)s", "%H:%M:%S")
        )

    @property
    def stream(self) -> Any:
        return sys.stderr


_ready = forks.own_lock(threading.Lock())
_is_ready = False


def setup(level: int | str | None = None) -> None:
    """Attach the handlers, once per process; ``level`` bounds what standard error shows.

    A program that has given the logger ``headrace`` handlers of its own keeps them.
    """
    global _is_ready
    with _ready:
        if not _is_ready:
            for name in (FLOW_LOGGER, TASK_LOGGER):
                logger = logging.getLogger(name)
                logger.setLevel(logging.DEBUG)
                logger.propagate = False
                handler = _RunHandler()
                handler.setFormatter(_Formatter())
                logger.addHandler(handler)
            root = logging.getLogger(ROOT)
            if not root.handlers:
                root.addHandler(_StderrHandler())
                root.propagate = False
            _is_ready = True
        if level is not None:
            logging.getLogger(ROOT).setLevel(level.upper() if isinstance(level, str) else level)


def echo(
    level: int, logger: str, message: str, subject: str = "", when: float | None = None
) -> None:
    """Show a line in the driver, on the handlers of the logger ``headrace``.

    Parameters
    ----------
    subject
        Whose line it is: a run's name, or a node's key and the item's position.
    when
        Time of the line, seconds since the epoch; by default now.
    """
    shown = logging.getLogger(ROOT)
    if not shown.isEnabledFor(level):
        return
    text = f"{subject} - {message}" if subject else message
    record = logging.LogRecord(logger, level, "", 0, text, None, None)
    if when is not None:
        record.created, record.msecs = when, (when % 1) * 1000
    shown.handle(record)


def get_run_logger() -> logging.Logger:
    """The logger of the current task run or flow run; its lines are kept with the run.

    Raises
    ------
    RunError
        Neither a flow nor a task runs here.
    """
    if TASK_RUN.get() is not None:
        setup()
        return logging.getLogger(TASK_LOGGER)
    if FLOW_RUN.get() is not None:
        setup()
        return logging.getLogger(FLOW_LOGGER)
    raise RunError(
        "get_run_logger() was called where neither a flow nor a task runs; "
        "use logging.getLogger(__name__) there"
    )


# -------------------------------------------------------------------------------------- prints

_plain_print = builtins.print
_patch_lock = forks.own_lock(threading.Lock())
_patches = 0


@contextmanager
def logged_prints() -> Generator[None]:
    """While the block runs, ``print`` becomes a log line in runs that ask for it.

    Which runs do is their context's ``log_prints``, so other threads print as ever. What one
    ``print`` call writes stays one line of the log, newlines inside included.
    """
    global _patches
    with _patch_lock:
        _patches += 1
        if _patches == 1:
            builtins.print = _print
    try:
        yield
    finally:
        with _patch_lock:
            _patches -= 1
            if _patches == 0 and builtins.print is _print:
                builtins.print = _plain_print


def _print(
    *values: Any,
    sep: str | None = " ",
    end: str | None = "\n",
    file: Any = None,
    flush: bool = False,
) -> None:
    task = TASK_RUN.get()
    context = task if task is not None else FLOW_RUN.get()
    if context is None or not context.log_prints or file not in (None, sys.stdout):
        _plain_print(*values, sep=sep, end=end, file=file, flush=flush)
        return
    text = io.StringIO()
    _plain_print(*values, sep=sep, end="", file=text)
    logger = FLOW_LOGGER if task is None else TASK_LOGGER
    deliver(logging.INFO, logger, text.getvalue())
