"""Which run is this? Context of flow runs and of task runs, and the tags in force.

A running task sees `TASK_RUN`, a running flow `FLOW_RUN`; where a flow runs a task in its own
thread both are set, and the task's counts. Users read them through `context` and
`get_run_context`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import forks
from .errors import RunError
from .interfaces import LogLine, RunStore, Stage, StageSpec

if TYPE_CHECKING:
    from .calls import EngineAPI, NodeHandle
    from .checkpoints import Checkpoints
    from .flows import Flow
    from .runs import FlowRun, RunInfo
    from .tasks import Task


@dataclass(frozen=True, slots=True)
class TaskRunContext:
    """What a running item knows of itself: a snapshot, from `get_run_context`."""

    run_id: str
    flow_name: str
    run_name: str
    node: int
    node_key: str
    task_name: str
    position: int
    attempt: int
    tags: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    """The flow's parameters as short reprs."""

    @property
    def seed(self) -> int:
        """32 bits, the same for an item on every executor, retry, resume and run of the flow."""
        identity = f"{self.flow_name}\0{self.node_key}\0{self.position}".encode()
        return int.from_bytes(hashlib.blake2b(identity, digest_size=4).digest(), "big")

    @property
    def task_run_id(self) -> str:
        """``run/node key/position``."""
        return f"{self.run_id}/{self.node_key}/{self.position}"


@dataclass(frozen=True, slots=True, eq=False)
class CursorStage:
    """What a cursor knows of one stage of its batch."""

    spec: StageSpec
    stage: Stage
    setup: Any = None
    """What the task's ``setup=`` made in this process."""
    index: int = 0
    """Which of the batch's stages it is."""


@dataclass(slots=True, eq=False)
class Cursor:
    """The run context of a batch on a worker, moved from item to item and from stage to stage.

    One object a batch, so that a million items do not cost a million of them; items that run at a
    time (``async``) get their own by `at`. User code sees it as `TaskRunContext`.
    """

    run_id: str
    store: RunStore
    logs: list[LogLine]
    """The batch's log lines that were not sent yet; the body empties it."""
    place: CursorStage
    position: int = 0
    checkpoints: Checkpoints | None = None
    """Those of the batch; None where an item is run again by itself."""

    @property
    def spec(self) -> StageSpec:
        """The stage's task."""
        return self.place.spec

    @property
    def stage(self) -> Stage:
        """The stage that runs."""
        return self.place.stage

    @property
    def setup(self) -> Any:
        """What the task's ``setup=`` made in this process."""
        return self.place.setup

    @property
    def log_prints(self) -> bool:
        """Whether prints are log lines."""
        return self.spec.log_prints

    def at(self, position: int) -> Cursor:
        """Another cursor, at one item."""
        return replace(self, position=position)

    def log(self, level: int, logger: str, message: str) -> None:
        """Add a line of the item; below the task's level it is dropped."""
        if level >= self.spec.log_level:
            node, attempt = self.stage.node, self.stage.attempt
            line = LogLine(node, self.position, attempt, time.time(), level, logger, message)
            self.logs.append(line)

    def snapshot(self) -> TaskRunContext:
        """What the item may know of itself."""
        spec, stage = self.spec, self.stage
        return TaskRunContext(
            self.run_id,
            spec.flow_name,
            spec.run_name,
            stage.node,
            stage.key,
            spec.task_name,
            self.position,
            stage.attempt,
            spec.tags,
            spec.parameters,
        )

    @contextmanager
    def entered(self) -> Generator[None]:
        """Make it the current task run in this context; its prints are logged if it asks for it."""
        token = TASK_RUN.set(self)
        try:
            if self.spec.log_prints:
                from .logs import logged_prints

                with logged_prints():
                    yield
            else:
                yield
        finally:
            TASK_RUN.reset(token)


