"""The run loop: from a flow and its arguments to a final state.

A `Driver` takes one run through its life: open the engine, make the context current, run the
function (again, where the flow retries), wait for all tasks, decide on the state, call the hooks,
write the end. Tasks called outside of any flow get a run of their own, driven in the same way.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

from . import logs
from .context import (
    FLOW_RUN,
    TASK_RUN,
    FlowRunContext,
    enter,
    flow_run_scope,
    leave,
    mark_seen,
)
from .errors import Cancelled as CancelledError
from .errors import HeadraceError, NestedSubmitError, Terminated
from .futures import Future, MapFuture, MapStates
from .hooks import call_hooks, hooks_for
from .leaving import heed_sigterm, outlast
from .options import FlowOptions
from .runs import FlowRun, RunEngine, open_engine
from .states import (
    AwaitingRetry,
    Cancelled,
    Crashed,
    Retrying,
    Running,
    State,
    TimedOut,
    state_of_exception,
    state_of_return,
    type_of_name,
)
from .waiting import in_thread, to_the_end

if TYPE_CHECKING:
    pass

_log = logging.getLogger(logs.ROOT)


# ------------------------------------------------------------------------------------ the driver


class Driver:
    """Takes one run through its life."""

    def __init__(self, run: FlowRun[Any], options: FlowOptions | None = None) -> None:
        self.run = run
        self.options = options or FlowOptions(name=run.flow_name)
        self._engine: RunEngine | None = None
        self._context: FlowRunContext | None = None

    @property
    def engine(self) -> RunEngine:
        """The run's engine, once it has begun."""
        assert self._engine is not None, "the run has begun"
        return self._engine

    @property
    def context(self) -> FlowRunContext:
        """The run's context, once it has begun."""
        assert self._context is not None, "the run has begun"
        return self._context

    def begin(self) -> FlowRunContext:
        """Open and start the engine; a run that cannot start ends as Crashed, and this raises."""
        run = self.run
        try:
            self._engine = engine = open_engine(run.info)
            engine.begin()
        except BaseException as error:
            run.finished(Crashed(f"The run could not begin: {error}", error))
            raise
        heed_sigterm()  # an engine such as Ray may have set a handler of its own
        parent = FLOW_RUN.get()
        log_prints = self.options.log_prints
        if log_prints is None:
            log_prints = parent is not None and parent.log_prints
        self._context = FlowRunContext(run.info.flow, run.info, run, engine, log_prints)
        enter(self._context)
        run.begun(engine)
        self._enter(Running())
        return self._context

    @contextmanager
    def running(self) -> Generator[FlowRunContext]:
        """The run's context, current in the block; at the block's end the run must be concluded."""
        context = self.begin()
        try:
            with ExitStack() as stack:
                stack.enter_context(flow_run_scope(context))
                if context.log_prints:
                    stack.enter_context(logs.logged_prints())
                yield context
        except BaseException as error:
            self.break_off(error)
            raise
        finally:
            leave(context)

    @asynccontextmanager
    async def arunning(self) -> AsyncGenerator[FlowRunContext]:
        """`running`, without blocking the loop."""
        try:
            context = await to_the_end(self.begin)
            with ExitStack() as stack:
                stack.enter_context(flow_run_scope(context))
                if context.log_prints:
                    stack.enter_context(logs.logged_prints())
                yield context
        except BaseException as error:
            if not self.run.done():
                self._abandon(error)
                await self.aconclude(self._interrupted(error))
            raise
        finally:
            if self._context is not None:
                leave(self._context)

    def _enter(self, state: State[Any]) -> None:
        state.run = str(self.run.id)
        self.run.entered(state)
        call_hooks(hooks_for(self.options, state), self.run.info.flow, self.run, state)

    def _abandon(self, error: BaseException) -> None:
        """The flow is over: what still runs is not waited for, but ended."""
        reason = f"the flow ended with {type(error).__name__}"
        for node in self.context.nodes:
            if not node.ended:
                self.engine.cancel(node, None, reason=reason)

    def break_off(self, error: BaseException) -> None:
        """End the run, unless it has ended, with what is no exception of the flow's code."""
        if not self.run.done():
            self._abandon(error)
            self.conclude(self._interrupted(error))

    def _interrupted(self, error: BaseException) -> State[Any]:
        """State of a run that something other than an exception of the flow's code has ended."""
        asked = self.run.cancel_reason
        if asked or isinstance(error, (KeyboardInterrupt, Terminated, asyncio.CancelledError)):
            what = asked or (
                "Interrupted from the keyboard."
                if isinstance(error, KeyboardInterrupt)
                else "The coroutine that ran the flow was cancelled."
            )
            self.run.cancel(reason=what)
            return Cancelled(what, CancelledError(f"flow run {self.run.name}: {what}"))
        if isinstance(error, SystemExit):
            return Crashed("Execution was aborted by Python system exit call.", error)
        return Crashed(f"Execution was interrupted by an unexpected exception: {error!r}", error)

    # ------------------------------------------------------------------------------- the function

    def drive(self, body: Callable[[], Any]) -> State[Any]:
        """Run the flow's function, with its retries; gives the final state, not written yet."""
        __tracebackhide__ = True
        while True:
            try:
                value = body()
                self.engine.block(self.context.idle)
                state = self._returned(value)
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                state = self._raised(error)
            if not self._again(state):
                return state
            try:
                self.engine.block(self.context.idle)
                self.engine.block(lambda: False, self.options.retry_delay_seconds)
            except HeadraceError as error:
                return self._raised(error)
            self._next_attempt()

    async def adrive(self, body: Callable[[], Awaitable[Any]]) -> State[Any]:
        """`drive` for a coroutine function, on the running loop."""
        __tracebackhide__ = True
        while True:
            try:
                async with asyncio.timeout(self._seconds_left()):
                    value = await body()
                    await in_thread(self.engine.block, self.context.idle)
                    state = self._returned(value)
            except Exception as error:  # noqa: BLE001 - user code may raise anything
                state = self._raised(error)
            if not self._again(state):
                return state
            try:
                await in_thread(self.engine.block, self.context.idle)
                await in_thread(self.engine.block, lambda: False, self.options.retry_delay_seconds)
            except HeadraceError as error:
                return self._raised(error)
            self._next_attempt()

    def _seconds_left(self) -> float | None:
        limit, started = self.run.timeout_seconds, self.run.started
        return None if limit is None or started is None else max(0.0, started + limit - time.time())

    def _again(self, state: State[Any]) -> bool:
        if not state.is_failed() or self.run.overdue() or self.run.attempt > self.options.retries:
            return False
        delay = self.options.retry_delay_seconds
        self._say(
            logging.INFO,
            f"Attempt {self.run.attempt} of {self.options.retries + 1} failed "
            f"({state.message}); trying again in {delay:g} s",
        )
        self._enter(AwaitingRetry(state.message))
        return True

    def _next_attempt(self) -> None:
        self.run.attempt += 1
        self.engine.begin_attempt(self.run.attempt)
        self._enter(Retrying())

    def _returned(self, value: Any) -> State[Any]:
        if self.run.overdue():
            self.run.raised()
            return self._timed_out()
        if self.run.cancel_reason is not None:
            self.run.raised()
            return self._cancelled(None)
        resolved = states_for_futures(value)
        state = state_of_return(resolved)
        self.run.returned(resolved)
        return state

    def _raised(self, error: Exception) -> State[Any]:
        self._abandon(error)
        self.run.raised()
        if self.run.overdue() and isinstance(error, (CancelledError, TimeoutError)):
            return self._timed_out()
        if isinstance(error, CancelledError) and self.run.cancel_reason is not None:
            return self._cancelled(error)
        return state_of_exception(error, "Flow run encountered an exception:")

    def _cancelled(self, error: CancelledError | None) -> State[Any]:
        """A run whose end was asked for is cancelled, also where its function came to its end."""
        told = f"The run was cancelled: {self.run.cancel_reason}"
        return Cancelled(told, error or CancelledError(f"flow run {self.run.name}: {told}"))

    def _timed_out(self) -> State[Any]:
        error = self.run.timeout_error()
        if not self.run.timed_out:
            self.run.cancel(reason=str(error))
        limit = self.run.timeout_seconds
        return TimedOut(f"Flow run exceeded timeout of {limit:g} second(s)", error)

    # ------------------------------------------------------------------------------------ the end

    def conclude(self, state: State[Any]) -> State[Any]:
        """Wait for what still runs, write the end, call the hooks, and free the run."""
        state.run = str(self.run.id)
        self.run.disarm()
        try:
            if self.run.info.flow is not None:
                self._warn_unseen(state)
                level = logging.INFO if state.is_completed() else logging.ERROR
                told = f"Finished in state {state}"
                self._say(level, told, shown=bool(self.run.show.displays))
            ended = self.engine.finish(state)
            if ended is not state:  # the run is another driver's by now
                self.run.raised()
                state = ended
        finally:
            self.run.finished(state)
        call_hooks(hooks_for(self.options, state), self.run.info.flow, self.run, state)
        return state

    async def aconclude(self, state: State[Any]) -> State[Any]:
        """`conclude`, without blocking the loop; where it is interrupted, what still runs is killed."""
        return await to_the_end(lambda: self.conclude(state), lambda: self.run.cancel(grace=0.0))

    def _say(self, level: int, message: str, *, shown: bool = False) -> None:
        """A line of the flow's log; on standard error, too, unless a display has ``shown`` it."""
        self.engine.log(level, logs.FLOW_LOGGER, message)
        if not shown:
            logs.echo(level, logs.FLOW_LOGGER, message, self.run.name)

    def _warn_unseen(self, state: State[Any]) -> None:
        """One line for failures that the flow neither looked at nor failed of."""
        if not state.is_completed():
            return
        told: list[str] = []
        for node in self.context.nodes:
            if node.id in self.context.seen:
                continue
            counts = node.counts()
            bad = {k: n for k, n in counts.items() if n and not _fine(k)}
            if bad:
                kinds = ", ".join(f"{n} {k}" for k, n in bad.items())
                told.append(f"{node.key} ({kinds} of {sum(counts.values())})")
            elif not _fine(node.state):
                told.append(f"{node.key} ({self.engine.state(node, None)})")
        if told:
            self._say(
                logging.WARNING,
                f"The flow completed, but nobody looked at what failed in {'; '.join(told)}. "
                "Call .result(), return the future, or see run.failures().",
            )


