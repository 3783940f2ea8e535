"""Which items of a node have ended since somebody last looked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .states import FINAL_TYPES, type_of_name

if TYPE_CHECKING:
    from .calls import NodeHandle


class Scan:
    """Finds the items of a node that have ended since it last looked.

    How many have ended is known from the counts, and items are handed out in order, so a look ends
    as soon as it has found that many, close to the front of what is open.
    """

    def __init__(self, node: NodeHandle) -> None:
        self.node = node
        self.given = 0
        self.frontier = 0
        self.open: list[int] = []

    def _ended(self) -> int:
        return sum(
            number
            for name, number in self.node.counts().items()
            if type_of_name(name) in FINAL_TYPES
        )

    def moved(self) -> bool:
        return self._ended() > self.given or self.node.ended

    def over(self) -> bool:
        return self.node.ended and self.given >= self._ended()

    def newly(self) -> Iterator[int]:
        missing = self._ended() - self.given
        still: list[int] = []
        found: list[int] = []
        candidates = iter(self.open)
        for position in candidates:
            if len(found) == missing:
                still.append(position)
                break
            (found if self.node.item_done(position) else still).append(position)
        still.extend(candidates)
        known = sum(self.node.counts().values())
        while len(found) < missing and self.frontier < known:
            done = self.node.item_done(self.frontier)
            (found if done else still).append(self.frontier)
            self.frontier += 1
        self.open = still
        self.given += len(found)
        yield from found
