"""Single items of a recorded run, out of its history and its journal."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import RunError
from .interfaces import ItemRecord, NodeRecord, Positions, RunStore
from .items import STATE_NAMES, ItemState, ItemTable
from .outcomes import from_record
from .records import receipts_of
from .shown import Shown
from .states import State, type_of_name


@dataclass(frozen=True, slots=True)
class RecordedItem(Shown):
    """One item as history and storage tell it."""

    shown_as = "item"

    node: str
    position: int
    state: State[Any]
    """Its value is read from storage when ``state.result()`` asks for it."""
    attempt: int
    """The last attempt that has ended, from 1; 0: none has."""
    started: datetime | None
    """When that attempt started, in UTC."""
    ended: datetime | None


class RecordedNode:
    """A node's items: their states from its record, their places from the receipts in the journal."""

    def __init__(self, record: NodeRecord, store: RunStore) -> None:
        self.record, self.store = record, store
        self.states = b"" if record.states is None else zlib.decompress(record.states)
        self.size = len(self.states) or record.total or sum(record.counts.values())
        self.items = ItemTable()
        self.items.grow(self.size)
        for receipt in receipts_of(store.journal().records(), record.node):
            last = receipt.positions.runs[-1][1]
            self.items.grow(max(0, last - self.items.size))
            self.items.complete(receipt)
        self.size = self.items.size

    def item(self, position: int, told: Sequence[ItemRecord]) -> RecordedItem:
        """An item, given what history tells of its attempts that failed, oldest first."""
        key, kept = self.record.key, self.items.receipt_of(position)
        last = told[-1] if told else None
        if self.states:
            name = STATE_NAMES[ItemState(self.states[position])]
        elif kept is None and last is not None:
            name = last.state
        else:
            name = STATE_NAMES[self.items.state(position)]
        attempt, started, ended, message, loader = 0, None, None, "", None
        if kept is not None:
            facts = self.store.item(kept, position)
            attempt, started, ended = facts["attempt"], _utc(facts["started"]), _utc(facts["ended"])
            loader = lambda: self._value(position)  # noqa: E731
        elif name in ("Completed", "Cached"):
            error = RunError(f"the value of {key!r} item {position} was not kept")
            loader = lambda: _raise(error)  # noqa: E731
        elif last is not None:
            attempt, started, ended = last.attempt, last.started, last.ended
            message = f"{last.type_name}: {last.message}"
            loader = lambda: from_record(last, f"{key!r} item {position}")  # noqa: E731
        path = f"{self.record.run}/{key}/{position}"
        state = State[Any](type_of_name(name), name, message, loader=loader, run=path)
        return RecordedItem(key, position, state, attempt, started, ended)

    def _value(self, position: int) -> Any:
        return self.store.load(self.items.column(Positions.span(position, position + 1)))[0]


def _raise(error: BaseException) -> Any:
    raise error


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
