"""States of runs and items, and the rule by which a flow's return value becomes its state.

Types drive what happens, names say what people read: a run that tries again has the name
``Retrying`` and the type ``RUNNING``. Names, types and rules are Prefect 3's; the one addition is
the type ``SKIPPED``, for what did not run because something it needs did not complete. It is final,
and it is neither completed nor failed: the failure is counted once, where it happened.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from .errors import Cancelled as CancelledError
from .errors import RunError, TaskCrashed, TaskFailed, UpstreamFailed
from .shown import Shown

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class StateType(StrEnum):
    """What a state means to the machinery."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    SKIPPED = "SKIPPED"
    """Not run, because something it needs did not complete."""


FINAL_TYPES = frozenset(
    {
        StateType.CANCELLED,
        StateType.COMPLETED,
        StateType.FAILED,
        StateType.CRASHED,
        StateType.SKIPPED,
    }
)

_WRAPPERS: Mapping[StateType, type[RunError]] = {
    StateType.FAILED: TaskFailed,
    StateType.CRASHED: TaskCrashed,
    StateType.CANCELLED: CancelledError,
    StateType.SKIPPED: UpstreamFailed,
}


class State(Shown, Generic[R_co]):
    """The state of a flow run, a node or an item. Immutable.

    Parameters
    ----------
    type
        What it means.
    name
        What people read; by default the type's own name.
    message
        One sentence, or nothing.
    data
        The value of a completed run, the exception of one that did not complete.
    loader
        Gives ``data`` when it is first asked for. For a state that did not complete it *returns*
        the exception.
    timestamp
        When the state was entered (UTC).
    run
        The run or item (``run/key/position``) whose state this is; None for one made by hand.
    origin
        The future whose state this is: a task that is given the state takes the value from there.
    """

    shown_as = "state"

    __slots__ = ("_data", "_loader", "message", "name", "origin", "run", "timestamp", "type")

    def __init__(
        self,
        type: StateType,
        name: str | None = None,
        message: str = "",
        data: R_co | BaseException | None = None,
        *,
        loader: Callable[[], R_co | BaseException] | None = None,
        timestamp: datetime | None = None,
        run: str | None = None,
        origin: Any = None,
    ) -> None:
        self.type = type
        self.name = name if name is not None else type.value.capitalize()
        self.message = message
        self.timestamp = timestamp if timestamp is not None else datetime.now(UTC)
        self.run = run
        self.origin = origin
        self._data: Any = data
        self._loader = loader

    @property
    def data(self) -> Any:
        """The value or the exception; loaded when it is first asked for."""
        if self._loader is not None:
            self._data = self._loader()
            self._loader = None
        return self._data

    def is_scheduled(self) -> bool:
        """Waits for its time, also for a retry's."""
        return self.type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        """Waits for a slot or for what it needs."""
        return self.type is StateType.PENDING

    def is_running(self) -> bool:
        """Runs now."""
        return self.type is StateType.RUNNING

    def is_paused(self) -> bool:
        """Stopped until somebody resumes it."""
        return self.type is StateType.PAUSED

    def is_cancelling(self) -> bool:
        """Is being cancelled."""
        return self.type is StateType.CANCELLING

    def is_cancelled(self) -> bool:
        """Ended because somebody asked for it."""
        return self.type is StateType.CANCELLED

    def is_completed(self) -> bool:
        """Ended well, or its value was known already."""
        return self.type is StateType.COMPLETED

    def is_failed(self) -> bool:
        """Ended by an exception of user code, or by its time limit."""
        return self.type is StateType.FAILED

    def is_crashed(self) -> bool:
        """Ended because the process that ran it died."""
        return self.type is StateType.CRASHED

    def is_skipped(self) -> bool:
        """Did not run, because something it needs did not complete."""
        return self.type is StateType.SKIPPED

    def is_final(self) -> bool:
        """No other state follows."""
        return self.type in FINAL_TYPES

    def result(self, raise_on_failure: bool = True) -> R_co:
        """The value; of a state that did not complete, its exception.

        Parameters
        ----------
        raise_on_failure
            False: return the exception instead of raising it.

        Raises
        ------
        RunError
            The state is not final yet.
        """
        __tracebackhide__ = True
        if not self.is_final():
            raise RunError(f"{self._subject()} is {self.name}; it has no result yet")
        if self.is_completed():
            return cast("R_co", self.data)
        exception = self.exception()
        if raise_on_failure and exception is not None:
            raise exception
        return cast("R_co", exception)

    def exception(self) -> BaseException | None:
        """The exception of a final state that did not complete, else None.

        Of a state that stands for several states it is the first one's among them.
        """
        wrapper = _WRAPPERS.get(self.type)
        if wrapper is None:
            return None
        data = self.data
        if isinstance(data, BaseException):
            return data
        if isinstance(data, str):
            return wrapper(data)
        for state in _states_in(data):
            if (inner := state.exception()) is not None:
                return inner
        return wrapper(self.message or f"{self._subject()} is {self.name}")

    def _subject(self) -> str:
        return self.run if self.run is not None else "the run"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (
            self.type,
            self.name,
            self.message,
            self.data,
            self.timestamp,
            self.run,
        )

    def __repr__(self) -> str:
        told = f", message={self.message!r}" if self.message else ""
        return f"{self.name}(type={self.type.value}{told})"

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


