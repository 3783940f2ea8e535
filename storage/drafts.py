"""From pending items to partitions that are ready to be put: one draft per partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .forms import PICKLE, SCALARS, Form, array_of, freeze
from .itemtables import ItemTable
from .rowforms import FrozenRows, Keys, RowGroup, bundles_of
from .tables import FrozenTable

Pending = tuple[int, int, int, Any]
"""Position, start and end in epoch nanoseconds, and what was frozen of the value."""

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
        return int(
            self.spooled.bytes if self.spooled is not None else self.table.nbytes
        )


def _split(pending: Sequence[Pending]) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    """Positions, starts, ends (int64 arrays) and values, in position order."""
    positions, starts, ends, values = zip(*pending, strict=True)
    where = np.array(positions, np.int64)
    started, ended = np.array(starts, np.int64), np.array(ends, np.int64)
    if len(where) > 1 and bool((np.diff(where) < 0).any()):
        order = np.argsort(where, kind="stable")
        values = tuple(values[i] for i in order.tolist())
        where, started, ended = where[order], started[order], ended[order]
    return where, started, ended, values


# ------------------------------------------------------------------------------------- scalars


def scalar_drafts(pending: Sequence[Pending]) -> Iterator[Draft]:
    """Ints, floats, bools, texts, bytes and Nones: one partition per exact type.

    What Arrow's type does not hold (a huge int, a lone surrogate) goes into one of pickled values.
    """
    where, started, ended, values = _split(pending)
    types = set(map(type, values))
    if len(types) == 1:
        yield from _one_type(types.pop(), where, started, ended, values)
        return
    codes = list(types)
    number = {cls: i for i, cls in enumerate(codes)}
    each = np.fromiter((number[type(v)] for v in values), np.int8, len(values))
    for cls in codes:
        chosen = np.flatnonzero(each == number[cls])
        picked = [values[i] for i in chosen.tolist()]
        yield from _one_type(cls, where[chosen], started[chosen], ended[chosen], picked)


def _one_type(
    cls: type, where: Any, started: Any, ended: Any, values: Any
) -> Iterator[Draft]:
    form = SCALARS[cls]
    try:
        array = array_of(form, values)
    except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
        yield from _refused(cls, where, started, ended, values)
        return
    items = ItemTable.of(where, started, ended, 1)
    yield Draft(SCALAR_KINDS[cls], items, _value_table(form, array), ("",))


def _refused(
    cls: type, where: Any, started: Any, ended: Any, values: Any
) -> Iterator[Draft]:
    """Scalars of which some do not fit their type: those are pickled, one by one."""
    frozen = [freeze(value) for value in values]
    by_form: dict[Form, list[int]] = {}
    for i, (form, _) in enumerate(frozen):
        by_form.setdefault(form, []).append(i)
    for form, chosen in by_form.items():
        array = array_of(form, [frozen[i][1] for i in chosen])
        kind = "pickled" if form.restore == PICKLE else SCALAR_KINDS[cls]
        items = ItemTable.of(where[chosen], started[chosen], ended[chosen], 1)
        yield Draft(kind, items, _value_table(form, array), (form.restore,))


def _value_table(form: Form, array: Any) -> Any:
    return pa.table([array], schema=pa.schema([form.field(VALUE)]))


# -------------------------------------------------------------------------- other single values


def value_drafts(form: Form, pending: Sequence[Pending]) -> Iterator[Draft]:
    """Values frozen in one form, in partitions that an Arrow column can hold."""
    where, started, ended, values = _split(pending)
    sizes = [v.nbytes if isinstance(v, pa.Array) else len(v) for v in values]
    for a, b in _bounded(sizes):
        array = array_of(form, values[a:b])
        items = ItemTable.of(where[a:b], started[a:b], ended[a:b], 1)
        kind = "pickled" if form.restore == PICKLE else "value"
        yield Draft(kind, items, _value_table(form, array), (form.restore,))


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
    """Pending dicts with the same keys and value types, and how to take one more."""

    keys: Keys
    forms: tuple[Form, ...]
    texts: tuple[int, ...]
    """Columns of text or bytes, whose lengths count."""
    pending: list[Pending]
    bytes: int
    """Estimate for one row without its texts."""


def row_drafts(
    shapes: Iterable[tuple[Keys, tuple[Form, ...], list[Pending]]],
) -> Iterator[Draft]:
    """Items that are one dict each: shapes whose columns merge share a partition."""
    groups: list[RowGroup] = []
    times: dict[int, tuple[int, int]] = {}
    for keys, forms, pending in shapes:
        where, started, ended, values = _split(pending)
        times.update(
            zip(
                where.tolist(),
                zip(started.tolist(), ended.tolist(), strict=True),
                strict=True,
            )
        )
        groups.append(RowGroup(keys, forms, where, list(values)))
    groups = [part for group in groups for part in _looked_at(group)]
    for bundle in bundles_of(groups):
        frozen, order = bundle.freeze()
        where = np.concatenate([g.positions for g in bundle.groups])[order]
        both = np.array([times[p] for p in where.tolist()], np.int64).reshape(-1, 2)
        items = ItemTable.of(
            where, both[:, 0], both[:, 1], 1, row_shapes=frozen.row_shapes
        )
        firsts: dict[Keys, int] = {}
        for group in bundle.groups:
            first = int(group.positions[0])
            firsts[group.keys] = min(firsts.get(group.keys, first), first)
        yield _row_draft("row", frozen, items, [firsts[keys] for keys in frozen.shapes])


def _looked_at(group: RowGroup) -> list[RowGroup]:
    """The group, or several where a scalar does not fit the form that its type promised."""
    try:
        for form, column in zip(
            group.forms, zip(*group.rows, strict=True), strict=True
        ):
            if form.type in (pa.int64(), pa.string()) and not form.restore:
                array_of(form, column)
    except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
        return _regrouped(group)
    return [group]


def _regrouped(group: RowGroup) -> list[RowGroup]:
    parts: dict[tuple[Form, ...], list[int]] = {}
    rows: list[tuple[Any, ...]] = []
    for i, row in enumerate(group.rows):
        frozen = [
            freeze(v) if form in _LOOK else (form, v)
            for form, v in zip(group.forms, row, strict=True)
        ]
        parts.setdefault(tuple(form for form, _ in frozen), []).append(i)
        rows.append(tuple(value for _, value in frozen))
    return [
        RowGroup(group.keys, forms, group.positions[chosen], [rows[i] for i in chosen])
        for forms, chosen in parts.items()
    ]


_LOOK = frozenset({SCALARS[int], SCALARS[str]})


def _row_draft(
    kind: str, frozen: FrozenRows, items: ItemTable, firsts: Sequence[int]
) -> Draft:
    return Draft(
        kind,
        items,
        frozen.table(),
        tuple(frozen.restores),
        tuple(frozen.shapes),
        tuple(firsts),
    )


# -------------------------------------------------------------------- lists of dicts, and tables


def rows_drafts(pending: Sequence[tuple[int, int, int, FrozenRows]]) -> Iterator[Draft]:
    """Items that are lists of dicts: those with equal columns share a partition."""
    groups: dict[Any, list[Pending]] = {}
    for item in pending:
        key = tuple(item[3].forms.items())
        groups.setdefault(key, []).append(item)
    for members in groups.values():
        where, started, ended, values = _split(members)
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


def table_drafts(
    pending: Sequence[tuple[int, int, int, FrozenTable]],
) -> Iterator[Draft]:
    """Items that are tables: those with equal schemas share a partition."""
    groups: dict[Any, list[Pending]] = {}
    for i, item in enumerate(pending):
        key = item[3].group_key()
        groups.setdefault((i,) if key is None else key, []).append(item)
    for members in groups.values():
        where, started, ended, values = _split(members)
        sizes = [frozen.table.nbytes for frozen in values]
        for a, b in _bounded(sizes):
            rows = _row_counts([frozen.table.num_rows for frozen in values[a:b]])
            items = ItemTable.of(where[a:b], started[a:b], ended[a:b], rows)
            table = pa.concat_tables([frozen.table for frozen in values[a:b]])
            yield Draft(values[a].kind, items, table, extra=values[a].extra)


def _row_counts(counts: list[int]) -> int | Any:
    return counts[0] if len(set(counts)) == 1 else np.array(counts, np.int64)


def with_ids(drafts: Iterable[Draft], id_of: Callable[[int], Any]) -> Iterator[Draft]:
    """The drafts with the ids of their items."""
    for draft in drafts:
        draft.items.ids = [
            str(id_of(position)) for position in draft.items.positions.tolist()
        ]
        yield draft
