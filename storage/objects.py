"""Whole objects on any file system: put, get, list, delete. The verbs that everything else uses.

An object becomes visible complete or not at all, and "if absent" has exactly one winner:

- local: a temporary file in the same folder, then ``rename`` (or ``link`` for if-absent);
- ``memory://``: under a lock of the process;
- remote: one PUT or one multipart upload; if-absent is the server's own conditional PUT
  (fsspec's ``mode="create"``), marked with the writer's token, so that an answer that was lost on
  the way cannot make a winner believe that it lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ..core import forks
from ..core.errors import AlreadyExistsError, StorageError
from ..core.interfaces import ObjectInfo
from .filesystems import SILENCE_SECONDS, open_filesystem, reveal
from .locations import LOCAL, MEMORY, Location
from .retrying import Backoff, as_storage_error, is_transient, retrying

T = TypeVar("T")

PROBE = ".headrace-probe-"
"""Beginning of the names of objects that find out what a store can do."""

SLOWEST = 100_000
"""Bytes a second with which a put is still waited for."""

_logger = logging.getLogger("headrace.storage")
_one_winner: dict[Any, bool] = {}
"""By file system and bucket."""


class Objects(Protocol):
    """Objects below one root. Paths are relative and were checked by the caller."""

    location: Location
    other: Any
    """(run id) -> the objects of another run of the store. Set by the store."""

    def write(self, path: str, data: Any, *, if_absent: bool = False) -> None:
        """Put bytes (or a buffer) whole."""
        ...

    def one_winner(self) -> bool:
        """Whether "if absent" has exactly one winner here; tried out, once per store and process.

        Where it has not, `write` looks first and then puts, which is good for one writer at a time.
        """
        ...

    def write_file(self, path: str, source: str) -> None:
        """Put a local file whole; the source is consumed."""
        ...

    def move(self, path: str, target: str) -> None:
        """Give an object another path: a rename on disk, a copy by the server elsewhere.

        The target appears whole. Elsewhere the object stays, too, until it is deleted.
        """
        ...

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of an object or of a range of it (negative: from its end)."""
        ...

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Objects whose path begins with ``prefix``, sorted."""
        ...

    def unfinished(self) -> list[ObjectInfo]:
        """What a writer that died has left half written, and `list` does not show."""
        ...

    def delete(self, paths: Sequence[str]) -> None: ...

    def folders(self) -> list[str]:
        """Names of the folders right below the root."""
        ...

    def local_path(self, path: str) -> str | None:
        """Where the object is on this machine's disk, if it is."""
        ...

    def url_of(self, path: str) -> str:
        """For messages and other readers; without secrets."""
        ...

    def path_of(self, path: str) -> str:
        """As its file system knows it."""
        ...


def open_objects(
    location: Location, options: Mapping[str, Any], backoff: Backoff = Backoff()
) -> Objects:
    """The objects below a location.

    Raises
    ------
    ConfigurationError, MissingExtraError
        No such scheme, or its package is not installed.
    """
    objects = _open_objects(location, options, backoff)
    if "HEADRACE_FAILPOINTS" in os.environ:
        from .failpoints import armed

        return armed(objects)
    return objects


def _open_objects(location: Location, options: Mapping[str, Any], backoff: Backoff) -> Objects:
    if location.scheme == LOCAL:
        from .localfiles import LocalObjects

        fsync = str(reveal(options).get("fsync", "")).lower() in ("true", "1", "yes", "on")
        return LocalObjects(location, fsync=fsync)
    filesystem = open_filesystem(location, options)
    if location.scheme == MEMORY:
        return MemoryObjects(location, filesystem)
    return RemoteObjects(location, filesystem, backoff)


