"""Where input files are: a location with its options, opened anew in each process."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from ..core import forks
from .filesystems import open_filesystem, reveal
from .locations import LOCAL, MEMORY, Location, without_secrets
from .objects import modified_time
from .retrying import retrying

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".xz": "xz"}
"""Endings of compressed files of lines, and what pyarrow calls it, which knows all but the last."""
_AHEAD = 8 << 20
_opened: dict[Any, Any] = forks.own({})


@dataclass(frozen=True)
class Source:
    """A file system: scheme and options. Its repr shows neither keys nor secrets."""

    location: Location
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def __hash__(self) -> int:
        return hash(self.location)

    @property
    def __headrace_secret__(self) -> bool:
        """Options may be credentials: with any it is not written to a run's records."""
        return bool(self.options)

    @property
    def local(self) -> bool:
        return self.location.scheme == LOCAL

    @property
    def filesystem(self) -> Any:
        """The fsspec file system; one per process, scheme and options."""
        key = self.location.scheme, repr(sorted(reveal(self.options).items()))
        found = _opened.get(key)
        if found is None:
            if self.local:
                from fsspec.implementations.local import LocalFileSystem

                found = LocalFileSystem()
            else:
                found = open_filesystem(self.location, self.options)
            _opened[key] = found
        return found

    def arrow(self, *, mapped: bool = False) -> Any:
        """The same as a pyarrow file system; one that maps local files into memory, where asked for."""
        from pyarrow import fs

        if self.local:
            return fs.LocalFileSystem(use_mmap=mapped)
        if self.location.scheme in ("s3", "gs"):
            from .scanhandler import UncachedHandler

            handler: Any = UncachedHandler
        elif self.location.scheme == MEMORY:
            from .scanhandler import WholeHandler

            handler = WholeHandler
        else:
            from .scanhandler import OpenedHandler

            handler = OpenedHandler
        return fs.PyFileSystem(handler(self))

    def open_lines(self, path: str) -> Any:
        """A file that is read from its begin to its end, or from somewhere on: fetched ahead."""
        if self.local:
            return open(path, "rb")
        if self.location.scheme == MEMORY:  # whose file object all who open it share
            return io.BytesIO(self.filesystem.cat_file(path))
        return self.open(path, cache_type="readahead", block_size=_AHEAD)

    def open(self, path: str, **how: Any) -> Any:
        """A file for random access, by fsspec; a server that is busy is asked again, for each range, too."""
        opening = partial(self.filesystem.open, path, "rb", **how)
        file = retrying(opening, operation="read", url=self.show(path))
        cache = getattr(file, "cache", None)
        if cache is not None:
            cache.fetcher = partial(self._asked_again, path, cache.fetcher)
        return file

    def _asked_again(self, path: str, fetcher: Any, *range: int) -> Any:
        return retrying(partial(fetcher, *range), operation="read", url=self.show(path))

    def fetch(self, path: str) -> bytes:
        """A file's bytes, by one request: s3fs would ask for the size first, to fetch parts side by side.

        A server that is busy is asked again.
        """
        files = self.filesystem
        alone = {"max_concurrency": 1} if hasattr(files, "max_concurrency") else {}
        fetching = partial(files.cat_file, path, **alone)
        return retrying(fetching, operation="read", url=self.show(path))

    def state_of(self, path: str, info: Mapping[str, Any]) -> tuple[int, str, float]:
        """Of a file, as the file system describes it: size, what changes with it, modification time."""
        modified = modified_time(info)
        if self.local:
            modified, stamp = _local_times(path, info)
        else:
            stamp = str(info.get("ETag") or info.get("etag") or f"{modified:.6f}").strip('"')
        return int(info.get("size") or 0), stamp, modified

    def show(self, path: str) -> str:
        """A path of this file system as a URL without secrets."""
        if self.local:
            return path
        return without_secrets(
            path if "://" in path else f"{self.location.scheme}://{path.lstrip('/')}"
        )


def _local_times(name: str, info: Mapping[str, Any]) -> tuple[float, str]:
    """Modification time of a local file, and what changes with the file.

    Who replaces a file may give it the old one's time of modification (``cp -p``, ``rsync -t``), but not
    its time of change (of creation, where that is what the platform tells). fsspec tells a link's own.
    """
    modified, changed = float(info["mtime"]), float(info["created"])
    if info["islink"]:
        status = os.stat(name)
        modified, changed = status.st_mtime, status.st_ctime
    return modified, f"{modified:.6f}-{changed:.6f}"


def decompressed(file: Any, path: str) -> Any:
    """An opened file as it was before it was compressed, by the ending of its name."""
    codec = COMPRESSED.get(ending_of(path))
    if codec is None:
        return file
    if codec == "xz":
        from .xzfiles import XzFile

        return io.BufferedReader(XzFile(file), 1 << 20)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), cast("Any", codec))


def ending_of(path: str) -> str:
    """The last ending of a name, in small letters."""
    return posixpath.splitext(path)[1].lower()
