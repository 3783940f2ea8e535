"""The encoder: what a worker hands its finished items to, and what commits them as partitions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from ..core.errors import UnstorableError
from ..core.interfaces import Inputs, Part, Receipt
from . import streams
from .conforming import Stated, conform, conform_rows
from .drafts import (
    Columns,
    Draft,
    Flat,
    Shape,
    by_type,
    joined,
    row_drafts,
    rows_drafts,
    scalar_drafts,
    split,
    table_drafts,
    value_drafts,
    with_ids,
)
from .forms import SCALARS, Form, pickled, sketch
from .itemtables import Header
from .objects import Objects
from .origins import Made
from .partitions import (
    checksum_of,
    choose_format,
    encode_partition,
    part_path,
    quarantine_path,
)
from .receipts import receipt_from, with_lineage
from .rowforms import freeze_rows, is_row
from .tables import freeze_table

_NONE = frozenset({type(None)})
_FIXED = _NONE | {int, float, bool}
_TEXTS = frozenset({str, bytes})
_IMMUTABLE = frozenset(SCALARS)


class ArrowEncoder:
    """`core.interfaces.Encoder` over Arrow partitions.

    Thread rule: one thread adds; any thread flushes. `list.extend` and ``del list[:n]`` are atomic,
    so the fast path takes no lock.

    Parameters
    ----------
    objects
        Where the partitions go.
    header
        What all partitions of this encoder have in common; ``kind`` and ``items`` are filled in.
    format
        ``"auto"``, ``"arrow"`` or ``"parquet"``.
    remote
        Partitions go over a network: they are compressed.
    inline_bytes
        Size up to which a partition rides along with its receipt; 0: none does.
    schema
        The stated schema of the task's tables, or None.
    ids
        Ascending positions of the items that may be added (int64), and their ids (``V16``).
    inputs, code
        What the items are made of, and by whose code (`core.lineage`).
    """

    def __init__(
        self,
        objects: Objects,
        header: Header,
        *,
        format: str = "auto",
        remote: bool = False,
        inline_bytes: int = 4 << 20,
        schema: Any = None,
        ids: tuple[Any, Any] | None = None,
        inputs: Inputs = Inputs(),
        code: str = "",
    ) -> None:
        self._ids = ids
        self._made = Made(objects.write, objects.location.url, inputs, code)
        self._objects = objects
        self._header = header
        self._format = format
        self._remote = remote
        self._inline_bytes = inline_bytes
        self._stated = None if schema is None else Stated(schema)
        # What has no columns is refused, but for None, which has no rows.
        self._fixed = _FIXED if schema is None else _NONE
        self._texts = _TEXTS if schema is None else frozenset[type]()
        self._lock = threading.Lock()
        self._number = 0
        self._outbox: list[Draft] = []
        self._receipts: list[Receipt] = []
        self._scalars: Flat = []
        self._plain: dict[type, list[Columns]] = {}
        self._shapes: dict[Any, Shape] = {}
        self._last = Shape((), (), (), (), 64, flat=False)
        self._rows: dict[Any, Flat] = {}
        self._values: dict[Form, Flat] = {}
        self._lists: Flat = []
        self._tables: Flat = []
        self._spooled: Flat = []
        self._added = 0
        self._drained = 0

    @property
    def pending_bytes(self) -> int:
        waiting = sum([draft.bytes for draft in self._outbox]) if self._outbox else 0
        return self._added - self._drained + 12 * len(self._scalars) + waiting

    # ------------------------------------------------------------------------------------ add

    def add(self, position: int, value: Any, started_ns: int, ended_ns: int) -> None:
        """Take a snapshot of a finished item's value. See `core.interfaces.Encoder.add`."""
        cls = type(value)
        if cls in self._fixed:
            self._scalars.extend((position, started_ns, ended_ns, value))
        elif cls in self._texts:
            self._added += len(value)
            self._scalars.extend((position, started_ns, ended_ns, value))
        elif cls is dict:
            keys = tuple(value)
            row = tuple(value.values())
            types = tuple(map(type, keys + row))
            shape = self._last
            if types != shape.types or keys != shape.keys:
                self._last = shape = self._shape(keys, types, value)
            if not shape.flat:
                self._add_dict(position, value, started_ns, ended_ns)
                return
            if self._stated is not None:
                self._stated.frozen(value)
            size = shape.bytes
            for i in shape.texts:
                size += len(row[i])
            self._added += size
            shape.pending.extend((position, started_ns, ended_ns) + row)  # noqa: RUF005 - faster
        else:
            self._add_other(position, value, started_ns, ended_ns)

    def add_plain(
        self, positions: Any, values: list[Any], kinds: set[type], started_ns: Any, ended_ns: Any
    ) -> None:
        """See `core.interfaces.Encoder.add_plain`."""
        if dict not in kinds:
            self._added += 12 * len(values) + _text_bytes(kinds, values)
            for cls, items in by_type(kinds, (positions, started_ns, ended_ns, [values])):
                self._plain.setdefault(cls, []).append(items)
            return
        if not (len(kinds) == 1 and self._add_rows(positions, values, started_ns, ended_ns)):
            times = started_ns.tolist(), ended_ns.tolist()
            for item in zip(positions.tolist(), values, *times, strict=True):
                self.add(*item)

    def _add_rows(self, positions: Any, rows: list[Any], started: Any, ended: Any) -> bool:
        """Take dicts with the same keys in the same order and the same types; False: they are not."""
        (keys, *others) = set(map(tuple, rows))
        if others or not keys:
            return False
        flat = list(chain.from_iterable(map(dict.values, rows)))
        columns = [flat[i :: len(keys)] for i in range(len(keys))]
        types = [set(map(type, column)) for column in columns]
        if any(len(kinds) > 1 for kinds in types):
            return False
        each = tuple(kinds.pop() for kinds in types)
        shape = self._shape(keys, (*map(type, keys), *each), rows[0])
        if not shape.flat:
            return False
        self._added += shape.bytes * len(rows)
        for i in shape.texts:
            self._added += sum(map(len, columns[i]))
        shape.columns.append((positions, started, ended, columns))
        return True

    def _shape(self, keys: Any, types: tuple[type, ...], value: dict[Any, Any]) -> Shape:
        """Decide once per key order and types whether such dicts take the fast path."""
        found = self._shapes.get((keys, types))
        if found is None:
            own = types[len(keys) :]
            flat = _IMMUTABLE.issuperset(own) and is_row(value)
            forms = tuple(SCALARS[cls] for cls in own) if flat else ()
            texts = tuple(i for i, cls in enumerate(own) if cls in _TEXTS)
            found = Shape(keys, types, forms, texts, 64 + 16 * len(keys), flat)
            found = self._shapes.setdefault((keys, types), found)
        return found

    def _add_dict(self, position: int, value: dict[Any, Any], start: int, end: int) -> None:
        if not is_row(value):
            self._add_value(position, value, start, end, as_pickle=True)
            return
        stated = self._stated
        frozen = list(map(sketch, value.values())) if stated is None else stated.frozen(value)
        forms = tuple(form for form, _ in frozen)
        row = tuple(payload for _, payload in frozen)
        self._added += 64 + sum(map(_size, row))
        group = self._rows.setdefault((tuple(value), forms), [])
        group.extend((position, start, end, *row))

    def _add_other(self, position: int, value: Any, start: int, end: int) -> None:
        if type(value) is list and all(map(is_row, value)):
            frozen = freeze_rows(value)
            if frozen is not None:
                if value and self._stated is not None:
                    conform_rows(frozen.table(), self._stated.schema)
                self._added += 64 + sum([column.nbytes for column in frozen.columns.values()])
                self._lists.extend((position, start, end, frozen))
                return
        table = freeze_table(value)
        if table is not None:
            if self._stated is not None:
                table.table = conform(table.table, self._stated.schema)
            self._added += table.table.nbytes
            self._tables.extend((position, start, end, table))
        elif streams.is_stream(value):
            self._add_stream(position, value, start)
        else:
            self._add_value(position, value, start, end)

    def _add_value(
        self,
        position: int,
        value: Any,
        start: int,
        end: int,
        *,
        as_pickle: bool = False,
    ) -> None:
        if self._stated is not None:
            raise UnstorableError(
                f"the task has a schema, and a {type(value).__name__} has no columns that Arrow can hold: "
                "return a table, a frame or dicts"
            )
        form, payload = pickled(value) if as_pickle else sketch(value)
        self._added += 64 + _size(payload)
        self._values.setdefault(form, []).extend((position, start, end, payload))

    def _add_stream(self, position: int, value: Any, start: int) -> None:
        """Consume an iterator; its end is the item's end."""
        spool = streams.Spool(
            self._objects,
            self._header,
            self._made,
            position,
            start,
            self._format,
            self._remote,
            None if self._stated is None else self._stated.schema,
        )
        spooled = spool.consume(value)
        end = time.time_ns()
        if isinstance(spooled, list):
            self._add_other(position, spooled, start, end)
            return
        self._added += spooled.bytes
        self._spooled.extend((position, start, end, spooled))

    # ---------------------------------------------------------------------------------- flush

    def flush(self) -> tuple[Receipt, ...]:
        """Commit what was added so far. See `core.interfaces.Encoder.flush`.

        Raises
        ------
        StorageError
            A partition could not be put. It stays pending, and so do the receipts of those that were
            put before it: another flush goes on from there.
        """
        with self._lock:
            self._drain()
            while self._outbox:
                self._receipts.append(self._commit(self._outbox[0]))
                del self._outbox[0]
            receipts = tuple(self._receipts)
            self._receipts.clear()
            return receipts

    def _drain(self) -> None:
        """Make drafts of what is pending. What does not become one stays pending."""
        self._drained = self._added
        self._move([self._scalars], lambda chunks: _typed_drafts(split(chunks[0])))
        for cls, pending in list(self._plain.items()):
            self._move([pending], lambda chunks, cls=cls: scalar_drafts(cls, joined(chunks[0])))
        self._drain_rows()
        for form, pending in list(self._values.items()):
            self._move([pending], lambda chunks, form=form: value_drafts(form, chunks[0]))
        self._move([self._lists], lambda chunks: rows_drafts(chunks[0]))
        self._move([self._tables], lambda chunks: table_drafts(chunks[0]))
        self._move(
            [self._spooled],
            lambda chunks: iter([spooled.draft for spooled in chunks[0][3::4]]),
        )

    def _drain_rows(self) -> None:
        shapes = list(self._shapes.values())
        flat = [(s.keys, s.forms, s.pending) for s in shapes]
        flat += [(keys, forms, rows) for (keys, forms), rows in list(self._rows.items())]
        groups: list[tuple[Any, Any, list[Any], Callable[[list[Any]], Columns]]] = [
            (keys, forms, source, partial(split, width=len(keys))) for keys, forms, source in flat
        ]
        groups += [(s.keys, s.forms, s.columns, joined) for s in shapes]
        groups = [group for group in groups if group[2]]
        self._move(
            [source for _, _, source, _ in groups],
            lambda chunks: row_drafts(
                (keys, forms, columns_of(chunk))
                for (keys, forms, _, columns_of), chunk in zip(groups, chunks, strict=True)
            ),
        )

    def _move(
        self,
        sources: list[list[Any]],
        make: Callable[[list[list[Any]]], Iterator[Draft]],
    ) -> None:
        """Drafts of what lists hold now, while another thread may append to them."""
        chunks = [source[:] for source in sources]
        if not any(chunks):
            return
        drafts = make(chunks)
        self._outbox.extend(list(drafts if self._ids is None else with_ids(drafts, *self._ids)))
        for source, chunk in zip(sources, chunks, strict=True):
            del source[: len(chunk)]

    def _commit(self, draft: Draft) -> Receipt:
        """Put one partition; from here on it exists."""
        if draft.spooled is not None:
            part, inline = self._put_spooled(draft), None
        else:
            part, inline = self._put(draft)
        self._number += 1
        common = self._header
        receipt = receipt_from(common.node, common.batch, common.attempt, part, draft.items, inline)
        return with_lineage(receipt, self._made.lineage(draft.items.positions))

    def _put(self, draft: Draft) -> tuple[Part, bytes | None]:
        table, items = draft.table, draft.items
        layout = choose_format(self._format, self._remote, table.schema, table.num_rows)
        header = header_of(self._header, draft, self._made)
        data = encode_partition(table, header, items, layout, compress=self._remote)
        checksum = checksum_of(data)
        path = part_path(header, self._number, checksum, layout)
        self._objects.write(path, data)
        part = Part(path, layout, draft.kind, data.size, table.num_rows, checksum)
        return part, data.to_pybytes() if data.size <= self._inline_bytes else None

    def _put_spooled(self, draft: Draft) -> Part:
        spooled = draft.spooled
        path = part_path(self._header, self._number, spooled.checksum, spooled.format)
        if spooled.aside:  # another flush finds it put
            self._objects.write_file(quarantine_path(path), spooled.aside)
            spooled.aside = ""
        self._objects.write_file(path, spooled.file)
        return Part(
            path,
            spooled.format,
            draft.kind,
            spooled.bytes,
            spooled.rows,
            spooled.checksum,
        )


