"""The driver's process is told to end: its runs are cancelled, or waited for, before it does.

SIGTERM cancels all runs of the process in order, then ends it as it would have ended. A run in a
thread of its own (`Flow.start`) outlives the main thread, unless Ctrl-C has ended that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import forks, pools
from .context import live_runs
from .errors import Terminated

if TYPE_CHECKING:
    from .runs import FlowRun

_SIGTERM = "SIGTERM: its process was asked to end"
_CTRL_C = "Interrupted from the keyboard."


_before: Any = None
"""What SIGTERM did before `heed_sigterm`."""
_started: dict[threading.Thread, FlowRun[Any]] = forks.own({})


def heed_sigterm() -> None:
    """From now on SIGTERM cancels this process's runs first. Does nothing beside the main thread.

    A handler that others have set is called afterwards; where SIGTERM is ignored, it stays so.
    """
    global _before
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is not _on_sigterm and (before is signal.SIG_DFL or callable(before)):
        _before = before
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    live = {context.run for context in live_runs()} | set(_started.values())
    for run in live:
        run.cancel(reason=_SIGTERM)
    if callable(_before):
        _before(number, frame)
    elif live:
        raise Terminated(128 + number)
    else:
        _give_back()
        os.kill(os.getpid(), number)


def _give_back() -> None:
    """A fork has no runs of its own, and dies as its parent would have without them."""
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, _before)


def outlast(run: FlowRun[Any], live: Callable[[], object], name: str) -> None:
    """Take a run through its life in a thread of its own, for which the interpreter waits."""

    def to_the_end() -> None:
        try:
            live()
        finally:
            _started.pop(thread, None)

    thread = threading.Thread(target=to_the_end, name=name)
    _started[thread] = run
    thread.start()


def _wait_for_started() -> None:
    """The main thread is over: wait for the runs beside it, before their pools close.

    Ctrl-C or SIGTERM, before or now, cancels them; once more ends them at once.
    """
    pressed = issubclass(getattr(sys, "last_type", None) or object, KeyboardInterrupt)
    if pressed:
        _cancel_started(None)
    while started := list(_started):
        try:
            started[0].join()
        except (KeyboardInterrupt, Terminated):
            _cancel_started(0.0 if pressed else None)
            pressed = True


def _cancel_started(grace: float | None) -> None:
    for run in list(_started.values()):
        run.cancel(grace, run.cancel_reason or _CTRL_C)


forks.without_sigterm(_give_back)
pools.before_closing(_wait_for_started)
