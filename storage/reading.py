"""Pieces in order, small remote ones fetched ahead of need, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .pieces import Piece, Scan
from .scanning import FilePiece

_SMALL = 8 << 20
_AHEAD_BYTES = 32 << 20
_AHEAD = 16


def batches_of(pieces: Sequence[Piece], scan: Scan) -> Iterator[Any]:
    """Their record batches. What is large streams: pyarrow reads ahead within it."""
    rest = iter(pieces)
    held: deque[tuple[Piece, Future[list[Any]] | None]] = deque()
    size = 0
    pool = ThreadPoolExecutor(_AHEAD, "headrace-read-ahead")  # a thread begins with its first task
    try:
        while True:
            while size < _AHEAD_BYTES and len(held) < _AHEAD:
                piece = next(rest, None)
                if piece is None:
                    break
                ahead = _is_fetched_whole(piece)
                size += piece.bytes if ahead else 0
                held.append((piece, pool.submit(_whole, piece, scan) if ahead else None))
            if not held:
                return
            piece, fetched = held.popleft()
            if fetched is None:
                yield from piece.batches(scan)
            else:
                size -= piece.bytes
                yield from fetched.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _is_fetched_whole(piece: Piece) -> bool:
    return isinstance(piece, FilePiece) and not piece.source.local and piece.bytes <= _SMALL


def _whole(piece: Piece, scan: Scan) -> list[Any]:
    return list(piece.batches(scan))
