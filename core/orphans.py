"""Children whose worker is lost: they end their running item and commit it, for a while."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .hostname import hostname
from .interfaces import ORPHAN_SECONDS, WorkerInfo

_LOOK_SECONDS = 0.05
_MARGIN_SECONDS = 1.0
"""A child's last put may end so long after its time is over."""


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
    here = worker is not None and worker.host == hostname()
    end = time.monotonic() + ORPHAN_SECONDS + _MARGIN_SECONDS
    while time.monotonic() < end and not hurry():
        if here and worker is not None and not lives(worker.pid):
            return
        time.sleep(_LOOK_SECONDS)


def lives(pid: int) -> bool:
    """There is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
