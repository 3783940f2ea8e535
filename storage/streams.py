"""Iterators as item values: consumed into a file on disk, never held in memory.

Tables, batches and frames become one table; dicts become rows, whose columns are known only when the
last has been seen, so that they are spilled first; anything else is collected into a list.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ..core.errors import StorageError, UnstorableError
from .conforming import conform, conform_rows
from .drafts import Draft
from .forms import NULL, PICKLE, Form, merged_form
from .itemtables import HEADER_KEY, ITEMS_KEY, Header, ItemTable, pack_items
from .localfiles import LocalObjects
from .objects import Objects
from .origins import Made
from .partitions import ARROW, PartitionWriter, choose_format
from .pickles import dump
from .retrying import as_storage_error
from .rowforms import MAX_COLUMNS, FrozenRows, Keys, freeze_rows, is_row
from .tables import freeze_table

CHUNK_ROWS = 8192
CHUNK_BYTES = 32 << 20
_SPARE = 256
_ITEMS_ROOM = 1024


_END = object()


class RowGroups(Iterator[Any]):
    """Record batches that are to be one table in whose file each has a place of its own.

    It may be empty, and is written where it stands: a reader of the file knows the place of what it
    wants, and reads nothing else (`storage.exchange`).
    """

    def __init__(self, schema: Any, batches: Iterator[Any]) -> None:
        self.schema = schema
        self._batches = batches

    def __next__(self) -> Any:
        return next(self._batches)


class PickedRows(Iterator[dict[str, Any]]):
    """Rows that are made of others, of which some are set aside instead (`storage.modelrows`)."""

    def __init__(self) -> None:
        self.set_aside: Callable[[Any], None] = lambda _table: None
        """Takes a table of them. Who writes the rows says where it goes."""
        self.declared: Callable[[], Any] = lambda: pa.schema([])
        """`pyarrow.Schema` that rows would have, asked for where there are none."""


def is_stream(value: Any) -> bool:
    """Whether a value is consumed rather than stored as it is."""
    if isinstance(value, (GeneratorType, pa.RecordBatchReader)):
        return True
    return isinstance(value, Iterator) and not isinstance(value, io.IOBase)


@dataclass(slots=True)
class Spooled:
    """A finished partition in a local file, ready to be put."""

    file: str
    format: str
    bytes: int
    rows: int
    checksum: int
    draft: Draft
    aside: str = ""
    """A local file of rows that were set aside (`storage.modelrows`), to be put before it."""


class Spool:
    """Turns one iterator into one partition file."""

    def __init__(
        self,
        objects: Objects,
        header: Header,
        made: Made,
        position: int,
        started_ns: int,
        format: str,
        remote: bool,
        schema: Any,
    ) -> None:
        self._objects = objects
        self._header = header
        self._made = made
        self._position = position
        self._started_ns = started_ns
        self._format = format
        self._remote = remote
        self._schema = schema
        self._file = ""
        self._aside = ""
        self._aside_writer: Any = None

    def consume(self, values: Any) -> Spooled | list[Any]:
        """Read it to its end.

        An exception of the iterator's own passes through, and nothing is left behind.

        Raises
        ------
        UnstorableError
            Its elements do not fit together.
        """
        try:
            if isinstance(values, RowGroups):
                return self._tables("table", values, values.schema)
            if isinstance(values, pa.RecordBatchReader):
                tables = (pa.Table.from_batches([batch]) for batch in values)
                return self._tables("reader", tables, values.schema)
            if isinstance(values, PickedRows):
                return self._model_rows(values)
            iterator = iter(values)
            first = next(iterator, _END)
            if first is _END:
                if self._schema is not None:
                    return self._tables("table", iter(()), self._schema)
                return []
            frozen = freeze_table(first)
            if frozen is not None:
                kind = "table" if frozen.kind == "batch" else frozen.kind
                return self._tables(
                    kind,
                    _tables_of(frozen, iterator),
                    frozen.table.schema,
                    frozen.extra,
                )
            if is_row(first):
                return self._dicts(cast(dict[str, Any], first), iterator)
            return [first, *iterator]
        except BaseException:
            for file in (self._file, self._aside):
                with contextlib.suppress(OSError):
                    os.unlink(file)
            raise

    # ------------------------------------------------------------------------------- tables

    def _tables(self, kind: str, tables: Iterator[Any], schema: Any, extra: str = "") -> Spooled:
        as_they_are = isinstance(tables, RowGroups)
        schema = self._schema or schema
        layout = choose_format(self._format, self._remote, schema, 1)
        with self._open(schema, layout) as writer:
            blank = self._blank(kind, extra)
            if layout == ARROW:
                writer.open_arrow(blank)
            rows = 0
            for number, chunk in enumerate(tables if as_they_are else _gathered(tables)):
                rows += chunk.num_rows
                if as_they_are:
                    writer.write_group(chunk)
                else:
                    writer.write(_fitted(chunk, schema, number))
            items = self._items(rows)
            draft = Draft(kind, items, extra=extra)
            header = self._header_of(draft)
            entries = {
                HEADER_KEY: header.to_json().encode(),
                ITEMS_KEY: pack_items(items).encode(),
            }
            writer.close(entries)
        if layout == ARROW:
            _patch(self._file, blank, entries)
        return self._finished(draft, layout)

    # -------------------------------------------------------------------------------- dicts

    def _dicts(
        self, first: dict[str, Any], rest: Iterator[Any], *, scales: bool = False
    ) -> Spooled | list[Any]:
        """Two passes: spill the rows while learning their columns, then write them."""
        with tempfile.TemporaryFile(prefix="headrace-") as spill:
            plan = _spill(first, rest, spill, scales)
            spill.seek(0)
            if plan is None:
                return [row for chunk in _chunks(spill) for row in chunk]
            return self._planned(plan, spill)

    def _planned(self, plan: _RowPlan, spill: Any) -> Spooled:
        empty = FrozenRows(
            plan.forms,
            {n: pa.array([], f.type) for n, f in plan.forms.items()},
            0,
            [],
            None,
        ).table()
        layout = choose_format(self._format, self._remote, empty.schema, plan.rows)
        shapes = {keys: i for i, keys in enumerate(plan.shapes)}
        items = self._items(plan.rows)
        if len(shapes) > 1:
            items.row_shapes = np.concatenate(plan.index)
        restores = tuple(form.restore for form in plan.forms.values())
        draft = Draft(
            "rows",
            items,
            None,
            restores,
            tuple(shapes),
            (self._position,) * len(shapes),
        )
        entries = {
            HEADER_KEY: self._header_of(draft).to_json().encode(),
            ITEMS_KEY: pack_items(items).encode(),
        }
        with self._open(empty.schema, layout) as writer:
            if layout == ARROW:
                writer.open_arrow(entries)
            for chunk in _chunks(spill):
                table = plan.table(chunk)
                if self._schema is not None:
                    conform_rows(table, self._schema)
                writer.write(table)
            writer.close(entries)
        return self._finished(draft, layout)

    def _model_rows(self, rows: PickedRows) -> Spooled:
        rows.set_aside = self._set_aside
        first = next(rows, None)
        if first is None:
            columns = {field.name: Form(field.type) for field in rows.declared()}
            made = self._planned(_RowPlan(columns, {}, [], 0), io.BytesIO())
        else:
            made = self._dicts(first, rows, scales=True)
        if isinstance(made, list):
            raise UnstorableError(
                f"rows whose columns have no plain names, or are more than {MAX_COLUMNS}"
            )
        if self._aside_writer is not None:
            self._aside_writer.close()
        made.aside = self._aside
        return made

    def _set_aside(self, table: Any) -> None:
        if self._aside_writer is None:
            self._aside = self._temporary()
            self._aside_writer = pa.ipc.new_file(self._aside, table.schema)
        self._aside_writer.write_table(table)

    # ------------------------------------------------------------------------------- common

    def _items(self, rows: int) -> ItemTable:
        return ItemTable.of(
            np.array([self._position], np.int64),
            np.array([self._started_ns], np.int64),
            np.array([max(time.time_ns(), self._started_ns)], np.int64),
            rows,
        )

    def _blank(self, kind: str, extra: str) -> dict[bytes, bytes]:
        """Room in an Arrow file's footer for what is known only at its end (see `_patch`)."""
        header = self._header_of(Draft(kind, self._items(0), extra=extra)).to_json().encode()
        return {HEADER_KEY: b"#" * (len(header) + _SPARE), ITEMS_KEY: b"@" * _ITEMS_ROOM}

    def _header_of(self, draft: Draft) -> Header:
        from .encoding import header_of

        return header_of(self._header, draft, self._made)

    @contextlib.contextmanager
    def _open(self, schema: Any, format: str) -> Generator[PartitionWriter]:
        self._file = self._temporary()
        try:
            with pa.OSFile(self._file, "wb") as sink:
                yield PartitionWriter(sink, schema, format, compress=self._remote, sample=None)
        except OSError as error:
            if isinstance(error, StorageError) or error.errno is None:
                raise
            raise as_storage_error(error, "write", self._file) from error

    def _temporary(self) -> str:
        """A new local file, where it can be put by a rename if that can be."""
        if isinstance(self._objects, LocalObjects):
            return self._objects.temporary(f"data/{self._header.node:05d}/{self._header.batch:08d}")
        handle, file = tempfile.mkstemp(prefix="headrace-")
        os.close(handle)
        return file

    def _finished(self, draft: Draft, format: str) -> Spooled:
        checksum = size = 0
        with open(self._file, "rb") as file:
            while block := file.read(1 << 20):
                checksum = zlib.crc32(block, checksum)
                size += len(block)
        rows = draft.items.total_rows
        spooled = Spooled(self._file, format, size, rows, checksum, draft)
        draft.spooled = spooled
        return spooled


