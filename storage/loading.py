"""Values back from partitions: each opened and checked once, homogeneous kinds decoded in bulk."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.errors import DamagedPartitionError, UntrustedStoreError
from ..core.interfaces import Part, RefColumn
from .damage import mark
from .forms import PICKLE, values_of
from .itemtables import ItemTable, unpack_items
from .objects import Objects
from .partitions import PartitionReader
from .rowforms import dicts_of
from .tables import TABLE_KINDS, THAW

CACHE_PARTS = 64
CACHE_BYTES = 256 << 20


class OpenPart:
    """A partition whose checksum was verified, kept with its decoded description."""

    def __init__(self, data: Any, part: Part, where: str, *, held: int) -> None:
        self.part = part
        self.where = where
        self.held = held
        """Bytes of memory that it keeps (0: mapped from disk)."""
        checksum = zlib.crc32(data)
        if checksum != part.checksum or data.size != part.bytes:
            raise DamagedPartitionError(
                f"{where} is damaged: checksum {checksum:08x} of {data.size} bytes, "
                f"{part.checksum:08x} of {part.bytes} expected; a resume makes its items again"
            )
        self._reader = PartitionReader(data, part.format, where)
        self.header = self._reader.header
        self.schema = self._reader.schema

    @cached_property
    def table(self) -> Any:
        return self._reader.read()

    @cached_property
    def items(self) -> ItemTable:
        return unpack_items(self._reader.packed_items, self.where)

    @property
    def pickled(self) -> bool:
        """Whether any column holds pickles."""
        return PICKLE in self.header.restores

    def values(self, index: Any, first_row: Any, rows: Any) -> list[Any]:
        """Values of items, given as int64 arrays of their places."""
        kind = self.header.kind
        if kind in TABLE_KINDS:
            return self._tables(kind, first_row, rows)
        if kind == "rows":
            return self._lists(first_row, rows)
        chosen = self._chosen(first_row)
        if kind == "row":
            return self._dicts(chosen, first_row)
        return values_of(chosen.column(0), self.header.restores[0], self.where)

    def _chosen(self, first_row: Any) -> Any:
        """The rows, as a slice where they are consecutive."""
        count = len(first_row)
        start = int(first_row[0])
        if count == 1 or bool((np.diff(first_row) == 1).all()):
            return self.table.slice(start, count)
        return self.table.take(pa.array(first_row))

    def _dicts(self, table: Any, rows: Any) -> list[Any]:
        shapes = [*self.header.shapes]
        index = None
        if len(shapes) > 1:
            index = self.items.row_shapes[rows]
        columns = self._columns(table)
        return dicts_of(columns, table.column_names, shapes, index)

    def _columns(self, table: Any) -> list[list[Any]]:
        restores = self.header.restores or ("",) * table.num_columns
        return [
            values_of(column, restore, self.where)
            for column, restore in zip(table.columns, restores, strict=True)
        ]

    def _lists(self, first_row: Any, rows: Any) -> list[Any]:
        out: list[Any] = []
        for first, count in zip(first_row.tolist(), rows.tolist(), strict=True):
            if not count:
                out.append([])
                continue
            out.append(self._dicts(self.table.slice(first, count), np.arange(first, first + count)))
        return out

    def _tables(self, kind: str, first_row: Any, rows: Any) -> list[Any]:
        thaw = THAW[kind]
        return [
            thaw(self.table.slice(first, count), self.header.extra)
            for first, count in zip(first_row.tolist(), rows.tolist(), strict=True)
        ]


class PartCache:
    """A few opened parts, the least recently used first to go. Thread-safe."""

    def __init__(self, parts: int = CACHE_PARTS, held: int = CACHE_BYTES) -> None:
        self._most_parts = parts
        self._most_bytes = held
        self._parts: OrderedDict[Any, OpenPart] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, objects: Objects, part: Part, inline: bytes | None) -> OpenPart:
        """The opened part, from the cache, its inline bytes, or the store."""
        objects = home_of(objects, part)
        found = self.get(objects, part)
        if found is not None:
            return found
        opened = open_part(objects, part, inline)
        with self._lock:
            self._parts[_key(objects, part)] = opened
            while len(self._parts) > 1 and (
                len(self._parts) > self._most_parts
                or sum(p.held for p in self._parts.values()) > self._most_bytes
            ):
                self._parts.popitem(last=False)
        return opened

    def get(self, objects: Objects, part: Part) -> OpenPart | None:
        """The part, if it is open."""
        key = _key(home_of(objects, part), part)
        with self._lock:
            found = self._parts.get(key)
            if found is not None:
                self._parts.move_to_end(key)
            return found


def home_of(objects: Objects, part: Part) -> Objects:
    """The objects of the run that holds a partition."""
    return objects.other(part.run) if part.run else objects


def _key(objects: Objects, part: Part) -> Any:
    return objects.location, part.path, part.checksum


def open_part(objects: Objects, part: Part, inline: bytes | None = None) -> OpenPart:
    """Read (or map) a partition and verify it.

    Raises
    ------
    NotFoundError
    DamagedPartitionError
        Its bytes do not fit its checksum, or it is no partition. The next resume makes it again.
    """
    where = objects.url_of(part.path)
    if inline is not None:
        return OpenPart(pa.py_buffer(inline), part, where, held=len(inline))
    try:
        return _stored_part(objects, part, where)
    except DamagedPartitionError:
        mark(objects, part)
        raise


def _stored_part(objects: Objects, part: Part, where: str) -> OpenPart:
    local = objects.local_path(part.path)
    if local is not None and part.bytes:
        try:
            data = pa.memory_map(local).read_buffer()
        except (OSError, pa.ArrowException):
            data = pa.py_buffer(objects.read(part.path))
        return OpenPart(data, part, where, held=0)
    read = objects.read(part.path)
    return OpenPart(pa.py_buffer(read), part, where, held=len(read))


def load_column(objects: Objects, column: RefColumn, *, trust: bool, cache: PartCache) -> list[Any]:
    """The values of a column of references.

    Raises
    ------
    UntrustedStoreError
        A value is pickled, and the store is not trusted.
    """
    count = len(column)
    which = np.asarray(column.part, np.int64)
    index = np.asarray(column.index, np.int64)
    first_row = np.asarray(column.first_row, np.int64)
    rows = np.asarray(column.rows, np.int64)
    if not count:
        return []
    if bool((which == which[0]).all()):
        return _load(objects, column, int(which[0]), index, first_row, rows, trust, cache)
    out: list[Any] = [None] * count
    for number in np.unique(which).tolist():
        places = np.flatnonzero(which == number)
        values = _load(
            objects,
            column,
            number,
            index[places],
            first_row[places],
            rows[places],
            trust,
            cache,
        )
        for place, value in zip(places.tolist(), values, strict=True):
            out[place] = value
    return out


def _load(
    objects: Objects,
    column: RefColumn,
    number: int,
    index: Any,
    first_row: Any,
    rows: Any,
    trust: bool,
    cache: PartCache,
) -> list[Any]:
    part = column.parts[number]
    opened = cache.open(objects, part, column.inline[number])
    check_trust(opened, trust)
    return opened.values(index, first_row, rows)


def check_trust(opened: OpenPart, trust: bool) -> None:
    """Raise `UntrustedStoreError` for pickles from a store that is not trusted."""
    if opened.pickled and not trust:
        raise UntrustedStoreError(
            f"{opened.where} holds pickled values, and this store is not trusted: loading a pickle "
            "runs its code; open the store with trust=True if you know who wrote it"
        )


def places_of(rows: int | Sequence[int], count: int) -> tuple[Any, Any]:
    """First row and number of rows of each of a partition's items, as int64 arrays."""
    if isinstance(rows, int):
        each = np.full(count, rows, np.int64)
        return np.arange(count, dtype=np.int64) * rows, each
    each = np.asarray(rows, np.int64)
    return np.concatenate(([0], each.cumsum()[:-1])), each
