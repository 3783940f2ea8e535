"""Futures: what a task call gives before its value is there.

A `Future` is three things, an engine, a node and a position; the ones of a mapped task are made
when somebody asks for them. A `MapFuture` stands for all items of a mapped task.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast, overload

from . import waiting
from .context import TASK_RUN, mark_seen
from .errors import NestedSubmitError, RunError, UnpicklableError
from .scanning import Scan
from .shown import Shown
from .states import FINAL_TYPES, State, StateType, type_of_name

if TYPE_CHECKING:
    from .calls import EngineAPI, NodeHandle
    from .explaining import Explanation

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_LATE = "{} was not done after {:g} seconds; it goes on"


def _wait(engine: EngineAPI, done: Callable[[], bool], timeout: float | None, what: str) -> bool:
    """Block until ``done()``; False at the timeout. In a running task this could wait forever."""
    if done():
        return True
    task = TASK_RUN.get()
    if task is not None and task.run_id == engine.run_id:
        raise NestedSubmitError(
            f"task {task.stage.key!r} waits for {what}, which may never get a slot while it does; "
            "pass the future as an argument instead"
        )
    return engine.block(done, timeout)


def _no_pickle(what: str) -> UnpicklableError:
    return UnpicklableError(
        f"{what} is a future of this process's run and cannot be pickled; "
        "pass it as a task's argument, where its value takes its place, or pass its .result()"
    )


class Future(Shown, Generic[R_co]):
    """The value of one task call, or of one item of a mapped one, when it is there.

    Equal to any other future of the same item. Any thread may use it; awaiting it does not block
    the event loop.
    """

    __slots__ = ("__weakref__", "engine", "node", "position")
    shown_as = "future"

    def __init__(self, engine: EngineAPI, node: NodeHandle, position: int) -> None:
        self.engine = engine
        self.node = node
        self.position = position

    @property
    def task_run_id(self) -> str:
        """``run/node key/position``: the same whenever and wherever the item runs."""
        return f"{self.engine.run_id}/{self.node.key}/{self.position}"

    def _look(self) -> None:
        mark_seen(self.engine.run_id, self.node.id)

    def done(self) -> bool:
        """It has ended, well or not."""
        return self.node.item_done(self.position)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most ``timeout`` seconds; raises nothing."""
        _wait(self.engine, self.done, timeout, self.task_run_id)

    @property
    def state(self) -> State[R_co]:
        """Its state now."""
        state = self.engine.state(self.node, self.position)
        if state.run is None:
            state.run = self.task_run_id
        if state.origin is None:
            state.origin = self
        if state.is_final():
            self._look()
        return cast("State[R_co]", state)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """Wait for its value.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits for ever.
        raise_on_failure
            False: return the exception instead of raising it.

        Raises
        ------
        TimeoutError
            Not done in time.
        """
        __tracebackhide__ = True
        if not _wait(self.engine, self.done, timeout, self.task_run_id):
            raise TimeoutError(_LATE.format(self.task_run_id, timeout))
        self._look()
        if not raise_on_failure:
            return self.state.result(raise_on_failure=False)
        return self.engine.value(self.node, self.position)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait, and give the exception if it did not complete, else None."""
        if not _wait(self.engine, self.done, timeout, self.task_run_id):
            raise TimeoutError(_LATE.format(self.task_run_id, timeout))
        return self.state.exception()

    def explain(self) -> Explanation:
        """Wait, and say why it was taken from the cache, or was not: which part of its key differs."""
        self.wait()
        return self.engine.explain(self.node, self.position)

    def cancel(self) -> bool:
        """Ask for its end; False if it has ended already. What runs is stopped where possible."""
        if self.done():
            return False
        self.engine.cancel(self.node, self.position, reason="its future was cancelled")
        return True

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call ``fn(self)`` when it has ended, in a thread of headrace's own."""
        self.engine.watch(self.node, self.position, lambda: waiting.call_back(fn, self))

    def __headrace_fingerprint__(self) -> bytes:
        """Among arguments it counts by the commit that holds its value."""
        from .provenance import commit_of

        return commit_of(cast("Any", self.node), self.position)

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._awaited().__await__()

    async def _awaited(self) -> R_co:
        await waiting.settled(self.engine, self.node, self.position)
        return await waiting.in_thread(self.result)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Future)
            and cast("Any", other).engine is self.engine
            and cast("Any", other).node.id == self.node.id
            and cast("Any", other).position == self.position
        )

    def __hash__(self) -> int:
        return hash((self.engine.run_id, self.node.id, self.position))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            f"{self.node.key}: this is a future; iterate over its .result(), or map over it with .map"
        )

    def __reduce__(self) -> Any:
        raise _no_pickle(self.task_run_id)

    def __repr__(self) -> str:
        state = self.engine.state(self.node, self.position).name
        return f"<Future {self.node.key}[{self.position}] {state}>"


