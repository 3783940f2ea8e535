"""Writing rows into plain files of a bounded size, each put whole under a name nobody else has."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import ConfigurationError
from .localfiles import LocalObjects
from .objects import Objects
from .opening import NULL_FOLDER
from .partitions import ROW_GROUP_ROWS, dictionary_columns
from .unifying import align

STAGED = ".staged"
"""Ending of a file's name until it counts: no tool that looks for Parquet or Arrow files takes it."""
_ROW = "__headrace_row"


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
    """A file that is being written, in a temporary place."""

    file: str
    sink: Any
    writer: Any = None
    rows: int = 0
    bytes: int = 0
    held: list[Any] = field(default_factory=list[Any])
    held_rows: int = 0


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
        self._open: dict[str, _Open] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._done: list[Written] = []

    def write(self, table: Any) -> None:
        """Add rows, in order."""
        for folder, part in self._split(table):
            at = 0
            while at < part.num_rows:
                at += self._write_some(folder, part.slice(at))

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
        file = self._open.get(folder)
        if file is None:
            file = self._open[folder] = self._begin(folder)
        room = table.num_rows
        if self._max_rows is not None:
            room = min(room, self._max_rows - file.rows)
        if table.nbytes:
            each = table.nbytes / table.num_rows
            room = min(room, max(1, int((self._max_bytes - file.bytes) / each)))
        part = table.slice(0, room)
        file.held.append(part)
        file.held_rows += room
        file.rows += room
        file.bytes += int(table.nbytes * room / table.num_rows)
        if file.held_rows >= ROW_GROUP_ROWS or file.bytes >= self._max_bytes:
            self._spill(file)
        if file.bytes >= self._max_bytes or file.rows == self._max_rows:
            self._finish(folder)
        return room

    def _begin(self, folder: str) -> _Open:
        if isinstance(self._objects, LocalObjects):
            name = self._objects.temporary(f"{folder}file")
        else:
            handle, name = tempfile.mkstemp(prefix="headrace-")
            os.close(handle)
        return _Open(name, pa.OSFile(name, "wb"))

    def _spill(self, file: _Open) -> None:
        table = pa.concat_tables(file.held) if file.held else self._schema.empty_table()
        table = align(table, self._schema)
        file.held, file.held_rows = [], 0
        if file.writer is None:
            file.writer = self._writer(file.sink, table)
        if self._format == "parquet":
            file.writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
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
            self._spill(file)
        writer: Any = file.writer
        writer.close()
        file.sink.close()
        size = os.path.getsize(file.file)
        path = f"{folder}{self._first_name}-{self._number:05d}-{self._nonce}.{self._format}"
        self._number += 1
        self._objects.write_file(path + STAGED, file.file)
        del self._open[folder]
        self._done.append(Written(path, file.rows, size, self._values.get(folder, {})))

    def finish_folders(self) -> None:
        """No more rows of the folders so far will come."""
        for folder in list(self._open):
            self._finish(folder)

    def close(self) -> list[Written]:
        """Finish all files."""
        self.finish_folders()
        return self._done

    def write_nothing(self) -> None:
        """Write a file without rows, which tells the schema."""
        self._open[""] = self._begin("")

    def discard(self) -> None:
        """Close what is open; the files that were finished stay."""
        for file in self._open.values():
            file.sink.close()
            if os.path.exists(file.file):
                os.unlink(file.file)


def _folder_text(value: Any) -> str:
    return NULL_FOLDER if value is None else quote(str(value), safe=" ")
