"""How pieces become partitions: large ones split, small ones packed, order kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa

from ..core.errors import ConfigurationError
from .pieces import Piece, Scan
from .scanning import FIXED_SCHEMAS, FilePiece
from .statistics import of_piece
from .unifying import check_fits, unified

P = TypeVar("P")
T = TypeVar("T")

_READERS = 16
MOST_ASKED = 1000
"""With more files than that, so many are asked for their schemas, evenly spread."""
_SMALL = 4
"""A file of a fourth of a partition or less is packed by its stored size, unopened."""


def units_of(pieces: Sequence[Piece]) -> list[Piece]:
    """All pieces in their smallest parts; footers are read side by side."""
    return [unit for units in _side_by_side(lambda piece: piece.units(), pieces) for unit in units]


def may_hold(pieces: Sequence[Piece], scan: Scan) -> list[Piece]:
    """Those that can hold rows of the scan, as far as folders' names tell."""
    return [p for p in pieces if not isinstance(p, FilePiece) or p.may_hold(scan)]


def parts_of(pieces: Sequence[Piece], size: int, scan: Scan) -> list[Piece]:
    """The pieces in parts of about ``size`` bytes, without row groups that the scan leaves out.

    Files that are small beside ``size`` are not opened: a hundred thousand of them are but listed.
    """

    def apart(piece: Piece) -> list[Piece]:
        if not isinstance(piece, FilePiece):
            return piece.units()
        return piece.units(scan) if piece.format == "parquet" else piece.spans(size)

    large = [piece for piece in pieces if piece.bytes * _SMALL > size]
    parts = iter(_side_by_side(apart, large))
    return [
        part
        for piece in pieces
        for part in (next(parts) if piece.bytes * _SMALL > size else [piece])
    ]


def schema_of(pieces: Sequence[Piece], most: int | None = None) -> tuple[Any, int]:
    """The schema of all together, and of how many files it is, where that is not all.

    Of more than ``most`` files that have to be opened for it, so many are, and side by side; of the
    others it is what folders' names tell.
    """
    unread = [p for p in pieces if isinstance(p, FilePiece) and p.format not in FIXED_SCHEMAS]
    asked = unread
    if most is not None and len(unread) > most:
        asked = [unread[number] for number in np.linspace(0, len(unread) - 1, most, dtype=int)]
    opened = dict(zip(map(id, asked), _side_by_side(lambda p: p.schema(), asked), strict=True))
    named: list[tuple[str, Any]] = []
    told: set[Any] = set()
    for piece in pieces:
        schema = opened.get(id(piece))
        if schema is None and isinstance(piece, FilePiece) and piece.format not in FIXED_SCHEMAS:
            columns = tuple((name, value.type) for name, value in piece.constants)
            if columns in told:
                continue
            told.add(columns)
            schema = pa.schema(columns)
        named.append((piece.name, piece.schema() if schema is None else schema))
    return unified(named), len(asked) if len(asked) < len(unread) else 0


def check_all(pieces: Sequence[Piece], scan: Scan) -> None:
    """Hold the schema of each file against the scan's, where that is of some files only.

    Raises
    ------
    ConfigurationError
        One does not fit.
    """
    if scan.asked:
        unread = [p for p in pieces if isinstance(p, FilePiece)]
        _side_by_side(lambda p: check_fits(p.name, p.schema(), scan.schema, scan.asked), unread)


def _side_by_side(ask: Callable[[P], T], pieces: Sequence[P]) -> list[T]:
    """What each piece answers, in order; files are asked by many threads."""
    if len(pieces) > 4:
        with ThreadPoolExecutor(_READERS, "headrace-footers") as pool:
            return list(pool.map(ask, pieces))
    return [ask(piece) for piece in pieces]


