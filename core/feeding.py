"""Inputs are pulled lazily: a thread per mapped node, in the flow's context, on request.

Any iterable will do, an unbounded generator too, and one that waits for what became of an item
before it yields the next. What it raises fails the node and keeps what is committed.
"""

from __future__ import annotations

import functools
import itertools
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from itertools import chain, compress, islice, repeat
from operator import length_hint
from typing import Any, Protocol

from .errors import MappingError
from .futures import Future, MapFuture
from .mapping import column as column_of
from .mapping import is_iterable, length

_SMALL = frozenset({int, float, bool, type(None)})
_FIRST_PULL = 4
"""Items of unknown size are pulled in steps that grow from here, so that few large ones are held."""

_LOOKS = 10
"""An input that flows is left alone for so many looks: what it yields by then is worth a batch."""
_NO_MORE = object()


class Answer(Protocol):
    """Takes what was pulled. Never called twice at a time, and always in the items' order."""

    def __call__(
        self,
        columns: list[list[Any]],
        size: int,
        ended: bool,
        error: BaseException | None,
        *,
        more: bool,
    ) -> None:
        """Columns of equal length, their bytes, whether the input has ended, and what it raised.

        ``more``: the pull that was asked for goes on, and answers again.
        """
        ...


Cut = Callable[[list[Iterator[Any]], "int | None"], list[Iterator[Any]]]
"""Takes a map's inputs, and the number of their items where that is known; gives those to pull."""


class Feeder:
    """Pulls one mapped node's inputs, row by row, when it is asked to.

    Parameters
    ----------
    sources
        Mapped parameter -> iterable, map future, or future; a future of something that is not
        iterable gives its value to every item, as in Prefect.
    wait
        Blocks until a future has ended; gives False when the run ends first.
    answer
        Takes what was pulled: from the feeder's thread, or from one beside it (`hand_over`), in the
        context in either.
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
        self.context = context
        self.cut = cut
        self.inputs: list[Iterator[Any]] = []
        """One per parameter; a ``repeat`` is the same for all items, and not pulled."""
        self.iterators: list[Iterator[Any]] = []
        """Those that are pulled."""
        self.pulled: list[Any] = []
        """What the pull that is under way has given so far, value by value, row after row."""
        self.width = 1
        """Values of a row in ``pulled``."""
        self.size = 0
        """Bytes of the steps of this pull that have ended."""
        self.given = 0
        """Rows of ``pulled`` that were answered with."""
        self.answering = threading.Lock()
        self.looks = 0
        self.seen = 0
        """Values that were there at the last look."""
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
        self.looks = 0
        self.requests.put((items, size))

    def hand_over(self) -> None:
        """Answer with what is pulled by now, while an input keeps the feeder's thread.

        Called again and again: does it where nothing has come since the last call, or after some.
        """
        there = len(self.pulled)
        flows, self.seen = there != self.seen, there
        self.looks += 1
        if flows and self.looks < _LOOKS:
            return
        if there // self.width > self.given and not self.answering.locked():
            self.looks = 0
            context = self.context.copy()  # the feeder's thread is in the context itself
            name = f"headrace-hand-over-{self.name}"
            threading.Thread(target=context.run, args=(self._give,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Pull no more."""
        self.requests.put(None)

    def _run(self) -> None:
        try:
            sources = [self._known(source) for source in self.sources.values()]
            self.inputs = [self._input(source) for source in sources]
            self.iterators = [each for each in self.inputs if not isinstance(each, repeat)]
            if not self.iterators:
                raise MappingError(f"{self.name}: no input of .map turned out to be iterable")
            if self.cut is not None:
                self.iterators = self.cut(self.iterators, _length(sources))
            self.width = len(self.iterators)
        except BaseException as error:  # noqa: BLE001 - the user's __iter__ may raise anything
            self.requests.get()
            self.answer([], 0, True, error, more=False)
            return
        while (request := self.requests.get()) is not None:
            try:
                ended = self._pull(*request)
            except BaseException as error:  # noqa: BLE001 - the user's iterable may raise anything
                self._give(ended=True, error=error, more=False)
                return
            self._give(ended=ended, more=False)
            if ended:
                return

    def _pull(self, items: int, size: int) -> bool:
        """Pull as much as was asked for; gives whether the inputs have ended."""
        rows, step = 0, _FIRST_PULL
        while rows < items and self.size < size:
            want = min(step, items - rows)
            got = self._step(want)
            self.size += sum(map(size_of, self._columns(rows, rows + got)))
            if got < want:
                return True
            rows += got
            step = step * 8 if self.size < size / 16 else step
        return False

    def _step(self, want: int) -> int:
        """Pull so many rows, one after the other; gives how many there were until the inputs ended.

        So no row waits for a later one, whichever input is slow, and all loops are C's. ``begun``
        counts the rows whose first value was pulled: did a later input end before the first?
        """
        first, *others = self.iterators
        begun = repeat(True, want)
        values = first
        if others:
            rows = zip(compress(first, begun), *others, strict=False)
            values = chain.from_iterable(rows)
        before = len(self.pulled)
        self.pulled.extend(islice(values, want * self.width))
        got = (len(self.pulled) - before) // self.width
        if others and got < want:
            cut_off = want - length_hint(begun) > got
            if cut_off or any(next(each, _NO_MORE) is not _NO_MORE for each in others):
                raise self._unequal(before // self.width + got)
        return got

    def _columns(self, start: int, stop: int) -> list[list[Any]]:
        """Rows of what is pulled, as columns."""
        width = self.width
        return [self.pulled[start * width + k : stop * width : width] for k in range(width)]

    def _give(
        self, *, ended: bool = False, error: BaseException | None = None, more: bool = True
    ) -> None:
        """Answer with what is pulled and was not given yet."""
        with self.answering:
            stop = len(self.pulled) // self.width
            if more and stop == self.given:
                return
            columns = self._columns(self.given, stop)
            whole = not more and not self.given and error is None
            size = self.size if whole else sum(map(size_of, columns))
            count, pulled = stop - self.given, iter(columns)
            columns = [
                list(islice(each, count)) if isinstance(each, repeat) else next(pulled)
                for each in self.inputs
            ]
            self.given = stop
            if not more:
                self.pulled, self.given, self.size = [], 0, 0
            self.answer(columns, size, ended, error, more=more)

    def _unequal(self, shortest: int) -> MappingError:
        names = ", ".join(map(repr, self.sources))
        return MappingError(
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
                source.raise_if_cut()
                return
            yield Future(source.engine, node, position)


def _length(sources: list[Any]) -> int | None:
    """Items of a map's inputs, where one of them tells."""
    known = (length(each) for each in sources if is_iterable(each))
    return next((each for each in known if each is not None), None)


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