@dataclass(slots=True, eq=False)
class FlowRunContext:
    """What a running flow knows of itself, and what its futures report to it."""

    flow: Flow[..., Any] | None
    info: RunInfo
    run: FlowRun[Any]
    engine: EngineAPI
    log_prints: bool = False
    placeholder: Callable[[NodeHandle], Any] | None = None
    """Set while a graph is traced: makes what stands for the value of a direct call."""
    nodes: list[NodeHandle] = field(default_factory=list["NodeHandle"])
    """All nodes of this run so far, in the order of their calls."""
    seen: set[int] = field(default_factory=set[int])
    """Nodes whose outcome the flow has looked at or passed on."""
    _open: deque[NodeHandle] = field(default_factory=deque["NodeHandle"])

    @property
    def tracing(self) -> bool:
        """No task runs: the flow's function is called to learn its graph."""
        return self.placeholder is not None

    def current(self, task: Task[..., Any]) -> Task[..., Any]:
        """The task itself, or the one that takes its place in a resumed run."""
        return self.info.replaced.get(task.name, task)

    def joined(self, node: NodeHandle) -> None:
        """Remember a new node."""
        self.nodes.append(node)
        self._open.append(node)

    def idle(self) -> bool:
        """Every node has ended. Cheap to ask again and again: a node that ended is asked once."""
        while self._open:
            if not self._open[0].ended:
                return False
            self._open.popleft()
        return True


TASK_RUN: ContextVar[Cursor | None] = ContextVar("headrace_task_run", default=None)
FLOW_RUN: ContextVar[FlowRunContext | None] = ContextVar("headrace_flow_run", default=None)
TAGS: ContextVar[frozenset[str]] = ContextVar("headrace_tags", default=frozenset())

_LIVE: dict[str, FlowRunContext] = forks.own({})
_LIVE_LOCK = forks.own_lock(threading.Lock())
forks.in_child(lambda: FLOW_RUN.set(None))  # its engine is the parent's


def open_flow_run() -> FlowRunContext | None:
    """Context of the flow run that takes calls made here; None also where it has ended, as in its hooks."""
    flow = FLOW_RUN.get()
    return None if flow is None or flow.run.done() else flow


def live_run(run_id: str) -> FlowRunContext | None:
    """Context of a run that this process drives now, from whatever thread."""
    return _LIVE.get(run_id)


def live_runs() -> list[FlowRunContext]:
    """Contexts of all runs that this process drives now."""
    return list(_LIVE.values())


def mark_seen(run_id: str, node: int) -> None:
    """Somebody has looked at a node's outcome: its failures need no warning at the end."""
    if (run := _LIVE.get(run_id)) is not None:
        run.seen.add(node)


@contextmanager
def flow_run_scope(context: FlowRunContext) -> Generator[None]:
    """Make a flow run the current one; a task run around it is out of sight inside."""
    flow_token = FLOW_RUN.set(context)
    task_token = TASK_RUN.set(None)
    try:
        yield
    finally:
        TASK_RUN.reset(task_token)
        FLOW_RUN.reset(flow_token)


def enter(context: FlowRunContext) -> None:
    """From now on this process drives a run, until it leaves it."""
    with _LIVE_LOCK:
        _LIVE[context.engine.run_id] = context


def leave(context: FlowRunContext) -> None:
    """Forget a run that has ended."""
    with _LIVE_LOCK:
        _LIVE.pop(context.engine.run_id, None)


def get_run_context() -> TaskRunContext | FlowRunContext:
    """Context of the task run, or else of the flow run, in which this is called.

    Raises
    ------
    RunError
        Neither runs here.
    """
    task = TASK_RUN.get()
    if task is not None:
        return task.snapshot()
    flow = FLOW_RUN.get()
    if flow is not None:
        return flow
    raise RunError("get_run_context() was called where neither a flow nor a task runs")


@contextmanager
def tags(*names: str) -> Generator[frozenset[str]]:
    """Add tags to all flow runs and task calls inside the block.

    Examples
    --------
    >>> with tags("nightly", "web"):
    ...     with tags("eu") as current:
    ...         sorted(current)
    ['eu', 'nightly', 'web']
    """
    current = TAGS.get() | frozenset(names)
    token = TAGS.set(current)
    try:
        yield current
    finally:
        TAGS.reset(token)