class MapFuture(Shown, Sequence[Future[R]]):
    """All items of a mapped task: a sequence of their futures, in item order.

    Where the mapped iterable has no length, the number of items is known when it has ended. Until
    then `len` raises `TypeError`; iterating goes on as items become known. Where the map was
    cancelled before that, or its iterable has raised, iterating raises so behind the last item.
    """

    __slots__ = ("__weakref__", "engine", "expected", "node", "position")
    shown_as = "map"

    def __init__(self, engine: EngineAPI, node: NodeHandle, expected: int | None = None) -> None:
        self.engine = engine
        self.node = node
        self.expected = expected
        """Number of items as the inputs' own length tells it, before all were pulled."""
        self.position = None
        """Stands for all items, where a `Future` has one."""

    def _look(self) -> None:
        mark_seen(self.engine.run_id, self.node.id)

    def __headrace_fingerprint__(self) -> bytes:
        """Among arguments it counts by the commits that hold its values."""
        from .provenance import commit_of

        return commit_of(cast("Any", self.node), None)

    # ---------------------------------------------------------------------------- as a sequence

    def __len__(self) -> int:
        total = self._total()
        if total is None:
            raise TypeError(
                f"{self.node.key}: the number of items is not known before its iterable has ended; "
                "use .wait() first, or iterate"
            )
        return total

    def __bool__(self) -> bool:
        return True

    def _total(self) -> int | None:
        """Number of items; of a node that failed before its inputs had ended, of those it has."""
        if self.node.total is not None:
            return self.node.total
        return sum(self.node.counts().values()) if self.node.ended else self.expected

    def _at(self, position: int) -> Future[R]:
        return Future(self.engine, self.node, position)

    def _known(self, position: int) -> bool:
        """Whether it is known if there is an item at this position."""
        return self._total() is not None or sum(self.node.counts().values()) > position

    def _exists(self, position: int) -> bool:
        """Wait until it is known whether there is an item at this position."""
        _wait(self.engine, lambda: self._known(position), None, self.node.key)
        total = self._total()
        return total is None or position < total

    @overload
    def __getitem__(self, index: int) -> Future[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Future[R]]: ...
    def __getitem__(self, index: int | slice) -> Future[R] | list[Future[R]]:
        if isinstance(index, slice):
            return [self._at(k) for k in range(*index.indices(len(self)))]
        found = self.find(index)
        if found is None:
            self.raise_if_cut()
            raise IndexError(f"{self.node.key} has no item {index}")
        return found

    def find(self, index: int) -> Future[R] | None:
        """The item at an index, once it is known whether there is one."""
        if index >= 0 and self._total() is None:
            return self._at(index) if self._exists(index) else None
        position = index + len(self) if index < 0 else index
        return self._at(position) if 0 <= position < len(self) else None

    def raise_if_cut(self) -> None:
        """Wait and raise why, where it ends before all of its input was pulled: items are missing."""
        if self.node.cut:
            self.result()

    def __iter__(self) -> Iterator[Future[R]]:
        position = 0
        while self._exists(position):
            yield self._at(position)
            position += 1
        self.raise_if_cut()

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Future):
            return False
        other = cast("Future[Any]", value)
        return other.engine is self.engine and other.node.id == self.node.id

    # ------------------------------------------------------------------------------- as a future

    def done(self) -> bool:
        """Every item has ended, and no more will come."""
        return self.node.ended

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all items have ended, at most ``timeout`` seconds; raises nothing."""
        _wait(self.engine, self.done, timeout, self.node.key)

    def _finish(self, timeout: float | None) -> None:
        if not _wait(self.engine, self.done, timeout, self.node.key):
            raise TimeoutError(_LATE.format(self.node.key, timeout))
        self._look()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R]:
        """Wait for the values of all items, in item order.

        Parameters
        ----------
        timeout
            Seconds to wait at most.
        raise_on_failure
            False: where an item did not complete, its exception stands in the list.

        Raises
        ------
        MapFailed
            Items did not complete; what the task's ``on_error`` and ``min_success_ratio`` let pass
            does not count.
        TimeoutError
            Not done in time.
        """
        __tracebackhide__ = True
        self._finish(timeout)
        if raise_on_failure or not self._bad():
            return cast("list[R]", self.engine.values(self.node))
        return [state.result(raise_on_failure=False) for state in self.states]

    def _bad(self) -> bool:
        counts = self.node.counts()
        return any(n and type_of_name(k) is not StateType.COMPLETED for k, n in counts.items())

    @property
    def state(self) -> State[list[R]]:
        """State of the node as a whole."""
        state = self.engine.state(self.node, None)
        if state.run is None:
            state.run = f"{self.engine.run_id}/{self.node.key}"
        if state.origin is None:
            state.origin = self
        if state.is_final():
            self._look()
        return cast("State[list[R]]", state)

    @property
    def states(self) -> MapStates[R]:
        """States of all items, each made when it is looked at."""
        self._look()
        return MapStates(self)

    def counts(self) -> dict[str, int]:
        """Items by the name of their state, now."""
        self._look()
        return {name: number for name, number in self.node.counts().items() if number}

    def failures(self) -> Any:
        """Wait for all items; the failed ones as a ``pyarrow.Table``.

        Columns: node, item, name, kind, exception, message, traceback, attempt, worker, input.
        """
        self._finish(None)
        return self.engine.failures(self.node)

    def quarantined(self) -> Any:
        """Wait for all items; the rows that did not fit the task's pydantic model, as a `Dataset`.

        Beside their own columns, as they were read, they have ``quarantine_item``,
        ``quarantine_row`` (number of the row in its partition), ``quarantine_field`` (the first
        that does not fit) and ``quarantine_reason``.
        """
        self._finish(None)
        return self.engine.quarantined(self.node)

    def dataset(self) -> Any:
        """The values of all items as a `Dataset`; waits for them."""
        __tracebackhide__ = True
        self._finish(None)
        return self.engine.dataset(self.node)

    def as_completed(self, timeout: float | None = None) -> Iterator[Future[R]]:
        """The items' futures in the order in which they end.

        Raises
        ------
        TimeoutError
            Not all have ended ``timeout`` seconds after the first one was asked for.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._look()
        scan = Scan(self.node)
        while True:
            _remaining(deadline, self.node.key)
            for position in scan.newly():
                yield self._at(position)
            if scan.over():
                self.raise_if_cut()
                return
            left = _remaining(deadline, self.node.key)
            _wait(self.engine, scan.moved, left, self.node.key)

    def cancel(self) -> bool:
        """Ask for the end of all items that have not ended; False if all have."""
        if self.done():
            return False
        self.engine.cancel(self.node, None, reason="its future was cancelled")
        return True

    def add_done_callback(self, fn: Callable[[MapFuture[Any]], object]) -> None:
        """Call ``fn(self)`` when all items have ended, in a thread of headrace's own."""
        self.engine.watch(self.node, None, lambda: waiting.call_back(fn, self))

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[R]:
        await waiting.settled(self.engine, self.node, None)
        return await waiting.in_thread(self.result)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MapFuture)
            and cast("Any", other).engine is self.engine
            and cast("Any", other).node.id == self.node.id
        )

    def __hash__(self) -> int:
        return hash((self.engine.run_id, self.node.id))

    def __reduce__(self) -> Any:
        raise _no_pickle(self.node.key)

    def __repr__(self) -> str:
        counts = self.node.counts()
        told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
        total = self._total()
        return f"<MapFuture {self.node.key}: {'?' if total is None else total} items; {told or 'none yet'}>"


