"""What a process has and leaves behind, read from ``/proc``: processes, threads, descriptors, files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Inventory:
    """A process's threads, open descriptors and files of its temporary folder at one moment."""

    threads: tuple[str, ...]
    descriptors: tuple[str, ...]
    files: tuple[str, ...]

    def beyond(self, other: Inventory) -> dict[str, list[str]]:
        """What this one has more than another, by kind; empty if nothing."""
        found = {
            "threads": _more(self.threads, other.threads),
            "descriptors": _more(self.descriptors, other.descriptors),
            "files": _more(self.files, other.files),
        }
        return {kind: more for kind, more in found.items() if more}


def inventory(temporary: Path) -> Inventory:
    """Of this process, now."""
    threads = sorted(thread.name for thread in threading.enumerate())
    descriptors = sorted(_kind(target) for target in _descriptors())
    files = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))
    return Inventory(tuple(threads), tuple(descriptors), tuple(files))


def processes_with(variable: str, value: str) -> dict[int, str]:
    """Living processes (zombies are not) with a variable in their environment: number -> command."""
    wanted = f"{variable}={value}".encode()
    found: dict[int, str] = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0") and alive(int(folder.name)):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[int(folder.name)] = command
    return found


def alive(pid: int) -> bool:
    """There is such a process, and it is not a zombie."""
    try:
        status = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status not in ("Z", "X")


def _descriptors() -> Iterator[str]:
    for name in os.listdir(_PROC / "self" / "fd"):
        with suppress(OSError):  # the listing's own
            yield os.readlink(_PROC / "self" / "fd" / name)


def _kind(target: str) -> str:
    """``socket:[123]`` without its number: two of them are as good as any other two."""
    return target.partition("[")[0] if target.endswith("]") else target


def _more(mine: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    left = list(others)
    more: list[str] = []
    for each in mine:
        if each in left:
            left.remove(each)
        else:
            more.append(each)
    return more
