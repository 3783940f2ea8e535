"""Rows that were set aside while partitions were made, as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from ..core.interfaces import ObjectInfo, Receipt
from .datasets import Dataset
from .nodedata import home_of
from .opening import root_path
from .partitions import quarantine_path
from .pieces import Piece
from .scanning import FilePiece
from .sources import Source

if TYPE_CHECKING:
    from .store import ArrowRunStore

PREFIX = "quarantine_"
ITEM = pa.field(f"{PREFIX}item", pa.int64())
REASONS = pa.schema(
    [
        (f"{PREFIX}row", pa.int64()),
        (f"{PREFIX}field", pa.string()),
        (f"{PREFIX}reason", pa.string()),
    ]
)
"""Columns beside those of the rows."""


def quarantined_rows(run: ArrowRunStore, receipts: Sequence[Receipt]) -> Dataset:
    """The rows that were set aside when these partitions were made, in item order."""
    folders: dict[str, dict[str, int]] = {}
    homes: dict[str, ArrowRunStore] = {}
    for receipt in receipts:
        path, home = quarantine_path(receipt.part.path), home_of(run, receipt.part)
        folder = f"{home.run_id}/{path.rpartition('/')[0]}"
        homes[folder] = home
        folders.setdefault(folder, {})[path] = receipt.positions.runs[0][0]
    found = [
        (paths[info.path], _piece(homes[folder], info, paths[info.path]))
        for folder, paths in folders.items()
        for info in homes[folder].list(f"{folder.partition('/')[2]}/")
        if info.path in paths
    ]
    pieces = [cast(Piece, piece) for _, piece in sorted(found, key=lambda each: each[0])]
    return Dataset(pieces, schema=None if pieces else pa.schema([*REASONS, ITEM]))


def _piece(run: ArrowRunStore, info: ObjectInfo, item: int) -> FilePiece:
    source = Source(run.store.location, run.store.storage_options)
    return FilePiece(
        source,
        f"{root_path(source.location, source)}/{run.run_id}/{info.path}",
        "arrow",
        info.bytes,
        f"{info.modified:.6f}",
        info.modified,
        constants=((ITEM.name, pa.scalar(item, ITEM.type)),),
    )
