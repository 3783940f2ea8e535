"""How much memory this process holds, and held at most since a moment."""

from __future__ import annotations

import re
import resource
import sys
from contextlib import suppress

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one of ``ru_maxrss``."""
_SIZES = re.compile(rb"\nVmHWM:\s*(\d+) kB\nVmRSS:\s*(\d+) kB\n.*\nRssFile:\s*(\d+) kB\n")


class ResidentMemory:
    """Measures from its creation on.

    Linux forgets the peak of a process on request. Mapped files (libraries, partitions) do not count:
    processes share them, and the system takes them back. Elsewhere the peak is that of the process's whole
    life: what it grew by is then what it never held before.
    """

    def __init__(self) -> None:
        with suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
        _, now, self._mapped = _sizes()
        self.before = now - self._mapped

    def told(self) -> tuple[int, int]:
        """Resident bytes at the beginning, and the most since then."""
        most, now, mapped = _sizes()
        # At the time of the most, so much was mapped: that is not told. Files of the batch before may
        # have been let go since the beginning.
        most -= max(self._mapped, mapped)
        return self.before, max(self.before, most, now - mapped)


def _sizes() -> tuple[int, int, int]:
    """The most bytes, those of now, and mapped files of now; lifelong where the system does not tell."""
    with suppress(OSError), open("/proc/self/status", "rb", buffering=0) as file:
        if told := _SIZES.search(file.read()):
            most, now, mapped = (int(kilobytes) << 10 for kilobytes in told.groups())
            return most, now, mapped
    lifelong = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return lifelong, lifelong, 0
