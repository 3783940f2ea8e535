"""Partitions whose bytes are not what was written: marked by whoever meets one, looked for on resume.

A mark is an empty object ``damaged/<path of the partition>``. It is a hint, which the next resume
checks: a read may have gone wrong, and not what was read. A mark that was right stays.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..core.errors import NotFoundError, StorageError
from ..core.interfaces import Part
from .objects import Objects

_logger = logging.getLogger("headrace.storage")
_MARKS = "damaged/"
_READERS = 8
_BLOCK = 8 << 20
_NEWEST = 64 << 20
"""So much of what was written last is always checked on a local disk, and the last one whole."""


def mark(objects: Objects, part: Part) -> None:
    """Leave a mark at a partition that was found damaged."""
    try:
        objects.write(_MARKS + part.path, b"")
    except StorageError as error:  # a store that is only read: the error of the reader tells it
        _logger.debug("%s is damaged and cannot be marked: %s", part.path, error)


def find_damaged(objects: Objects, parts: Sequence[Part], *, thorough: bool) -> set[str]:
    """Paths of partitions whose checksum does not fit, or that are gone.

    Looked at are those that a reader has marked, and on a local disk the newest ones: a loss of power
    can tear what was written last. With ``thorough`` all are read, which may take a while.

    Raises
    ------
    StorageError
        One cannot be read for another reason.
    """
    marked = {info.path.removeprefix(_MARKS) for info in objects.list(_MARKS)}
    suspects = list(parts) if thorough else [part for part in parts if part.path in marked]
    if not thorough and objects.local_path("") is not None:
        suspects += _newest(objects, [part for part in parts if part.path not in marked])
    with ThreadPoolExecutor(_READERS, "headrace-verify") as pool:
        sound = list(pool.map(lambda part: _is_sound(objects, part), suspects))
    damaged = {part.path for part, fits in zip(suspects, sound, strict=True) if not fits}
    objects.delete([_MARKS + path for path in marked & {p.path for p in suspects} - damaged])
    return damaged


def _newest(objects: Objects, parts: Sequence[Part]) -> Iterator[Part]:
    written = {info.path: info.modified for info in objects.list("data/")}
    budget = _NEWEST
    for part in sorted(parts, key=lambda part: -written.get(part.path, 0.0)):
        if budget <= 0:
            return
        budget -= part.bytes
        yield part


def _is_sound(objects: Objects, part: Part) -> bool:
    checksum = size = 0
    try:
        for start in range(0, max(part.bytes, 1), _BLOCK):
            block = objects.read(part.path, start, min(start + _BLOCK, part.bytes))
            checksum = zlib.crc32(block, checksum)
            size += len(block)
    except NotFoundError:
        return False
    return size == part.bytes and checksum == part.checksum