class FsspecObjects:
    """What the fsspec-backed ones share."""

    other: Any

    def __init__(self, location: Location, filesystem: Any) -> None:
        self.location = location
        self.filesystem = filesystem
        self.root: str = filesystem._strip_protocol(location.source).rstrip("/")

    def path_of(self, path: str) -> str:
        return f"{self.root}/{path}"

    def url_of(self, path: str) -> str:
        return f"{self.location.url}/{path}"

    def local_path(self, path: str) -> str | None:
        return None

    def unfinished(self) -> list[ObjectInfo]:
        return []

    def _find(self, prefix: str) -> list[ObjectInfo]:
        folder, _, beginning = prefix.rpartition("/")
        full = self.path_of(folder) if folder else self.root
        try:
            found: dict[str, dict[str, Any]] = self.filesystem.find(
                full, detail=True, **self._find_options(beginning)
            )
        except FileNotFoundError:
            return []
        cut = len(self.root) + 1
        infos = [
            ObjectInfo(name[cut:], int(info.get("size") or 0), modified_time(info))
            for name, info in found.items()
            if name[cut:].startswith(prefix) and info.get("type") != "directory"
        ]
        return sorted(infos, key=lambda info: info.path)

    def _find_options(self, beginning: str) -> dict[str, Any]:
        """A server-side name prefix, where the file system knows one."""
        if beginning and self.location.scheme in ("s3", "gs"):
            return {"prefix": beginning}
        return {}

    def _folders(self) -> list[str]:
        try:
            entries: list[dict[str, Any]] = self.filesystem.ls(self.root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            str(entry["name"]).rstrip("/").rpartition("/")[2]
            for entry in entries
            if entry["type"] == "directory"
        )


_MEMORY_LOCK = forks.own_lock(threading.RLock())


class MemoryObjects(FsspecObjects):
    """fsspec's process-wide ``memory://``, made atomic by a lock."""

    def write(self, path: str, data: Any, *, if_absent: bool = False) -> None:
        full = self.path_of(path)
        with _MEMORY_LOCK:
            if if_absent and full in self.filesystem.store:
                raise AlreadyExistsError(f"cannot write {self.url_of(path)}: it exists already")
            self.filesystem.pipe_file(full, bytes(data))

    def one_winner(self) -> bool:
        return True

    def write_file(self, path: str, source: str) -> None:
        with open(source, "rb") as file:
            self.write(path, file.read())
        os.unlink(source)

    def move(self, path: str, target: str) -> None:
        self.write(target, self.read(path))

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        with _MEMORY_LOCK:
            try:
                return self.filesystem.cat_file(self.path_of(path), start, end)
            except FileNotFoundError as error:
                raise as_storage_error(error, "read", self.url_of(path)) from None

    def list(self, prefix: str) -> list[ObjectInfo]:
        with _MEMORY_LOCK:
            return self._find(prefix)

    def delete(self, paths: Sequence[str]) -> None:
        with _MEMORY_LOCK:
            for path in paths:
                self.filesystem.store.pop(self.path_of(path), None)

    def folders(self) -> list[str]:
        with _MEMORY_LOCK:
            return self._folders()


