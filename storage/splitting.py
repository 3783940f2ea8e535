"""How pieces become partitions: large ones split, small ones packed, order kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from .pieces import Piece

_READERS = 16


def units_of(pieces: Sequence[Piece]) -> list[Piece]:
    """All pieces in their smallest parts; footers are read side by side."""
    if len(pieces) > 4:
        with ThreadPoolExecutor(_READERS, "headrace-footers") as pool:
            return [unit for units in pool.map(lambda p: p.units(), pieces) for unit in units]
    return [unit for piece in pieces for unit in piece.units()]


def by_bytes(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Groups of about ``size`` bytes."""
    group: list[Piece] = []
    held = 0
    for unit in units_of(pieces):
        for part in _parts_of(unit, size):
            if group and held + part.bytes > size:
                yield joined(group)
                group, held = [], 0
            group.append(part)
            held += part.bytes
    if group:
        yield joined(group)


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
