"""Faults by a timing map, as cubed has them: what the n-th attempt of each item does.

A map such as ``{0: [0.1], 3: [-0.0, 0.0], 5: [Death.KILL, 0.0]}`` says that item 0 takes a tenth of
a second, item 3 fails at once and then succeeds, and the first process that takes item 5 is killed.
Attempts are counted in files, so the map means the same in threads, processes and clusters, and
nothing is mocked.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from .tally import Tally

_SLICE_SECONDS = 0.005


class InjectedFault(Exception):
    """Raised where a timing map says so."""


class Death(StrEnum):
    """Ways in which an attempt takes its process with it."""

    KILL = "kill"
    """SIGKILL, as when memory runs out."""
    EXIT = "exit"
    """``os._exit(3)``: no clean-up, no exception."""
    SEGFAULT = "segfault"
    """A read of address 0 in C."""


Attempt: TypeAlias = float | Death
"""Seconds until it ends: well, or (negative, -0.0 too) with `InjectedFault`. Or a `Death`."""


@dataclass(frozen=True)
class TimingMap:
    """What the attempts of items do. Picklable: give it to a task as an argument.

    Parameters
    ----------
    folder
        Seen by the test and by every worker; attempts are counted there.
    attempts
        Item -> what its first, second ... attempt does. The last one repeats; an item that is not
        listed succeeds at once.
    """

    folder: Path
    attempts: Mapping[int, Sequence[Attempt]]

    def act(self, item: int) -> int:
        """Count an attempt and do what the map says of it; gives its number, from 1.

        Raises
        ------
        InjectedFault
            The map says that this attempt fails.
        """
        number = Tally(self.folder).note(str(item))
        listed = self.attempts.get(item, (0.0,))
        what = listed[min(number, len(listed)) - 1]
        if isinstance(what, Death):
            die(what)
            return number
        spend(abs(what))
        if math.copysign(1.0, what) < 0:
            raise InjectedFault(f"item {item}, attempt {number}")
        return number

    def count(self, item: int) -> int:
        """Attempts of an item so far."""
        return Tally(self.folder).count(str(item))

    def counts(self, items: Sequence[int]) -> list[int]:
        """Attempts of several items so far."""
        return [self.count(item) for item in items]

    def times(self, item: int) -> list[float]:
        """When the attempts of an item began, seconds since the epoch."""
        return [note.time for note in Tally(self.folder).notes(str(item))]


def die(how: Death) -> None:
    """End this process here and now."""
    if how is Death.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif how is Death.EXIT:
        os._exit(3)
    else:
        import faulthandler
        import resource

        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)


def spend(seconds: float) -> None:
    """Take time as Python code does: it can be interrupted between two slices of a few milliseconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE_SECONDS))


@contextmanager
def deaf() -> Generator[None]:
    """Hear no signal but SIGKILL while the block runs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold_gil(seconds: float) -> None:
    """Take time in a C call that keeps the GIL and hears no signal but SIGKILL."""
    with deaf():
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
