"""Inputs are pulled lazily: a thread per mapped node, in the flow's context, on request.

Any iterable will do, an unbounded generator too. What it raises fails the node and keeps what is
committed.
"""

from __future__ import annotations

import functools
import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from itertools import islice, repeat
from typing import Any

from .errors import MappingError
from .futures import Future, MapFuture
from .mapping import column as column_of
from .mapping import is_iterable, length

_SMALL = frozenset({int, float, bool, type(None)})
_FIRST_PULL = 4
"""Items of unknown size are pulled in steps that grow from here, so that few large ones are held."""

Answer = Callable[[list[list[Any]], int, bool, BaseException | None], None]
"""Takes columns of equal length, their bytes, whether the input has ended, and what it raised."""

Cut = Callable[[list[Iterator[Any]], "int | None"], list[Iterator[Any]]]
"""Takes a map's inputs, and the number of their items where that is known; gives those to pull."""


class Feeder:
    """Pulls one mapped node's inputs, column by column, when it is asked to.

    Parameters
    ----------
    sources
        Mapped parameter -> iterable, map future, or future; a future of something that is not
        iterable gives its value to every item, as in Prefect.
    wait
        Blocks until a future has ended; gives False when the run ends first.
    answer
        Takes what was pulled, from the feeder's thread.
    context
        The flow's context, in which the iterables run.
    cut
        Pull only a part of the inputs.
    """

    def __init__(
        self,
        name: str,
        sources: Mapping[str, Any],
        wait: Callable[[Callable[[], bool]], bool],
        answer: Answer,
        context: Context,
        cut: Cut | None = None,
    ) -> None:
        self.name = name
        self.sources = sources
        self.wait = wait
        self.answer = answer
        self.cut = cut
        self.requests: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"headrace-feed-{name}", daemon=True
        )
        self.started = False

    def pull(self, items: int, size: int) -> None:
        """Ask for up to ``items`` items or ``size`` bytes; the answer comes from the thread."""
        if not self.started:
            self.started = True
            self.thread.start()
        self.requests.put((items, size))

    def stop(self) -> None:
        """Pull no more."""
        self.requests.put(None)

    def _run(self) -> None:
        try:
            sources = [self._known(source) for source in self.sources.values()]
            inputs = [self._input(source) for source in sources]
            iterators = [each for each in inputs if not isinstance(each, repeat)]
            if not iterators:
                raise MappingError(f"{self.name}: no input of .map turned out to be iterable")
            if self.cut is not None:
                iterators = self.cut(iterators, _length(sources))
        except BaseException as error:  # noqa: BLE001 - the user's __iter__ may raise anything
            self.requests.get()
            self.answer([], 0, True, error)
            return
        while (request := self.requests.get()) is not None:
            columns: list[list[Any]] = [[] for _ in iterators]
            try:
                size, ended = self._pull(iterators, columns, *request)
            except BaseException as error:  # noqa: BLE001 - the user's iterable may raise anything
                self.answer(_levelled(inputs, columns), 0, True, error)
                return
            self.answer(_levelled(inputs, columns), size, ended, None)
            if ended:
                return

    def _pull(
        self, iterators: list[Iterator[Any]], columns: list[list[Any]], items: int, size: int
    ) -> tuple[int, bool]:
        """Fill the columns; gives their bytes and whether the inputs have ended."""
        total = 0
        step = items
        while len(columns[0]) < items and total < size:
            first = len(columns[0])
            if not first:
                step = min(items, _FIRST_PULL)
            want = min(step, items - first)
            for iterator, column in zip(iterators, columns, strict=True):
                column.extend(islice(iterator, want))
            lengths = {len(column) for column in columns}
            if len(lengths) > 1:
                self._unequal(columns)
            got = [column[first:] for column in columns]
            total += sum(map(size_of, got))
            if len(got[0]) < want:
                return total, True
            step = step * 8 if total < size / 16 else step
        return total, False

    def _unequal(self, columns: list[list[Any]]) -> None:
        shortest = min(map(len, columns))
        for column in columns:
            del column[shortest:]
        names = ", ".join(map(repr, self.sources))
        raise MappingError(
            f"{self.name}: the inputs {names} of .map have unequal lengths: one of them ended "
            f"{shortest} items into a block while others went on. Make them equally long, or wrap "
            "what is the same for all items in unmapped(...)."
        )

    def _known(self, source: Any) -> Any:
        """What a parameter is mapped over, once no future stands for it."""
        if not isinstance(source, Future):
            return source
        return source.result() if self.wait(source.done) else ()

    def _input(self, source: Any) -> Iterator[Any]:
        """What a parameter gets; a ``repeat`` where a future held something not iterable."""
        if isinstance(source, MapFuture):
            return self._items(source)
        return iter(column_of(source))

    def _items(self, source: MapFuture[Any]) -> Iterator[Any]:
        """A map's items in order, each once it has ended."""
        node = source.node

        def ready(position: int) -> bool:
            return node.ended or node.item_done(position)

        for position in itertools.count():
            if not self.wait(functools.partial(ready, position)):
                return
            if node.ended and node.total is not None and position >= node.total:
                return
            yield Future(source.engine, node, position)


def _length(sources: list[Any]) -> int | None:
    """Items of a map's inputs, where one of them tells."""
    known = (length(each) for each in sources if is_iterable(each))
    return next((each for each in known if each is not None), None)


def _levelled(inputs: list[Iterator[Any]], columns: list[list[Any]]) -> list[list[Any]]:
    """A column for each input, all as long as the shortest that was pulled."""
    count = min(map(len, columns))
    pulled = iter(columns)
    return [
        list(islice(each, count)) if isinstance(each, repeat) else next(pulled)[:count]
        for each in inputs
    ]


def size_of(values: list[Any]) -> int:
    """Estimate of what values take as arguments, in bytes; cheap for plain ones."""
    kinds = set(map(type, values))
    if kinds <= _SMALL:
        return 16 * len(values)
    if kinds <= {str, bytes}:
        return sum(map(len, values)) + 16 * len(values)
    return sum(map(_size_of_one, values[:64])) * len(values) // max(1, min(64, len(values)))


def _size_of_one(value: Any, depth: int = 2) -> int:
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, (list, tuple)) and depth and value:
        return 16 + len(value) * _size_of_one(value[0], depth - 1)
    if isinstance(value, dict) and depth:
        return 16 + sum(_size_of_one(v, depth - 1) + 16 for v in value.values())
    return sys.getsizeof(value, 64)