def _restore(
    kind: StateType, name: str, message: str, data: Any, timestamp: datetime, run: str | None
) -> State[Any]:
    return State(kind, name, message, data, timestamp=timestamp, run=run)


# --------------------------------------------------------------------------------- constructors


def Completed(message: str = "", data: R | None = None, *, name: str | None = None) -> State[R]:  # noqa: N802
    """A state of type ``COMPLETED``."""
    return State(StateType.COMPLETED, name, message, data)


def Cached(message: str = "", data: R | None = None) -> State[R]:  # noqa: N802
    """``COMPLETED``: the value was there already."""
    return State(StateType.COMPLETED, "Cached", message, data)


def Failed(message: str = "", data: Any = None, *, name: str | None = None) -> State[Any]:  # noqa: N802
    """A state of type ``FAILED``; ``data`` is the exception, or a text."""
    return State(StateType.FAILED, name, message, data)


def TimedOut(message: str = "", data: Any = None) -> State[Any]:  # noqa: N802
    """``FAILED``: it passed its time limit."""
    return State(StateType.FAILED, "TimedOut", message, data)


def Crashed(message: str = "", data: Any = None, *, name: str | None = None) -> State[Any]:  # noqa: N802
    """A state of type ``CRASHED``."""
    return State(StateType.CRASHED, name, message, data)


def Cancelled(message: str = "", data: Any = None, *, name: str | None = None) -> State[Any]:  # noqa: N802
    """A state of type ``CANCELLED``."""
    return State(StateType.CANCELLED, name, message, data)


def Cancelling(message: str = "") -> State[Any]:  # noqa: N802
    """A state of type ``CANCELLING``."""
    return State(StateType.CANCELLING, None, message)


def Skipped(message: str = "", data: Any = None) -> State[Any]:  # noqa: N802
    """A state of type ``SKIPPED``."""
    return State(StateType.SKIPPED, None, message, data)


def Pending(message: str = "") -> State[Any]:  # noqa: N802
    """A state of type ``PENDING``."""
    return State(StateType.PENDING, None, message)


def Scheduled(message: str = "") -> State[Any]:  # noqa: N802
    """A state of type ``SCHEDULED``."""
    return State(StateType.SCHEDULED, None, message)


def AwaitingRetry(message: str = "") -> State[Any]:  # noqa: N802
    """``SCHEDULED``: it failed, and tries again after its delay."""
    return State(StateType.SCHEDULED, "AwaitingRetry", message)


def Running(message: str = "") -> State[Any]:  # noqa: N802
    """A state of type ``RUNNING``."""
    return State(StateType.RUNNING, None, message)


def Retrying(message: str = "") -> State[Any]:  # noqa: N802
    """``RUNNING``, after a failed attempt."""
    return State(StateType.RUNNING, "Retrying", message)


