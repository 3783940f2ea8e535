"""What a supervisor and its child say to each other: length-prefixed pickles on two pipes.

To the child::

    ("setup", Setup)                    first, once
    ("batch", run_id, batch, payload)   payload: a pickled `Batch`; one at a time
    ("control", run_id, batch, value)   value as in `Mark.CONTROL`
    end of file                         end

From the child::

    ("hello", Hello)                    first, once
    ("report", Report)                  the last of a batch has ``end``
    ("marks", (word, ...))              before each item, where the marks are not shared
    ("stale", run_id, batch)            the batch needs a fresh process; nothing of it ran
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core.interfaces import ORPHAN_SECONDS

PROTOCOL = 1
BODY = "headrace.core.worker:run_batch"
_HEADER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Versions:
    """What must fit between a driver and a worker."""

    protocol: int
    python: str
    headrace: str
    libraries: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Hello:
    """The child's first words."""

    pid: int
    host: str
    versions: Versions
    shared_marks: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child must know before its first batch."""

    path: tuple[str, ...] | None = None
    """``sys.path`` to take over, or None to keep its own."""
    cwd: str | None = None
    python_path: str | None = None
    """Value of ``PYTHONPATH`` that user code shall see; None: unset."""
    node: str = ""
    grace_seconds: float = ORPHAN_SECONDS
    """How long the running item may go on when the supervisor has vanished."""
    body: str = field(default_factory=lambda: BODY)
    """``module:function`` that runs a batch."""


def pack(message: tuple[Any, ...]) -> bytes:
    """One frame."""
    data = pickle.dumps(message, 5)
    return _HEADER.pack(len(data)) + data


class Unpacker:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """Messages that are complete with ``data``."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _HEADER.size:
                (size,) = _HEADER.unpack_from(buffer, start)
                stop = start + _HEADER.size + size
                if len(buffer) < stop:
                    break
                view = memoryview(buffer)[start + _HEADER.size : stop]
                try:
                    message = pickle.loads(view)
                finally:
                    view.release()
                start = stop
                yield message
        finally:
            del buffer[:start]


class Writer:
    """Writes whole frames to a file descriptor, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        """Write a frame; silently nothing when the other side is gone, as its end is seen elsewhere."""
        view = memoryview(pack(message))
        with self._lock:
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError:
                return


def versions(*, libraries: bool = False) -> Versions:
    """This process's versions; those of libraries only where somebody will look at them."""
    root = sys.modules[__name__.partition(".")[0]]
    found: list[tuple[str, str]] = []
    if libraries:
        from importlib.metadata import PackageNotFoundError, version

        for name in ("cloudpickle", "pyarrow", "numpy", "pandas", "polars"):
            try:
                found.append((name, version(name)))
            except PackageNotFoundError:
                continue
    python = "{}.{}.{}".format(*sys.version_info[:3])
    return Versions(PROTOCOL, python, str(vars(root).get("__version__", "")), tuple(found))


def misfit(driver: Versions, worker: Versions) -> str:
    """Why a worker cannot work for this driver, in one clause; empty if it can."""
    if driver.python.split(".")[:2] != worker.python.split(".")[:2]:
        return f"it runs Python {worker.python}, the driver {driver.python}"
    if driver.protocol != worker.protocol or (
        driver.headrace and worker.headrace and driver.headrace != worker.headrace
    ):
        return f"it has headrace {worker.headrace or '?'}, the driver {driver.headrace or '?'}"
    return ""


def differences(driver: Versions, worker: Versions) -> list[str]:
    """Library versions that differ: worth a warning."""
    theirs = dict(worker.libraries)
    return [
        f"{name} {theirs.get(name, 'missing')} (driver: {mine})"
        for name, mine in driver.libraries
        if theirs.get(name) != mine
    ]