def _fine(name: str) -> bool:
    kind = State(type_of_name(name))
    return kind.is_completed() or not kind.is_final()


def states_for_futures(value: Any) -> Any:
    """A returned value, in which futures have been replaced by their states, as Prefect has it.

    Looks into lists, tuples, sets and dicts. A map future becomes the sequence of its items'
    states.
    """
    if isinstance(value, Future):
        return cast("Future[Any]", value).state
    if isinstance(value, MapFuture):
        mapped = cast("MapFuture[Any]", value)
        mark_seen(mapped.engine.run_id, mapped.node.id)
        return MapStates(mapped)
    if type(value) is dict and value:
        plain = cast("dict[Any, Any]", value)
        made = {key: states_for_futures(part) for key, part in plain.items()}
        return made if any(made[key] is not part for key, part in plain.items()) else plain
    if type(value) in (list, tuple, set) and value:
        parts = list(cast("list[Any]", value))
        resolved = [states_for_futures(part) for part in parts]
        if any(new is not old for new, old in zip(resolved, parts, strict=True)):
            return cast("type[Any]", type(value))(resolved)
    return cast("Any", value)


# -------------------------------------------------------------------------------- running a flow


def run_flow(run: FlowRun[Any], options: FlowOptions, body: Callable[[], Any]) -> None:
    """Take a run of a sync flow through its life, in this thread.

    Exceptions of the flow become its state; what is none of the flow's own (``KeyboardInterrupt``,
    ``SystemExit``, an executor that does not start) is raised once the run's end is written.
    """
    driver = Driver(run, options)
    with driver.running():
        driver.conclude(driver.drive(body))


