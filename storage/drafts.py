"""From pending items to partitions that are ready to be put: one draft per partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from .forms import ARRAYS, PICKLE, SCALARS, Form, array_of, freeze, values_of
from .itemtables import ItemTable
from .rowforms import FrozenRows, Keys, RowGroup, bundles_of
from .tables import FrozenTable

Flat: TypeAlias = list[Any]
"""Pending items, flat: position, start and end in epoch nanoseconds, then what was frozen of the
value, one element (or one per column of a row), and so on for the next item. One `list.extend` adds
an item, so neither a thread nor a signal finds half of one, and no object is kept per item."""

Columns: TypeAlias = "tuple[Any, Any, Any, list[list[Any]]]"
"""Positions, starts, ends (int64 arrays, epoch nanoseconds) and columns of values."""

VALUE = "value"
"""Name of the data column where items are not tables."""

SCALAR_KINDS: dict[type, str] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    bytes: "bytes",
    type(None): "none",
}
REFUSALS = (OverflowError, UnicodeEncodeError, pa.ArrowInvalid)
_MOST_BYTES = 1 << 30


@dataclass(slots=True)
class Draft:
    """One partition before it is written: its kind, data and items."""

    kind: str
    items: ItemTable
    table: Any = None
    restores: tuple[str, ...] = ()
    shapes: tuple[Keys, ...] = ()
    firsts: tuple[int, ...] = ()
    extra: str = ""
    spooled: Any = None
    """A finished file (`storage.streams.Spooled`) in place of a table."""

    @property
    def bytes(self) -> int:
        return int(self.spooled.bytes if self.spooled is not None else self.table.nbytes)


def split(flat: Flat, width: int = 1) -> Columns:
    """Pending items as columns, in position order."""
    stride = 3 + width
    where, started, ended = (np.array(flat[i::stride], np.int64) for i in range(3))
    return _ordered((where, started, ended, [flat[3 + i :: stride] for i in range(width)]))


def joined(pieces: Sequence[Columns]) -> Columns:
    """Columns one after another, in position order."""
    if len(pieces) == 1:
        return _ordered(pieces[0])
    wheres, starts, ends, columns = zip(*pieces, strict=True)
    values = [list(chain.from_iterable(parts)) for parts in zip(*columns, strict=True)]
    return _ordered((np.concatenate(wheres), np.concatenate(starts), np.concatenate(ends), values))


def _ordered(items: Columns) -> Columns:
    where, started, ended, columns = items
    if len(where) < 2 or not bool((np.diff(where) < 0).any()):
        return items
    order = np.argsort(where, kind="stable")
    picked = [[column[i] for i in order.tolist()] for column in columns]
    return where[order], started[order], ended[order], picked


# ------------------------------------------------------------------------------------- scalars


def by_type(kinds: set[type], items: Columns) -> Iterator[tuple[type, Columns]]:
    """Items of one column by the exact types of their values, which are ``kinds``."""
    where, started, ended, (values,) = items
    if len(kinds) == 1:
        yield next(iter(kinds)), items
        return
    number = {cls: i for i, cls in enumerate(dict.fromkeys(map(type, values)))}
    each = np.fromiter((number[type(v)] for v in values), np.int8, len(values))
    for cls, code in number.items():
        chosen = np.flatnonzero(each == code)
        picked = [values[i] for i in chosen.tolist()]
        yield cls, (where[chosen], started[chosen], ended[chosen], [picked])


def scalar_drafts(cls: type, items: Columns) -> Iterator[Draft]:
    """Ints, floats, bools, texts, bytes or Nones, all of one exact type.

    What Arrow's type does not hold (a huge int, a lone surrogate) goes into a partition of pickled
    values.
    """
    where, started, ended, (values,) = items
    form = SCALARS[cls]
    try:
        array = array_of(form, values)
    except REFUSALS:
        frozen = [freeze(value) for value in values]
        yield from _each_form(SCALAR_KINDS[cls], where, started, ended, frozen)
        return
    table = _value_table(form, array)
    yield Draft(SCALAR_KINDS[cls], ItemTable.of(where, started, ended, 1), table, ("",))


def _each_form(
    kind: str, where: Any, started: Any, ended: Any, frozen: list[tuple[Form, Any]]
) -> Iterator[Draft]:
    """Values of which some do not fit the form that the others have: those are pickled."""
    by_form: dict[Form, list[int]] = {}
    for i, (form, _) in enumerate(frozen):
        by_form.setdefault(form, []).append(i)
    for form, chosen in by_form.items():
        array = array_of(form, [frozen[i][1] for i in chosen])
        items = ItemTable.of(where[chosen], started[chosen], ended[chosen], 1)
        own = "pickled" if form.restore == PICKLE else kind
        yield Draft(own, items, _value_table(form, array), (form.restore,))


def _value_table(form: Form, array: Any) -> Any:
    return pa.table([array], schema=pa.schema([form.field(VALUE)]))


# -------------------------------------------------------------------------- other single values


def value_drafts(form: Form, pending: Flat) -> Iterator[Draft]:
    """Values sketched in one form, in partitions that an Arrow column can hold."""
    where, started, ended, (values,) = split(pending)
    sizes = [v.nbytes if isinstance(v, pa.Array) else 8 * len(v) for v in values]
    for a, b in _bounded(sizes):
        times = where[a:b], started[a:b], ended[a:b]
        try:
            array = array_of(form, values[a:b])
        except REFUSALS:
            frozen = [refrozen(form, value) for value in values[a:b]]
            yield from _each_form("value", *times, frozen)
            continue
        kind = "pickled" if form.restore == PICKLE else "value"
        yield Draft(kind, ItemTable.of(*times, 1), _value_table(form, array), (form.restore,))


def _bounded(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of items of at most `_MOST_BYTES` together, or of one item."""
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > _MOST_BYTES:
            yield first, i
            first = i
            total = 0
        total += size
    yield first, len(sizes)


