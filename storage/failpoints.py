"""Points of the commit protocol at which a test stops a process. Off unless a variable names a folder.

Each put and each removal of a store passes points such as ``partition.before``, ``partition.within`` (the bytes
are on the disk, under a name that nobody reads; local stores only) and ``partition.after``. In the folder
that ``HEADRACE_FAILPOINTS`` names, a file of a point's name says what happens there, and when: ``kill 3``
kills, by SIGKILL, the process that passes it for the third time, counted over all processes; ``raise 1``
raises `StorageError`; ``wait 1`` waits until the file is gone. Who has passed a point is noted beside it,
a line with the process's number each time, in ``<point>.passed``. Processes inherit the variable; one
that is started without it knows no points, and pays nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.errors import StorageError
from .localfiles import LocalObjects
from .objects import Objects

VARIABLE = "HEADRACE_FAILPOINTS"
MOMENTS = ("before", "within", "after")
RECORDS = ("driver", "opened", "receipt", "node", "manifest", "dropped", "ended")
"""Kinds of journal records: a segment passes a point for each kind that is in it."""
REMOVAL = "removal"
PUTS = ("header", "launch", "modules", "spec", "partition", "takeover", *RECORDS)
"""What a run puts, in the order in which it begins to."""

_ROOTS = {"header.json": "header", "launch.pickle": "launch", "specs": "spec", "data": "partition"}
_LOOK_SECONDS = 0.01


def points() -> list[str]:
    """All points that runs of a local store pass."""
    puts = [f"{put}.{moment}" for put in PUTS for moment in MOMENTS]
    return [*puts, f"{REMOVAL}.before", f"{REMOVAL}.after"]


def armed(objects: Objects) -> Objects:
    """The same objects, whose puts and removals pass the points."""
    write, write_file, delete = objects.write, objects.write_file, objects.delete

    def pass_write(path: str, data: Any, *, if_absent: bool = False) -> None:
        kinds = kinds_of(path, data)
        _pass(kinds, "before")
        write(path, data, if_absent=if_absent)
        _pass(kinds, "after")

    def pass_write_file(path: str, source: str) -> None:
        _pass(kinds_of(path), "before")
        write_file(path, source)
        _pass(kinds_of(path), "after")

    def pass_delete(paths: Any) -> None:
        _pass([REMOVAL], "before")
        delete(paths)
        _pass([REMOVAL], "after")

    own: Any = objects
    own.write, own.write_file, own.delete = pass_write, pass_write_file, pass_delete
    if isinstance(objects, LocalObjects):
        publish = own._publish

        def pass_publish(name: str, target: str, if_absent: bool) -> None:
            path = target.removeprefix(f"{objects.root}/")
            _pass(kinds_of(path, Path(name).read_bytes()), "within")
            publish(name, target, if_absent)

        own._publish = pass_publish
    return objects


def kinds_of(path: str, data: Any = b"") -> list[str]:
    """What is put at a path: by its first folder; of a segment of the journal, what it tells."""
    root = path.partition("/")[0]
    if root != "journal":
        return [_ROOTS.get(root, root)]
    head, *records = (json.loads(line) for line in bytes(data).splitlines())
    return ["takeover"] if head["takeover"] else sorted({record["type"] for record in records})


def _pass(kinds: Iterable[str], moment: str) -> None:
    folder = Path(os.environ[VARIABLE])
    for kind in kinds:
        point = folder / f"{kind}.{moment}"
        number = _note(point.with_name(f"{point.name}.passed"))
        try:
            action, due = point.read_text().split()
        except FileNotFoundError:
            continue
        if number == int(due):
            _act(action, point)


def _note(file: Path) -> int:
    """Note that this process passes; the how-manieth it is."""
    with open(file, "a+b", buffering=0) as notes:
        fcntl.flock(notes, fcntl.LOCK_EX)
        notes.write(b"%d\n" % os.getpid())
        notes.seek(0)
        return len(notes.readlines())


def _act(action: str, point: Path) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "raise":
        raise StorageError(f"the failpoint {point.name} has failed")
    elif action == "wait":
        while point.exists():
            time.sleep(_LOOK_SECONDS)
    else:
        raise ValueError(f"{point}: unknown action {action!r}: use kill, raise or wait")
