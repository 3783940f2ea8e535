"""Folders that are written: staged beside what is there, then committed by a manifest.

New files lie below ``_headrace/`` under names that end with ``.staged`` until all are there. The
commit moves them to their places (a rename on disk, a copy by the server of an object store), then
puts the manifest that names them, and then removes what it does not name. A reader of the manifest
has the old files or the new ones. A reader that knows no manifest finds plain files in a plain
folder, whole ones always, and, for as long as the commit takes, some of the new beside the old.
One writes to a folder at a time.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import AlreadyExistsError, ConfigurationError, StorageError
from ..core.interfaces import ObjectInfo, Origin
from .increments import REMOVED
from .locations import Location
from .objects import Objects, open_objects
from .opening import (
    MANIFEST,
    find_pieces,
    folder_values,
    hidden,
    read_manifest,
    root_path,
    typed,
)
from .origins import written_by
from .scanning import FilePiece
from .sinks import STAGED, DatasetWriter
from .sources import Source
from .splitting import schema_of
from .store import below
from .tables import is_bytes
from .unifying import unified

MODES = ("error", "overwrite", "append", "ignore", "update")
STAGING = "_headrace"
_MOVERS = 16
_ASKED = 16
"""Files of a folder that are asked for their schemas before rows are appended."""


@dataclass(frozen=True)
class Target:
    """A folder to write to, and how. Picklable; its repr shows no secret."""

    location: Location
    options: Mapping[str, Any] = field(repr=False)
    schema: Any
    format: str
    partition_by: tuple[str, ...]
    mode: str
    max_rows: int | None
    max_bytes: int
    write: str
    """Names this write: the same when it is resumed."""
    removed: str = "drop"
    """With mode ``"update"``: what becomes of rows whose files are there no more."""

    def __post_init__(self) -> None:
        if self.format not in ("parquet", "arrow"):
            raise ConfigurationError(
                f"cannot write format {self.format!r}: use 'parquet' or 'arrow'"
            )
        if self.mode not in MODES:
            raise ConfigurationError(f"unknown mode {self.mode!r}: use one of {', '.join(MODES)}")
        if self.removed not in REMOVED:
            raise ConfigurationError(
                f"removed= is {' or '.join(REMOVED)}, and not {self.removed!r}"
            )
        for name in self.partition_by:
            if name not in self.schema.names:
                raise ConfigurationError(f"cannot partition by {name!r}: there is no such column")
            _check_folder(self.schema.field(name))
        if self.partition_by and len(self.partition_by) == len(self.schema.names):
            raise ConfigurationError(
                f"cannot partition by {', '.join(self.partition_by)}: no column is left for the files"
            )
        if self.format == "parquet":
            _check_parquet(self.schema)

    @property
    def __headrace_secret__(self) -> bool:
        """As of a `Source`: what a failed item was given is not kept with credentials."""
        return bool(self.options)

    @property
    def objects(self) -> Objects:
        return open_objects(self.location, self.options)

    @property
    def staging(self) -> Objects:
        """Where its files wait."""
        return open_objects(below(self.location, f"{STAGING}/{self.write}"), self.options)

    def writer(self, origins: Sequence[Origin], first_name: str = "part") -> DatasetWriter:
        """A writer of some of the rows, which are from these files; several may write at a time."""
        staging = self.staging
        forget = getattr(staging, "forget", None)
        if forget is not None:  # before a resume another write may have removed what was staged
            forget()
        return DatasetWriter(
            staging,
            self.schema,
            self.format,
            self.partition_by,
            self.max_rows,
            self.max_bytes,
            first_name,
            written_by(origins),
        )

    def begin(self) -> list[dict[str, Any]] | None:
        """The files that stay, as a manifest has them; None where nothing is to be written.

        With ``mode="update"`` the groups of files that may stay (`storage.increments`).

        Raises
        ------
        AlreadyExistsError
            With ``mode="error"``, where there is something; with ``mode="update"``, where there is
            what was not written so.
        """
        objects = self.objects
        manifest = self._manifest()
        there = _outside(objects)
        if manifest is not None and not manifest["files"]:
            there = [info for info in there if info.path != MANIFEST]
        if there and self.mode == "ignore":
            return None
        if self.mode == "update":
            return self._groups(manifest, {info.path for info in there})
        if there and self.mode == "error":
            raise AlreadyExistsError(
                f"{self.location.url} holds files already: write with mode='overwrite' or 'append'"
            )
        if self.mode != "append":
            return []
        kept = _data(there) if manifest is None else list(manifest["files"])
        if kept:
            self._check_appended()
        return kept

    def _check_appended(self) -> None:
        """Raises `ConfigurationError` where what is there and what comes make no one dataset."""
        url = self.location.url
        there = find_pieces(self.location.source, None, self.options, None)
        for piece in cast("list[FilePiece]", there):
            if piece.format != self.format:
                raise ConfigurationError(
                    f"cannot append {self.format} files to {url}: {piece.name} is {piece.format}; "
                    "write that format, or another folder"
                )
            folders = [name for name, _ in piece.constants]
            if sorted(folders) != sorted(self.partition_by):
                raise ConfigurationError(
                    f"cannot append to {url} with partition_by={list(self.partition_by)}: what is there has "
                    f"{folders} in its folders' names; write with the same, or to another folder"
                )
            typed(piece.constants, self.schema)
        rest = [field for field in self.schema if field.name not in self.partition_by]
        files = [f for f in schema_of(there, _ASKED)[0] if f.name not in self.partition_by]
        unified([(f"files of {url}", pa.schema(files)), ("the rows to append", pa.schema(rest))])

    def _groups(self, manifest: dict[str, Any] | None, there: set[str]) -> list[dict[str, Any]]:
        """What an update has left here; nothing of it stays where it was of another schema or layout."""
        if manifest is None or "groups" not in manifest:
            if there:
                raise AlreadyExistsError(
                    f"{self.location.url} holds files that were not written with mode='update', so it is "
                    "not known of what they were made: update another folder, or remove this one (what "
                    "compacts or rewrites an updated folder must write to another one)"
                )
            return []
        fresh = self._manifest_of([], [])
        told = ("format", "partition_by", "schema", "removed")
        other = [name for name in told if manifest.get(name) != fresh.get(name)]
        if other and manifest["removed"] == self.removed == "keep":
            raise ConfigurationError(
                f"{self.location.url} was written with another {other[0]}, and would have to be written anew "
                "without the rows of removed files, which removed='keep' is to keep: write another folder"
            )
        files = iter(manifest["files"])
        groups = [
            {**group, "files": [next(files) for _ in range(group["files"])]}
            for group in manifest["groups"]
        ]
        whole = [each for each in groups if all(file["path"] in there for file in each["files"])]
        return [] if other else whole

    def commit_groups(self, groups: Sequence[dict[str, Any]]) -> None:
        """Make groups of files count and nothing else: some stay, some were written. See `commit`."""
        if not any(group["files"] for group in groups) and not self.partition_by:
            writer = self.writer(())
            writer.write_nothing()
            files = [file.record() for file in writer.close()]
            groups = [*groups, {"pieces": [], "sources": [], "files": files}]
        self._commit([file for group in groups for file in group["files"]], groups)

    def commit(self, kept: Sequence[dict[str, Any]], files: Sequence[dict[str, Any]]) -> None:
        """Make the written files count, beside those that stay. It may be done again if it ended early.

        Raises
        ------
        StorageError
            A written file is not there any more.
        """
        if not files and not kept and not self.partition_by:
            writer = self.writer(())
            writer.write_nothing()
            files = [file.record() for file in writer.close()]
        self._commit([*kept, *files], None)

    def _commit(self, files: list[dict[str, Any]], groups: Sequence[dict[str, Any]] | None) -> None:
        objects = self.objects
        before = self._manifest()
        if before is not None and self.mode not in ("overwrite", "update"):
            lost = {file["path"] for file in before["files"]} - {file["path"] for file in files}
            if lost:
                raise StorageError(
                    f"{objects.url_of(min(lost))} was written by another one while this write was made, and "
                    "would be lost: one writes to a folder at a time; write again"
                )
        if before is None:  # so that readers see what was there until all is
            if groups is None:
                self._put_manifest(objects, _data(_outside(objects)))
            else:
                self._put_manifest(objects, [], [])
        self._move(objects, [file["path"] for file in files])
        self._put_manifest(objects, files, groups)
        if self.mode in ("overwrite", "update"):
            named = {MANIFEST, *(file["path"] for file in files)}
            objects.delete([i.path for i in _outside(objects) if i.path not in named])
        self.clean()

    def _move(self, objects: Objects, paths: Sequence[str]) -> None:
        staged = {info.path for info in self.staging.list("")}
        missing = [path for path in paths if path + STAGED not in staged]
        if missing:  # moved by a commit that ended early
            gone = set(missing) - {info.path for info in _outside(objects)}
            if gone:
                raise StorageError(
                    f"{objects.url_of(min(gone))} was written and is not there: another write to "
                    "this folder may have removed it; write again"
                )
        todo = [path for path in paths if path + STAGED in staged]
        with ThreadPoolExecutor(_MOVERS, "headrace-moves") as pool:
            for _ in pool.map(
                lambda path: objects.move(f"{STAGING}/{self.write}/{path}{STAGED}", path), todo
            ):
                pass

    def clean(self) -> None:
        """Remove what is staged, of writes that ended early, too."""
        staging = open_objects(below(self.location, STAGING), self.options)
        staging.delete([info.path for info in staging.list("")])
        remove_tree = getattr(staging, "remove_tree", None)
        if remove_tree is not None:
            remove_tree()

    def _manifest(self) -> dict[str, Any] | None:
        source = Source(self.location, self.options)
        return read_manifest(source, root_path(self.location, source))

    def _put_manifest(
        self,
        objects: Objects,
        files: list[dict[str, Any]],
        groups: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        manifest = self._manifest_of(files, groups)
        objects.write(MANIFEST, json.dumps(manifest, indent=1).encode())

    def _manifest_of(
        self, files: list[dict[str, Any]], groups: Sequence[dict[str, Any]] | None
    ) -> dict[str, Any]:
        manifest: dict[str, Any] = {
            "version": 1,
            "format": self.format,
            "partition_by": list(self.partition_by),
        }
        if self.partition_by:
            told = pa.schema([self.schema.field(name) for name in self.partition_by])
            manifest["partition_schema"] = b64encode(told.serialize().to_pybytes()).decode()
        if groups is not None or not files:
            schema = self.schema.remove_metadata().serialize().to_pybytes()
            manifest["schema"] = b64encode(schema).decode()
        if groups is not None:
            counted = [{**group, "files": len(group["files"])} for group in groups]
            manifest |= {"removed": self.removed, "groups": counted}
        return manifest | {"files": files}


def _check_folder(field: Any) -> None:
    """Raises `ConfigurationError` where a column's values cannot be read from folders' names."""
    kind = field.type
    told = is_bytes(kind) and (pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if not is_bytes(kind):
        with suppress(pa.ArrowNotImplementedError):
            pa.array([], pa.string()).cast(kind)
            told = True
    if not told:
        raise ConfigurationError(
            f"cannot partition by {field.name!r}: folders' names cannot hold {kind}; cast it to text, "
            "or partition by another column"
        )


def _check_parquet(schema: Any) -> None:
    """Raises `ConfigurationError` where Parquet has no place for a column; before anything runs."""
    try:
        pq.write_table(schema.empty_table(), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError as error:
        raise ConfigurationError(f"{error}: write format='arrow'") from error


def _outside(objects: Objects) -> list[ObjectInfo]:
    """All objects but those that are staged."""
    return [info for info in objects.list("") if not info.path.startswith(STAGING + "/")]


def _data(there: Sequence[ObjectInfo]) -> list[dict[str, Any]]:
    """The data files of a folder without a manifest, as one would have them."""
    return [
        {"path": info.path, "bytes": info.bytes, "values": folder_values(info.path)}
        for info in there
        if not hidden(info.path)
    ]