def by_bytes(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of about ``size`` bytes."""
    return packed(units_of(pieces), size)


def packed(units: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of about ``size`` bytes of units, of which those are cut that can be."""
    group: list[Piece] = []
    held = 0
    for unit in units:
        for part in _parts_of(unit, size):
            if group and held + part.bytes > size:
                yield joined(group)
                group, held = [], 0
            group.append(part)
            held += part.bytes
    if group:
        yield joined(group)


def settled(units: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of about ``size`` bytes, at least half of that, whose borders names near them decide.

    A group ends before the file whose name has the least hash, of those in the second half of what
    would fit. So, where files come in between, only groups nearby change.
    """
    group: list[Piece] = []
    held = 0
    for unit in units:
        for part in _parts_of(unit, size):
            while group and held + part.bytes > size:
                stop = _border([*group, part], size)
                yield joined(group[:stop])
                group = group[stop:]
                held = sum(each.bytes for each in group)
            group.append(part)
            held += part.bytes
    if group:
        yield joined(group)


def _border(group: Sequence[Piece], size: int) -> int:
    """Where a group ends whose last piece does not fit any more."""
    best, least, held = len(group) - 1, b"", group[0].bytes
    for number, piece in enumerate(group[1:], 1):
        if held * 2 >= size and piece.name != group[number - 1].name:
            digest = blake2b(piece.name.encode(), digest_size=8).digest()
            if not least or digest < least:
                best, least = number, digest
        held += piece.bytes
    return best


def by_value(pieces: Sequence[Piece], column: str, scan: Scan) -> Iterator[list[Piece]]:
    """Groups with one value of a column each, in the order in which the values first appear.

    Raises
    ------
    ConfigurationError
        A file or row group is not known to have one value only; says which.
    """
    groups: dict[Any, list[Piece]] = {}
    for piece in pieces:
        for value, part in _by_value(piece, column, scan):
            groups.setdefault(value, []).append(part)
    return map(joined, groups.values())


def _by_value(piece: Piece, column: str, scan: Scan) -> Iterator[tuple[Any, Piece]]:
    if isinstance(piece, FilePiece):
        told = dict(piece.constants)
        if column in told:
            yield told[column].as_py(), piece
            return
        footer = piece.footer()
        units = cast("list[FilePiece]", piece.units(scan))
        found = [of_piece(unit, footer).get(column) for unit in units]
        values = [value for value in found if value is not None and value.single]
        if len(values) == len(units):
            yield from ((v.min, cast(Piece, unit)) for v, unit in zip(values, units, strict=True))
            return
    raise ConfigurationError(
        f"partitions(by={column!r}) wants files or row groups with one value each, told by a folder's "
        f"name or a footer, and {piece.name} is not known to have one: use "
        f"group_by({column!r}).map(...)"
    )


def _parts_of(unit: Piece, size: int) -> Iterator[Piece]:
    """A unit cut by rows into parts of at most ``size`` bytes, where it can be."""
    rows = unit.rows
    if rows is None or unit.bytes <= size or rows < 2:
        yield unit
        return
    step = max(1, int(rows * size / unit.bytes))
    for first in range(0, rows, step):
        part = unit.cut(first, min(step, rows - first))
        if part is None:
            yield unit
            return
        yield part


def by_rows(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of ``size`` rows where units can be cut, else of about as many."""
    group: list[Piece] = []
    room = size
    for unit in units_of(pieces):
        rows = unit.count() if unit.rows is None else unit.rows
        at = 0
        while at < rows:
            take = min(room, rows - at)
            part = unit if take == rows else unit.cut(at, take)
            if part is None:
                if group:
                    yield joined(group)
                    group, room = [], size
                part, take = unit, rows - at
            group.append(part)
            at += take
            room -= take
            if room <= 0:
                yield joined(group)
                group, room = [], size
    if group:
        yield joined(group)


def by_files(pieces: Sequence[Piece], count: int) -> Iterator[list[Piece]]:
    """Groups of the pieces of ``count`` files."""
    group: list[Piece] = []
    names: set[str] = set()
    for piece in pieces:
        if piece.name not in names and len(names) == count:
            yield group
            group, names = [], set()
        group.append(piece)
        names.add(piece.name)
    if group:
        yield group


def small_together(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of neighbours of about ``size`` bytes; a piece of at least half of it stands alone."""
    group: list[Piece] = []
    held = 0
    for piece in pieces:
        alone = piece.bytes * 2 >= size
        if group and (alone or held + piece.bytes > size):
            yield group
            group, held = [], 0
        group.append(piece)
        held += piece.bytes
        if alone:
            yield group
            group, held = [], 0
    if group:
        yield group


def joined(group: list[Piece]) -> list[Piece]:
    """Neighbouring parts of one file as one piece again."""
    out: list[Piece] = []
    for piece in group:
        join = getattr(out[-1], "join", None) if out else None
        both = join(piece) if join is not None else None
        if both is None:
            out.append(piece)
        else:
            out[-1] = both
    return out