def header_of(common: Header, draft: Draft, made: Made) -> Header:
    """The header of one partition."""
    return Header(
        run=common.run,
        node=common.node,
        key=common.key,
        batch=common.batch,
        attempt=common.attempt,
        nonce=common.nonce,
        kind=draft.kind,
        items=len(draft.items),
        restores=draft.restores,
        shapes=draft.shapes,
        extra=draft.extra,
        firsts=draft.firsts,
        lineage=made.lineage(draft.items.positions),
    )


def _typed_drafts(items: Columns) -> Iterator[Draft]:
    _, _, _, (values,) = items
    for cls, own in by_type(set(map(type, values)), items):
        yield from scalar_drafts(cls, own)


def _text_bytes(types: set[type], values: list[Any]) -> int:
    if _TEXTS.isdisjoint(types):
        return 0
    return sum([len(value) for value in values if type(value) in _TEXTS])


def _size(payload: Any) -> int:
    if isinstance(payload, (pa.Array, pa.Table)):
        return int(payload.nbytes)
    if isinstance(payload, (str, bytes)):
        return len(payload)
    return 16 * len(payload) if isinstance(payload, (list, dict)) else 16


def new_nonce() -> str:
    """Tells one execution of a batch from another; unique for all practical purposes."""
    return os.urandom(6).hex()
