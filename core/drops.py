"""Which committed values nobody in the run needs any more, where intermediates are dropped.

A node whose values other tasks take is an intermediate. Its values are needed while an item of a
linked map may still run on them, while a task that was called with it has not ended, and before the
flow has waited for something (until then it may call further tasks with it). A task that did not
complete has not used what it was called with, so that a resume finds it; of an item of a linked map
that holds where it was cancelled or skipped (a failed one's input is made again by a resume, or else
a few failures would keep everything).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .commands import Dropped
from .interfaces import Positions
from .items import NOT_KEPT, ItemState, indices
from .lanes import Lanes
from .nodes import Node


class Drops(Lanes):
    """Lets values go, a partition at a time."""

    def passes(self, node: Node) -> bool:
        """May a fused consumer take the node's values without their being committed?"""
        alone = len(node.consumers) == 1 and not node.readers and node.id not in self.dependents
        return alone and self._droppable(node)

    def _droppable(self, node: Node) -> bool:
        return node.options.drop and node.sealed and not node.pinned and not node.single

    def seal(self) -> None:
        """The flow waits: what it has called so far is all that takes the nodes' values."""
        new, self.unsealed = self.unsealed, []
        for node in new:
            node.sealed = True
            self.sweep(node)

    def read_by(self, reader: Node) -> None:
        """A node was added that takes other nodes' values otherwise than item by item."""
        for number, whole in reader.reads.items():
            node = self.nodes[number]
            node.readers.append(reader)
            node.open_readers += 1
            node.read_whole = node.read_whole or whole

    def has_read(self, reader: Node) -> None:
        """A node has ended."""
        for number in reader.reads:
            node = self.nodes[number]
            node.open_readers -= reader.good
            self.sweep(node)
        if reader.link is not None:
            self.sweep(reader.link)

    def drain(self, node: Node, positions: Positions) -> None:
        """Items of a node have left a batch: look at the partitions that fed them.

        How many items a partition still feeds is counted down, and looked up when it might be none.
        """
        link = node.link
        if link is None or not self._droppable(link):
            return
        numbers = link.items.numbers(indices(positions))
        counts = np.bincount(numbers[numbers >= 0])
        for number in np.flatnonzero(counts).tolist():
            left = link.feeds.get(number, len(link.items.receipts[number].positions))
            link.feeds[number] = left - int(counts[number])
            if link.feeds[number] <= 0:
                self._look(link, number)

    def sweep(self, node: Node) -> None:
        """Look at all partitions of a node."""
        if self._droppable(node):
            for number in range(len(node.items.receipts)):
                self._look(node, number)

    def _look(self, node: Node, number: int) -> None:
        """Drop a partition if nothing needs an item of it any more."""
        if node.open_readers or (not node.consumers and not (node.ended and node.read_whole)):
            return
        if not len(node.items.won(number)):
            return
        together = _of_one_partition(node, number)
        if any(self._feeds(node, each) for each in together):
            return
        receipt = node.items.receipts[number]
        for each in together:
            node.items.drop(each)
            del node.feeds[each]
        self.out.append(Dropped(node, receipt))

    def _feeds(self, node: Node, number: int) -> int:
        """How many items of a receipt are still needed."""
        won = node.items.won(number)
        needed = np.zeros(len(won), dtype=bool)
        for consumer in node.consumers:
            needed |= ~self._used(consumer, won)
        node.feeds[number] = int(needed.sum())
        return node.feeds[number]

    def _used(self, node: Node, where: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Which items of a node will not take their input again.

        A map that was stopped early does not have all items of the one that feeds it. One whose value was not kept may have to: until what takes it is through.
        """
        if len(where) and where[-1] >= node.items.size:
            here = where < node.items.size
            used = np.zeros(len(where), dtype=bool)
            used[here] = self._used(node, where[here])
            return used
        states = node.items.gather(where)
        used = (states >= ItemState.COMPLETED) & (states <= ItemState.CRASHED)
        passed = (states == ItemState.COMPLETED) & (node.items.numbers(where) == NOT_KEPT)
        if passed.any():
            for consumer in node.consumers:
                used[passed] &= self._used(consumer, where[passed])
        return used


def _of_one_partition(node: Node, number: int) -> list[int]:
    """Numbers of the receipts of a receipt's partition, itself first.

    There are several where its items have moved since an earlier driver made them.
    """
    receipts, own = node.items.receipts, node.items.receipts[number]
    if own.places is None:
        return [number]
    others = [n for n, r in enumerate(receipts) if r.part.path == own.part.path and n != number]
    return [number, *others]
