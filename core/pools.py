"""Warm pools: opened once per process and executor, shared by runs, closed at exit.

A second flow on Dask or Ray does not pay for its start again. Executors with equal ``key()`` share
a pool.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import forks
from .interfaces import Executor, Pool


@dataclass(slots=True, eq=False)
class _Place:
    """One executor's place: its lock is held while the pool opens, so that it opens once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pool: Pool | None = None


_lock = forks.own_lock(threading.Lock())
_places: dict[Hashable, _Place] = forks.own({})
_waits: list[Callable[[], None]] = []


def _place(executor: Executor) -> _Place:
    with _lock:
        return _places.setdefault((executor.name, executor.key()), _Place())


def lease(executor: Executor) -> Pool:
    """The warm pool of an executor, opened now if there is none.

    Raises
    ------
    ExecutorError
        It cannot be started or reached.
    """
    place = _place(executor)
    with place.lock:
        if place.pool is None:
            place.pool = executor.open()
        return place.pool


def discard(executor: Executor) -> None:
    """Close an executor's pool, if it has one; the next `lease` opens another."""
    with _lock:
        place = _places.pop((executor.name, executor.key()), None)
    if place is not None:
        with place.lock:
            pool, place.pool = place.pool, None
        if pool is not None:
            pool.close()


@contextmanager
def opened(executor: Executor) -> Generator[Pool]:
    """Keep an executor's pool for a block, and close it at the end of the block."""
    try:
        yield lease(executor)
    finally:
        discard(executor)


def close_all() -> None:
    """Close every pool of this process."""
    with _lock:
        places = list(_places.values())
        _places.clear()
    for place in places:
        with place.lock:
            pool, place.pool = place.pool, None
        if pool is not None:
            pool.close()


def before_closing(wait: Callable[[], None]) -> None:
    """Call this when the interpreter exits, before the pools close."""
    _waits.append(wait)


def _close_at_exit() -> None:
    for wait in _waits:
        wait()
    close_all()


# Before `concurrent.futures` closes its threads, which engines need to end in order; `atexit` is
# later than that.
getattr(threading, "_register_atexit", atexit.register)(_close_at_exit)
