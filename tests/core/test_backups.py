"""One late item, run twice: what each copy may tell, and what then becomes of the item."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headrace.core.commands import Ask, BatchEnded, Command, Feed, ItemEvent, NodeEnded, Submit
from headrace.core.interfaces import (
    Control,
    End,
    Failure,
    FailureKind,
    Outcome,
    Part,
    Positions,
    Receipt,
    Report,
)
from headrace.core.items import ItemState
from headrace.core.machine import Machine
from headrace.core.nodes import Flight, Node, NodeOptions

LATE = 60.0


class Late:
    """A map of two items on two slots: item 0 took a tenth of a second, item 1 runs twice."""

    def __init__(self, *, retries: int = 0, infra_retries: int = 2) -> None:
        self.out: list[Command] = []
        self.machine = Machine(lambda _pool, _need: 2)
        options = NodeOptions(retries=retries, infra_retries=infra_retries, backups=True)
        self.node = Node(0, "n", "t", options, False)
        self.take(self.machine.add(self.node, None, 0.0))
        self.take(self.machine.blocked(0.0))
        feed = next(c for c in self.out if isinstance(c, Feed))
        assert feed.items >= 2
        self.take(self.machine.fed(self.node, [[0, 1]], 2, exhausted=True, error=None, now=0.0))
        first, self.original = self.flights()
        self.tell(self.original, 0.0, started=1)
        self.tell(first, 0.1, Outcome.DONE, receipts=(self.receipt(first, 0),), started=1)
        self.take(self.machine.tick(1.0))
        assert len(self.flights()) == 2, "it is not late yet"
        self.take(self.machine.tick(LATE))
        *_, self.backup = self.flights()
        assert self.backup.backup_of == self.original.id

    def take(self, commands: Sequence[Command]) -> None:
        self.out.extend(commands)

    def flights(self) -> list[Flight]:
        return [command.flight for command in self.out if isinstance(command, Submit)]

    def tell(self, flight: Flight, now: float, end: Outcome | None = None, **told: object) -> None:
        ended = None if end is None else End(end)
        report = Report("r", flight.id, end=ended, **told)  # type: ignore[arg-type]
        self.take(self.machine.report(report, now))

    def receipt(self, flight: Flight, position: int) -> Receipt:
        part = Part(f"{flight.id}", "arrow", "int", 1, 1, 0)
        here = Positions.span(position, position + 1)
        return Receipt(0, flight.id, flight.attempts[0], part, here, 1, 0.0, 0.1, 0.1)

    def commit(self, flight: Flight) -> None:
        self.tell(flight, LATE, Outcome.DONE, receipts=(self.receipt(flight, 1),), started=1)
        self.take(self.machine.tick(LATE))

    def fail(self, flight: Flight, end: Outcome | None = Outcome.DONE) -> None:
        failure = Failure(
            0, 1, flight.attempts[0], FailureKind.ERROR, "E", "no", "", None, 0.0, LATE
        )
        self.tell(flight, LATE, end, failures=(failure,), started=1)

    def state(self) -> ItemState:
        return self.node.items.state(1)

    def events(self) -> list[ItemEvent]:
        return [command for command in self.out if isinstance(command, ItemEvent)]

    def ended(self) -> bool:
        return any(isinstance(command, NodeEnded) for command in self.out)


@pytest.mark.parametrize("wins", ["original", "backup"])
def test_the_first_commit_wins_and_nobody_waits_for_the_loser(wins: str) -> None:
    late = Late()
    pair = [late.original, late.backup]
    winner, loser = pair if wins == "original" else pair[::-1]
    late.commit(winner)
    assert late.ended()
    receipt = late.node.items.receipt_of(1)
    assert receipt is not None
    assert receipt.batch == winner.id
    asks = [c for c in late.out if isinstance(c, Ask)]
    assert [(a.flight, a.request) for a in asks] == [(loser, Control.KILL)]
    ends = [c for c in late.out if isinstance(c, BatchEnded) and c.flight is loser]
    assert [e.end.outcome for e in ends] == [Outcome.KILLED]
    late.tell(loser, LATE, Outcome.DONE, receipts=(late.receipt(loser, 1),))
    assert late.node.items.receipt_of(1) is receipt


@pytest.mark.parametrize("end", [None, Outcome.DONE])
@pytest.mark.parametrize("first", ["original", "backup"])
def test_only_the_failure_of_the_last_copy_counts(first: str, end: Outcome | None) -> None:
    late = Late()
    pair = [late.original, late.backup]
    sooner, later = pair if first == "original" else pair[::-1]
    late.fail(sooner, end)
    assert late.state() is ItemState.RUNNING
    assert not late.events()
    late.fail(later)
    assert late.state() is ItemState.FAILED
    assert len(late.events()) == 1
    late.tell(sooner, LATE, Outcome.DONE)
    assert late.ended()


@pytest.mark.parametrize("first", ["original", "backup"])
def test_a_copy_may_complete_what_the_other_failed(first: str) -> None:
    late = Late()
    pair = [late.original, late.backup]
    sooner, later = pair if first == "original" else pair[::-1]
    late.fail(sooner)
    late.commit(later)
    assert late.state() is ItemState.COMPLETED
    assert late.ended()


@pytest.mark.parametrize("first", ["original", "backup"])
def test_a_dead_copy_is_charged_only_if_it_was_the_last(first: str) -> None:
    late = Late(infra_retries=0)
    pair = [late.original, late.backup]
    sooner, later = pair if first == "original" else pair[::-1]
    late.tell(sooner, LATE, Outcome.DIED, started=1)
    assert late.state() is ItemState.RUNNING
    assert len(late.flights()) == 3, "nothing was handed out again"
    late.tell(later, LATE, Outcome.DIED, started=1)
    assert late.state() is ItemState.CRASHED


def test_a_retry_comes_after_both_have_failed() -> None:
    late = Late(retries=1)
    late.fail(late.backup)
    assert len(late.flights()) == 3
    late.fail(late.original)
    assert len(late.flights()) == 4
    assert late.flights()[-1].attempts == [2]


def test_a_cancelled_item_ends_with_both_copies() -> None:
    late = Late()
    late.take(late.machine.cancel(late.node, 1, "", LATE))
    late.tell(late.backup, LATE, Outcome.KILLED, started=1)
    late.take(late.machine.tick(LATE))
    assert late.state() is ItemState.CANCELLED
    assert late.ended()
    asked = {c.flight.id for c in late.out if isinstance(c, Ask) and c.request is Control.KILL}
    assert asked == {late.backup.id, late.original.id}


def test_a_copy_that_was_recalled_may_still_win() -> None:
    """The slow worker hands its item back, awake at last; the backup goes on alone."""
    late = Late()
    late.tell(late.original, LATE, returned=Positions.span(1, 2))
    assert late.state() is ItemState.RUNNING
    late.fail(late.backup)
    assert late.state() is ItemState.FAILED


def test_a_copy_that_failed_is_not_tried_again() -> None:
    late = Late()
    late.fail(late.backup, Outcome.DONE)
    late.take(late.machine.tick(3 * LATE))
    assert late.flights()[-1] is late.backup


def test_a_batch_that_never_told_anything_is_late_from_its_hand_out() -> None:
    """Its child was stopped before the first report."""

    class Silent(Late):
        def tell(self, flight: Flight, now: float, end: Outcome | None = None, **told: object):
            if end is not None:
                super().tell(flight, now, end, **told)

    late = Silent()
    assert late.original.began is None
    late.commit(late.backup)
    assert late.ended()
