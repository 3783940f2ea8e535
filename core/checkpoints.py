"""What a long item has reached, kept in the run's store until the item completes.

An item is found again by its id and its position; where its inputs have moved before a resume, by
its id, and then it takes the checkpoint along. One without an id (`core.identity.NOBODY`) is known by its position as long as its driver lives.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import cloudpickle

from .errors import NotFoundError, StorageError, UnstorableError
from .identity import NOBODY, SIZE
from .interfaces import GENERATION, Batch, Receipt

FOLDER = "checkpoints/"
"""Where they are in the run's prefix."""


class Checkpoints:
    """Those of one batch's items on its worker.

    Thread rule: items save and load in their thread, the thread that flushes drops.

    Parameters
    ----------
    batch
        The batch.
    positions
        Its positions.
    ids
        Per stage the ids of its items.
    """

    def __init__(self, batch: Batch, positions: Sequence[int], ids: Sequence[bytes]) -> None:
        self._batch, self._positions, self._ids = batch, positions, ids
        self._kept: dict[tuple[int, int], str] = {}
        """(stage, position) -> path, of items that saved or loaded here and are not committed."""

    def save(self, stage: int, position: int, value: Any) -> None:
        """Put a value in place of the item's last one, whole or not at all."""
        try:
            data = cloudpickle.dumps(value, 5)
        except Exception as error:  # whatever a user's class raises
            key = self._batch.stages[stage].key
            raise UnstorableError(
                f"the checkpoint of {key!r} item {position}, of type {type(value).__qualname__}, "
                f"cannot be pickled: {error}"
            ) from error
        path = self._prefix(stage, position) + str(position)
        self._batch.store.write(path, data)
        before = self._kept.get((stage, position), path)
        self._kept[stage, position] = path
        if before != path:  # it has moved
            self._batch.store.delete([before])

    def load(self, stage: int, position: int, default: Any) -> Any:
        """What the item has saved last, in this attempt or an earlier one."""
        store, prefix = self._batch.store, self._prefix(stage, position)
        path = prefix + str(position)
        try:
            value = pickle.loads(store.read(path))
        except NotFoundError:
            if self._batch.id < GENERATION or self._id(stage, position) == NOBODY:
                return default
            moved = store.list(prefix)
            if not moved:
                return default
            path = moved[0].path
            value = pickle.loads(store.read(path))
        self._kept[stage, position] = path
        return value

    def drop(self, receipts: Iterable[Receipt]) -> None:
        """Remove those of items that are committed, by themselves or at the end of their chain."""
        if not self._kept:
            return
        nodes = [stage.node for stage in self._batch.stages]
        done = [
            key
            for key in list(self._kept)
            for receipt in receipts
            if receipt.node in (nodes[key[0]], nodes[-1])
            and any(start <= key[1] < stop for start, stop in receipt.positions.runs)
        ]
        try:
            self._batch.store.delete([self._kept[key] for key in done])
        except StorageError:  # no harm: nobody will read it
            return
        for key in done:
            self._kept.pop(key, None)

    def _id(self, stage: int, position: int) -> bytes:
        index = self._positions.index(position)
        return self._ids[stage][index * SIZE : (index + 1) * SIZE] or NOBODY

    def _prefix(self, stage: int, position: int) -> str:
        own = self._id(stage, position)
        driver = self._batch.id // GENERATION
        name = f"driver-{driver}" if own == NOBODY else own.hex()
        return f"{folder_of(self._batch.stages[stage].key)}{name}-"


def folder_of(key: str) -> str:
    """Where those of a node's items are."""
    return f"{FOLDER}{blake2b(key.encode(), digest_size=8).hexdigest()}/"
