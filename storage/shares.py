"""Shares: parts of a dataset as items of a map, whose rows know their places in the whole.

A row's *place* is a number that ascends with the rows and depends on the dataset alone, not on how
it was cut into shares or into the partitions of a run. Of a run's rows it is their number; of a
file's the number of the file and theirs in it. So what is decided by places is decided alike in
every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.interfaces import Origin
from .partitions import MOST_GROUP_ROWS
from .pieces import Piece, Scan, filter_fingerprint, origins_of
from .scanning import FilePiece
from .splitting import by_bytes
from .unifying import align

PLACE = "__headrace_place"
_FILE = 1 << 40
"""Places from one file to the next, as the rows of one may not be counted."""


@dataclass(frozen=True)
class Share:
    """Consecutive pieces of a dataset, and the place of the first row of each."""

    pieces: tuple[Piece, ...]
    places: tuple[int, ...]
    scan: Scan

    def __headrace_fingerprint__(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        parts = [*(p.fingerprint for p in self.pieces), self.places, self.scan.columns]
        parts += [self.scan.schema] if self.scan.stated else []
        for part in (*parts, filter_fingerprint(self.scan.filter)):
            digest.update(str(part).encode() + b"\0")
        return digest.hexdigest()

    def __headrace_origins__(self) -> list[Origin]:
        return origins_of(self.pieces)

    @property
    def counted(self) -> int | None:
        """Rows, where they are known without reading."""
        if self.scan.filter is not None:
            return None
        rows = [piece.rows for piece in self.pieces]
        return None if None in rows else sum(filter(None, rows))

    def chunks(self, size: int, columns: Sequence[str] | None = None) -> Iterator[tuple[Any, Any]]:
        """The rows in tables of at most about ``size`` bytes, each with the places of its rows.

        ``columns`` are read instead of those of the dataset.
        """
        schema = plain_schema(self.scan.schema)
        columns = self.scan.columns if columns is None else tuple(columns)
        wanted = self.scan.filter  # while reading it would hide how many rows it leaves out
        scan = replace(self.scan, columns=columns if wanted is None else None, filter=None)
        for held, places in _gathered(_parts(self.pieces, self.places, scan, size), size):
            table = pa.Table.from_batches(held, schema=scan.result)
            table = align(table, plain_schema(scan.result))
            where = np.concatenate([np.arange(at, at + n) for at, n in places])
            if wanted is not None:
                table = table.append_column(PLACE, pa.array(where)).filter(wanted)
                where = table.column(PLACE).to_numpy()
                table = table.select(list(schema.names if columns is None else columns))
            yield table, where


def _parts(
    pieces: Sequence[Piece], places: Sequence[int], scan: Scan, size: int
) -> Iterator[tuple[Any, int]]:
    """Batches of at most about ``size`` bytes, with the place of their first rows."""
    for piece, place in zip(pieces, places, strict=True):
        at = place
        for batch in piece.batches(scan):
            step = max(1, int(batch.num_rows * min(1, size / max(1, batch.nbytes))))
            step = min(step, MOST_GROUP_ROWS)
            for first in range(0, batch.num_rows, step):
                yield batch.slice(first, step), at + first
            at += batch.num_rows


def _gathered(
    parts: Iterator[tuple[Any, int]], size: int
) -> Iterator[tuple[list[Any], list[tuple[int, int]]]]:
    held: list[Any] = []
    places: list[tuple[int, int]] = []
    rows = held_bytes = 0
    for batch, at in parts:
        more = batch.nbytes
        if held and (held_bytes + more > size or rows + batch.num_rows > MOST_GROUP_ROWS):
            yield held, places
            held, places, rows, held_bytes = [], [], 0, 0
        held.append(batch)
        places.append((at, batch.num_rows))
        rows += batch.num_rows
        held_bytes += more
    if held:
        yield held, places


def shares_of(pieces: Sequence[Piece], scan: Scan, size: int) -> list[Share]:
    """A dataset in shares of about ``size`` stored bytes."""
    return with_places(by_bytes(pieces, size), scan)


def with_places(groups: Iterator[list[Piece]] | Sequence[list[Piece]], scan: Scan) -> list[Share]:
    """Groups of pieces as shares."""
    shares: list[Share] = []
    place, file, name = 0, 0, ""
    for group in groups:
        places: list[int] = []
        for piece in group:
            if isinstance(piece, FilePiece) and (piece.name != name or piece.rows is None):
                file, name = file + 1, piece.name
                place = file * _FILE
            places.append(place)
            if piece.rows is not None:
                place += piece.rows
            elif not isinstance(piece, FilePiece):
                place += piece.count()
        shares.append(Share(tuple(group), tuple(places), scan))
    return shares


def plain_schema(schema: Any, *, categories: bool = False) -> Any:
    """The schema without dictionaries and views.

    An Arrow file holds one dictionary per column, and rows come from many files; views cannot be
    taken from. With ``categories`` dictionaries of texts stay, as in Parquet they can.
    """
    return pa.schema(
        [field.with_type(_plain(field.type, categories)) for field in schema], schema.metadata
    )


def _plain(kind: Any, categories: bool) -> Any:
    if pa.types.is_dictionary(kind):
        is_text = pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
        return kind if categories and is_text else _plain(kind.value_type, categories)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_plain(f.type, categories)) for f in kind.fields])
    if pa.types.is_map(kind):
        item: Any = kind.item_field.with_type(_plain(kind.item_type, categories))
        return pa.map_(_plain(kind.key_type, categories), item)
    for test, make in (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
    ):
        if test(kind):
            return make(kind.value_field.with_type(_plain(kind.value_type, categories)))
    return kind
