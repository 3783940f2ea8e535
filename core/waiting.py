"""Waiting without blocking: event loops, callbacks, and threads that wait on a loop's behalf."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future as PlainFuture
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import forks

if TYPE_CHECKING:
    import asyncio

    from .calls import EngineAPI, NodeHandle

P = ParamSpec("P")
T = TypeVar("T")

_WAITERS = 256
"""Threads that may wait for event loops at a time; they cost address space, not memory."""

_lock = forks.own_lock(threading.Lock())
_threads: ThreadPoolExecutor | None = None
_calls: queue.SimpleQueue[tuple[Callable[[Any], object], Any]] | None = None


@forks.in_child
def _without_threads() -> None:
    global _threads, _calls
    _threads = _calls = None


def call_back(fn: Callable[[Any], object], future: Any) -> None:
    """Call a user's callback soon, in the one thread that all callbacks share."""
    global _calls
    with _lock:
        if _calls is None:
            _calls = queue.SimpleQueue()
            threading.Thread(
                target=_serve, args=(_calls,), name="headrace-callbacks", daemon=True
            ).start()
    _calls.put((fn, future))


def _serve(calls: queue.SimpleQueue[tuple[Callable[[Any], object], Any]]) -> None:
    while True:
        fn, future = calls.get()
        try:
            fn(future)
        except Exception:  # a user's callback may raise anything, and nobody waits for it
            logging.getLogger("headrace").exception("callback %r of %r failed", fn, future)


async def in_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call something that blocks, in a thread and in this context, while the loop goes on."""
    import asyncio

    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(_WAITERS, thread_name_prefix="headrace-await")
        pool = _threads
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        pool, lambda: context.run(fn, *args, **kwargs)
    )


async def to_the_end(fn: Callable[[], T], hurry: Callable[[], object] | None = None) -> T:
    """`in_thread` of what nobody else would end: a coroutine that is cancelled meanwhile waits for it.

    With ``hurry``, which is called then, it waits until it is cancelled once more.
    """
    import asyncio

    going = asyncio.ensure_future(in_thread(fn))
    try:
        return await asyncio.shield(going)
    except asyncio.CancelledError:
        if hurry is not None:
            hurry()
            await asyncio.wait([going])
        while not going.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([going])
        raise


async def settled(engine: EngineAPI, node: NodeHandle, position: int | None) -> None:
    """Wait on the running loop until an item (None: the node) has ended."""
    import asyncio

    def done() -> bool:
        return node.ended if position is None else node.item_done(position)

    if done():
        return
    if engine.caller_runs:
        await in_thread(engine.block, done)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return

    engine.watch(node, position, tell)
    await ended.wait()


class OnLoop:
    """An ``async`` function as a plain one that runs on a given event loop and waits for it there.

    So a task that is awaited in a flow runs on the flow's own loop, beside the flow's connections,
    while its engine keeps states, retries and time limits as for any other task. On the loop's own
    thread, which must not wait for itself, it runs on a loop of its own in another thread.
    """

    _made: dict[int, OnLoop] = {}  # noqa: RUF012 - found again by number after a pickle's round trip

    def __init__(self, fn: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
        self.fn, self.loop = fn, loop
        self.__wrapped__ = fn
        self.__name__ = getattr(fn, "__name__", "task")
        self.__qualname__ = getattr(fn, "__qualname__", self.__name__)
        self.__module__ = getattr(fn, "__module__", __name__)
        self._running: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._made[id(self)] = self

    def forget(self) -> None:
        """Its call is over."""
        self._made.pop(id(self), None)

    def cancel(self) -> None:
        """Cancel what runs, or is about to, on the loop."""
        self._cancelled = True
        if self._running is not None:
            self._running.cancel()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import asyncio

        try:
            own = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            own = False
        context = contextvars.copy_context()
        outcome: PlainFuture[Any] = PlainFuture()
        if own:
            threading.Thread(
                target=lambda: context.run(_settle, outcome, asyncio.run, self.fn(*args, **kwargs))
            ).start()
            return outcome.result()

        def start() -> None:
            self._running = self.loop.create_task(self.fn(*args, **kwargs), context=context)
            self._running.add_done_callback(lambda task: _settle(outcome, task.result))
            if self._cancelled:
                self._running.cancel()

        self.loop.call_soon_threadsafe(start)
        return outcome.result()

    def __reduce__(self) -> Any:
        return _found, (id(self),)


def _found(number: int) -> OnLoop:
    return OnLoop._made[number]  # pyright: ignore[reportPrivateUsage]


def _settle(outcome: PlainFuture[Any], fn: Callable[..., Any], *args: Any) -> None:
    try:
        outcome.set_result(fn(*args))
    except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
        outcome.set_exception(error)


def run_aside(coroutine: Any) -> Any:
    """Run a coroutine to its end on a loop of its own, whatever loop runs here."""
    import asyncio

    ended: list[tuple[Any, BaseException | None]] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            ended.append((asyncio.run(coroutine), None))
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            ended.append((None, error))

    thread = threading.Thread(target=context.run, args=(run,), name="headrace-aside")
    thread.start()
    thread.join()
    ((value, error),) = ended
    if error is not None:
        raise error
    return value