# ---------------------------------------------------------------------------------------- rows


@dataclass(slots=True)
class Shape:
    """Pending dicts with the same keys and types, and how to take one more."""

    keys: Keys
    types: tuple[type, ...]
    """Of the keys, then of the values."""
    forms: tuple[Form, ...]
    texts: tuple[int, ...]
    """Columns of text or bytes, whose lengths count."""
    bytes: int
    """Estimate for one row without its texts."""
    flat: bool
    """Rows of scalars alone: they need no look at each value."""
    pending: Flat = field(default_factory=list[Any])
    columns: list[Columns] = field(default_factory=list["Columns"])


def row_drafts(
    shapes: Iterable[tuple[Keys, tuple[Form, ...], Columns]],
) -> Iterator[Draft]:
    """Items that are one dict each: shapes whose columns merge share a partition."""
    groups: list[RowGroup] = []
    for keys, forms, items in shapes:
        group = RowGroup(keys, forms, *items[:3], list(items[3]))
        groups.extend(_looked_at(group))
    for bundle in bundles_of(groups):
        frozen, order = bundle.freeze()
        joined = [
            np.concatenate(arrays)[order]
            for arrays in zip(
                *((g.positions, g.started, g.ended) for g in bundle.groups), strict=True
            )
        ]
        items = ItemTable.of(joined[0], joined[1], joined[2], 1, row_shapes=frozen.row_shapes)
        firsts: dict[Keys, int] = {}
        for group in bundle.groups:
            first = int(group.positions[0])
            firsts[group.keys] = min(firsts.get(group.keys, first), first)
        yield _row_draft("row", frozen, items, [firsts[keys] for keys in frozen.shapes])


def _looked_at(group: RowGroup) -> list[RowGroup]:
    """The group, or several where a scalar does not fit the form that its type promised."""
    try:
        for i, form in enumerate(group.forms):
            if form.raw:
                group.columns[i] = array_of(form, group.columns[i])
    except REFUSALS:
        return _regrouped(group)
    return [group]


