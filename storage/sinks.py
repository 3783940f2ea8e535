"""Writing rows into plain files of a bounded size, each put whole under a name nobody else has."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import ConfigurationError, StorageError
from .localfiles import LocalObjects
from .objects import Objects
from .opening import NULL_FOLDER
from .partitions import ROW_GROUP_ROWS, bounded, dictionary_columns
from .retrying import as_storage_error
from .unifying import align

STAGED = ".staged"
"""Ending of a file's name until it counts: no tool that looks for Parquet or Arrow files takes it."""
_ROW = "__headrace_row"
_MOST_HELD = 128 << 20
"""Bytes of rows in memory, of all folders together."""
_MOST_OPEN = 200
"""Files that are open at a time, of which the one that was opened first is finished for another."""


@dataclass(slots=True)
class Written:
    """A finished file: its path when it counts, and the columns that its folder tells."""

    path: str
    rows: int
    bytes: int
    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def record(self) -> dict[str, Any]:
        """As the manifest has it."""
        record: dict[str, Any] = {"path": self.path, "rows": self.rows, "bytes": self.bytes}
        return record | ({"values": self.values} if self.values else {})


@dataclass(slots=True)
class _Open:
    """A file that is being written, in a temporary place once more rows come than are held."""

    file: str = ""
    sink: Any = None
    writer: Any = None
    rows: int = 0
    bytes: int = 0
    held: list[Any] = field(default_factory=list[Any])
    held_rows: int = 0
    held_bytes: int = 0


class DatasetWriter:
    """Writes rows into files of a bounded size, whose names end with `STAGED`."""

    def __init__(
        self,
        objects: Objects,
        schema: Any,
        format: str,
        partition_by: Sequence[str],
        max_rows: int | None,
        max_bytes: int,
        first_name: str = "part",
        metadata: Any = None,
    ) -> None:
        missing = [name for name in partition_by if name not in schema.names]
        if missing:
            raise ConfigurationError(f"cannot partition by {missing[0]!r}: there is no such column")
        self._objects = objects
        self._format = format
        self._by = list(partition_by)
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._schema = pa.schema([f for f in schema if f.name not in self._by], metadata)
        self._nonce = os.urandom(4).hex()
        self._first_name = first_name
        self._number = 0
        self._held = 0
        self._open: dict[str, _Open] = {}
        self._on_disk: dict[str, None] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._done: list[Written] = []

    def write(self, table: Any) -> None:
        """Add rows, in order, of plain columns (`shares.plain_schema`)."""
        with self._told():
            for folder, part in self._split(table):
                at = 0
                while at < part.num_rows:
                    at += self._write_some(folder, part.slice(at))
                if self._held > _MOST_HELD:
                    self._make_room()

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        """A disk's errors are the storage's."""
        try:
            yield
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise as_storage_error(error, "write", self._objects.url_of("")) from error

    def _make_room(self) -> None:
        """Write what folders hold most of, until half may be held."""
        for folder in sorted(self._open, key=lambda name: -self._open[name].held_bytes):
            if self._held * 2 <= _MOST_HELD:
                return
            if folder in self._open:  # not finished to make place for another's file
                self._spill(folder)

    def _split(self, table: Any) -> Iterator[tuple[str, Any]]:
        """The rows by their folder."""
        if not self._by:
            yield "", table
            return
        rest = table.drop_columns(self._by)
        keys = table.select(self._by).append_column(_ROW, pa.array(np.arange(table.num_rows)))
        groups = keys.group_by(self._by, use_threads=False).aggregate([(_ROW, "list")])
        rows = groups.column(f"{_ROW}_list")
        for row, own in zip(groups.select(self._by).to_pylist(), rows, strict=True):
            folder = "".join(f"{quote(n, safe='')}={_folder_text(v)}/" for n, v in row.items())
            self._values[folder] = {n: None if v is None else str(v) for n, v in row.items()}
            yield folder, rest.take(own.values)

    def _write_some(self, folder: str, table: Any) -> int:
        """Write the rows that the open file has room for; returns how many."""
        file = self._open.setdefault(folder, _Open())
        room = table.num_rows
        if self._max_rows is not None:
            room = min(room, self._max_rows - file.rows)
        if table.nbytes:
            each = table.nbytes / table.num_rows
            room = min(room, max(1, int((self._max_bytes - file.bytes) / each)))
        part = table.slice(0, room)
        size = int(table.nbytes * room / table.num_rows)
        file.held.append(part)
        file.held_rows += room
        file.held_bytes += size
        self._held += size
        file.rows += room
        file.bytes += size
        if file.held_rows >= ROW_GROUP_ROWS or file.bytes >= self._max_bytes:
            self._spill(folder)
        if file.bytes >= self._max_bytes or file.rows == self._max_rows:
            self._finish(folder)
        return room

    def _begin(self, folder: str, file: _Open) -> None:
        if len(self._on_disk) >= _MOST_OPEN:
            self._finish(next(iter(self._on_disk)))
        if isinstance(self._objects, LocalObjects):
            file.file = self._objects.temporary(f"{folder}file")
        else:
            handle, file.file = tempfile.mkstemp(prefix="headrace-")
            os.close(handle)
        file.sink = pa.OSFile(file.file, "wb")
        self._on_disk[folder] = None

    def _spill(self, folder: str) -> None:
        file = self._open[folder]
        table = pa.concat_tables(file.held) if file.held else self._schema.empty_table()
        table = align(table, self._schema)
        self._held -= file.held_bytes
        file.held, file.held_rows, file.held_bytes = [], 0, 0
        if file.writer is None:
            self._begin(folder, file)
            file.writer = self._writer(file.sink, table)
        if self._format == "parquet":
            for part in bounded(table):
                file.writer.write_table(part, row_group_size=ROW_GROUP_ROWS)
        else:
            file.writer.write_table(table)

    def _writer(self, sink: Any, sample: Any) -> Any:
        if self._format == "parquet":
            return pq.ParquetWriter(
                sink,
                self._schema,
                compression="zstd",
                use_dictionary=cast(bool, dictionary_columns(sample)),
            )
        return pa.ipc.new_file(sink, self._schema)

    def _finish(self, folder: str) -> None:
        file = self._open[folder]
        if file.held or file.writer is None:
            self._spill(folder)
        writer: Any = file.writer
        writer.close()
        file.sink.close()
        size = os.path.getsize(file.file)
        path = f"{folder}{self._first_name}-{self._number:05d}-{self._nonce}.{self._format}"
        self._number += 1
        self._objects.write_file(path + STAGED, file.file)
        del self._open[folder], self._on_disk[folder]
        self._done.append(Written(path, file.rows, size, self._values.get(folder, {})))

    def finish_folders(self) -> None:
        """No more rows of the folders so far will come."""
        with self._told():
            while self._open:  # one may be finished to make place for another's file
                self._finish(next(iter(self._open)))

    def close(self) -> list[Written]:
        """Finish all files."""
        self.finish_folders()
        return self._done

    def write_nothing(self) -> None:
        """Write a file without rows, which tells the schema."""
        self._open[""] = _Open()

    def discard(self) -> None:
        """Close what is open; the files that were finished stay."""
        for file in self._open.values():
            if file.writer is not None:  # one that is left open complains when it is collected
                with contextlib.suppress(pa.ArrowException, OSError):
                    file.writer.close()
            if file.sink is not None:
                file.sink.close()
            if os.path.exists(file.file):
                os.unlink(file.file)


def _folder_text(value: Any) -> str:
    return NULL_FOLDER if value is None else quote(str(value), safe=" ")
