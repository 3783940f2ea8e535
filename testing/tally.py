"""Notes that any process on any machine may make, and a test may wait for: lines of files.

A tally lives in a folder that the test and all workers see. Each note is one line, written by a
single ``write`` to a file opened with ``O_APPEND`` and forced to disk, so that neither a worker that
dies right after it nor two that write at once can lose or mix one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.003


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a tally."""

    text: str
    host: str
    pid: int
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Tally:
    """Counts what happens by name, across processes and machines.

    Parameters
    ----------
    folder
        Seen by the test and by every worker. It is made if it is missing.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def note(self, name: str, text: str = "") -> int:
        """Add a note; gives its number under this name, from 1. Durable when it returns."""
        mark = uuid4().hex
        line = f"{mark} {os.uname().nodename} {os.getpid()} {time.time()!r} {text}\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._file(name), flags, 0o666)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for number, other in enumerate(self._lines(name), 1):
            if other.startswith(mark):
                return number
        raise AssertionError(f"{self._file(name)}: a note has vanished")

    def count(self, name: str) -> int:
        """Notes under a name so far."""
        return len(self._lines(name))

    def notes(self, name: str) -> list[Note]:
        """Notes under a name so far, in the order in which they were made."""
        found: list[Note] = []
        for line in self._lines(name):
            _, host, pid, moment, text = line.split(" ", 4)
            found.append(Note(text, host, int(pid), float(moment)))
        return found

    def names(self) -> list[str]:
        """Names under which there is a note."""
        return sorted(path.name for path in self.folder.iterdir())

    def wait(self, name: str, count: int = 1, *, over: Callable[[], bool] = lambda: False) -> None:
        """Wait until there are so many notes under a name.

        Parameters
        ----------
        over
            Asked now and then: will no more notes come?

        Raises
        ------
        TimeoutError
            There are fewer after a minute, or no more will come.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.count(name) < count:
            if time.monotonic() > deadline or (over() and self.count(name) < count):
                raise TimeoutError(f"{self.count(name)} of {count} notes {name!r} came")
            time.sleep(_LOOK_SECONDS)  # in slices: code in a thread is interrupted between them

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _lines(self, name: str) -> list[str]:
        try:
            return self._file(name).read_text().splitlines()
        except FileNotFoundError:
            return []
