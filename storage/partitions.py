"""One partition as one object: an Arrow IPC file or a Parquet file that describes itself.

Readers that know nothing of headrace find the data columns only; what headrace needs lies in the
footer (`storage.itemtables`). The CRC-32 of the whole object is part of its name, so that whoever
lists the objects can check what is read, also when no receipt has survived.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.errors import DamagedPartitionError, StorageError
from ..core.interfaces import data_prefix
from .itemtables import HEADER_KEY, ITEMS_KEY, Header, ItemTable, pack_items
from .tables import is_bytes, one_batch

ARROW = "arrow"
PARQUET = "parquet"
ROW_GROUP_ROWS = 128 * 1024
MOST_GROUP_BYTES = 1 << 30
"""Of rows that are written at once."""
MOST_GROUP_ROWS = 1 << 20
"""Rows of a row group that a Parquet writer does not cut."""

_NAME = re.compile(r"data/(\d{5,})/(\d{8,})-([0-9a-f]+)-(\d+)-([0-9a-f]{8})\.(arrow|parquet)")


def part_path(header: Header, number: int, checksum: int, format: str) -> str:
    """``data/<node>/<batch>-<nonce>-<n>-<crc32>.<format>``."""
    return (
        f"{data_prefix(header.node, header.batch)}{header.nonce}-{number}-{checksum:08x}.{format}"
    )


def quarantine_path(path: str) -> str:
    """Where the rows are that were set aside when the partition at a path was made."""
    return f"quarantine/{path.removeprefix('data/').rpartition('.')[0]}.arrow"


def path_checksum(path: str) -> tuple[int, str] | None:
    """Checksum and format of a partition's path; None where it is not a partition's name."""
    match = _NAME.fullmatch(path)
    return None if match is None else (int(match[5], 16), match[6])


def checksum_of(data: Any) -> int:
    """CRC-32 of a buffer."""
    return zlib.crc32(data)


# ----------------------------------------------------------------------------------------- write


def choose_format(wanted: str, remote: bool, schema: Any, rows: int) -> str:
    """Arrow IPC on disk and where Parquet would change the data, Parquet elsewhere."""
    if wanted == ARROW or (wanted == "auto" and not remote):
        return ARROW
    if rows and not len(schema):
        return ARROW
    return PARQUET if parquet_holds(schema) else ARROW


def parquet_holds(schema: Any) -> bool:
    """Whether data of this schema comes back from Parquet with the same types."""
    return _parquet_holds(schema.serialize().to_pybytes())


@lru_cache(maxsize=256)
def _parquet_holds(serialised: bytes) -> bool:
    """Tried on an empty table. Dictionaries are left out: their unused values would be lost."""
    schema = pa.ipc.read_schema(pa.py_buffer(serialised))
    if not len(schema) or len(set(schema.names)) < len(schema) or _nested_dictionary(schema):
        return False
    try:
        sink = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), sink)
        back = pq.read_schema(pa.BufferReader(sink.getvalue()))
    except pa.ArrowException:
        return False
    return bool(back.remove_metadata().equals(schema.remove_metadata(), check_metadata=True))


def _nested_dictionary(kind: Any) -> bool:
    fields = (
        kind if isinstance(kind, pa.Schema) else [kind.field(i) for i in range(kind.num_fields)]
    )
    return any(pa.types.is_dictionary(f.type) or _nested_dictionary(f.type) for f in fields)


class PartitionWriter:
    """Writes one partition into a sink, table by table; the footer comes with `close`."""

    def __init__(self, sink: Any, schema: Any, format: str, *, compress: bool, sample: Any) -> None:
        self.format = format
        self._schema = schema
        self._sink = sink
        self._compress = compress
        self._sample = sample
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Add rows. An Arrow file's footer is fixed when it is opened, so `open_arrow` comes first."""
        if self.format == ARROW:
            self._writer.write_table(table)
            return
        self._open_parquet(table)
        for part in bounded(table):
            self._writer.write_table(part, row_group_size=ROW_GROUP_ROWS)

    def write_group(self, batch: Any) -> None:
        """Add a record batch as a row group (Parquet) or batch (Arrow) of its own, also an empty one.

        It has at most `MOST_GROUP_ROWS` rows.
        """
        if self.format == ARROW:
            self._writer.write_batch(batch)
            return
        table = pa.Table.from_batches([batch], schema=self._schema)
        self._open_parquet(table)
        self._writer.write_table(table, row_group_size=MOST_GROUP_ROWS)

    def _open_parquet(self, table: Any) -> None:
        if self._writer is None:
            sample = table if self._sample is None else self._sample
            self._writer = pq.ParquetWriter(
                self._sink,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=cast(bool, dictionary_columns(sample)),
                write_page_checksum=True,
            )

    def open_arrow(self, metadata: dict[bytes, bytes]) -> None:
        """Begin an Arrow file, whose footer entries must be known now."""
        options = pa.ipc.IpcWriteOptions(
            compression=pa.Codec("zstd", 1) if self._compress else None,
            use_threads=False,
        )
        new_file: Any = pa.ipc.new_file  # its stubs lack `metadata`
        self._writer = new_file(self._sink, self._schema, options=options, metadata=metadata)

    def close(self, metadata: dict[bytes, bytes]) -> None:
        """Write the footer."""
        if self._writer is None:
            self.write(self._schema.empty_table())
        writer: Any = self._writer
        if self.format == PARQUET:
            writer.add_key_value_metadata(metadata)
        writer.close()


