"""How many items the next batch of a node gets: measured work, bounded growth, guided tail.

Guided self-scheduling (Polychronopoulos and Kuck, 1987): a batch is at most a share of what
remains, so that batches shrink toward the end and no slot idles while another works long. How large
a share is safe depends on how well a batch's time is known (factoring; Hummel, Schonberg and Flynn,
1992): a whole slot's share where the last batches took what was expected, down to half of it where
they did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

AIM_SECONDS = 1.0
"""Work in one batch, once the task is measured; twice as much where batches take what is expected."""
LEAST_SECONDS = 0.02
"""Work below which cutting finer costs more than it balances."""
LEAST_SHARE = 2.0
"""Nor is it cut into less than so many times what a batch takes beside its items (a store that is far away)."""
HAND_OUTS_PER_SECOND = 2000.0
"""With many slots the tail is not cut finer than so many batches a second can be decided on."""
BATCHES_PER_SECOND = 200.0
"""With many slots batches get longer, so that an engine takes no more of them than this."""
GROWTH = 32
"""A batch is at most so many times larger than the largest one that has ended."""
DECAY = 0.7
"""Weight of what was measured before, at each new measurement."""
LARGER = 4
"""What a batch takes by itself is a smaller part of one so many times larger than any before: it is
believed alone, and that its items took less than expected is no surprise."""
_BIN = 1.25
CAUTION = 5.0
"""A batch that took 20 % longer or shorter than expected halves the share and the aim of the next ones."""


class Lengths:
    """How long a node's items take: a histogram of seconds, each bin a quarter longer than the last.

    A receipt tells the sum of its items' times; each of them counts with the mean.
    """

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}

    def add(self, items: int, seconds: float) -> None:
        """So many items took so many seconds together."""
        bin_ = ceil(log(max(seconds / items, 1e-6), _BIN))
        self.bins[bin_] = self.bins.get(bin_, 0) + items

    def most(self, share: float = 0.95) -> float | None:
        """Seconds within which this share of the items ended, or None before the first one."""
        left = share * sum(self.bins.values())
        for bin_, items in sorted(self.bins.items()):
            left -= items
            if left <= 0:
                return _BIN**bin_
        return None


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
    own: float | None = None
    """Seconds that a batch takes beside its items, at least; None: not known."""
    surprise: float = 1.0
    """How far the last batches were from what was expected of them, as a logarithm."""

    def measured(self, items: int, seconds: float) -> None:
        """A batch of ``items`` took ``seconds`` of wall time on its worker."""
        if items <= 0:
            return
        overlapping = min(self.concurrency, items)
        seconds = seconds * overlapping / self.concurrency
        larger = items > LARGER * self.largest
        if self.per_item is not None and seconds > 0:
            off = log(seconds / items / self.per_item)
            self.surprise = max(off if larger else abs(off), self.surprise * DECAY)
        kept = 0.0 if larger else DECAY
        self.seconds = self.seconds * kept + seconds
        self.items = self.items * kept + items
        self.largest = max(self.largest, items)

    def beside(self, seconds: float) -> None:
        """A batch took so many seconds beside its items."""
        self.own = seconds if self.own is None else min(seconds, self.own)

    def weighed(self, items: int, size: int) -> None:
        """``items`` inputs took ``size`` bytes."""
        if items > 0:
            self.item_bytes = max(size / items, self.item_bytes * DECAY)

    @property
    def per_item(self) -> float | None:
        """Seconds per item as a batch sees them, or None before the first measurement."""
        return max(self.seconds / self.items, 1e-8) if self.items else None

    @property
    def growing(self) -> bool:
        """Batches are still small because nothing larger has ended, and not for what they take."""
        if self.per_item is None:
            return True
        most = GROWTH * self.largest
        return most * self.per_item < AIM_SECONDS and most * self.item_bytes < self.batch_bytes

    def next(self, slots: int, remaining: int, waiting: int) -> int:
        """Items for the next batch, at least 1.

        Parameters
        ----------
        slots
            Batches of this node that run at a time.
        remaining
            Items not handed out yet, as far as is known.
        waiting
            Items at hand now.
        """
        per_item = self.per_item
        if per_item is None:
            size = min(self.concurrency, 8)
        else:
            caution = 1 + min(1.0, CAUTION * self.surprise)
            aim = max((3 - caution) * AIM_SECONDS, slots / BATCHES_PER_SECOND)
            size = max(1, int(aim / per_item))
            size = min(size, GROWTH * max(self.largest, 1))
            share = ceil(remaining / (caution * max(slots, 1)))
            own = LEAST_SHARE * (self.own or 0.0)
            least = max(LEAST_SECONDS, own, slots / HAND_OUTS_PER_SECOND)
            size = min(size, max(share, ceil(least / per_item)))
        if self.item_bytes:
            size = min(size, max(1, int(self.batch_bytes / self.item_bytes)))
        return max(1, min(size, waiting))