class MapStates(Sequence[State[R]]):
    """States of a mapped task's items: counted without being made, made one by one when read."""

    __slots__ = ("_future",)

    def __init__(self, future: MapFuture[R]) -> None:
        self._future = future

    def type_counts(self) -> dict[StateType, int]:
        """How many states are of each type."""
        counts: dict[StateType, int] = {}
        for name, number in self._future.node.counts().items():
            if number:
                kind = type_of_name(name)
                counts[kind] = counts.get(kind, 0) + number
        own = type_of_name(self._future.node.state)
        bad = own in FINAL_TYPES and own is not StateType.COMPLETED
        if bad and counts.keys() <= {StateType.COMPLETED}:
            counts[own] = 1  # it ended badly before it had items, or all of them
        return counts

    def not_completed(self) -> Iterator[State[Any]]:
        """States of the items that did not complete, in item order, or else the map's own."""
        told = False
        for state in self:
            if not state.is_completed():
                told = True
                yield state
        own = self._future.state
        if not told and not own.is_completed() and not own.is_skipped():
            yield own

    def dataset(self) -> Any:
        """The values of all items as a `Dataset`: see `MapFuture.dataset`."""
        __tracebackhide__ = True
        return self._future.dataset()

    def __len__(self) -> int:
        return len(self._future)

    @overload
    def __getitem__(self, index: int) -> State[R]: ...
    @overload
    def __getitem__(self, index: slice) -> list[State[R]]: ...
    def __getitem__(self, index: int | slice) -> State[R] | list[State[R]]:
        if isinstance(index, slice):
            return [future.state for future in self._future[index]]
        found = self._future.find(index)
        if found is None:
            raise IndexError(f"{self._future.node.key} has no item {index}")
        return found.state

    def __repr__(self) -> str:
        told = ", ".join(f"{n} {kind.value}" for kind, n in self.type_counts().items())
        return f"<states of {self._future.node.key}: {told or 'none yet'}>"