class Checkpoint:
    """What the running item has reached, kept in the run's store until the item completes.

    It survives retries, the death of the worker or the driver, and resuming; each item has one of
    its own. Values are pickled.

    Examples
    --------
    >>> from headrace import context, task
    >>> @task
    ... def train(steps: int) -> float:
    ...     step, weight = context.checkpoint.load((0, 1.0))
    ...     for step in range(step, steps):
    ...         weight *= 0.9
    ...         if step % 100 == 0:
    ...             context.checkpoint.save((step + 1, weight))
    ...     return weight
    """

    __slots__ = ()

    def save(self, value: Any) -> None:
        """Put a value in place of the last one, whole or not at all; it is kept when this returns.

        Raises
        ------
        UnstorableError
            The value cannot be pickled.
        StorageError
            The store cannot be written.
        RunError
            No task runs here.
        """
        item = context.task("checkpoint.save")
        if item.checkpoints is not None:
            item.checkpoints.save(item.place.index, item.position, value)

    def load(self, default: Any = None) -> Any:
        """The value that was saved last, in this attempt of the item or an earlier one; or the default.

        Raises
        ------
        StorageError
            The store cannot be read.
        RunError
            No task runs here.
        """
        item = context.task("checkpoint.load")
        if item.checkpoints is None:
            return default
        return item.checkpoints.load(item.place.index, item.position, default)


class Context:
    """Facts of the current run: ``headrace.context``. Outside of a run each raises `RunError`."""

    __slots__ = ()

    @property
    def seed(self) -> int:
        """32 bits for random generators, the same for an item wherever and whenever it runs."""
        return self.task("seed").snapshot().seed

    @property
    def attempt(self) -> int:
        """Which attempt of the item this is, from 1; of a flow, which run of its function."""
        task = TASK_RUN.get()
        return task.stage.attempt if task is not None else self._flow("attempt").run.attempt

    @property
    def position(self) -> int:
        """Position of the item in its node, from 0."""
        return self.task("position").position

    @property
    def task_name(self) -> str:
        """Name of the running task."""
        return self.task("task_name").spec.task_name

    @property
    def node_key(self) -> str:
        """Key of the node to which the running item belongs."""
        return self.task("node_key").stage.key

    @property
    def task_run_id(self) -> str:
        """``run/node key/position`` of the running item."""
        return self.task("task_run_id").snapshot().task_run_id

    @property
    def flow_run_id(self) -> str:
        """Id of the flow run, a UUID as text."""
        task = TASK_RUN.get()
        return task.run_id if task is not None else self._flow("flow_run_id").engine.run_id

    @property
    def flow_run_name(self) -> str:
        """Name of the flow run."""
        task = TASK_RUN.get()
        return task.spec.run_name if task is not None else self._flow("flow_run_name").info.name

    @property
    def flow_name(self) -> str:
        """Name of the flow."""
        task = TASK_RUN.get()
        return task.spec.flow_name if task is not None else self._flow("flow_name").info.flow_name

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the running item, or of the flow run."""
        task = TASK_RUN.get()
        return frozenset(task.spec.tags) if task is not None else self._flow("tags").info.tags

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The flow's parameters: in a flow the values, in a task their short reprs."""
        task = TASK_RUN.get()
        return (
            dict(task.spec.parameters)
            if task is not None
            else self._flow("parameters").info.parameters
        )

    @property
    def setup(self) -> Any:
        """What the task's ``setup=`` function made, once in this worker process."""
        return self.task("setup").setup

    checkpoint = Checkpoint()
    """What the running item has reached: ``checkpoint.save(value)``, ``checkpoint.load(default)``."""

    def task(self, name: str) -> Cursor:
        """The running item, of which ``name`` is asked."""
        task = TASK_RUN.get()
        if task is None:
            raise RunError(f"context.{name} was read where no task runs")
        return task

    def _flow(self, name: str) -> FlowRunContext:
        flow = FLOW_RUN.get()
        if flow is None:
            raise RunError(f"context.{name} was read where neither a flow nor a task runs")
        return flow

    def __repr__(self) -> str:
        task, flow = TASK_RUN.get(), FLOW_RUN.get()
        if task is not None:
            return f"<context of task run {task.snapshot().task_run_id}>"
        if flow is not None:
            return f"<context of flow run {flow.info.name}>"
        return "<context: no run here>"


context = Context()
