"""Inputs are pulled on request, lazily, within windows of items and bytes."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.errors import MappingError
from headrace.core.feeding import Feeder, size_of

Answer = tuple[list[list[Any]], int, bool, BaseException | None, bool]


class Asker:
    """Asks a feeder and waits for its answers."""

    def __init__(self, context: contextvars.Context | None = None, **sources: Any) -> None:
        self.answers: queue.Queue[Answer] = queue.Queue()

        def wait(done: Callable[[], bool]) -> bool:
            return done()

        self.feeder = Feeder("t-0", sources, wait, self.answer, context or contextvars.Context())

    def answer(
        self,
        columns: list[list[Any]],
        size: int,
        ended: bool,
        error: BaseException | None,
        *,
        more: bool,
    ) -> None:
        assert more != (threading.current_thread() is self.feeder.thread)
        self.answers.put((columns, size, ended, error, more))

    def pull(self, items: int, size: int = 1 << 30) -> Answer:
        self.feeder.pull(items, size)
        return self.answers.get(timeout=10)

    def hand_over(self) -> Answer:
        """What the pull that is under way has given so far: there must be something."""
        for _ in range(200):  # one that still answers is not asked again, as by the engine's ticks
            self.feeder.hand_over()
            with contextlib.suppress(queue.Empty):
                return self.answers.get(timeout=0.05)
        raise AssertionError("nothing was handed over")

    def stop(self) -> None:
        self.feeder.stop()
        if self.feeder.started:
            self.feeder.thread.join(10)
            assert not self.feeder.thread.is_alive()


def test_nothing_is_pulled_before_it_is_asked_for() -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for i in itertools.count():
            pulled.append(i)
            yield i

    asker = Asker(x=source())
    assert not pulled
    columns, _, ended, error, _ = asker.pull(5)
    assert (columns, ended, error) == ([[0, 1, 2, 3, 4]], False, None)
    assert len(pulled) == 5
    assert asker.pull(3)[0] == [[5, 6, 7]]
    asker.stop()
    assert len(pulled) == 8


def test_the_window_in_bytes_holds_for_large_items() -> None:
    pulled: list[int] = []

    def source() -> Iterator[bytes]:
        for i in itertools.count():
            pulled.append(i)
            yield bytes(1000)

    asker = Asker(x=source())
    columns, size, ended, *_ = asker.pull(100_000, 20_000)
    asker.stop()
    assert not ended
    assert size == sum(len(v) + 16 for v in columns[0])
    assert 20 <= len(pulled) <= 60


def test_what_the_iterable_raises_is_told_with_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("the end of the world")

    columns, _, ended, error, _ = Asker(x=source()).pull(10)
    assert (columns, ended) == ([[1, 2]], True)
    assert isinstance(error, RuntimeError)


def test_an_iterable_that_cannot_begin() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise KeyError("no")

    columns, _, ended, error, _ = Asker(x=Broken()).pull(10)
    assert (columns, ended) == ([], True)
    assert isinstance(error, KeyError)


@pytest.mark.parametrize("lengths", [(5, 7), (7, 5), (0, 3), (64, 65)])
def test_unequal_lengths_are_an_error(lengths: tuple[int, int]) -> None:
    asker = Asker(x=range(lengths[0]), y=iter(range(lengths[1])))
    seen = 0
    while True:
        columns, _, ended, error, _ = asker.pull(16)
        seen += len(columns[0])
        assert len({len(column) for column in columns}) == 1
        if ended:
            break
    assert isinstance(error, MappingError) and "unequal lengths" in str(error)
    assert seen <= min(lengths)


def test_equal_lengths_at_any_block_end_well() -> None:
    for length in (0, 1, 4, 16, 17):
        asker = Asker(x=range(length), y=range(length))
        seen: list[int] = []
        ended = False
        while not ended:
            columns, _, ended, error, _ = asker.pull(4)
            assert error is None
            seen += columns[1]
        assert seen == list(range(length))


@pytest.mark.parametrize("slow", ["x", "y"])
def test_an_input_that_waits_for_an_item_does_not_hold_it_back(slow: str) -> None:
    given = threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert given.wait(10)
        yield 1

    sources: dict[str, Any] = {"x": range(2), "y": range(2), slow: source()}
    asker = Asker(None, **sources)
    asker.feeder.pull(10, 1 << 30)
    assert asker.hand_over() == ([[0], [0]], 32, False, None, True)
    given.set()
    assert asker.answers.get(timeout=10) == ([[1], [1]], 32, True, None, False)


def test_a_pull_that_ends_waits_for_what_is_being_handed_over() -> None:
    handing, last = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        assert handing.wait(10)
        yield 1

    class Slow(Asker):
        def answer(self, *answer: Any, more: bool, **_named: Any) -> None:
            if more:
                handing.set()
                assert not last.wait(0.2)
            told.append(more)
            if not more:
                last.set()

    told: list[bool] = []
    asker = Slow(x=source())
    asker.feeder.pull(2, 1 << 30)
    while not handing.wait(0.01):
        asker.feeder.hand_over()
    assert last.wait(10)
    assert (told[0], told[-1], told.count(False)) == (True, False, 1)
    asker.stop()


def test_an_input_that_flows_is_handed_over_in_larger_parts() -> None:
    let, yielded = threading.Semaphore(0), threading.Semaphore(0)

    def source() -> Iterator[int]:
        for number in itertools.count():
            yielded.release()
            assert let.acquire(timeout=10)
            yield number

    asker = Asker(x=source())
    asker.feeder.pull(100, 1 << 30)
    assert yielded.acquire(timeout=10)
    for look in range(20):
        let.release()
        assert yielded.acquire(timeout=10)
        asker.feeder.hand_over()
        if look in (9, 19):
            columns, _, _, _, more = asker.answers.get(timeout=10)
            assert columns == [list(range(look - 9, look + 1))] and more
    assert asker.answers.empty()
    let.release(100)
    asker.stop()


class Pausing:
    """An input that stops at some of its items, says so, and goes on when it is let."""

    def __init__(self, events: queue.Queue[Any], length: int, pauses: set[int]) -> None:
        self.events, self.length, self.pauses = events, length, pauses
        self.go = threading.Semaphore(0)
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.length + 1):
            if number in self.pauses:
                self.events.put(self)
                assert self.go.acquire(timeout=10)
            if number < self.length:
                self.pulled += 1
                yield number


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=3).flatmap(
        lambda some: st.sampled_from((some, [some[0]] * len(some)))
    ),
    pauses=st.lists(st.sets(st.integers(0, 60), max_size=6), min_size=3, max_size=3),
    pulls=st.lists(st.integers(1, 40), min_size=1),
    moves=st.lists(st.sampled_from(("wait", "race", "go on")), min_size=1),
)
def test_what_is_handed_over_in_between_comes_once_and_in_order(
    lengths: list[int], pauses: list[set[int]], pulls: list[int], moves: list[str]
) -> None:
    events: queue.Queue[Any] = queue.Queue()
    inputs = [Pausing(events, *each) for each in zip(lengths, pauses, strict=False)]
    asker = Asker(None, **{f"x{i}": each for i, each in enumerate(inputs)}, same="s")
    asker.answers = events
    rows: list[tuple[Any, ...]] = []
    asked, todo = 0, itertools.cycle(moves)
    ended, error = False, None
    for items in itertools.cycle(pulls):
        asked, more = asked + items, True
        asker.feeder.pull(items, 1 << 30)
        while more:
            event = events.get(timeout=10)
            assert inputs[0].pulled <= asked
            if isinstance(event, Pausing):
                level = min(each.pulled for each in inputs)
                move = next(todo)
                if move == "wait" and level > len(rows) and level > asked - items:
                    rows += zip(*asker.hand_over()[0], strict=True)
                    assert len(rows) == level
                elif move == "race":
                    asker.feeder.hand_over()
                    asker.feeder.hand_over()
                event.go.release()
            else:
                columns, size, ended, error, more = event
                assert size == 16 * len(columns[0]) * len(inputs)
                rows += zip(*columns, strict=True)
        assert ended or len(rows) == asked
        if ended:
            break
    whole = min(lengths)
    assert rows == [(*[number] * len(lengths), "s") for number in range(whole)]
    assert (error is not None) == (len(set(lengths)) > 1)
    assert error is None or isinstance(error, MappingError)
    asker.stop()
    assert events.empty()


def test_the_iterable_runs_in_the_flows_context() -> None:
    variable = contextvars.ContextVar("v", default=0)
    context = contextvars.copy_context()
    context.run(variable.set, 42)
    assert Asker(context, x=(variable.get() for _ in range(1))).pull(1)[0] == [[42]]


def test_sizes() -> None:
    assert size_of([1, 2.0, None, True]) == 64
    assert size_of(["abc", b"de"]) == 5 + 32
    import numpy as np

    assert size_of([np.zeros(1000)] * 3) == 24_000
    assert size_of([["x" * 100] * 50]) > 5000
    assert size_of([{"k": "x" * 1000}]) > 1000
    assert size_of([]) == 0
