"""Dicts as rows: columns with forms, and the key order of each row.

Rows of one partition may have different keys: the table has the union of their columns, and each
row remembers its *shape*, the tuple of its own keys in its own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .forms import (
    NULL,
    PICKLED,
    SCALARS,
    Form,
    array_of,
    freeze,
    is_plain_name,
    merged_form,
)

Keys = tuple[str, ...]

MAX_COLUMNS = 512
"""A dict with more keys is a mapping, not a row, and is pickled."""

PLACEHOLDER = "__headrace_rows__"
"""The one column of rows that have none: it keeps their number."""


@dataclass(slots=True)
class FrozenRows:
    """Rows as columns: what one item of kind ``rows`` is, and what a bundle of ``row`` items is."""

    forms: dict[str, Form]
    columns: dict[str, Any]
    rows: int
    shapes: list[Keys]
    row_shapes: Any
    """Index of each row's shape (int32), or None where there is one shape."""

    def table(self) -> Any:
        """The Arrow table, with pickled columns marked."""
        if not self.forms:
            return pa.table({PLACEHOLDER: pa.nulls(self.rows)})
        fields = [form.field(name) for name, form in self.forms.items()]
        return pa.table(list(self.columns.values()), schema=pa.schema(fields))

    @property
    def restores(self) -> list[str]:
        return [form.restore for form in self.forms.values()]


def is_row(value: Any) -> bool:
    """Whether a dict can be a row: str keys that Arrow can hold, and not too many of them."""
    if type(value) is not dict or len(value) > MAX_COLUMNS:
        return False
    return all(type(key) is str and is_plain_name(key) for key in value)


def freeze_rows(rows: Sequence[dict[str, Any]], *, scales: bool = False) -> FrozenRows | None:
    """The rows of one item; None where they have too many different columns.

    ``scales`` as in `forms.merged_type`.
    """
    shapes: dict[Keys, int] = {}
    index = [shapes.setdefault(tuple(row), len(shapes)) for row in rows]
    names = dict.fromkeys(name for keys in shapes for name in keys)
    if len(names) > MAX_COLUMNS:
        return None
    forms: dict[str, Form] = {}
    columns: dict[str, Any] = {}
    for name in names:
        forms[name], columns[name] = freeze_column([row.get(name) for row in rows], scales=scales)
    row_shapes = np.array(index, np.int32) if len(shapes) > 1 else None
    return FrozenRows(forms, columns, len(rows), list(shapes), row_shapes)


def freeze_column(values: list[Any], *, scales: bool = False) -> tuple[Form, Any]:
    """One column of one item's rows; where no form holds all values exactly, each is pickled."""
    types = set(map(type, values))
    types.discard(type(None))
    if not types:
        return NULL, pa.nulls(len(values))
    if len(types) == 1:
        form = SCALARS.get(next(iter(types)))
        if form is not None:
            try:
                return form, pa.array(values, form.type)
            except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
                return _pickled_column(values)
    return _freeze_each(values, scales)


def _freeze_each(values: list[Any], scales: bool) -> tuple[Form, Any]:
    frozen = [(NULL, None) if v is None else freeze(v) for v in values]
    form: Form | None = NULL
    for other, _ in frozen:
        form = merged_form(form, other, scales=scales) if form is not None else None
    if form is None:
        return _pickled_column(values)
    if form.raw:
        return form, array_of(form, [payload for _, payload in frozen])
    return form, array_of(form, [_cast(own, payload, form) for own, payload in frozen])


def _cast(own: Form, payload: Any, form: Form) -> Any:
    """One frozen value as an array of the form that it shares with others; null as None."""
    if own == NULL:
        return None
    array = pa.array([payload], own.type) if own.raw else payload
    return array if array.type == form.type else array.cast(form.type)


def _pickled_column(values: list[Any]) -> tuple[Form, Any]:
    from .pickles import dump

    return PICKLED, pa.array([None if v is None else dump(v) for v in values], pa.binary())


# ------------------------------------------------------------- many items, one row each


