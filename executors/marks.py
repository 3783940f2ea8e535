"""A slot's marks: a few words of memory that a child writes and its supervisor reads."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from ..core.interfaces import Mark

_SIZE = 8 * len(Mark)


def private() -> memoryview:
    """Marks that only this process sees."""
    marks = memoryview(bytearray(_SIZE)).cast("q")
    marks[Mark.RUNNING] = -1
    return marks


def attach(path: str) -> memoryview:
    """Map the marks of a supervisor on the same machine."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return memoryview(mmap.mmap(descriptor, _SIZE)).cast("q")
    finally:
        os.close(descriptor)


class Told:
    """Marks for a supervisor that cannot see them: it is told of each item before that one runs.

    So it knows which item ran even when the process dies in it, or keeps the GIL.

    Parameters
    ----------
    tell
        Takes the words; in place of a time there is 1, as clocks differ.
    """

    def __init__(self, tell: Callable[[tuple[int, ...]], None]) -> None:
        self._tell = tell
        self._words = [0] * len(Mark)
        self._words[Mark.RUNNING] = -1

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, word: int) -> int:
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        words = self._words
        before, words[word] = words[word], value
        moved = word == Mark.RUNNING or (word == Mark.STAGE and value != before)
        over = word == Mark.SINCE_NS and not value and before
        if (moved or over) and words[Mark.RUNNING] >= 0:
            started = max(words[Mark.STARTED], words[Mark.RUNNING] + 1)
            since = int(words[Mark.SINCE_NS] > 0)
            self._tell(
                (words[Mark.CONTROL], words[Mark.RUNNING], words[Mark.STAGE], since, started)
            )


class Shared:
    """Marks in shared memory that has a path for as long as `detach` is not called."""

    def __init__(self) -> None:
        self._file = ""
        if sys.platform == "linux":  # nothing stays behind, whoever dies
            self._descriptor = os.memfd_create("headrace-marks", os.MFD_CLOEXEC)
            self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._descriptor, self._file = tempfile.mkstemp(prefix="headrace-marks-")
            self.path = self._file
        os.ftruncate(self._descriptor, _SIZE)
        self.words = memoryview(mmap.mmap(self._descriptor, _SIZE)).cast("q")
        self.words[Mark.RUNNING] = -1

    def detach(self) -> None:
        """Give up the path: the child has mapped the memory, or never will."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._file:
            os.unlink(self._file)
            self._file = ""


class Running(NamedTuple):
    """The item that runs, as the marks tell."""

    stage: int
    item: int
    since_ns: int


def running(marks: memoryview | tuple[int, ...]) -> Running | None:
    """Which item runs; None between items."""
    index = marks[Mark.RUNNING]
    if index < 0:
        return None
    return Running(marks[Mark.STAGE], index, marks[Mark.SINCE_NS])
