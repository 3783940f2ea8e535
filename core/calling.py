"""What happens when a task is called: in a flow, in a task, or where neither runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from .annotations import Annotation, allow_failure, quote
from .calls import Call, TaskOptions
from .context import TAGS, TASK_RUN, FlowRunContext, open_flow_run
from .errors import NestedSubmitError
from .futures import Future, MapFuture
from .mapping import split
from .states import Completed, State, state_of_exception
from .waiting import OnLoop, in_thread

if TYPE_CHECKING:
    from .calls import EngineAPI
    from .tasks import Task

AnyFuture = Future[Any] | MapFuture[Any]

_SCANNED: frozenset[type] = frozenset({list, tuple, dict, set})
_TELLING = (Future, MapFuture, State, Annotation)


def submit(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], wait_for: Any
) -> Future[Any]:
    """Add a single call to the current run, or to a run of its own."""
    __tracebackhide__ = True
    _not_in_task(task, "submit")
    with _run_of(task) as flow:
        task = flow.current(task)
        call = _single(task, flow, args, kwargs, wait_for)
        return Future[Any](flow.engine, _add(flow, call), 0)


def submit_map(
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    wait_for: Any,
    key: Callable[[Any], Any] | None,
    max_in_flight: int | None,
    name: str | None,
) -> MapFuture[Any]:
    """Add a mapped call to the current run, or to a run of its own."""
    __tracebackhide__ = True
    _not_in_task(task, "map")
    parts = split(task.name, task.shape, task.shape.bind(task.name, args, kwargs, defaults=False))
    with _run_of(task) as flow:
        task = flow.current(task)
        sample = flow.info.sample
        expected = parts.expected if sample is None else sample.size(parts.expected)
        call = Call(
            task=task,
            fn=task.fn,
            options=_options(task, flow),
            static={k: localize(v, flow.engine) for k, v in parts.static.items()},
            mapped={k: _local_column(v, flow.engine) for k, v in parts.mapped.items()},
            single=False,
            name=name,
            wait_for=_upstream(wait_for, flow.engine),
            allow_failure=parts.allow_failure,
            key_fn=key,
            window=max_in_flight,
            expected=expected,
        )
        return MapFuture[Any](flow.engine, _add(flow, call), expected)


def call(
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    wait_for: Any,
    return_state: bool,
) -> Any:
    """Run a task in the calling thread and give its value; of an async one, an awaitable of it."""
    if TASK_RUN.get() is not None:
        return _plain(task, args, kwargs, return_state=return_state)
    flow = open_flow_run()
    if flow is not None:
        task = flow.current(task)
    if flow is not None and flow.placeholder is not None:
        return flow.placeholder(_add(flow, _single(task, flow, args, kwargs, wait_for)))
    if task.isasync:
        return _call_async(task, flow, args, kwargs, wait_for, return_state=return_state)
    if flow is not None:
        added = _single(task, flow, args, kwargs, wait_for, caller=True)
        return _outcome(Future(flow.engine, _add(flow, added), 0), return_state=return_state)
    from .flow_engine import Driver
    from .new_runs import task_run

    driver = Driver(task_run(task, inline=True))
    with driver.running() as flow:
        added = _single(task, flow, args, kwargs, wait_for, caller=True)
        future = Future[Any](flow.engine, _add(flow, added), 0)
        future.wait()
        driver.conclude(future.state)
    return _outcome(future, return_state=return_state)


async def _call_async(
    task: Task[..., Any],
    flow: FlowRunContext | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wait_for: Any,
    *,
    return_state: bool,
) -> Any:
    """Run an async task on the running loop; its engine waits in a thread."""
    if flow is not None:
        future = await _on_loop(task, flow, args, kwargs, wait_for)
    else:
        from .flow_engine import Driver
        from .new_runs import task_run

        driver = Driver(await in_thread(task_run, task, inline=True))
        async with driver.arunning() as own:
            future = await _on_loop(task, own, args, kwargs, wait_for)
            await driver.aconclude(future.state)
    return await in_thread(_outcome, future, return_state=return_state)


async def _on_loop(
    task: Task[..., Any],
    flow: FlowRunContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wait_for: Any,
) -> Future[Any]:
    import asyncio

    body = OnLoop(task.fn, asyncio.get_running_loop())
    added = await in_thread(_single, task, flow, args, kwargs, wait_for, caller=True)
    future = Future[Any](flow.engine, _add(flow, replace(added, fn=body)), 0)
    try:
        await in_thread(flow.engine.block, future.done)
    except asyncio.CancelledError:
        flow.engine.cancel(future.node, 0, reason="the coroutine that awaited it was cancelled")
        body.cancel()
        raise
    finally:
        body.forget()
    return future


def _plain(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, return_state: bool
) -> Any:
    """In a running task another one is a function."""
    if not return_state or task.isasync:
        return task.fn(*args, **kwargs)
    try:
        return Completed(data=task.fn(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - user code; the caller asked for it as a state
        return state_of_exception(error)


def _outcome(future: Future[Any], *, return_state: bool) -> Any:
    if return_state:
        future.wait()
        return future.state
    return future.result()


def _not_in_task(task: Task[..., Any], method: str) -> None:
    running = TASK_RUN.get()
    if running is not None:
        raise NestedSubmitError(
            f"{task.name}.{method}() was called inside the running task {running.stage.key!r}; call "
            f"{task.name}(...) there, which runs it as a plain function, or {method} it from the flow"
        )


# ------------------------------------------------------------------------------------ the call


def _single(
    task: Task[..., Any],
    flow: FlowRunContext,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wait_for: Any,
    *,
    caller: bool = False,
) -> Call:
    arguments = task.shape.bind(task.name, args, kwargs)
    return Call(
        task=task,
        fn=task.fn,
        options=_options(task, flow),
        static={k: localize(v, flow.engine) for k, v in arguments.items()},
        wait_for=_upstream(wait_for, flow.engine),
        caller=caller,
    )


def _add(flow: FlowRunContext, added: Call) -> Any:
    node = flow.engine.add(added)
    flow.joined(node)
    return node


def _options(task: Task[..., Any], flow: FlowRunContext) -> TaskOptions:
    """The task's options, with what the flow and its surroundings add."""
    options = task.options
    changes: dict[str, Any] = {}
    if more := TAGS.get() - options.tags:
        changes["tags"] = options.tags | more
    if options.log_prints is None and flow.log_prints:
        changes["log_prints"] = True
    if "infra_retries" not in task.given and not flow.tracing:
        changes["infra_retries"] = flow.info.settings.infra_retries
    return replace(options, **changes) if changes else options


