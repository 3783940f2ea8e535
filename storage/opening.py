"""Finding input files: listings, formats by ending, manifests, and columns told by folders."""

from __future__ import annotations

import json
import os
import posixpath
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, cast
from urllib.parse import unquote

from ..core.errors import ConfigurationError, NotFoundError
from .locations import LOCAL, Location, parse_location
from .pieces import Piece
from .retrying import answered, as_storage_error, retrying
from .scanning import FIXED_SCHEMAS, FilePiece, TablePiece
from .sources import COMPRESSED, Source

MANIFEST = "_headrace_manifest.json"
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
Constants = tuple[tuple[str, Any], ...]
LINES = frozenset({"csv", "jsonl", "text"})
FORMATS = ("parquet", "arrow", "csv", "jsonl", "text", "files")
_ENDINGS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".text": "text",
}
_LISTERS = 16
_MOST_LISTINGS = 256
"""With more folders than that, pages of a thousand objects are fewer requests than folders."""

Uri = str | os.PathLike[str]


def find_pieces(
    uri: Uri | Sequence[Uri], format: str | None, options: Mapping[str, Any], schema: Any
) -> list[Piece]:
    """The files of one or several locations. See `storage.datasets.open_dataset`."""
    if format is not None and format not in FORMATS:
        raise ConfigurationError(f"unknown format {format!r}: use one of {', '.join(FORMATS)}")
    uris: Iterable[Uri] = [uri] if isinstance(uri, (str, os.PathLike)) else uri
    return [piece for one in uris for piece in _pieces(one, format, options, schema)]


def _pieces(uri: Uri, format: str | None, options: Mapping[str, Any], schema: Any) -> list[Piece]:
    location = parse_location(uri)
    source = Source(location, dict(options))
    path = root_path(location, source)
    constants: Mapping[str, Constants] = {}
    manifest: dict[str, Any] | None = None
    for again in (True, True, False):
        listed, folder = retrying(lambda: _listed(source, path), operation="list", url=location.url)
        manifest = read_manifest(source, path) if folder else None
        constants = {} if manifest is None else _constants(manifest, path)
        missing = [name for name in constants if name not in listed]
        if not missing:
            break
        if not again:  # else it was replaced between the listing and the manifest
            raise NotFoundError(f"{source.show(missing[0])} is in the manifest and not there")
    if folder:
        if manifest is not None:
            listed = {name: listed[name] for name in constants}
        else:
            listed = {n: i for n, i in sorted(listed.items()) if not hidden(n[len(path) :])}
    if not listed and not folder:
        raise NotFoundError(f"cannot open {location.url}: there is no such file")
    out: list[Piece] = []
    for name, info in listed.items():
        own = format or _format_of(source.show(name), location.url)
        if info.get("size") == 0 and own in LINES:
            continue  # no rows and no columns, not even a header: jobs leave such files
        told = constants[name] if name in constants else _hive(_below(name, path, folder, schema))
        out.append(cast(Piece, _piece(source, name, info, own, typed(told, schema))))
    if manifest is not None and not out and "schema" in manifest:
        out.append(cast(Piece, TablePiece(_empty(manifest))))
    return out


def _below(name: str, path: str, folder: bool, schema: Any) -> str:
    """The part of a file's path whose folders tell columns: below the folder or a glob's first pattern."""
    if schema is not None:  # which says itself which folders tell columns
        return name
    fixed = path if folder else re.split(r"[*?[]", path, maxsplit=1)[0].rpartition("/")[0]
    return name[len(fixed) :]


def typed(constants: Constants, schema: Any) -> Constants:
    """A folder's columns as a stated schema has them; those that it has not are left out.

    Raises
    ------
    ConfigurationError
        A folder's name is no value of the stated type.
    """
    import pyarrow as pa

    if schema is None or not constants:
        return constants
    try:
        return tuple((n, v.cast(schema.field(n).type)) for n, v in constants if n in schema.names)
    except pa.ArrowException as error:
        told = "/".join(f"{name}={value}" for name, value in constants)
        raise ConfigurationError(
            f"folder {told} does not fit the stated schema: {error}"
        ) from error


def root_path(location: Location, source: Source) -> str:
    """A location's path as its file system knows it."""
    if location.scheme == LOCAL:
        return location.path
    return str(source.filesystem._strip_protocol(location.source)).rstrip("/")


