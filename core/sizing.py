"""How many items the next batch of a node gets: measured work, bounded growth, guided tail.

Guided self-scheduling (Polychronopoulos and Kuck, 1987): a batch is at most a share of what
remains, so that batches shrink toward the end and no slot idles while another works long.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

AIM_SECONDS = 1.0
"""Work in one batch, once the task is measured."""
LEAST_SECONDS = 0.02
"""Work below which cutting finer costs more than it balances."""
HAND_OUTS_PER_SECOND = 2000.0
"""With many slots the tail is not cut finer than so many batches a second can be decided on."""
BATCHES_PER_SECOND = 200.0
"""With many slots batches get longer, so that an engine takes no more of them than this."""
GROWTH = 32
"""A batch is at most so many times larger than the largest one that has ended."""
DECAY = 0.7
"""Weight of what was measured before, at each new measurement."""


@dataclass(slots=True)
class Sizer:
    """Learns a node's seconds and bytes per item."""

    concurrency: int = 1
    """Items of a batch that overlap (async tasks)."""
    batch_bytes: int = 64 << 20
    seconds: float = 0.0
    items: float = 0.0
    largest: int = 0
    item_bytes: float = 0.0

    def measured(self, items: int, seconds: float) -> None:
        """A batch of ``items`` took ``seconds`` of wall time on its worker."""
        if items <= 0:
            return
        overlapping = min(self.concurrency, items)
        self.seconds = self.seconds * DECAY + seconds * overlapping / self.concurrency
        self.items = self.items * DECAY + items
        self.largest = max(self.largest, items)

    def weighed(self, items: int, size: int) -> None:
        """``items`` inputs took ``size`` bytes."""
        if items > 0:
            self.item_bytes = max(size / items, self.item_bytes * DECAY)

    @property
    def per_item(self) -> float | None:
        """Seconds per item as a batch sees them, or None before the first measurement."""
        return max(self.seconds / self.items, 1e-8) if self.items else None

    def next(self, slots: int, remaining: int | None, waiting: int) -> int:
        """Items for the next batch, at least 1.

        Parameters
        ----------
        slots
            Batches of this node that run at a time.
        remaining
            Items not handed out yet, if it is known.
        waiting
            Items at hand now.
        """
        per_item = self.per_item
        if per_item is None:
            size = min(self.concurrency, 8)
        else:
            aim = max(AIM_SECONDS, slots / BATCHES_PER_SECOND)
            size = max(1, int(aim / per_item))
            size = min(size, GROWTH * max(self.largest, 1))
            if remaining is not None:
                share = ceil(remaining / (2 * max(slots, 1)))
                least = max(LEAST_SECONDS, slots / HAND_OUTS_PER_SECOND)
                size = min(size, max(share, ceil(least / per_item)))
        if self.item_bytes:
            size = min(size, max(1, int(self.batch_bytes / self.item_bytes)))
        return max(1, min(size, waiting))
