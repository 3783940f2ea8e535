"""Where a store is: URLs, paths and names, checked and freed of secrets.

Nothing here touches a file system. A location's root is absolute, so that it means the same after a
change of folder and in another process; names below it can never lead out of it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..core.errors import ConfigurationError

LOCAL = "file"
MEMORY = "memory"

ALIASES = {"local": LOCAL, "s3a": "s3", "gcs": "gs"}

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed URL: ``scheme``, the path that its file system understands, and what may be shown."""

    scheme: str
    path: str
    """Absolute path (local), or ``bucket/prefix`` (remote), without a trailing slash."""
    url: str
    """The location as a URL, or as an absolute path when it is local. Holds no secret."""
    source: str
    """What to hand to fsspec; may hold credentials, so it is never shown."""

    def __repr__(self) -> str:
        return f"Location({self.url!r})"


def parse_location(url: str | os.PathLike[str]) -> Location:
    """Read a path or a URL.

    Raises
    ------
    ConfigurationError
        It is empty, holds a NUL, names no bucket, or climbs with ``..`` behind its scheme.
    """
    text = os.fspath(url)
    if not text or "\0" in text:
        raise ConfigurationError(f"not a storage location: {text!r}")
    match = _SCHEME.match(text)
    if match is None:
        if text.startswith("~"):
            text = os.path.expanduser(text)
        return _local(text)
    scheme = ALIASES.get(match[1].lower(), match[1].lower())
    rest = text[match.end() :]
    if scheme == LOCAL:
        return _local(_file_url_path(text))
    if ".." in rest.split("/"):
        raise ConfigurationError(f"a storage URL may not contain '..': {without_secrets(text)}")
    if scheme == MEMORY:
        path = "/" + rest.strip("/")
        return Location(scheme, path, f"memory:/{path}", f"memory:/{path}")
    tail = rest.rstrip("/")
    if not tail.strip("/"):
        raise ConfigurationError(
            f"{scheme}:// names no bucket or host: write {scheme}://bucket/prefix"
        )
    source = f"{scheme}://{tail}"
    return Location(scheme, tail, without_secrets(source), source)


def _local(path: str) -> Location:
    full = os.path.abspath(path)
    return Location(LOCAL, full, full, full)


def _file_url_path(url: str) -> str:
    """Path of a ``file://`` URL; ``file://relative`` is taken as fsspec takes it, as a path."""
    rest = url.split("://", 1)[1]
    if rest.startswith("localhost/"):
        rest = rest[len("localhost") :]
    if not rest:
        raise ConfigurationError("file:// names no folder: write file:///folder")
    return unquote(rest) if "%" in rest and not Path(rest).exists() else rest


def without_secrets(url: str) -> str:
    """The URL without ``user:password@`` and, where a query may hold a signature, without it."""
    scheme, rest = url.split("://", 1)
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme in ("http", "https"):
        path = urlsplit(f"x://x/{path}").path.lstrip("/")
    return f"{scheme}://{host}{slash}{path}"


def check_run_id(run_id: str) -> str:
    """A run id that can be a folder's name.

    Raises
    ------
    ConfigurationError
        It has other characters than letters, digits, ``.``, ``_`` and ``-``, or starts with a dot.
    """
    if _RUN_ID.fullmatch(run_id) is None:
        raise ConfigurationError(
            f"not a run id: {run_id[:140]!r} (letters, digits, '.', '_', '-'; at most 128)"
        )
    return run_id


def check_path(path: str, *, prefix: bool = False) -> str:
    """A relative path that stays below its root; with ``prefix``, also one that ends anywhere.

    Raises
    ------
    ConfigurationError
        It is absolute or empty, or has empty, ``.`` or ``..`` segments, a backslash or a NUL.
    """
    if prefix and path == "":
        return path
    segments = path.split("/")
    if prefix and segments[-1] == "":
        segments.pop()
    if (
        not segments
        or any(segment in ("", ".", "..") for segment in segments)
        or "\\" in path
        or "\0" in path
    ):
        raise ConfigurationError(f"not a path inside a store: {path!r}")
    return path