def bounded(table: Any) -> Iterator[Any]:
    """A table in parts, such that a page of Parquet has room for all of a part's column (2 GiB)."""
    half = table.num_rows // 2
    if table.nbytes <= MOST_GROUP_BYTES or not half:
        yield table
        return
    yield from bounded(table.slice(0, half))
    yield from bounded(table.slice(half))


def footer_entries(header: Header, items: ItemTable) -> dict[bytes, bytes]:
    """The two entries of a partition's footer."""
    return {
        HEADER_KEY: header.to_json().encode(),
        ITEMS_KEY: pack_items(items).encode(),
    }


def encode_partition(
    table: Any, header: Header, items: ItemTable, format: str, *, compress: bool
) -> Any:
    """A whole partition as a buffer.

    ``compress`` is for Arrow files; Parquet files are always zstd.
    """
    sink = pa.BufferOutputStream()
    writer = PartitionWriter(sink, table.schema, format, compress=compress, sample=table)
    entries = footer_entries(header, items)
    if format == ARROW:
        writer.open_arrow(entries)
    writer.write(table)
    writer.close(entries)
    return sink.getvalue()


def dictionary_columns(sample: Any) -> list[str] | bool:
    """Names of the columns whose values repeat enough for a dictionary to pay."""
    rows = sample.num_rows
    if rows < 64:
        return False
    span = min(rows, 4096)
    part = sample.slice((rows - span) // 2, span)
    chosen: list[str] = []
    for name, column in zip(part.column_names, part.columns, strict=True):
        if not (pa.types.is_primitive(column.type) or is_bytes(column.type)):
            continue
        if pc.count_distinct(column).as_py() * 4 <= span:
            chosen.append(name)
    return chosen or False


# ------------------------------------------------------------------------------------------ read


class PartitionReader:
    """An opened partition: its description at once, its data when asked for.

    ``source`` is a buffer, or a seekable file of which only what is needed is read.
    """

    def __init__(self, source: Any, format: str, where: str) -> None:
        self.where = where
        self.format = format
        self._file: Any
        try:
            if format == ARROW:
                self._file = pa.ipc.open_file(source)
                entries = self._file.metadata or {}
                self.schema = self._file.schema
            else:
                reader = pa.BufferReader(source) if isinstance(source, pa.Buffer) else source
                self._file = pq.ParquetFile(reader, page_checksum_verification=True)
                entries = self._file.metadata.metadata or {}
                self.schema = self._file.schema_arrow.remove_metadata()
        except StorageError:  # it could not be read: that says nothing of what it holds
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedPartitionError(f"{where} is not a whole partition: {error}") from error
        if HEADER_KEY not in entries or ITEMS_KEY not in entries:
            raise DamagedPartitionError(f"{where} is not a partition of headrace's")
        self.header = Header.from_json(entries[HEADER_KEY], where)
        self.packed_items: bytes = entries[ITEMS_KEY]
        if format == PARQUET:
            self.schema = own_metadata(self._file.schema_arrow)

    def read(self) -> Any:
        """All rows as a table; zero-copy from a buffer of an uncompressed Arrow file."""
        return self._guard(self._read)

    def _read(self) -> Any:
        table = self._file.read_all() if self.format == ARROW else self._file.read()
        return table.replace_schema_metadata(self.schema.metadata)

    @property
    def groups(self) -> int:
        """Number of record batches or row groups."""
        return int(
            self._file.num_record_batches if self.format == ARROW else self._file.num_row_groups
        )

    def group(self, number: int) -> Any:
        """One record batch or row group, as a record batch; nothing else is read."""
        return self._guard(lambda: self._group(number))

    def _group(self, number: int) -> Any:
        if self.format == ARROW:
            return self._file.get_batch(number)
        table = self._file.read_row_group(number).replace_schema_metadata(self.schema.metadata)
        return one_batch(table)

    def _guard(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (pa.ArrowException, OSError) as error:
            raise DamagedPartitionError(f"{self.where} cannot be read: {error}") from error


def own_metadata(schema: Any) -> Any:
    """A schema with the user's metadata only, as it was before the footer's entries."""
    kept = {k: v for k, v in (schema.metadata or {}).items() if k not in (HEADER_KEY, ITEMS_KEY)}
    # (Arrow tells empty metadata from none, in what it writes of a schema.)
    return schema.with_metadata(kept) if kept else schema.remove_metadata()
