"""Single items of a recorded run, out of its history and its journal; and one run again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, RunError
from .given import Given, read_given
from .interfaces import History, ItemRecord, LogRecord, NodeRecord, Positions, RunStore
from .items import STATE_NAMES, ItemState, ItemTable
from .outcomes import from_record
from .records import given_in, receipts_of
from .shown import Shown
from .states import State, type_of_name

if TYPE_CHECKING:
    from .replaying import Replay
    from .runs import RunEngine
    from .tasks import Task


@dataclass(frozen=True, slots=True, repr=False)
class RecordedItem(Shown):
    """One item as history and storage tell it.

    What it was given and what it gave are read when they are asked for.
    """

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
    attempts: tuple[ItemRecord, ...]
    """Those that did not complete, oldest first, with their errors, workers and tracebacks."""
    home: RecordedNode = field(compare=False)

    @property
    def input(self) -> Mapping[str, Any]:
        """What it was given, by parameter name.

        Raises
        ------
        RunError
            It cannot be had again: says why.
        """
        return self.home.replay(self.position).input()

    @property
    def output(self) -> Any:
        """What it gave; raises its error, where it did not complete."""
        return self.state.result()

    @property
    def error(self) -> BaseException | None:
        """Why it did not complete, or None."""
        return self.state.exception()

    @property
    def traceback(self) -> str:
        """The user's own frames at its last attempt that raised; empty, if none did."""
        return self.attempts[-1].traceback if self.attempts else ""

    @property
    def worker(self) -> str:
        """Where its last attempt that did not complete ran."""
        return self.attempts[-1].worker if self.attempts else ""

    @property
    def logs(self) -> list[LogRecord]:
        """What it logged, oldest first."""
        return self.home.logs(self.position)

    def replay(self, task: Task[..., Any] | Callable[..., Any] | None = None) -> Any:
        """Run it again in this process and thread, with what it was given; nothing is recorded.

        What it raises has the task's own frames, so ``%debug`` and ``pdb.pm()`` lead there.

        Parameters
        ----------
        task
            A task or function in place of the recorded one: a mended one. By default the task as it
            can be imported now, or (from a notebook or script) as it was.

        Returns
        -------
        What the task returns; of a generator, the list of what it yields.

        Raises
        ------
        RunError
            Its input cannot be had again, or its code: says why.
        """
        __tracebackhide__ = True
        return self.home.replay(self.position, getattr(task, "fn", task)).run()

    def __repr__(self) -> str:
        return f"<RecordedItem {self._head()}>"

    def _head(self) -> str:
        told = f": {self.state.message}" if self.state.message else ""
        return f"{self.node}[{self.position}] {self.state.name}{told}"

    def __str__(self) -> str:
        lines = [self._head()]
        if self.attempts and self.attempts[-1].input:
            lines.append(f"input: {self.attempts[-1].input}")
        if self.started is not None and self.ended is not None:
            took = (self.ended - self.started).total_seconds()
            worker = f" on {self.worker}" if self.worker else ""
            lines.append(f"attempt {self.attempt}, {self.started:%H:%M:%S}, {took:.3f} s{worker}")
        lines += [f"log: {line.message}" for line in self.logs]
        return "\n".join([*lines, self.traceback.rstrip()]).rstrip()


class RecordedNode:
    """A node's items: their states from its record, their places from the receipts in the journal."""

    def __init__(
        self,
        record: NodeRecord,
        store: RunStore,
        history: History,
        engine: RunEngine | None = None,
    ) -> None:
        self.record, self.store, self.history, self.engine = record, store, history, engine
        self.states = b"" if record.states is None else zlib.decompress(record.states)
        self.size = len(self.states) or record.total or sum(record.counts.values())
        self.items = ItemTable()
        self.items.grow(self.size)
        records = store.journal().records()
        for receipt in receipts_of(records, record.node):
            last = receipt.positions.runs[-1][1]
            self.items.grow(max(0, last - self.items.size))
            self.items.complete(receipt)
        self.given = given_in(records, record.node)
        self.size = self.items.size

    def state_name(self, position: int) -> str:
        """Name of an item's state, as far as the node's own record tells it."""
        return STATE_NAMES[
            ItemState(self.states[position]) if self.states else self.items.state(position)
        ]

    def item(self, position: int, told: Sequence[ItemRecord], cause: str = "") -> RecordedItem:
        """An item, given what history tells of its attempts that failed, and why it was skipped."""
        key, kept = self.record.key, self.items.receipt_of(position)
        last = told[-1] if told else None
        name = self.state_name(position)
        if not self.states and kept is None and last is not None:
            name = last.state
        attempt, started, ended, message, loader = 0, None, None, cause, None
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
        return RecordedItem(key, position, state, attempt, started, ended, tuple(told), self)

    def _value(self, position: int) -> Any:
        return self.store.load(self.items.column(Positions.span(position, position + 1)))[0]

    def logs(self, position: int) -> list[LogRecord]:
        """An item's log lines, oldest first."""
        found = self.history.logs(self.record.run, self.record.node, position=position)
        return [line for _, line in found]

    def replay(self, position: int, function: Callable[..., Any] | None = None) -> Replay:
        """An item with what it was given; ``function`` in place of the task's own.

        Raises
        ------
        RunError
            What it was given cannot be had again; says why.
        ConfigurationError
            The store is not trusted: arguments and code are pickles.
        """
        from .replaying import Replay
        from .settings import get_settings

        if not get_settings().trust_storage:
            raise ConfigurationError(
                f"{self.store.url} is not trusted (HEADRACE_TRUST_STORAGE), and what an item was given "
                "is a pickle: it cannot be replayed"
            )
        functions = dict(self.engine.functions()) if self.engine is not None else {}
        if function is not None:
            functions[self.record.node] = function
        place = self.given.get(position)
        kept = self.items.receipt_of(position)
        if place is not None and kept is None:
            return Replay(self.store, read_given(self.store, *place), position, functions)
        made = Replay(self.store, self._read_again(position), position, functions)
        was = self.store.item(kept, position)["id"] if kept is not None else None
        if was is not None and any(made.id) and made.id.hex() != was:
            raise RunError(
                f"{self.record.key!r} item {position} cannot be replayed: what it is given now is not "
                "what it was given"
            )
        return made

    def _read_again(self, position: int) -> Given:
        given = None if self.engine is None else self.engine.given(self.record.key, position)
        if given is None:
            raise RunError(
                f"what {self.record.key!r} item {position} was given is not kept: that is done for items "
                "that failed (unless it holds a secret or cannot be pickled), and in the process of the run"
            )
        return given


def _raise(error: BaseException) -> Any:
    raise error


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