def Paused(message: str = "") -> State[Any]:  # noqa: N802
    """A state of type ``PAUSED``."""
    return State(StateType.PAUSED, None, message)


_TYPE_OF_NAME: Mapping[str, StateType] = {
    "Cached": StateType.COMPLETED,
    "TimedOut": StateType.FAILED,
    "Retrying": StateType.RUNNING,
    "AwaitingRetry": StateType.SCHEDULED,
    **{kind.value.capitalize(): kind for kind in StateType},
}


def type_of_name(name: str) -> StateType:
    """Type of the states with one of headrace's own names."""
    return _TYPE_OF_NAME[name]


# ------------------------------------------------------------------- from a return to a state


@runtime_checkable
class StateGroup(Protocol):
    """Many states that are counted without being made, as those of a mapped task."""

    def type_counts(self) -> Mapping[StateType, int]:
        """How many of the states are of each type."""
        ...

    def not_completed(self) -> Iterable[State[Any]]:
        """The states that are not of type ``COMPLETED``, in order."""
        ...


def state_of_return(value: Any) -> State[Any]:
    """State of a flow (or task) that returned ``value``, by Prefect's rules.

    A state made by hand is taken as it is. A state of a run, or a list, tuple or set of states, is
    summed up: completed if all are; else cancelled if any is; else paused if any is; else failed.
    Anything else completes. Futures must have been replaced by their states before.
    """
    if isinstance(value, State) and cast("State[Any]", value).run is None:
        return cast("State[Any]", value)
    counts = _type_counts(value)
    if counts is None:
        data = list(cast("Any", value)) if isinstance(value, types.GeneratorType) else value
        return State(StateType.COMPLETED, data=data)
    kind, message = _sum_up(counts)
    return State(kind, None, message, value)


def state_of_exception(exception: BaseException, message: str = "") -> State[Any]:
    """``Failed`` with the exception as its data; the message ends with the exception's own."""
    told = f"{type(exception).__name__}: {exception}"
    return Failed(f"{message} {told}" if message else told, exception)


def is_states(value: Any) -> bool:
    """Whether a value is a state, or a non-empty list, tuple or set of nothing but states."""
    return isinstance(value, State) or _type_counts(value) is not None


def _type_counts(value: Any) -> Mapping[StateType, int] | None:
    if isinstance(value, State):
        return {cast("State[Any]", value).type: 1}
    if isinstance(value, StateGroup):
        return value.type_counts()
    if not isinstance(value, (list, tuple, set)) or not value:
        return None
    counts: Counter[StateType] = Counter()
    for each in cast("Iterable[Any]", value):
        if not isinstance(each, (State, StateGroup)):
            return None
        counts.update(_type_counts(each) or {})
    return counts


def _states_in(value: Any) -> Iterable[State[Any]]:
    if isinstance(value, State):
        yield cast("State[Any]", value)
    elif isinstance(value, StateGroup):
        yield from value.not_completed()
    elif isinstance(value, (list, tuple, set)):
        for each in cast("Sequence[Any]", value):
            yield from _states_in(each)


def _sum_up(counts: Mapping[StateType, int]) -> tuple[StateType, str]:
    total = sum(counts.values())
    if counts.get(StateType.COMPLETED, 0) == total:
        return StateType.COMPLETED, "All states completed."
    if cancelled := counts.get(StateType.CANCELLED, 0):
        return StateType.CANCELLED, f"{cancelled}/{total} states cancelled."
    if paused := counts.get(StateType.PAUSED, 0):
        return StateType.PAUSED, f"{paused}/{total} states paused."
    if failed := counts.get(StateType.FAILED, 0) + counts.get(StateType.CRASHED, 0):
        return StateType.FAILED, f"{failed}/{total} states failed."
    if unfinished := sum(n for kind, n in counts.items() if kind not in FINAL_TYPES):
        return StateType.FAILED, f"{unfinished}/{total} states are not final."
    told = ", ".join(f"{n} {kind.value.lower()}" for kind, n in counts.items() if n)
    return StateType.FAILED, f"Given states: {told}."
