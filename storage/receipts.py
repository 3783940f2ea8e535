"""Receipts from the partitions themselves: what a run holds when no receipt has survived."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..core.errors import DamagedPartitionError, NotFoundError
from ..core.identity import SIZE
from ..core.interfaces import ObjectInfo, Part, Positions, Receipt
from ..core.items import indices, runs_of
from .damage import mark
from .itemtables import ItemTable, unpack_items
from .loading import OpenPart, PartCache, home_of
from .objects import Objects
from .partitions import PartitionReader, path_checksum

T = TypeVar("T")
R = TypeVar("R")

_logger = logging.getLogger("headrace.storage")
_READERS = 16
_WHOLE = 1 << 20
"""Objects up to this size are read in one go, of others only what their footer needs."""


FEW_IDS = 64
"""Of so many items the ids ride along in the receipt, and into the journal."""


def read_receipts(
    objects: Objects, run_id: str, prefix: str, known: Collection[str] = ()
) -> list[Receipt]:
    """Receipts of the partitions whose paths begin with ``prefix``, in order of their paths.

    Only footers are read: size and checksum come from the listing and the name. What has no
    partition's name, is torn, or belongs to another run is left out.
    """
    infos = [
        info
        for info in objects.list(prefix)
        if info.path not in known and path_checksum(info.path) is not None
    ]
    found = _each(objects, infos, lambda info: _receipt(objects, run_id, info))
    return [receipt for receipt in found if receipt is not None]


def read_ids(
    objects: Objects, parts: Sequence[Part], inline: Sequence[bytes | None], cache: PartCache
) -> list[bytes]:
    """The ids that partitions keep of their items; of those that are not open, footers are read.

    A damaged one is marked, and has none.
    """
    held = dict(zip(parts, inline, strict=False))

    def ids(part: Part) -> bytes:
        try:
            return items(part).ids or b""
        except (DamagedPartitionError, NotFoundError) as error:
            _logger.warning("its items run again: %s", error)
            mark(objects, part)
            return b""

    def items(part: Part) -> ItemTable:
        if held.get(part) is not None:
            return cache.open(objects, part, held[part]).items
        opened = cache.get(objects, part)
        if opened is not None:
            return opened.items
        home = home_of(objects, part)
        where = home.url_of(part.path)
        source = part_source(home, ObjectInfo(part.path, part.bytes, 0.0))
        return unpack_items(PartitionReader(source, part.format, where).packed_items, where)

    return _each(objects, parts, ids)


def _each(objects: Objects, what: Sequence[T], read: Callable[[T], R]) -> list[R]:
    """Read small things, side by side where they lie behind a network."""
    if len(what) > 4 and objects.local_path("") is None:
        with ThreadPoolExecutor(_READERS, "headrace-receipts") as pool:
            return list(pool.map(read, what))
    return list(map(read, what))


def _receipt(objects: Objects, run_id: str, info: ObjectInfo) -> Receipt | None:
    named = path_checksum(info.path)
    assert named is not None
    checksum, kind = named
    where = objects.url_of(info.path)
    try:
        reader = PartitionReader(part_source(objects, info), kind, where)
        items = unpack_items(reader.packed_items, where)
    except (DamagedPartitionError, NotFoundError) as error:
        _logger.warning("left out: %s", error)
        return None
    header = reader.header
    if header.run != run_id or header.items != len(items) or not len(items):
        _logger.warning("left out: %s is of another run", where)
        return None
    part = Part(info.path, kind, header.kind, info.bytes, items.total_rows, checksum)
    receipt = receipt_from(header.node, header.batch, header.attempt, part, items, None)
    receipt = with_lineage(receipt, header.lineage)
    return replace(receipt, ids=items.ids or b"", key=header.key)


def with_lineage(receipt: Receipt, lineage: Mapping[str, Any]) -> Receipt:
    """A receipt that tells what the partition's header tells of its making."""
    inputs = tuple((url, stamp) for url, stamp in lineage.get("inputs", ()))
    return replace(receipt, code=lineage.get("code", ""), inputs=inputs)


def receipt_from(
    node: int,
    batch: int,
    attempt: int,
    part: Part,
    items: ItemTable,
    inline: bytes | None,
) -> Receipt:
    """The receipt of a partition, from its table of items."""
    ends = items.started_ns / 1e9 + items.seconds
    return Receipt(
        node=node,
        batch=batch,
        attempt=attempt,
        part=part,
        positions=Positions(tuple(runs_of(items.positions))),
        rows=items.rows if isinstance(items.rows, int) else tuple(items.rows.tolist()),
        started=float(items.started_ns.min() / 1e9),
        ended=float(ends.max()),
        busy_seconds=float(items.seconds.sum(dtype="float64")),
        inline=inline,
        ids=items.ids if items.ids is not None and len(items) <= FEW_IDS else b"",
    )


def part_source(objects: Objects, info: ObjectInfo) -> Any:
    """A partition as a seekable file of which only what is asked for is read."""
    local = objects.local_path(info.path)
    if local is not None:
        import pyarrow as pa

        try:
            return pa.memory_map(local)
        except (OSError, pa.ArrowException) as error:
            raise DamagedPartitionError(f"{local} cannot be read: {error}") from error
    if info.bytes <= _WHOLE:
        return io.BytesIO(objects.read(info.path))
    return RangeFile(objects, info.path, info.bytes)


class RangeFile(io.RawIOBase):
    """A seekable file over ranged reads: fetches nothing but what is asked for."""

    def __init__(self, objects: Objects, path: str, size: int) -> None:
        self._objects = objects
        self._path = path
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = self._objects.read(self._path, self._at, end)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()


def item_facts(opened: OpenPart, receipt: Receipt, position: int) -> Mapping[str, Any]:
    """What a partition tells of one item. Raises `LookupError` where it does not hold it."""
    items = opened.items
    held = indices(receipt.positions)
    place = int(np.searchsorted(held, position))
    if place >= len(held) or int(held[place]) != position:
        raise LookupError(f"{opened.where} does not hold item {position}")
    if receipt.places is not None:
        place = receipt.places[place]
    started = int(items.started_ns[place]) / 1e9
    return {
        "started": started,
        "ended": started + float(items.seconds[place]),
        "attempt": opened.header.attempt,
        "id": items.ids[place * SIZE : (place + 1) * SIZE].hex() if items.ids else None,
    }
