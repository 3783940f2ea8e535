"""Where a value comes from: the commit that holds it, the same whoever asks and whenever.

A future among an item's arguments counts for the item's id by the partition in which its value lies.
Names of partitions are never used twice, so a value that was computed again is another one, and what
was made from the first runs again.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from .identity import SIZE
from .interfaces import Positions, RefColumn
from .items import GOOD, indices

if TYPE_CHECKING:
    from .nodes import Node


def value_ids(column: RefColumn) -> bytes:
    """Of each value of a column: 16 bytes of the partition that holds it, and of its place there."""
    starts = [blake2b(part.path.encode() + b"\0", digest_size=SIZE) for part in column.parts]
    found: list[bytes] = []
    for number, index in zip(column.part, column.index, strict=True):
        digest = starts[number].copy()
        digest.update(int(index).to_bytes(8, "little"))
        found.append(digest.digest())
    return b"".join(found)


def commit_of(node: Node, position: int | None) -> bytes:
    """Of an item's value, or (None) of all values of a node; of what has none something new each time."""
    if position is None and not node.single:
        good = node.items.where(*GOOD)
    else:
        good = Positions.span(position or 0, (position or 0) + 1)
    if not node.settled(position) or node.items.kept(good) != good:
        return os.urandom(SIZE)
    column = node.items.column(good)
    paths, number = np.unique([part.path for part in column.parts], return_inverse=True)
    digest = blake2b("\0".join(paths.tolist()).encode(), digest_size=SIZE)
    places = [number[column.part]] if len(paths) else []
    for each in (*places, column.index, indices(good) - (position or 0)):
        digest.update(np.ascontiguousarray(each, "<i8").tobytes())
    return digest.digest()
