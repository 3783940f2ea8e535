"""Tasks: functions that become nodes of a flow run when they are called."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from .decorated import Decorated, importable_name
from .errors import ConfigurationError
from .options import TaskKeywords, task_options

if TYPE_CHECKING:
    from .calls import TaskOptions
    from .futures import Future, MapFuture
    from .states import State

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_MAP_OPTIONS = ("key", "max_in_flight", "name")


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """Retry delays of ``backoff_factor * 2**k`` seconds, for ``retry_delay_seconds``.

    Parameters
    ----------
    backoff_factor
        Seconds before the first retry.

    Examples
    --------
    >>> exponential_backoff(2)(4)
    [2, 4, 8, 16]
    """

    def delays(retries: int) -> list[float]:
        return [backoff_factor * 2**k for k in range(min(retries, 50))]

    return delays


class Task(Decorated, Generic[P, R_co]):
    """A function whose calls in a flow are nodes, with states, retries and stored values.

    ``task(x)`` runs in the calling thread and gives the value; ``task.submit(x)`` gives a `Future`
    and runs on the flow's executor; ``task.map(xs)`` runs once per item and gives a `MapFuture`.
    Inside another task a task is a plain function.

    Made by the decorator `task`.
    """

    word = "task"
    fn: Callable[P, R_co]

    def __init__(self, fn: Callable[P, R_co], given: TaskKeywords) -> None:
        super().__init__(fn, given)
        self.options: TaskOptions = task_options(self.what, self.fn, given)

    def with_options(self, **options: Unpack[TaskKeywords]) -> Task[P, R_co]:
        """The same task with other options; the keywords are those of `task`."""
        given = cast("TaskKeywords", {**self.given, **options})
        return Task(self.undecorated(), given)

    # ------------------------------------------------------------------------------------- calls

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Task[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self, /, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[R_co]: ...
    @overload
    def __call__(
        self, /, *args: Any, wait_for: Any, return_state: Literal[False] = False, **kwargs: Any
    ) -> R_co: ...
    def __call__(
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Run it in the calling thread and give its value; of an async task, an awaitable of it.

        Parameters
        ----------
        return_state
            Give the final state instead of the value; raises nothing then.
        wait_for
            Futures that must complete before, though their values are not needed.
        """
        from .calling import call

        return call(self, args, kwargs, wait_for=wait_for, return_state=return_state)

    @overload
    def submit(
        self: Task[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]: ...
    @overload
    def submit(
        self: Task[P, Generator[T, Any, Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[list[T]]: ...
    @overload
    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R_co]: ...
    @overload
    def submit(
        self: Task[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        **kwargs: Any,
    ) -> State[T]: ...
    @overload
    def submit(
        self, /, *args: Any, return_state: Literal[True], wait_for: Any = None, **kwargs: Any
    ) -> State[R_co]: ...
    @overload
    def submit(
        self: Task[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        wait_for: Any,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> Future[T]: ...
    @overload
    def submit(
        self, /, *args: Any, wait_for: Any, return_state: Literal[False] = False, **kwargs: Any
    ) -> Future[R_co]: ...
    @overload
    def submit(
        self: Task[..., Coroutine[Any, Any, T]],
        first: Future[Any] | MapFuture[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Future[T]: ...
    @overload
    def submit(
        self, first: Future[Any] | MapFuture[Any], /, *args: Any, **kwargs: Any
    ) -> Future[R_co]: ...
    def submit(
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Run it on the flow's executor; gives a future at once.

        Futures among the arguments, at any depth, are waited for by the engine, and their values
        take their places. Outside of a flow the call is a run of its own.

        Parameters
        ----------
        return_state
            Wait, and give the final state instead of a future.
        wait_for
            Futures that must complete before, though their values are not needed.

        Raises
        ------
        NestedSubmitError
            Called inside a running task.
        """
        from .calling import submit

        __tracebackhide__ = True
        future = submit(self, args, kwargs, wait_for)
        if not return_state:
            return future
        future.wait()
        return future.state

    @overload
    def map(
        self: Task[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        key: Callable[[Any], Any] | None = None,
        max_in_flight: int | None = None,
        name: Any = None,
        **kwargs: Any,
    ) -> list[State[T]]: ...
    @overload
    def map(
        self,
        /,
        *args: Any,
        return_state: Literal[True],
        wait_for: Any = None,
        key: Callable[[Any], Any] | None = None,
        max_in_flight: int | None = None,
        name: Any = None,
        **kwargs: Any,
    ) -> list[State[R_co]]: ...
    @overload
    def map(
        self: Task[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        key: Any = None,
        max_in_flight: Any = None,
        name: Any = None,
        **kwargs: Any,
    ) -> MapFuture[T]: ...
    @overload
    def map(
        self: Task[..., Generator[T, Any, Any]],
        /,
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        key: Any = None,
        max_in_flight: Any = None,
        name: Any = None,
        **kwargs: Any,
    ) -> MapFuture[list[T]]: ...
    @overload
    def map(
        self,
        /,
        *args: Any,
        return_state: Literal[False] = False,
        wait_for: Any = None,
        key: Any = None,
        max_in_flight: Any = None,
        name: Any = None,
        **kwargs: Any,
    ) -> MapFuture[R_co]: ...
    def map(
        self, /, *args: Any, return_state: bool = False, wait_for: Any = None, **kwargs: Any
    ) -> Any:
        """Run it once per item on the flow's executor; gives a map future at once.

        Every iterable argument is mapped over, lazily; what is not iterable, or `unmapped`, goes
        whole to every item (see `headrace.core.mapping` for tables, dicts and the like). Where the
        function itself has a parameter ``key``, ``max_in_flight`` or ``name``, the keyword is that
        parameter's.

        Parameters
        ----------
        return_state
            Wait, and give the list of the items' states.
        wait_for
            Futures that must complete before any item starts.
        key
            ``key(input)`` is an item's own identity, by which a resumed run finds it again.
        max_in_flight
            Items that are handed out and not finished, at most.
        name
            Key of the node, unique in the run; by default the task's name and a number.

        Raises
        ------
        MappingError
            Nothing to map over, or unequal lengths.
        NestedSubmitError
            Called inside a running task.
        """
        from .calling import submit_map

        __tracebackhide__ = True
        own: dict[str, Any] = {
            option: kwargs.pop(option)
            for option in _MAP_OPTIONS
            if option in kwargs and option not in self.shape.names
        }
        future = submit_map(
            self,
            args,
            kwargs,
            wait_for=wait_for,
            key=_checked_key(self.name, own.get("key")),
            max_in_flight=_checked_window(self.name, own.get("max_in_flight")),
            name=own.get("name"),
        )
        if not return_state:
            return future
        future.wait()
        return list(future.states)

    # -------------------------------------------------------------------------------- as a method

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Task[P, R_co]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None
    ) -> Task[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        return self.bound(instance, owner)

    # ---------------------------------------------------------------------------------- the rest

    def __reduce__(self) -> Any:
        name = importable_name(self)
        if name is not None:
            return name
        return _restore, (self.undecorated(), {**self.given, **_for_workers(self.given)})

    def for_drivers(self) -> Any:
        """What `__reduce__` gives where it is pickled for another driver: nothing is left behind."""
        return importable_name(self) or (_restore, (self.undecorated(), dict(self.given)))


def _for_workers(given: Mapping[str, Any]) -> dict[str, Any]:
    """In a task that is pickled the driver's part is left behind: it does not run on workers."""
    driver = ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation")
    caching = ("cache_policy", "cache_key_fn", "cache_expiration")
    others = ("retry_condition_fn", "setup")
    return {name: None for name in (*driver, *caching, *others) if name in given}


def _restore(fn: Any, given: Any) -> Task[..., Any]:
    return Task(fn, given)


def _checked_key(task: str, key: Any) -> Any:
    if key is not None and not callable(key):
        raise ConfigurationError(
            f"{task}.map: key must be a function of an item's input, got {key!r}"
        )
    return key


def _checked_window(task: str, window: Any) -> Any:
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ConfigurationError(
            f"{task}.map: max_in_flight must be a whole number of at least 1, got {window!r}"
        )
    return window


@overload
def task(fn: classmethod[Any, P, R], /, **options: Unpack[TaskKeywords]) -> Task[P, R]: ...
@overload
def task(fn: Callable[P, R], /, **options: Unpack[TaskKeywords]) -> Task[P, R]: ...
@overload
def task(
    fn: None = None, /, **options: Unpack[TaskKeywords]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Unpack[TaskKeywords]) -> Any:
    """Make a function a task; the keywords are documented in `TaskKeywords`.

    Works on functions, async functions, generators and methods; on class and static methods above
    or (class methods: up to Python 3.12) below their own decorator.

    Raises
    ------
    TypeError
        An unknown keyword; names the nearest known one.
    ConfigurationError
        An option that cannot be; names the task and the option.

    Examples
    --------
    >>> @task(retries=3, retry_delay_seconds=[1, 10, 60])
    ... def fetch(url: str) -> bytes: ...
    """

    def decorate(function: Any) -> Task[..., Any]:
        return Task(function, options)

    return decorate if fn is None else decorate(fn)