async def run_flow_async(
    run: FlowRun[Any], options: FlowOptions, body: Callable[[], Awaitable[Any]]
) -> None:
    """`run_flow` for an async flow, on the running loop."""
    driver = Driver(run, options)
    async with driver.arunning():
        state = await driver.adrive(body)
        await driver.aconclude(state)


def start_flow(
    run: FlowRun[Any],
    options: FlowOptions,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Take a run through its life in a thread of its own, on a loop of its own if need be.

    The interpreter waits for the thread before it exits.
    """

    def live() -> None:
        try:
            if inspect.iscoroutinefunction(fn):
                asyncio.run(run_flow_async(run, options, lambda: fn(*args, **kwargs)))
            else:
                run_flow(run, options, lambda: fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - the handle tells it; nobody joins the thread
            if not run.done():
                run.finished(Crashed(str(error), error))

    heed_sigterm()
    context = contextvars.copy_context()
    outlast(run, lambda: context.run(live), f"headrace-{run.name}")


def refuse_nested(flow_name: str) -> None:
    """A flow cannot be called in a running task: workers talk to storage and to their pool only.

    Raises
    ------
    NestedSubmitError
        A task runs here.
    """
    running = TASK_RUN.get()
    if running is not None:
        raise NestedSubmitError(
            f"flow {flow_name!r} was called inside the running task {running.stage.key!r}; call the "
            "flow from a flow, or its plain function, .fn(...), from the task"
        )


@contextmanager
def run_of_a_call(run: FlowRun[Any]) -> Generator[FlowRunContext]:
    """The context of a run for what is called in the block, outside of any flow.

    It ends in the background when all its items have ended, or with what the block raises.
    """
    driver = Driver(run)
    context = driver.begin()
    try:
        yield context
    except BaseException as error:
        driver.break_off(error)
        leave(context)
        raise

    def finish() -> None:
        try:
            driver.engine.block(context.idle)
            state = driver.engine.state(context.nodes[-1], None)
            driver.conclude(State(state.type, state.name, state.message))
        except CancelledError as error:
            driver.conclude(Cancelled(str(error), error))
        finally:
            leave(context)

    outlast(run, finish, f"headrace-{run.name}")
