"""Objects on a local (or mounted) disk, by direct system calls."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
from collections.abc import Sequence
from typing import Any

from ..core import forks
from ..core.errors import AlreadyExistsError, StorageError
from ..core.interfaces import ObjectInfo
from .locations import Location
from .retrying import as_storage_error

TEMPORARY = ".tmp-"
"""Beginning of the names of files that are being written: never listed, never read."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What ``link`` says on file systems without hard links, such as exFAT and some of FUSE's."""

_links: dict[str, bool] = {}
"""By folder: whether it takes hard links."""
_counter = itertools.count()
_seen: set[str] = set()
_seen_lock = forks.own_lock(threading.Lock())


class LocalObjects:
    """Objects below a folder. A folder that was there and has vanished is an error, not made anew.

    With ``fsync`` an object, and its name, are on the disk when `write` returns, so that they outlive
    a loss of power; without, only the death of processes.
    """

    other: Any

    def __init__(self, location: Location, *, fsync: bool = False) -> None:
        self.location = location
        self.fsync = fsync
        self.root = location.path

    def url_of(self, path: str) -> str:
        return f"{self.root}/{path}"

    def path_of(self, path: str) -> str:
        return f"{self.root}/{path}"

    def local_path(self, path: str) -> str | None:
        return f"{self.root}/{path}"

    def temporary(self, near: str) -> str:
        """A fresh name beside the object ``near``, on its file system; its folder is made."""
        folder = f"{self.root}/{near}".rpartition("/")[0]
        self._make_folder(folder)
        return f"{folder}/{TEMPORARY}{os.getpid()}-{next(_counter)}-{os.urandom(4).hex()}"

    def write(self, path: str, data: Any, *, if_absent: bool = False) -> None:
        target = f"{self.root}/{path}"
        folder = target.rpartition("/")[0]
        name = f"{folder}/{TEMPORARY}{os.getpid()}-{next(_counter)}-{os.urandom(4).hex()}"
        try:
            try:
                _write_new(name, data, self.fsync)
            except FileNotFoundError:
                self._make_folder(folder)
                _write_new(name, data, self.fsync)
            self._publish(name, target, if_absent)
            if self.fsync:
                _sync(folder)
        except OSError as error:
            _unlink_quietly(name)
            if isinstance(error, StorageError):
                raise
            raise self._unwritten(error, target) from error
        self._remember()

    def write_file(self, path: str, source: str) -> None:
        target = f"{self.root}/{path}"
        try:
            folder = target.rpartition("/")[0]
            self._make_folder(folder)
            if self.fsync:
                _sync(source)
            try:
                os.replace(source, target)
            except OSError:  # another file system: copy beside the target first
                name = self.temporary(path)
                shutil.copyfile(source, name)
                if self.fsync:
                    _sync(name)
                os.replace(name, target)
                _unlink_quietly(source)
            if self.fsync:
                _sync(folder)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise self._unwritten(error, target) from error
        self._remember()

    def move(self, path: str, target: str) -> None:
        self.write_file(target, f"{self.root}/{path}")

    def _publish(self, name: str, target: str, if_absent: bool) -> None:
        if not if_absent:
            os.replace(name, target)
            return
        try:
            self._link(name, target)
        except FileExistsError:
            raise AlreadyExistsError(f"cannot write {target}: it exists already") from None
        finally:
            _unlink_quietly(name)

    @staticmethod
    def _link(name: str, target: str) -> None:
        try:
            os.link(name, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise FileExistsError(target) from None
            os.replace(name, target)

    def one_winner(self) -> bool:
        store = os.path.dirname(self.root)
        if store not in _links:
            first = self.temporary("probe")
            try:
                _write_new(first, b"")
                os.link(first, f"{first}-linked")
                _links[store] = True
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise as_storage_error(error, "write", first) from error
                _links[store] = False
            finally:
                _unlink_quietly(first)
                _unlink_quietly(f"{first}-linked")
        return _links[store]

    def _make_folder(self, folder: str) -> None:
        if os.path.isdir(folder):
            return
        if self.root in _seen and not os.path.isdir(self.root):
            raise self._vanished(folder)
        os.makedirs(folder, exist_ok=True)
        while self.fsync and len(folder) > len(self.root.rpartition("/")[0]):
            folder = folder.rpartition("/")[0]  # the names of the folders themselves
            _sync(folder)

    def _unwritten(self, error: OSError, target: str) -> StorageError:
        if isinstance(error, FileNotFoundError) and self.root in _seen:
            return self._vanished(target)  # its folder was made a moment ago
        return as_storage_error(error, "write", target)

    def _vanished(self, target: str) -> StorageError:
        return StorageError(
            f"cannot write {target}: the folder {self.root} has vanished while it was in use "
            "(removed, or its disk is not mounted any more)"
        )

    def _remember(self) -> None:
        if self.root not in _seen:
            with _seen_lock:
                _seen.add(self.root)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        name = f"{self.root}/{path}"
        try:
            with open(name, "rb") as file:
                if start is None and end is None:
                    data = file.read()
                else:
                    size = os.fstat(file.fileno()).st_size
                    first, last, _ = slice(start, end).indices(size)
                    file.seek(first)
                    data = file.read(max(0, last - first))
        except OSError as error:
            raise as_storage_error(error, "read", name) from error
        self._remember()
        return data

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [info for info in self._all(prefix) if not _is_temporary(info)]

    def unfinished(self) -> list[ObjectInfo]:
        return [info for info in self._all("") if _is_temporary(info)]

    def _all(self, prefix: str) -> list[ObjectInfo]:
        folder, _, beginning = prefix.rpartition("/")
        found: list[ObjectInfo] = []
        try:
            self._walk(folder, beginning, found)
        except OSError as error:
            raise as_storage_error(error, "list", f"{self.root}/{prefix}") from error
        return sorted(found, key=lambda info: info.path)

    def _walk(self, folder: str, beginning: str, found: list[ObjectInfo]) -> None:
        base = f"{folder}/" if folder else ""
        try:
            entries = os.scandir(f"{self.root}/{folder}" if folder else self.root)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if not entry.name.startswith(beginning):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    self._walk(base + entry.name, "", found)
                    continue
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # removed since the folder was read
                    continue
                found.append(ObjectInfo(base + entry.name, stat.st_size, stat.st_mtime))

    def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            name = f"{self.root}/{path}"
            try:
                os.unlink(name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise as_storage_error(error, "delete", name) from error

    def folders(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise as_storage_error(error, "list", self.root) from error

    def forget(self) -> None:
        """From now on the root may be made anew: others may have removed it."""
        with _seen_lock:
            _seen.discard(self.root)

    def remove_tree(self) -> None:
        """Remove the root and all below it, temporary files included."""
        self.forget()
        try:
            shutil.rmtree(self.root)
        except FileNotFoundError:
            return
        except OSError as error:
            raise as_storage_error(error, "delete", self.root) from error


def _is_temporary(info: ObjectInfo) -> bool:
    return info.path.rpartition("/")[2].startswith(TEMPORARY)


def _write_new(name: str, data: Any, fsync: bool = False) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        view = memoryview(data).cast("B")
        while len(view):
            view = view[os.write(fd, view) :]
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync(name: str) -> None:
    """Have the bytes of a file, or the names in a folder, on the disk."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink_quietly(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)
