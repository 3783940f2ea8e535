"""What tells a process from all others: names of machines and numbers of processes come again.

Containers may have equal host names and numbers, and a number is another process's by and by.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def mark_of(pid: int) -> str:
    """``<boot of the machine>/<its space of numbers>/<when it began>``; empty: no such process here.

    It is empty, too, where the system does not tell (it is not Linux).
    """
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat(f"/proc/{pid}/ns/pid").st_ino
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot}/{space}/{began}"
    return ""


def same_place(mark: str, other: str) -> bool:
    """Do two processes share their numbers, as far as their marks tell?"""
    return not mark or not other or mark.rpartition("/")[0] == other.rpartition("/")[0]
