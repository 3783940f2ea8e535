"""What tells a process from all others: names of machines and numbers of processes come again.

Containers may have equal host names and numbers, and a number is another process's by and by.
"""

from __future__ import annotations

import functools
import os
from contextlib import suppress
from pathlib import Path

from .hostname import hostname


def mark_of(pid: int) -> str:
    """``<boot of the machine>/<its space of numbers>/<when it began>``; empty: no such process here.

    It is empty, too, where the system does not tell: it is not Linux, or the process another user's.
    """
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat(f"/proc/{pid}/ns/pid").st_ino
        return f"{boot}/{space}/{_status(pid)[1]}"
    return ""


def own_mark() -> str:
    """This process's mark; read once."""
    return _remembered(os.getpid())


@functools.lru_cache(maxsize=1)
def _remembered(pid: int) -> str:
    return mark_of(pid)


def same_place(mark: str, other: str) -> bool:
    """Do two processes share their numbers, as far as their marks tell?"""
    return not mark or not other or _place(mark) == _place(other)


def ended(host: str, pid: int, mark: str) -> bool:
    """Is it known that a process has ended? Only of one that shares its numbers with this one.

    Without a mark the name of the machine and the number must do.
    """
    if host != hostname() or not same_place(mark, own_mark()):
        return False
    if not lives(pid):
        return True
    with suppress(OSError, IndexError):  # the system does not tell
        status, began = _status(pid)
        return status in ("Z", "X") or (bool(mark) and mark.rpartition("/")[2] != began)
    return False


def gone(host: str, pid: int, mark: str) -> bool:
    """As `ended`, where the mark alone is trusted: without one nothing is known."""
    return bool(mark) and ended(host, pid, mark)


def lives(pid: int) -> bool:
    """There is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _place(mark: str) -> str:
    return mark.rpartition("/")[0]


def _status(pid: int) -> tuple[str, str]:
    """What it does, as a letter, and when it began; anybody may know. Raises OSError."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