@dataclass(slots=True)
class RowGroup:
    """Items with the same keys and forms: what `freeze` made of each value, item by item."""

    keys: Keys
    forms: tuple[Form, ...]
    positions: Any
    """int64 array, ascending."""
    started: Any
    ended: Any
    """int64 epoch nanoseconds."""
    columns: list[Any]
    """Per key: what was frozen of the values, or the Arrow column that was made of it."""

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(slots=True)
class Bundle:
    """Groups whose rows fit one table."""

    forms: dict[str, Form]
    groups: list[RowGroup]

    def join(self, group: RowGroup) -> bool:
        """Take a group in, if all of its columns merge without a value changing."""
        forms = dict(self.forms)
        for name, form in zip(group.keys, group.forms, strict=True):
            merged = merged_form(forms.get(name, NULL), form)
            if merged is None:
                return False
            forms[name] = merged
        if len(forms) > MAX_COLUMNS:
            return False
        self.forms = forms
        self.groups.append(group)
        return True

    def freeze(self) -> tuple[FrozenRows, Any]:
        """The bundle's rows in position order, and the argsort that brings its items there.

        Raises
        ------
        OverflowError, UnicodeEncodeError
            A scalar does not fit its column: its group was made without a look at each value.
        """
        tables = [self._table(group) for group in self.groups]
        table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        positions = np.concatenate([group.positions for group in self.groups])
        order = np.argsort(positions, kind="stable")
        shapes = list(dict.fromkeys(group.keys for group in self.groups))
        row_shapes = None
        if len(self.groups) > 1:
            table = table.take(order)
            number = {keys: i for i, keys in enumerate(shapes)}
            each = [np.full(len(g), number[g.keys], np.int32) for g in self.groups]
            row_shapes = np.concatenate(each)[order] if len(shapes) > 1 else None
        columns = dict(zip(self.forms, table.columns, strict=True)) if self.forms else {}
        return FrozenRows(self.forms, columns, len(positions), shapes, row_shapes), order

    def _table(self, group: RowGroup) -> Any:
        if not self.forms:
            return pa.table({PLACEHOLDER: pa.nulls(len(group))})
        columns = dict(zip(group.keys, group.columns, strict=True))
        own = dict(zip(group.keys, group.forms, strict=True))
        arrays: list[Any] = []
        for name, form in self.forms.items():
            if name not in columns:
                arrays.append(pa.nulls(len(group), form.type))
                continue
            array = array_of(own[name], columns[name])
            arrays.append(array if array.type == form.type else array.cast(form.type))
        return pa.table(arrays, names=list(self.forms))


def bundles_of(groups: list[RowGroup]) -> list[Bundle]:
    """Few tables for many shapes: each group joins the first bundle that it fits."""
    bundles: list[Bundle] = []
    for group in sorted(groups, key=lambda g: int(g.positions[0])):
        if not any(bundle.join(group) for bundle in bundles):
            bundle = Bundle({}, [])
            if not bundle.join(group):  # cannot be: a single dict's columns always fit
                raise AssertionError(group.keys)
            bundles.append(bundle)
    return bundles


def dicts_of(
    columns: list[list[Any]], names: list[str], shapes: list[Keys], index: Any
) -> list[Any]:
    """Rows as dicts again, each with its own keys in its own order.

    ``index`` gives each row's shape; None: all have the first.
    """
    if index is None:
        keys = shapes[0]
        if not keys:
            return [{} for _ in range(len(columns[0]) if columns else 0)]
        by_name = dict(zip(names, columns, strict=True))
        picked = [by_name[name] for name in keys]
        return [dict(zip(keys, row, strict=True)) for row in zip(*picked, strict=True)]
    place = {name: i for i, name in enumerate(names)}
    picks = [[(key, place[key]) for key in keys] for keys in shapes]
    rows = zip(*columns, strict=True)
    return [
        {key: row[i] for key, i in picks[s]} for row, s in zip(rows, index.tolist(), strict=True)
    ]
