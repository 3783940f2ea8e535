"""Children whose worker or driver is lost: they end their running item and commit it, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .interfaces import ORPHAN_SECONDS, WorkerInfo
from .process_marks import ended

_LOOK_SECONDS = 0.05
_MARGIN_SECONDS = 1.0
"""A child's last put may end so long after its time is over."""
SUPERVISOR = "HEADRACE_SUPERVISOR"
"""In a child's environment the mark (`core.process_marks`) of the process that started it."""


def await_end(worker: WorkerInfo | None, hurry: Callable[[], bool]) -> None:
    """Wait until a child that has lost its worker cannot commit any more.

    One on this machine is looked at; of another one it is only known that it ends in time.

    Parameters
    ----------
    worker
        The child, or None where it never told of itself.
    hurry
        Nobody waits for the outcome any more.
    """
    end = time.monotonic() + ORPHAN_SECONDS + _MARGIN_SECONDS
    while time.monotonic() < end and not hurry():
        if worker is not None and ended(worker.host, worker.pid, worker.process):
            return
        time.sleep(_LOOK_SECONDS)


def await_children(driver: str) -> None:
    """Wait until the children of a driver that is gone cannot commit any more.

    Those on this machine are found; where its workers were elsewhere, these end them by themselves.

    Parameters
    ----------
    driver
        Its mark.
    """
    end = time.monotonic() + ORPHAN_SECONDS + _MARGIN_SECONDS
    sign = f"{SUPERVISOR}={driver}".encode()
    while _any_has(sign) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)


def _any_has(variable: bytes) -> bool:
    """Is there a process with this variable? Never, where the system does not tell."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if variable in file.read_bytes().split(b"\0"):
                return True
    return False
