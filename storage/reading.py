"""Pieces in order, small remote ones fetched ahead of need, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

from .nodedata import PartPiece
from .pieces import Piece, Scan
from .scanning import SMALL_BYTES, FilePiece

_AHEAD_BYTES = 32 << 20
_AHEAD = 16


def batches_of(pieces: Sequence[Piece], scan: Scan) -> Iterator[Any]:
    """Their record batches. What is large streams: pyarrow reads ahead within it."""
    rest = iter(pieces)
    held: deque[tuple[Piece, int, Future[Iterable[Any]] | None]] = deque()
    size = 0
    pool = ThreadPoolExecutor(_AHEAD, "headrace-read-ahead")  # a thread begins with its first task
    try:
        while True:
            while size < _AHEAD_BYTES and len(held) < _AHEAD:
                piece = next(rest, None)
                if piece is None:
                    break
                fetched = _fetched_bytes(piece)
                read = _read if fetched <= SMALL_BYTES else _begun
                ahead = 0 < fetched <= _AHEAD_BYTES
                size += fetched if ahead else 0
                held.append((piece, fetched, pool.submit(read, piece, scan) if ahead else None))
            if not held:
                return
            piece, fetched, batches = held.popleft()
            if batches is None:
                yield from piece.batches(scan)
            else:
                size -= fetched
                yield from batches.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetched_bytes(piece: Piece) -> int:
    """What reading it takes over the network."""
    if isinstance(piece, FilePiece):
        return 0 if piece.source.local else piece.bytes
    if isinstance(piece, PartPiece):
        return 0 if piece.on_disk else piece.part.bytes
    return 0


def _read(piece: Piece, scan: Scan) -> Iterable[Any]:
    return list(piece.batches(scan))


def _begun(piece: Piece, scan: Scan) -> Iterable[Any]:
    """With its first batch at hand; what is behind that, pyarrow fetches by itself."""
    batches = piece.batches(scan)
    return chain([each for each in [next(batches, None)] if each is not None], batches)
