"""Inputs are pulled on request, lazily, within windows of items and bytes."""

from __future__ import annotations

import contextvars
import itertools
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.core.errors import MappingError
from headrace.core.feeding import Feeder, size_of

Answer = tuple[list[list[Any]], int, bool, BaseException | None]


class Asker:
    """Asks a feeder and waits for its answers."""

    def __init__(self, context: contextvars.Context | None = None, **sources: Any) -> None:
        self.answers: queue.Queue[Answer] = queue.Queue()

        def wait(done: Callable[[], bool]) -> bool:
            return done()

        self.feeder = Feeder(
            "t-0", sources, wait, lambda *a: self.answers.put(a), context or contextvars.Context()
        )

    def pull(self, items: int, size: int = 1 << 30) -> Answer:
        self.feeder.pull(items, size)
        return self.answers.get(timeout=10)

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
    columns, _, ended, error = asker.pull(5)
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
    columns, size, ended, _ = asker.pull(100_000, 20_000)
    asker.stop()
    assert not ended
    assert size == sum(len(v) + 16 for v in columns[0])
    assert 20 <= len(pulled) <= 60


def test_what_the_iterable_raises_is_told_with_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise RuntimeError("the end of the world")

    columns, _, ended, error = Asker(x=source()).pull(10)
    assert (columns, ended) == ([[1, 2]], True)
    assert isinstance(error, RuntimeError)


def test_an_iterable_that_cannot_begin() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise KeyError("no")

    columns, _, ended, error = Asker(x=Broken()).pull(10)
    assert (columns, ended) == ([], True)
    assert isinstance(error, KeyError)


@pytest.mark.parametrize("lengths", [(5, 7), (7, 5), (0, 3), (64, 65)])
def test_unequal_lengths_are_an_error(lengths: tuple[int, int]) -> None:
    asker = Asker(x=range(lengths[0]), y=iter(range(lengths[1])))
    seen = 0
    while True:
        columns, _, ended, error = asker.pull(16)
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
            columns, _, ended, error = asker.pull(4)
            assert error is None
            seen += columns[1]
        assert seen == list(range(length))


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