def _upstream(wait_for: Any, engine: EngineAPI) -> tuple[Any, ...]:
    """What ``wait_for=`` names: futures, or containers and states of them, of this run."""
    if wait_for is None:
        return ()
    if isinstance(wait_for, (Future, MapFuture, State, Annotation)):
        wait_for = (wait_for,)
    kept: list[Any] = []
    for each in cast("Iterable[Any]", wait_for):
        future = _future_in(each)
        if future is None or future.engine is engine:
            kept.append(each)
        else:
            _await_foreign(future, each)
    return tuple(kept)


def _future_in(value: Any) -> AnyFuture | None:
    if isinstance(value, allow_failure):
        value = cast("Any", value.value)
    if isinstance(value, State):
        value = cast("State[Any]", value).origin
    return cast("AnyFuture", value) if isinstance(value, (Future, MapFuture)) else None


def _await_foreign(future: AnyFuture, given: Any) -> None:
    future.wait()
    if not isinstance(given, allow_failure):
        future.result()


# --------------------------------------------------------------- futures of other runs' tasks


def localize(value: Any, engine: EngineAPI | None) -> Any:
    """A value in which futures of other runs have been replaced by their values, waited for.

    Looks into lists, tuples, dicts and sets, and into states; not into what is quoted.
    """
    if isinstance(value, quote):
        return cast("Any", value)
    if isinstance(value, (Future, MapFuture)):
        future = cast("AnyFuture", value)
        return future if future.engine is engine else future.result()
    if isinstance(value, State):
        state = cast("State[Any]", value)
        origin = _future_in(state)
        if origin is not None and origin.engine is engine:
            return state
        return state.result()
    if isinstance(value, Annotation):
        return _localize_annotation(cast("Annotation[Any]", value), engine)
    if type(value) in _SCANNED and value and _holds_foreign(value, engine):
        return _rebuilt(value, engine)
    return value


def _localize_annotation(value: Annotation[Any], engine: EngineAPI | None) -> Any:
    future = _future_in(value.value)
    if future is None or future.engine is engine:
        return value
    tolerant = isinstance(value, allow_failure)
    return future.result(raise_on_failure=not tolerant)


def _holds_foreign(value: Any, engine: EngineAPI | None) -> bool:
    parts = cast("dict[Any, Any]", value).values() if isinstance(value, dict) else value
    kinds = set(map(type, parts))
    if not _may_hold(kinds) or (kinds <= _SCANNED and not _may_hold(_kinds_inside(parts, kinds))):
        return False
    for part in parts:
        if isinstance(part, (Future, MapFuture, State, Annotation)):
            future = _future_in(part)
            if future is None or future.engine is not engine:
                return True
        elif type(part) in _SCANNED and part and _holds_foreign(part, engine):
            return True
    return False


def _may_hold(kinds: set[type]) -> bool:
    """Whether values of these types may be futures or hold some: asked of types, as they are few."""
    return any(kind in _SCANNED or issubclass(kind, _TELLING) for kind in kinds)


def _kinds_inside(parts: Iterable[Any], kinds: set[type]) -> set[type]:
    """Types of what containers hold: a column of rows is looked through at C's speed."""
    inner = parts
    if dict in kinds:
        inner = map(dict.values, parts) if len(kinds) == 1 else map(_elements, parts)
    return set(map(type, chain.from_iterable(inner)))


def _elements(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _rebuilt(value: Any, engine: EngineAPI | None) -> Any:
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {key: localize(part, engine) for key, part in items}
    return type(value)(localize(part, engine) for part in value)


def _local_column(value: Any, engine: EngineAPI) -> Any:
    """An iterable to map over; one that is another run's is read item by item, as it goes on."""
    if isinstance(value, State) and (origin := _future_in(value)) is not None:
        value = origin
    if isinstance(value, MapFuture) and cast("MapFuture[Any]", value).engine is not engine:
        return _values_of(cast("MapFuture[Any]", value))
    if isinstance(value, Future) and cast("Future[Any]", value).engine is not engine:
        return cast("Future[Any]", value).result()
    if isinstance(value, State):
        return cast("State[Any]", value).result()
    return localize(value, engine) if type(value) in _SCANNED else value


def _values_of(futures: MapFuture[Any]) -> Iterator[Any]:
    for future in futures:
        yield future.result()


# ------------------------------------------------------------------------------ without a flow


def _run_of(task: Task[..., Any]) -> AbstractContextManager[FlowRunContext]:
    """The current run, or one for this call, named after the task."""
    flow = open_flow_run()
    if flow is not None:
        return nullcontext(flow)
    from .flow_engine import run_of_a_call
    from .new_runs import task_run

    return run_of_a_call(task_run(task, inline=False))
