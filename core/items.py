"""Item states in packed arrays: five bytes an item, whatever happens to it.

A node's items are counted from 0. `ItemTable` holds each item's state (one byte) and the number of
the receipt that its value came with (four bytes); everything else is kept only for the few items
with something to tell. Work on many items is numpy's; no loop here runs over single items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RunError, TransitionError
from .interfaces import Positions, Receipt, RefColumn


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

_STATES = tuple(ItemState)
_P, _R, _W, _C, _H, _F, _T, _X, _K, _S = _STATES
TRANSITIONS: dict[ItemState, tuple[ItemState, ...]] = {
    _P: (_R, _W, _C, _H, _K, _S),
    _R: (_P, _W, _C, _F, _T, _X, _K, _S),
    _W: (_P, _C, _K, _S),
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


NOT_KEPT, DROPPED = -1, -2
"""In place of a receipt's number: no value was committed, or it was removed after its use."""
_FEW_RUNS = 16
"""Up to so many runs are worked on one by one, as slices; more are gathered into an index array."""


class ItemTable:
    """States and values' places of a node's items. One thread writes; any thread reads."""

    def __init__(self) -> None:
        self.size = 0
        self.counts = [0] * len(ItemState)
        self.receipts: list[Receipt] = []
        self._states: npt.NDArray[np.uint8] = np.zeros(16, dtype=np.uint8)
        self._receipt: npt.NDArray[np.int32] = np.full(16, NOT_KEPT, dtype=np.int32)

    def grow(self, count: int) -> None:
        """Add items in state PENDING."""
        size = self.size + count
        if size > len(self._states):
            room = max(size, 2 * len(self._states))
            self._states = np.concatenate(
                [self._states, np.zeros(room - len(self._states), dtype=np.uint8)]
            )
            self._receipt = np.concatenate(
                [self._receipt, np.full(room - len(self._receipt), NOT_KEPT, dtype=np.int32)]
            )
        self.counts[ItemState.PENDING] += count
        self.size = size

    def state(self, position: int) -> ItemState:
        """State of one item."""
        return _STATES[self._states[position]]

    def final(self, position: int) -> bool:
        """Has the item ended?"""
        return position < self.size and self._states[position] >= ItemState.COMPLETED

    def good(self, position: int) -> bool:
        """Has the item ended with a value?"""
        return int(self._states[position]) in GOOD

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
        if len(positions.runs) > _FEW_RUNS:
            self._move_many(indices(positions), to)
        else:
            for start, stop in positions.runs:
                self._move_run(start, stop, to)

    def _move_run(self, start: int, stop: int, to: ItemState) -> None:
        if stop - start == 1:
            old_state = int(self._states[start])
            if old_state != to and not _ALLOWED[old_state, to]:
                raise _unknown(start, old_state, to)
            self.counts[old_state] -= 1
            self._states[start] = to
            self.counts[to] += 1
            return
        old = self._states[start:stop]
        for state, count in _counted(old).items():
            if state != to and not _ALLOWED[state, to]:
                raise _unknown(start + int(np.flatnonzero(old == state)[0]), state, to)
            self.counts[state] -= count
        self._states[start:stop] = to
        self.counts[to] += stop - start

    def _move_many(self, where: npt.NDArray[np.int64], to: ItemState) -> None:
        old = self._states[where]
        for state, count in _counted(old).items():
            if state != to and not _ALLOWED[state, to]:
                raise _unknown(int(where[np.flatnonzero(old == state)[0]]), state, to)
            self.counts[state] -= count
        self._states[where] = to
        self.counts[to] += len(where)

    def select(self, positions: Positions, *states: int) -> Positions:
        """Those of the positions that are in one of the states."""
        wanted = _mask(states)
        if len(positions.runs) > _FEW_RUNS:
            where = indices(positions)
            hits = where[wanted[self._states[where]]]
            return positions if len(hits) == len(where) else Positions(tuple(runs_of(hits)))
        found: list[tuple[int, int]] = []
        for start, stop in positions.runs:
            held = self._states[start:stop]
            state = _only(held)
            if state is None:
                found.extend(runs_of(wanted[held].nonzero()[0] + start))
            elif wanted[state]:
                found.append((start, start + len(held)))
        return Positions(tuple(found))

    def complete(self, receipt: Receipt) -> Positions:
        """Take a receipt in: its items that have not ended yet are COMPLETED by it, or CACHED.

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
        self.move(fresh, ItemState.CACHED if receipt.part.run else ItemState.COMPLETED)
        if len(fresh.runs) > _FEW_RUNS:
            self._receipt[indices(fresh)] = number
        else:
            for start, stop in fresh.runs:
                self._receipt[start:stop] = number
        return fresh

    def kept(self, positions: Positions) -> Positions:
        """Those of the positions whose value was committed."""
        where = indices(positions)
        hits = where[self._receipt[where] >= 0]
        return positions if len(hits) == len(where) else Positions(tuple(runs_of(hits)))

    def numbers(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The numbers of the receipts at places of the table; below 0: `NOT_KEPT` or `DROPPED`."""
        return self._receipt[where]

    def won(self, number: int) -> npt.NDArray[np.int64]:
        """Places of the items whose value came with a receipt and is still there."""
        where = indices(self.receipts[number].positions)
        return where[self._receipt[where] == number]

    def drop(self, number: int) -> None:
        """The values of a receipt are there no more. Threads that read see it before they are gone."""
        self._receipt[self.won(number)] = DROPPED
        self.receipts[number] = replace(self.receipts[number], inline=None)

    def gather(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The states at places of the table."""
        return self._states[where]

    def receipt_of(self, position: int) -> Receipt | None:
        """The receipt that an item's value came with, or None."""
        number = int(self._receipt[position])
        return self.receipts[number] if number >= 0 else None

    def column(self, positions: Positions, *, inline_limit: int = 1 << 20) -> RefColumn:
        """References to the values of completed items, in position order.

        Raises
        ------
        RunError
            An item's value was not kept.
        """
        where = indices(positions)
        numbers = self._receipt[where]
        used, part = np.unique(numbers, return_inverse=True)
        if len(used) and used[0] < 0:
            raise RunError(
                f"the value of item {int(where[np.flatnonzero(numbers < 0)[0]])} was not kept: it "
                "went straight into the next task, because persist_result=False"
            )
        index = np.zeros(len(numbers), dtype=np.int64)
        first = np.zeros(len(numbers), dtype=np.int64)
        rows = np.zeros(len(numbers), dtype=np.int64)
        order = np.argsort(part, kind="stable")
        edges = np.searchsorted(part[order], np.arange(len(used) + 1))
        receipts = [self.receipts[number] for number in used.tolist()]
        for local, receipt in enumerate(receipts):
            mine = order[edges[local] : edges[local + 1]]
            at = np.searchsorted(indices(receipt.positions), where[mine])
            if receipt.places is not None:
                at = np.asarray(receipt.places, dtype=np.int64)[at]
            index[mine] = at
            if isinstance(receipt.rows, int):
                first[mine] = at * receipt.rows
                rows[mine] = receipt.rows
            else:
                per_item = np.asarray(receipt.rows, dtype=np.int64)
                starts = np.concatenate([[0], np.cumsum(per_item)[:-1]])
                first[mine] = starts[at]
                rows[mine] = per_item[at]
        return RefColumn(
            tuple(receipt.part for receipt in receipts),
            part.astype(np.int64),
            index,
            first,
            rows,
            tuple(r.inline if r.part.bytes <= inline_limit else None for r in receipts),
        )

    def winners(self) -> Iterator[tuple[Receipt, Positions]]:
        """Each receipt that holds items' values, with the positions of these."""
        numbers = self._receipt[: self.size]
        order = np.argsort(numbers, kind="stable")
        edges = np.searchsorted(numbers[order], np.arange(len(self.receipts) + 1))
        for number, receipt in enumerate(self.receipts):
            mine = order[edges[number] : edges[number + 1]]
            if len(mine):
                yield receipt, Positions(tuple(runs_of(mine)))

    def packed(self) -> bytes:
        """One byte per item, for history."""
        return self._states[: self.size].tobytes()

    def where(self, *states: int) -> Positions:
        """All positions in one of the states."""
        return self.select(Positions.span(0, self.size), *states)

    def named_counts(self) -> dict[str, int]:
        """Items by state name, without zeros."""
        return {
            STATE_NAMES[state]: count
            for state, count in zip(ItemState, self.counts, strict=True)
            if count
        }


class Tally:
    """A small number per item, for nodes where any item has one: two bytes an item, from then on."""

    def __init__(self) -> None:
        self._numbers: npt.NDArray[np.uint16] | None = None

    def __bool__(self) -> bool:
        return self._numbers is not None

    def of(self, where: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """The numbers at places."""
        numbers = self._numbers
        if numbers is None:
            return np.zeros(len(where), dtype=np.uint16)
        out = np.zeros(len(where), dtype=np.uint16)
        known = where < len(numbers)
        out[known] = numbers[where[known]]
        return out

    def at(self, position: int) -> int:
        """One item's number."""
        numbers = self._numbers
        return int(numbers[position]) if numbers is not None and position < len(numbers) else 0

    def add(self, positions: Positions) -> None:
        """One more for each of the items."""
        if not positions.runs:
            return
        most = positions.runs[-1][1]
        if self._numbers is None or len(self._numbers) < most:
            old = self._numbers
            self._numbers = np.zeros(max(most, 16, 0 if old is None else 2 * len(old)), np.uint16)
            if old is not None:
                self._numbers[: len(old)] = old
        if len(positions.runs) > _FEW_RUNS:
            self._numbers[indices(positions)] += 1
        else:
            for start, stop in positions.runs:
                self._numbers[start:stop] += 1

    def clear(self) -> None:
        """Forget all numbers."""
        self._numbers = None


def _only(states: npt.NDArray[np.uint8]) -> int | None:
    """The state that all items are in, which is the common case and found fast; None: in several."""
    return int(states[0]) if len(states) and (states == states[0]).all() else None


def _counted(states: npt.NDArray[np.uint8]) -> dict[int, int]:
    """How many items are in each state, of those that occur."""
    if (state := _only(states)) is not None:
        return {state: len(states)}
    counts = np.bincount(states, minlength=len(ItemState))
    return {state: int(counts[state]) for state in np.flatnonzero(counts).tolist()}


@cache
def _mask(states: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """By state: is it one of these?"""
    mask = np.zeros(len(ItemState), dtype=bool)
    mask[list(states)] = True
    return mask


def _unknown(item: int, state: int, to: ItemState) -> TransitionError:
    return TransitionError(
        f"item {item}: {STATE_NAMES[ItemState(state)]} cannot become {STATE_NAMES[to]}"
    )


# ------------------------------------------------------------------------- sets of positions


def indices(positions: Positions) -> npt.NDArray[np.int64]:
    """Positions as an array."""
    runs = positions.runs
    if len(runs) == 1:
        return np.arange(runs[0][0], runs[0][1], dtype=np.int64)
    if not runs:
        return np.zeros(0, dtype=np.int64)
    bounds = np.asarray(runs, dtype=np.int64)
    lengths = bounds[:, 1] - bounds[:, 0]
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.repeat(bounds[:, 0] - before, lengths) + np.arange(int(lengths.sum()))


def split(positions: Positions, count: int) -> tuple[Positions, Positions]:
    """The first ``count`` positions, and the rest."""
    head: list[tuple[int, int]] = []
    runs = positions.runs
    for i, (start, stop) in enumerate(runs):
        if count <= 0:
            return Positions(tuple(head)), Positions(runs[i:])
        if stop - start > count:
            cut = start + count
            return Positions((*head, (start, cut))), Positions(((cut, stop), *runs[i + 1 :]))
        head.append((start, stop))
        count -= stop - start
    return positions, Positions(())


def runs_of(ascending: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Pack an ascending array of positions into runs."""
    if not len(ascending):
        return []
    first, stop = int(ascending[0]), int(ascending[-1]) + 1
    if stop - first == len(ascending):
        return [(first, stop)]
    breaks = np.flatnonzero(np.diff(ascending) != 1)
    starts = ascending[np.concatenate([[0], breaks + 1])]
    stops = ascending[np.concatenate([breaks, [len(ascending) - 1]])] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def without(positions: Positions, taken: Positions) -> Positions:
    """Positions less those taken."""
    if not taken.runs or not positions.runs:
        return positions
    left = np.setdiff1d(indices(positions), indices(taken), assume_unique=True)
    return Positions(tuple(runs_of(left)))


def common(positions: Positions, other: Positions) -> Positions:
    """Positions that are in both."""
    if positions == other or not positions.runs:
        return positions
    both = np.intersect1d(indices(positions), indices(other), assume_unique=True)
    return Positions(tuple(runs_of(both)))