def _regrouped(group: RowGroup) -> list[RowGroup]:
    """Each row by the forms that its values really have."""
    columns = [values_of(c, "") if isinstance(c, ARRAYS) else c for c in group.columns]
    parts: dict[tuple[Form, ...], list[int]] = {}
    rows: list[tuple[Any, ...]] = []
    for i, row in enumerate(zip(*columns, strict=True)):
        frozen = [
            refrozen(form, v) if form.raw else (form, v)
            for form, v in zip(group.forms, row, strict=True)
        ]
        parts.setdefault(tuple(form for form, _ in frozen), []).append(i)
        rows.append(tuple(value for _, value in frozen))
    return [
        RowGroup(
            group.keys,
            forms,
            group.positions[chosen],
            group.started[chosen],
            group.ended[chosen],
            [list(column) for column in zip(*(rows[i] for i in chosen), strict=True)],
        )
        for forms, chosen in parts.items()
    ]


def refrozen(form: Form, payload: Any) -> tuple[Form, Any]:
    """A sketched value, now looked at."""
    if form.restore == PICKLE:
        return form, payload
    return freeze(tuple(payload) if form.restore == "tuple" else payload)


def _row_draft(kind: str, frozen: FrozenRows, items: ItemTable, firsts: Sequence[int]) -> Draft:
    return Draft(
        kind,
        items,
        frozen.table(),
        tuple(frozen.restores),
        tuple(frozen.shapes),
        tuple(firsts),
    )


# -------------------------------------------------------------------- lists of dicts, and tables


def _grouped(pending: Flat, key_of: Callable[[int, Any], Any]) -> Iterator[Any]:
    """The items by a key of their value: `split` of each group."""
    groups: dict[Any, Flat] = {}
    for i in range(0, len(pending), 4):
        groups.setdefault(key_of(i, pending[i + 3]), []).extend(pending[i : i + 4])
    for flat in groups.values():
        where, started, ended, (values,) = split(flat)
        yield where, started, ended, values


def rows_drafts(pending: Flat) -> Iterator[Draft]:
    """Items that are lists of dicts (`FrozenRows`): those with equal columns share a partition."""
    for where, started, ended, values in _grouped(
        pending, lambda _, frozen: tuple(frozen.forms.items())
    ):
        shapes: dict[Keys, int] = {}
        firsts: list[int] = []
        index: list[Any] = []
        for position, frozen in zip(where.tolist(), values, strict=True):
            own = [shapes.setdefault(keys, len(shapes)) for keys in frozen.shapes]
            firsts.extend([position] * (len(shapes) - len(firsts)))
            each = frozen.row_shapes
            index.append(
                np.array(own, np.int32)[each]
                if each is not None
                else np.full(frozen.rows, own[0] if own else 0, np.int32)
            )
        rows = _row_counts([frozen.rows for frozen in values])
        row_shapes = np.concatenate(index) if len(shapes) > 1 else None
        items = ItemTable.of(where, started, ended, rows, row_shapes=row_shapes)
        yield Draft(
            "rows",
            items,
            pa.concat_tables([frozen.table() for frozen in values]),
            tuple(values[0].restores),
            tuple(shapes),
            tuple(firsts),
        )


def table_drafts(pending: Flat) -> Iterator[Draft]:
    """Items that are tables (`FrozenTable`): those with equal schemas share a partition."""

    def key_of(i: int, frozen: FrozenTable) -> Any:
        key = frozen.group_key()
        return (i,) if key is None else key

    for where, started, ended, values in _grouped(pending, key_of):
        sizes = [frozen.table.nbytes for frozen in values]
        for a, b in _bounded(sizes):
            rows = _row_counts([frozen.table.num_rows for frozen in values[a:b]])
            items = ItemTable.of(where[a:b], started[a:b], ended[a:b], rows)
            table = pa.concat_tables([frozen.table for frozen in values[a:b]])
            yield Draft(values[a].kind, items, table, extra=values[a].extra)


def _row_counts(counts: list[int]) -> int | Any:
    return counts[0] if len(set(counts)) == 1 else np.array(counts, np.int64)


def with_ids(drafts: Iterable[Draft], positions: Any, ids: Any) -> Iterator[Draft]:
    """The drafts with the ids of their items, which stand beside their ascending positions."""
    for draft in drafts:
        own = draft.items.positions
        all_of_them = len(own) == len(positions)
        chosen = ids if all_of_them else ids[np.searchsorted(positions, own)]
        draft.items.ids = chosen.tobytes()
        yield draft