class RemoteObjects(FsspecObjects):
    """An object store behind fsspec: s3fs, gcsfs and the like. Every call retries what passes."""

    def __init__(self, location: Location, filesystem: Any, backoff: Backoff) -> None:
        super().__init__(location, filesystem)
        self.backoff = backoff

    def write(self, path: str, data: Any, *, if_absent: bool = False) -> None:
        value = data if isinstance(data, bytes) else bytes(data)
        full, limit = self.path_of(path), self._limit(len(value))
        if not if_absent:
            self._try("write", path, lambda: self.filesystem.pipe_file(full, value, **limit))
            return
        if self.one_winner():
            self._create(path, value)
        elif self._try("look for", path, lambda: bool(self.filesystem.exists(full))):
            raise AlreadyExistsError(f"cannot write {self.url_of(path)}: it exists already")
        else:
            self._try("write", path, lambda: self.filesystem.pipe_file(full, value, **limit))

    def one_winner(self) -> bool:
        key = hash(self.filesystem), self.root.split("/")[0]
        found = _one_winner.get(key)
        if found is None:
            found = _one_winner[key] = self._probe()
        return found

    def _probe(self) -> bool:
        """Put an object twice on condition that it is absent: the second put must be refused."""
        from fsspec.spec import AbstractFileSystem

        kind = type(self.filesystem)
        if kind.pipe_file is AbstractFileSystem.pipe_file and not hasattr(kind, "_pipe_file"):
            return False  # fsspec's own looks first and then puts
        path = f"{PROBE}{os.urandom(8).hex()}"
        try:
            for value in (b"first", b"second"):  # told apart where an answer is lost
                self._create(path, value)
        except AlreadyExistsError:
            return True
        except StorageError as error:
            if error.__cause__ is not None and is_transient(error.__cause__):
                raise  # an outage tells nothing of conditions: they are tried again
            # The condition may be what is refused. If it is the store as a whole, this tells.
            self._try("write", path, lambda: self.filesystem.pipe_file(self.path_of(path), b""))
            _logger.debug("no conditional put at %s: %s", self.location.url, error)
        finally:
            with contextlib.suppress(StorageError):
                full = self.path_of(path)
                self._try("delete", path, lambda: remove_objects(self.filesystem, [full]))
        return False

    def _create(self, path: str, value: bytes) -> None:
        """Put an object by the server's own conditional put."""
        full, token = self.path_of(path), os.urandom(8).hex()
        marks, limit = writer_mark(self.location.scheme, token), self._limit(len(value))
        doubtful = False

        def create() -> None:
            nonlocal doubtful
            try:
                self.filesystem.pipe_file(full, value, mode="create", **marks, **limit)
            except Exception as error:  # looked at and raised again
                if not refused_as_present(error):
                    doubtful = doubtful or is_transient(error)
                    raise
                if not self._is_ours(full, value, token if marks else None, doubtful):
                    raise FileExistsError(full) from error

        self._try("write", path, create)

    def _is_ours(self, full: str, value: bytes, token: str | None, doubtful: bool) -> bool:
        """Whether the object that is there is the one that we put: an answer may have been lost."""
        if token is not None:
            return token in read_marks(self.filesystem, self.location.scheme, full)
        return doubtful and self.filesystem.cat_file(full) == value

    def write_file(self, path: str, source: str) -> None:
        full, limit = self.path_of(path), self._limit(os.path.getsize(source))
        self._try("write", path, lambda: self.filesystem.put_file(source, full, **limit))
        os.unlink(source)

    def move(self, path: str, target: str) -> None:
        one, other = self.path_of(path), self.path_of(target)
        self._try("copy", path, lambda: self.filesystem.cp_file(one, other))

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        full = self.path_of(path)
        return self._try("read", path, lambda: self.filesystem.cat_file(full, start=start, end=end))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self._try("list", prefix, lambda: self._find(prefix))

    def delete(self, paths: Sequence[str]) -> None:
        full = [self.path_of(path) for path in paths]

        def remove() -> None:
            for start in range(0, len(full), 1000):
                remove_objects(self.filesystem, full[start : start + 1000])

        if full:
            self._try("delete", paths[0], remove)

    def folders(self) -> list[str]:
        return self._try("list", "", self._folders)

    def _limit(self, size: int) -> dict[str, float]:
        """The argument of a put that ends it when it takes too long.

        The libraries end only what waits for an answer: of a server that does not take what is sent,
        or does not say that it may be sent, aiohttp waits for ever.
        """
        if not getattr(self.filesystem, "async_impl", False):
            return {}
        return {"timeout": SILENCE_SECONDS + size / SLOWEST}  # of `fsspec.asyn.sync`

    def _try(self, operation: str, path: str, call: Callable[[], T]) -> T:
        return retrying(call, operation=operation, url=self.url_of(path), backoff=self.backoff)


def refused_as_present(error: Exception) -> bool:
    """Whether a conditional put was refused because the object is there.

    Ceph does not name the condition in its answer, of which s3fs then makes a plain `OSError`.
    """
    if isinstance(error, FileExistsError):
        return True
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") in (
        "PreconditionFailed",
        "412",
    )


def writer_mark(scheme: str, token: str) -> dict[str, Any]:
    """Arguments of ``pipe_file`` that leave the writer's token in the object's metadata."""
    if scheme == "s3":
        return {"Metadata": {"headrace-writer": token}}
    if scheme == "gs":
        return {"metadata": {"headrace-writer": token}}
    return {}


def read_marks(filesystem: Any, scheme: str, full: str) -> list[str]:
    """The values of an object's user metadata."""
    if scheme == "s3":
        found: Mapping[str, Any] = filesystem.metadata(full, refresh=True) or {}
    else:
        found = filesystem.info(full).get("metadata") or {}
    return [str(value) for value in found.values()]


def remove_objects(filesystem: Any, full: list[str]) -> None:
    """Delete in bulk; when something of it is absent already, one by one."""
    try:
        filesystem.rm(full)
    except FileNotFoundError:
        for name in full:
            try:
                filesystem.rm_file(name)
            except FileNotFoundError:
                continue


def modified_time(info: Mapping[str, Any]) -> float:
    """Modification time in epoch seconds, under whichever name the file system gives it."""
    for name in (
        "LastModified",
        "mtime",
        "updated",
        "modified",
        "last_modified",
        "created",
        "Last-Modified",
    ):
        value = info.get(name)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            from datetime import datetime
            from email.utils import parsedate_to_datetime

            read = parsedate_to_datetime if name == "Last-Modified" else datetime.fromisoformat
            return read(value).timestamp()
        if value is not None and hasattr(value, "timestamp"):
            return float(value.timestamp())
    return 0.0
