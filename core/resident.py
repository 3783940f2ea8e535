"""How much memory this process holds, and held at most since a moment."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one of ``ru_maxrss``."""


class ResidentMemory:
    """Measures from its creation on.

    Linux forgets the peak of a process on request. Mapped files (libraries, partitions) do not count:
    processes share them, and the system takes them back. Elsewhere the peak is that of the process's whole
    life: what it grew by is then what it never held before.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            _CLEAR.write_text("5")
        self.before = _own("VmRSS") or _lifelong()

    def told(self) -> tuple[int, int]:
        """Resident bytes at the beginning, and the most since then."""
        return self.before, max(self.before, _own("VmHWM") or _lifelong())


def _lifelong() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def _own(name: str) -> int:
    """A line of the process's status in bytes, less mapped files; 0 where there is none."""
    with suppress(OSError, ValueError, KeyError):
        lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
        told = {key: value for key, _, value in lines}
        return (int(told[name].split()[0]) - int(told["RssFile"].split()[0])) << 10
    return 0
