"""What a process has for itself, and how a fork of it begins without that.

A forked child has one thread, and memory in which its parent's threads, pools and connections seem to
be there still. Whatever a module keeps for its process says so here, where it is made.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

_inherited: list[object] = []
"""What is the parent's: closing it, as losing its last reference may, would close the parent's."""


class _Container(Protocol):
    def copy(self) -> Any: ...
    def clear(self) -> None: ...


C = TypeVar("C", bound=_Container)
L = TypeVar("L")
F = TypeVar("F", bound=Callable[[], object])


def own(container: C) -> C:
    """The same list, set or dict: a forked child finds it empty, and ends nothing that was in it."""

    def empty() -> None:
        keep(container.copy())
        container.clear()

    in_child(empty)
    return container


def own_lock(lock: L) -> L:
    """The same lock: a forked child finds it free, whoever held it."""
    any_lock: Any = lock
    in_child(any_lock._at_fork_reinit)  # as the standard library does with its own
    return lock


def in_child(call: F) -> F:
    """Call this in each forked child before that goes on; the same function, as of a decorator."""
    os.register_at_fork(after_in_child=call)
    return call


def without_sigterm(give_back: Callable[[], object]) -> None:
    """Give back a handler of SIGTERM in each forked child: what it would end is the parent's.

    A signal that comes before is kept until then: Python forgets those that its own handlers were to see.
    """
    held = threading.local()

    def hold() -> None:
        held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, held.mask)

    def begin() -> None:
        give_back()
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=begin)


def keep(thing: object) -> None:
    """Hold what is the parent's for as long as this process lives."""
    _inherited.append(thing)
