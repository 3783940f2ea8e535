"""How much memory a batch of a node takes, learned from those that have ended.

What a child held before the batch (the interpreter, the libraries, what a task has set up) is told
apart from what it grew by. The growth follows the size of one item's input, where that is known:
items run one after another.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Footprint:
    """Learns a node's memory per slot, in bytes."""

    base: int = 0
    growth: int = 0
    item_bytes: float = 0.0
    """Input bytes of an item when the growth was measured; 0: not known."""

    def measured(self, before: int, peak: int, item_bytes: float) -> None:
        """A child held ``before`` bytes when a batch began, and ``peak`` at most while it ran."""
        if not before or not peak:  # of a child that died only the peak of its life is known
            return
        self.base = max(self.base, before)
        growth = max(0, peak - before)
        if growth > self.growth * self._scale(item_bytes):
            self.growth, self.item_bytes = growth, item_bytes

    def need(self, item_bytes: float) -> int:
        """What a batch takes whose items have inputs of so many bytes; 0: not known yet."""
        return self.base + int(self.growth * self._scale(item_bytes))

    def _scale(self, item_bytes: float) -> float:
        """How much larger items are than those that were measured; never less than 1."""
        return max(1.0, item_bytes / self.item_bytes) if self.item_bytes else 1.0