def _listed(source: Source, path: str) -> tuple[dict[str, Any], bool]:
    """Files by name, and whether the path is a folder."""
    filesystem = source.filesystem
    try:
        info = filesystem.info(path)
    except FileNotFoundError as error:
        if answered(error) is not error:
            raise
        info = None
    if info is not None and info["type"] != "directory":
        return {str(info["name"]): info}, False
    if info is not None:
        return _files(_found(source, path)), True
    if any(character in path for character in "*?["):
        found = _files(filesystem.glob(path, detail=True))
        if source.location.scheme in ("http", "https"):  # whose listings are links
            found = {name: filesystem.info(name) for name in found}
        if not path.rpartition("/")[2].startswith("."):  # as a shell has it
            found = {
                n: info for n, info in found.items() if not PurePosixPath(n).name.startswith(".")
            }
        return dict(sorted(found.items())), False
    return {}, False


def _found(source: Source, path: str) -> dict[str, Any]:
    """All below a folder; its own folders side by side where a listing's pages follow one another."""
    filesystem = source.filesystem
    paged = source.location.scheme in ("s3", "gs")
    top: list[Any] = filesystem.ls(path, detail=True) if paged else []
    folders = [str(info["name"]) for info in top if info["type"] == "directory"]
    if not paged or len(folders) == 1 or len(folders) > _MOST_LISTINGS:
        return filesystem.find(path, detail=True)
    found = {n: info for info in top if (n := str(info["name"])).rstrip("/") != path}
    with ThreadPoolExecutor(_LISTERS, "headrace-listings") as pool:
        for more in pool.map(lambda folder: filesystem.find(folder, detail=True), folders):
            found.update(more)
    return found


def _files(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(name): info
        for name, info in found.items()
        if info["type"] != "directory" and not str(name).endswith("/")
    }


def hidden(relative: str) -> bool:
    """Whether a part of a path below the root marks it as no data, as Hive and Spark have it."""
    return any(
        part.startswith((".", "_")) and "=" not in part for part in relative.split("/") if part
    )


def _format_of(name: str, where: str) -> str:
    plain, ending = posixpath.splitext(name)
    if ending.lower() in COMPRESSED:
        ending = posixpath.splitext(plain)[1]
    found = _ENDINGS.get(ending.lower())
    if found is None:
        raise ConfigurationError(
            f"cannot tell the format of {PurePosixPath(name).name} in {where}: "
            f"pass format= ({', '.join(FORMATS)})"
        )
    return found


def _piece(
    source: Source, name: str, info: Mapping[str, Any], format: str, constants: Constants
) -> FilePiece:
    size, stamp, modified = source.state_of(name, info)
    return FilePiece(
        source,
        name,
        format,
        size,
        stamp,
        modified,
        rows=1 if format == "files" else None,
        constants=() if format in FIXED_SCHEMAS else constants,
    )


def _constants(manifest: Mapping[str, Any], folder: str) -> dict[str, Constants]:
    """The files that a manifest names, in order, with the columns that are not in them."""
    import pyarrow as pa

    types: dict[str, Any] = {}
    if manifest.get("partition_schema"):
        schema = pa.ipc.read_schema(pa.py_buffer(b64decode(manifest["partition_schema"])))
        types = {field.name: field.type for field in schema}
    out: dict[str, Constants] = {}
    for file in manifest["files"]:
        values: Mapping[str, str | None] = file.get("values") or {}
        out[f"{folder}/{file['path']}"] = tuple(
            (name, pa.scalar(values.get(name), pa.string()).cast(kind))
            for name, kind in (types or dict.fromkeys(values, pa.string())).items()
        )
    return out


def _empty(manifest: Mapping[str, Any]) -> Any:
    """A table without rows, as a folder without files would have it: folders' columns are the last."""
    import pyarrow as pa

    schema = pa.ipc.read_schema(pa.py_buffer(b64decode(manifest["schema"])))
    by = manifest["partition_by"]
    rest = [name for name in schema.names if name not in by]
    return schema.empty_table().select([*rest, *by])


def folder_values(relative: str) -> dict[str, str | None]:
    """What a path's ``name=value`` folders tell, as text: what it means, only a schema can say."""
    pairs = [part.split("=", 1) for part in relative.split("/")[:-1] if "=" in part]
    return {unquote(n): None if v == NULL_FOLDER else unquote(v) for n, v in pairs}


def _hive(relative: str) -> Constants:
    if "=" not in relative:
        return ()
    import pyarrow as pa

    return tuple((n, pa.scalar(v, pa.string())) for n, v in folder_values(relative).items())


def read_manifest(source: Source, folder: str) -> dict[str, Any] | None:
    """A folder's manifest, or None. Raises `ConfigurationError` where it cannot be read."""
    path = f"{folder}/{MANIFEST}"
    try:
        text = source.filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_storage_error(error, "read", source.show(path)) from error
    try:
        manifest = json.loads(text)
        if manifest["version"] != 1 or not all("path" in file for file in manifest["files"]):
            raise ValueError("another version")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{source.show(path)} is no manifest of headrace's: {error}"
        ) from error
    return manifest
