"""Columns of arguments that wait to be handed out: cut, picked and joined without touching values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from .interfaces import Part, Positions, RefColumn
from .items import indices, runs_of, split

Column: TypeAlias = "list[Any] | RefColumn"
"""Values, or references to committed ones (whose numbers are int64 arrays on the driver)."""


def cut(column: Column, start: int, stop: int | None) -> Column:
    """A range of a column; of references a view that keeps all parts."""
    if not isinstance(column, RefColumn):
        return column[start:stop]
    wanted = slice(start, stop)
    return RefColumn(
        column.parts,
        column.part[wanted],
        column.index[wanted],
        column.first_row[wanted],
        column.rows[wanted],
        column.inline,
    )


def pick(column: Column, keep: Any) -> Column:
    """Some elements of a column, by an int64 array of their places."""
    if not isinstance(column, RefColumn):
        return [column[i] for i in keep.tolist()]
    return RefColumn(
        column.parts,
        np.asarray(column.part)[keep],
        np.asarray(column.index)[keep],
        np.asarray(column.first_row)[keep],
        np.asarray(column.rows)[keep],
        column.inline,
    )


def joined(columns: Sequence[Column]) -> Column:
    """Columns of one kind, one after another."""
    references = [column for column in columns if isinstance(column, RefColumn)]
    if not references:
        return list(chain.from_iterable(columns))  # type: ignore[arg-type]
    places: dict[Part, int] = {}
    inline: list[bytes | None] = []
    numbers: list[Any] = []
    for column in references:
        renumber: list[int] = []
        for part, data in zip(column.parts, column.inline, strict=True):
            if part not in places:
                places[part] = len(inline)
                inline.append(data)
            renumber.append(places[part])
        numbers.append(np.asarray(renumber, dtype=np.int64)[np.asarray(column.part)])
    return RefColumn(
        tuple(places),
        np.concatenate(numbers),
        np.concatenate([column.index for column in references]),
        np.concatenate([column.first_row for column in references]),
        np.concatenate([column.rows for column in references]),
        tuple(inline),
    )


def pruned(column: RefColumn) -> RefColumn:
    """The column with the parts that it uses, before it travels."""
    used, part = np.unique(np.asarray(column.part), return_inverse=True)
    if len(used) == len(column.parts):
        return column
    chosen = used.tolist()
    return RefColumn(
        tuple(column.parts[p] for p in chosen),
        part,
        column.index,
        column.first_row,
        column.rows,
        tuple(column.inline[p] for p in chosen),
    )


class Chunk:
    """Items that wait to be handed out, with their arguments.

    ``most`` above 0 limits how many of them may travel together, and with nobody else: one of them
    is suspected to have killed its child. ``alone``: no other batch may run beside them.
    """

    __slots__ = ("alone", "columns", "most", "positions")

    def __init__(
        self, positions: Positions, columns: list[Column], most: int = 0, *, alone: bool = False
    ) -> None:
        self.positions = positions
        self.columns = columns
        self.most = most
        self.alone = alone

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, count: int) -> tuple[Chunk, Chunk | None]:
        """Split off the first ``count`` items."""
        if count >= len(self.positions):
            return self, None
        head, tail = split(self.positions, count)
        return (
            Chunk(head, [cut(c, 0, count) for c in self.columns], self.most, alone=self.alone),
            Chunk(tail, [cut(c, count, None) for c in self.columns], self.most, alone=self.alone),
        )

    def only(self, wanted: Positions) -> Chunk:
        """Those of its items."""
        if wanted == self.positions:
            return self
        keep = np.flatnonzero(np.isin(indices(self.positions), indices(wanted)))
        columns = [pick(column, keep) for column in self.columns]
        return Chunk(wanted, columns, self.most, alone=self.alone)

    def fits(self, other: Chunk) -> bool:
        """Can both be joined?"""
        return (
            not self.most
            and not other.most
            and all(type(a) is type(b) for a, b in zip(self.columns, other.columns, strict=True))
        )

    @staticmethod
    def join(chunks: Sequence[Chunk]) -> Chunk:
        """Chunks that fit each other as one, its positions ascending."""
        if len(chunks) == 1:
            return chunks[0]
        where = np.concatenate([indices(chunk.positions) for chunk in chunks])
        columns = [joined(parts) for parts in zip(*(c.columns for c in chunks), strict=True)]
        if bool((np.diff(where) < 0).any()):
            order = np.argsort(where, kind="stable")
            where = where[order]
            columns = [pick(column, order) for column in columns]
        return Chunk(Positions(tuple(runs_of(where))), columns)
