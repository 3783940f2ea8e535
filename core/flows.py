"""Flows: functions that call tasks, each call of which is a run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
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

from .context import FLOW_RUN
from .decorated import Decorated, importable_name
from .errors import ConfigurationError, ParameterError
from .options import FlowKeywords, flow_options

if TYPE_CHECKING:
    from .graph import Graph
    from .options import FlowOptions
    from .recorded import RecordedRun
    from .resumption import Again
    from .runs import FlowRun
    from .sampling import Sample, Sampler
    from .states import State

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Flow(Decorated, Generic[P, R_co]):
    """A function whose calls are flow runs.

    Calling it runs it here and gives what it returns; `start` runs it beside you and gives a
    `FlowRun`. Called in another flow, it is a run of its own in the same process, on the calling
    flow's executor and storage unless it has its own.

    Made by the decorator `flow`.
    """

    word = "flow"
    fn: Callable[P, R_co]

    def __init__(self, fn: Callable[P, R_co], given: FlowKeywords) -> None:
        super().__init__(fn, given)
        self.options: FlowOptions = flow_options(self.what, self.fn, given)
        if self.isgenerator:
            raise ConfigurationError(
                f"{self.what}: a flow cannot be a generator; return a list, or map"
            )

    @property
    def version(self) -> str:
        """Version as given, or nothing."""
        return self.options.version or ""

    def with_options(self, **options: Unpack[FlowKeywords]) -> Flow[P, R_co]:
        """The same flow with other options; the keywords are those of `flow`."""
        merged: dict[str, Any] = {**self.given, **options}
        for name, other in _ALIASES.items():
            # A new executor= takes the place of an old task_runner=, and the other way round.
            if name in options:
                merged.pop(other, None)
            elif other in options:
                merged.pop(name, None)
        return Flow(self.undecorated(), cast("FlowKeywords", merged))

    # -------------------------------------------------------------------------------- parameters

    def validate_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters by name, coerced to their annotations as pydantic does it.

        Raises
        ------
        ParameterError
            One line for each that does not validate.
        """
        from .parameters import validate

        __tracebackhide__ = True
        return validate(f"flow {self.name!r}", self.fn, parameters)

    def parameter_schema(self) -> dict[str, Any]:
        """JSON schema of the parameters."""
        from .parameters import schema_of

        return schema_of(self.fn)

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Validated arguments by name. Futures among them are waited for."""
        __tracebackhide__ = True
        from .annotations import quote
        from .calling import localize

        try:
            given = self.shape.bind(f"flow {self.name!r}", args, kwargs, defaults=False)
        except TypeError as error:
            raise ParameterError(str(error)) from None
        given = {name: localize(value, None) for name, value in given.items()}
        if self.options.validate_parameters:
            given = self.validate_parameters(given)
        else:
            given = {k: v.value if isinstance(v, quote) else v for k, v in given.items()}
        return {**self.shape.defaults(), **given}

    # ------------------------------------------------------------------------------------- calls

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self: Flow[..., Coroutine[Any, Any, T]],
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
        """Run it here and give what it returns; of an async flow, an awaitable of it.

        What the flow returns decides its state, as in Prefect: states and futures of tasks that did
        not complete make it fail, an exception too.

        Parameters
        ----------
        return_state
            Give the final state instead, whatever it is.
        wait_for
            Futures that must complete before it starts.
        resume
            A run of this flow, by handle, id or name, that did not complete: it goes on, with the
            code as it is now, and nothing that is finished runs again. The arguments must be those
            with which it was started. (Not where the flow has a parameter of this name.)

        Raises
        ------
        ParameterError
            Arguments that do not validate.
        """
        from .flow_engine import refuse_nested, run_flow

        __tracebackhide__ = True
        refuse_nested(self.name)
        within = FLOW_RUN.get()
        if within is not None and within.tracing:
            return self.fn(*args, **kwargs)
        if self.isasync:
            return self._call_async(args, kwargs, return_state=return_state, wait_for=wait_for)
        _await_all(wait_for)
        run, arguments = self._run(args, kwargs)
        positional, named = self.shape.spread(arguments)
        run_flow(run, self.options, partial(self.fn, *positional, **named))
        return run.state if return_state else run.result()

    async def _call_async(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, return_state: bool, wait_for: Any
    ) -> Any:
        from .flow_engine import run_flow_async
        from .waiting import in_thread

        await in_thread(_await_all, wait_for)
        run, arguments = await in_thread(self._run, args, kwargs)
        spread = self.shape.spread(arguments)
        body = cast("Callable[..., Coroutine[Any, Any, Any]]", self.fn)
        await run_flow_async(run, self.options, lambda: body(*spread[0], **spread[1]))
        return run.state if return_state else run.result()

    def _run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[FlowRun[Any], dict[str, Any]]:
        __tracebackhide__ = True
        if "resume" not in kwargs or "resume" in self.shape.names:
            return self.prepared(self._arguments(args, kwargs))
        from .resumption import again_of

        given = {name: value for name, value in kwargs.items() if name != "resume"}
        arguments = self._arguments(args, given)
        return self.prepared(arguments, again_of(self, kwargs["resume"], arguments))

    def prepared(
        self, arguments: dict[str, Any], again: Again | None = None, sample: Sample | None = None
    ) -> tuple[FlowRun[Any], dict[str, Any]]:
        """A run with these arguments that has not begun, and the arguments by name."""
        from .new_runs import make_run

        made = make_run(
            self.options, self, arguments, entrypoint=self.entrypoint, again=again, sample=sample
        )
        return made, arguments

    def sample(self, items: int, *, random: bool | int = False) -> Sampler:
        """The same flow on a few items, to see what the whole would take: ``flow.sample(100)(...)``.

        Called with the flow's arguments it runs the flow, in which each map gets ``items`` items of
        its input; maps of maps follow. It gives a `Forecast` of the whole: time, memory, output. The
        run is one like any other, tagged ``sample``: its results can be used, and its flow does all
        that it does, writing included. ``forecast.run.resume()`` goes on to the whole, and what was
        sampled does not run again.

        Parameters
        ----------
        items
            How many items of each input.
        random
            True: items at random, a number: those of this seed. False: the first ones. Of an input
            whose length nobody knows it is the first ones in any case.

        Raises
        ------
        ConfigurationError
            Not a number of items, or no seed.
        """
        from .sampling import sampler

        return sampler(self, items, random)

    def sampled(
        self, sample: Sample, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[FlowRun[Any], Callable[[], Any]]:
        """A sample run that has not begun, and the flow's function with its arguments."""
        run, arguments = self.prepared(self._arguments(args, kwargs), sample=sample)
        positional, named = self.shape.spread(arguments)
        return run, partial(self.fn, *positional, **named)

    @overload
    def start(
        self: Flow[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> FlowRun[T]: ...
    @overload
    def start(self, /, *args: P.args, **kwargs: P.kwargs) -> FlowRun[R_co]: ...
    @overload
    def start(self, /, *args: Any, detach: Literal[True], **kwargs: Any) -> RecordedRun: ...
    def start(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run it in a thread of its own, beside you; gives a handle at once.

        The interpreter waits for the run before it exits; ``run.cancel()`` ends it.

        Parameters
        ----------
        detach
            True: a process of its own drives the run and outlives this one. Gives a `RecordedRun`
            once that has begun it. (Not where the flow has a parameter of this name.)

        Raises
        ------
        ParameterError
            Arguments that do not validate.
        RunError
            ``detach=True``, and the flow or an argument cannot be written down.
        """
        from .flow_engine import refuse_nested, start_flow

        refuse_nested(self.name)
        if "detach" not in self.shape.names and kwargs.pop("detach", False):
            from .detached import start_detached

            return start_detached(self, self._arguments(args, kwargs))
        run, arguments = self._run(args, kwargs)
        positional, named = self.shape.spread(arguments)
        start_flow(run, self.options, self.fn, positional, named)
        return run

    # ------------------------------------------------------------------------------------- graph

    def graph(self, /, *args: Any, **kwargs: Any) -> Graph:
        """The graph that a run with these arguments would have, before any task runs.

        The flow's function is called; task calls in it give placeholders.

        Raises
        ------
        RunError
            The flow looks at a value, so that its shape is known only as it runs.
        """
        from .tracing import trace

        return trace(self, self._arguments(args, kwargs))

    def visualize(self, /, *args: Any, **kwargs: Any) -> Graph:
        """`graph`: shown as SVG at the end of a notebook's cell."""
        return self.graph(*args, **kwargs)

    # -------------------------------------------------------------------------------- as a method

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Flow[P, R_co]: ...
    @overload
    def __get__(
        self: Flow[Concatenate[Any, Q], R_co], instance: object, owner: type[Any] | None = None
    ) -> Flow[Q, R_co]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None) -> Any:
        return self.bound(instance, owner)

    # ---------------------------------------------------------------------------------- the rest

    @property
    def entrypoint(self) -> str | None:
        """``module:name`` under which it can be imported; None in a notebook or ``__main__``."""
        name = importable_name(self)
        return None if name is None else f"{self.fn.__module__}:{name}"

    def __reduce__(self) -> Any:
        name = importable_name(self)
        return name if name is not None else (_restore, (self.undecorated(), self.given))


_ALIASES: Mapping[str, str] = {
    "executor": "task_runner",
    "storage": "result_storage",
    "tag_limits": "max_concurrency_per_tag",
}


def _restore(fn: Any, given: Any) -> Flow[..., Any]:
    return Flow(fn, given)


def _await_all(wait_for: Any) -> None:
    """Wait for futures (of any run) and raise the first one's failure among them."""
    from .calling import localize

    if wait_for is not None:
        localize([wait_for] if not isinstance(wait_for, (list, tuple, set)) else wait_for, None)


@overload
def flow(fn: classmethod[Any, P, R], /, **options: Unpack[FlowKeywords]) -> Flow[P, R]: ...
@overload
def flow(fn: Callable[P, R], /, **options: Unpack[FlowKeywords]) -> Flow[P, R]: ...
@overload
def flow(
    fn: None = None, /, **options: Unpack[FlowKeywords]
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Unpack[FlowKeywords]) -> Any:
    """Make a function a flow; the keywords are documented in `FlowKeywords`.

    Raises
    ------
    TypeError
        An unknown keyword; names the nearest known one.
    ConfigurationError
        An option that cannot be; names the flow and the option.

    Examples
    --------
    >>> @flow(executor="processes")
    ... def prepare(source: str, target: str) -> None: ...
    """

    def decorate(function: Any) -> Flow[..., Any]:
        return Flow(function, options)

    return decorate if fn is None else decorate(fn)