class DoneAndNotDone(NamedTuple):
    """Futures that have ended, and those that have not."""

    done: set[Any]
    not_done: set[Any]


AnyFuture = Future[Any] | MapFuture[Any]


def wait(futures: Iterable[AnyFuture], timeout: float | None = None) -> DoneAndNotDone:
    """Wait until all futures have ended, at most ``timeout`` seconds.

    Parameters
    ----------
    futures
        Futures and map futures; a map future itself stands for its items.

    Examples
    --------
    >>> done, not_done = wait(clean.map(shards), timeout=60)  # doctest: +SKIP
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if isinstance(futures, MapFuture):
        cast("MapFuture[Any]", futures).wait(timeout)
        if futures.node.total is None and not futures.node.ended:
            raise RunError(f"{futures.node.key}: the number of items was not known in time")
    each = futures[:] if isinstance(futures, MapFuture) else list(futures)
    for future in each:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        future.wait(left)
    done = {future for future in each if future.done()}
    return DoneAndNotDone(done, set(each) - done)


def as_completed(futures: Iterable[AnyFuture], timeout: float | None = None) -> Iterator[Any]:
    """The futures in the order in which they end.

    Raises
    ------
    TimeoutError
        Not all have ended in time.
    """
    if isinstance(futures, MapFuture):
        yield from cast("MapFuture[Any]", futures).as_completed(timeout)
        return
    deadline = None if timeout is None else time.monotonic() + timeout
    waiting_for = dict.fromkeys(futures)
    ended: list[AnyFuture] = []
    lock = threading.Lock()

    def ending(future: AnyFuture) -> Callable[[], None]:
        def put() -> None:
            with lock:
                ended.append(future)

        return put

    for future in waiting_for:
        future.engine.watch(future.node, future.position, ending(future))
    while waiting_for:
        with lock:
            ready, ended[:] = list(ended), []
        for future in ready:
            del waiting_for[future]
            yield future
        if not waiting_for:
            return
        left = _remaining(deadline, f"{len(waiting_for)} of the futures")
        engines = {id(future.engine): future.engine for future in waiting_for}
        for engine in engines.values():
            # Runs take turns: none is told when a future of another one ends.
            turn = left if len(engines) == 1 else min(0.05, left if left is not None else 0.05)
            _wait(engine, lambda: bool(ended), turn, "futures")


def _remaining(deadline: float | None, what: str) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"{what} had not ended in time")
    return left