def _tables_of(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first.table
    for number, value in enumerate(rest, 1):
        frozen = freeze_table(value)
        if frozen is None:
            raise UnstorableError(
                f"element {number} of the generator is a {type(value).__name__}, and its first was "
                "a table: yield elements of one kind"
            )
        yield frozen.table


def _gathered(tables: Iterator[Any]) -> Iterator[Any]:
    """Tables joined until they are worth a row group."""
    held: list[Any] = []
    rows = size = 0
    for table in tables:
        if held and not table.schema.equals(held[0].schema):
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
        held.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= 128 * 1024 or size >= CHUNK_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def _fitted(table: Any, schema: Any, number: int) -> Any:
    try:
        return conform(table, schema)
    except UnstorableError as error:
        raise UnstorableError(
            f"part {number} of a streamed table differs from its first: {error} "
            "(state the task's schema=, or yield tables of one schema)"
        ) from error


def _patch(file: str, blanks: dict[bytes, bytes], entries: dict[bytes, bytes]) -> None:
    """Fill in the reserved footer entries of an Arrow file.

    The format wants the footer's entries when the file is opened; a streamed item's rows and end are
    known when it is finished. Blanks at the end are nothing to JSON and to base64.
    """
    with open(file, "r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        start = max(0, size - (8 << 20))
        handle.seek(start)
        tail = handle.read()
        for key, blank in blanks.items():
            at = tail.rfind(blank)
            if at < 0:
                raise StorageError("the footer of a streamed partition has an unknown layout")
            handle.seek(start + at)
            handle.write(entries[key].ljust(len(blank)))


# ------------------------------------------------------------------------------------ row plans


@dataclass(slots=True)
class _RowPlan:
    """The columns that a stream of dicts turned out to have."""

    forms: dict[str, Form]
    shapes: dict[Keys, int]
    index: list[Any]
    rows: int
    scales: bool = False
    """As in `forms.merged_type`."""

    def table(self, chunk: list[dict[str, Any]]) -> Any:
        """A chunk of rows in these columns."""
        frozen = freeze_rows(chunk, scales=self.scales)
        assert frozen is not None
        columns: dict[str, Any] = {}
        for name, form in self.forms.items():
            own = frozen.forms.get(name, NULL)
            if own == form:
                columns[name] = frozen.columns[name]
            elif form.restore == PICKLE:
                values = [row.get(name) for row in chunk]
                columns[name] = pa.array(
                    [None if v is None else dump(v) for v in values], form.type
                )
            elif own == NULL:
                columns[name] = pa.nulls(len(chunk), form.type)
            else:
                columns[name] = frozen.columns[name].cast(form.type)
        return FrozenRows(self.forms, columns, len(chunk), [], None).table()


def _spill(first: dict[str, Any], rest: Iterator[Any], spill: Any, scales: bool) -> _RowPlan | None:
    """Write chunks of pickled rows, and learn the columns; None: not rows after all."""
    from .forms import PICKLED

    plan: _RowPlan | None = _RowPlan({}, {}, [], 0, scales)
    for chunk in _listed(first, rest):
        data = dump(chunk)
        spill.write(len(data).to_bytes(8, "little") + data)
        if plan is None:
            continue
        frozen = freeze_rows(chunk, scales=scales) if all(map(is_row, chunk)) else None
        if frozen is None:
            plan = None
            continue
        for name, form in frozen.forms.items():
            merged = merged_form(plan.forms.get(name, NULL), form, scales=scales)
            plan.forms[name] = merged or PICKLED
        own = [plan.shapes.setdefault(keys, len(plan.shapes)) for keys in frozen.shapes]
        each = frozen.row_shapes
        full = np.full(frozen.rows, own[0], np.int32) if each is None else None
        plan.index.append(np.array(own, np.int32)[each] if full is None else full)
        plan.rows += frozen.rows
        if len(plan.forms) > MAX_COLUMNS:
            plan = None
    return plan


def _listed(first: Any, rest: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = [first]
    for value in rest:
        chunk.append(value)
        if len(chunk) >= CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _chunks(spill: Any) -> Iterator[list[Any]]:
    """The spilled chunks again; they were written a moment ago by this process."""
    while size := spill.read(8):
        yield pickle.loads(spill.read(int.from_bytes(size, "little")))
