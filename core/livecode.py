"""Code that stays in this process: pickled by number, so that it comes back as itself.

Where batches run in the driver's own process, a task's function must be the very function that the
user wrote: what it closes over and its module's globals are the flow's own, as they are for a plain
call, and need no pickle.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Self
from weakref import WeakValueDictionary

_numbers = itertools.count()


class Live(functools.partial[Any]):
    """A function, as itself, that pickles for this process alone.

    A ``partial`` of no arguments, because `inspect` looks through one to see whether the function
    is a coroutine function or a generator. Whoever pickles it keeps it alive.
    """

    number: int
    fn: Any
    """As it was given: of a partial, ``func`` is what that one calls."""

    def __new__(cls, fn: Any) -> Self:
        made = super().__new__(cls, fn)
        made.number, made.fn = next(_numbers), fn
        _alive[made.number] = made
        return made

    def __reduce__(self) -> Any:
        return _found, (self.number,)


_alive: WeakValueDictionary[int, Live] = WeakValueDictionary()


def _found(number: int) -> Any:
    return _alive[number].fn
