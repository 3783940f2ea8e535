"""Item states in packed arrays: five bytes an item, whatever happens to it.

A node's items are counted from 0. `ItemTable` holds each item's state (one byte) and the number of
the receipt that its value came with (four bytes); everything else is kept only for the few items
with something to tell.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from enum import IntEnum
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TransitionError
from .interfaces import Part, Positions, Receipt, RefColumn


class ItemState(IntEnum):
    """State of one item; the values are stored (history keeps one byte per item)."""

    PENDING = 0
    RUNNING = 1
    AWAITING_RETRY = 2
    COMPLETED = 3
    CACHED = 4
    FAILED = 5
    TIMED_OUT = 6
    CRASHED = 7
    CANCELLED = 8
    SKIPPED = 9


STATE_NAMES: dict[ItemState, str] = {
    ItemState.PENDING: "Pending",
    ItemState.RUNNING: "Running",
    ItemState.AWAITING_RETRY: "AwaitingRetry",
    ItemState.COMPLETED: "Completed",
    ItemState.CACHED: "Cached",
    ItemState.FAILED: "Failed",
    ItemState.TIMED_OUT: "TimedOut",
    ItemState.CRASHED: "Crashed",
    ItemState.CANCELLED: "Cancelled",
    ItemState.SKIPPED: "Skipped",
}
"""Names as in Prefect where it has them."""

FINAL = range(ItemState.COMPLETED, ItemState.SKIPPED + 1)
GOOD = (ItemState.COMPLETED, ItemState.CACHED)
BAD = range(ItemState.FAILED, ItemState.SKIPPED + 1)

_P, _R, _W, _C, _H, _F, _T, _X, _K, _S = ItemState
TRANSITIONS: dict[ItemState, tuple[ItemState, ...]] = {
    _P: (_R, _C, _H, _F, _K, _S),
    _R: (_P, _W, _C, _F, _T, _X, _K, _S),
    _W: (_P, _R, _C, _K, _S, _F),
    _C: (_P,),  # only where a value was not kept (persist=False) and is needed again
    _H: (),
    _F: (),
    _T: (),
    _X: (),
    _K: (),
    _S: (),
}
_ALLOWED = np.zeros((len(ItemState), len(ItemState)), dtype=bool)
for _old, _news in TRANSITIONS.items():
    for _new in _news:
        _ALLOWED[_old, _new] = True


class ItemTable:
    """States and values' places of a node's items. One thread writes; any thread reads."""

    def __init__(self) -> None:
        self.size = 0
        self.counts = [0] * len(ItemState)
        self.receipts: list[Receipt] = []
        self._states: npt.NDArray[np.uint8] = np.zeros(16, dtype=np.uint8)
        self._receipt: npt.NDArray[np.int32] = np.full(16, -1, dtype=np.int32)
        self._offsets: dict[int, tuple[list[int], list[int]]] = {}

    def grow(self, count: int) -> None:
        """Add items in state PENDING."""
        size = self.size + count
        if size > len(self._states):
            room = max(size, 2 * len(self._states))
            self._states = np.concatenate(
                [self._states, np.zeros(room - len(self._states), dtype=np.uint8)]
            )
            self._receipt = np.concatenate(
                [self._receipt, np.full(room - len(self._receipt), -1, dtype=np.int32)]
            )
        self.counts[ItemState.PENDING] += count
        self.size = size

    def state(self, position: int) -> ItemState:
        """State of one item."""
        return ItemState(int(self._states[position]))

    def final(self, position: int) -> bool:
        """Has the item ended?"""
        return position < self.size and self._states[position] >= ItemState.COMPLETED

    @property
    def ended(self) -> int:
        """How many items are in a final state."""
        return sum(self.counts[ItemState.COMPLETED :])

    def move(self, positions: Positions, to: ItemState) -> None:
        """Change the state of items, each by a transition that the table knows.

        Raises
        ------
        TransitionError
            Names the first item whose change is not in the table.
        """
        for start, stop in positions.runs:
            self._move_run(start, stop, to)

    def _move_run(self, start: int, stop: int, to: ItemState) -> None:
        old = self._states[start:stop]
        before = np.bincount(old, minlength=len(ItemState))
        for state in np.flatnonzero(before).tolist():
            if state != to and not _ALLOWED[state, to]:
                item = start + int(np.flatnonzero(old == state)[0])
                raise TransitionError(
                    f"item {item}: {STATE_NAMES[ItemState(state)]} cannot become {STATE_NAMES[to]}"
                )
            self.counts[state] -= int(before[state])
        self._states[start:stop] = to
        self.counts[to] += stop - start

    def select(self, positions: Positions, *states: ItemState) -> Positions:
        """Those of the positions that are in one of the states."""
        found: list[tuple[int, int]] = []
        wanted = np.zeros(len(ItemState), dtype=bool)
        wanted[list(states)] = True
        for start, stop in positions.runs:
            hits = np.flatnonzero(wanted[self._states[start:stop]]) + start
            if len(hits) == stop - start:
                found.append((start, stop))
            else:
                found.extend(runs_of(hits))
        return Positions(tuple(found))

    def complete(self, receipt: Receipt) -> Positions:
        """Take a receipt in: its items that have not ended yet are COMPLETED by it.

        The first commit wins: items with a value already, and ended ones, keep what they have.
        Returns the positions that this receipt completed.
        """
        fresh = self.select(
            receipt.positions, ItemState.PENDING, ItemState.RUNNING, ItemState.AWAITING_RETRY
        )
        if not fresh.runs:
            return fresh
        number = len(self.receipts)
        self.receipts.append(receipt)
        for start, stop in fresh.runs:
            self._move_run(start, stop, ItemState.COMPLETED)
            self._receipt[start:stop] = number
        return fresh

    def receipt_of(self, position: int) -> Receipt | None:
        """The receipt that an item's value came with, or None."""
        number = int(self._receipt[position])
        return self.receipts[number] if number >= 0 else None

    def column(self, positions: Positions, *, inline_limit: int = 1 << 20) -> RefColumn:
        """References to the values of completed items, in position order."""
        numbers = np.concatenate(
            [self._receipt[start:stop] for start, stop in positions.runs]
            or [np.zeros(0, dtype=np.int32)]
        )
        used, part = np.unique(numbers, return_inverse=True)
        all_positions = np.concatenate(
            [np.arange(start, stop) for start, stop in positions.runs] or [np.zeros(0, dtype=int)]
        )
        index = np.zeros(len(numbers), dtype=np.int64)
        first = np.zeros(len(numbers), dtype=np.int64)
        rows = np.zeros(len(numbers), dtype=np.int64)
        parts: list[Part] = []
        inline: list[bytes | None] = []
        for local, number in enumerate(used.tolist()):
            receipt = self.receipts[number]
            mask = part == local
            where = self._ranks(number, all_positions[mask])
            index[mask] = where
            if isinstance(receipt.rows, int):
                first[mask] = where * receipt.rows
                rows[mask] = receipt.rows
            else:
                per_item = np.asarray(receipt.rows, dtype=np.int64)
                starts = np.concatenate([[0], np.cumsum(per_item)[:-1]])
                first[mask] = starts[where]
                rows[mask] = per_item[where]
            parts.append(receipt.part)
            inline.append(receipt.inline if receipt.part.bytes <= inline_limit else None)
        return RefColumn(
            tuple(parts), part.tolist(), index.tolist(), first.tolist(), rows.tolist(), tuple(inline)
        )

    def _ranks(self, number: int, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Index of each position among all positions of a receipt."""
        if number not in self._offsets:
            runs = self.receipts[number].positions.runs
            lengths = [stop - start for start, stop in runs]
            before = [0, *accumulate(lengths)][:-1]
            self._offsets[number] = ([start for start, _ in runs], before)
        starts, before = self._offsets[number]
        if len(positions) == 1:
            run = bisect_right(starts, int(positions[0])) - 1
            return np.asarray([before[run] + int(positions[0]) - starts[run]], dtype=np.int64)
        runs = np.searchsorted(np.asarray(starts), positions, side="right") - 1
        return np.asarray(before)[runs] + positions - np.asarray(starts)[runs]

    def winners(self) -> Iterator[tuple[Receipt, Positions]]:
        """Each receipt that completed items, with the positions that it completed."""
        numbers = self._receipt[: self.size]
        order = np.argsort(numbers, kind="stable")
        edges = np.searchsorted(numbers[order], np.arange(len(self.receipts) + 1))
        for number, receipt in enumerate(self.receipts):
            mine = order[edges[number] : edges[number + 1]]
            yield receipt, Positions(tuple(runs_of(mine)))

    def packed(self) -> bytes:
        """One byte per item, for history."""
        return self._states[: self.size].tobytes()

    def where(self, *states: ItemState) -> Positions:
        """All positions in one of the states."""
        return self.select(Positions.span(0, self.size), *states)

    def named_counts(self) -> dict[str, int]:
        """Items by state name, without zeros."""
        return {
            STATE_NAMES[state]: count
            for state, count in zip(ItemState, self.counts, strict=True)
            if count
        }


def runs_of(ascending: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Pack an ascending array of positions into runs."""
    if not len(ascending):
        return []
    breaks = np.flatnonzero(np.diff(ascending) != 1)
    starts = ascending[np.concatenate([[0], breaks + 1])]
    stops = ascending[np.concatenate([breaks, [len(ascending) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def without(positions: Positions, taken: Positions) -> Positions:
    """Positions less those taken."""
    if not taken.runs:
        return positions
    mine = np.concatenate([np.arange(a, b) for a, b in positions.runs] or [np.zeros(0, dtype=int)])
    theirs = np.concatenate([np.arange(a, b) for a, b in taken.runs])
    return Positions(tuple(runs_of(np.setdiff1d(mine, theirs, assume_unique=True))))
