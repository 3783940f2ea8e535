"""What the user's API asks of the engine: task options, calls, and the engine as the API sees it.

`core.tasks` and `core.flows` turn decorators and calls into these records; `core.engine` carries
them out. Futures are thin: an engine, a node and a position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from .cache_policies import NO_CACHE, CachePolicy
from .interfaces import Isolation, Manifest, NodeView, Resources, RunView

if TYPE_CHECKING:
    from .explaining import Explanation
    from .graph import Graph
    from .nodes import Node
    from .states import State

NodeHandle: TypeAlias = "Node"
"""A node as futures see it: they read it from any thread, and change nothing."""

OnError = Literal["raise", "fail_fast", "quarantine"]


@dataclass(frozen=True, slots=True, eq=False)
class TaskOptions:
    """All options of a task, resolved: what the engine reads. Times are seconds."""

    name: str
    description: str = ""
    tags: frozenset[str] = frozenset()
    retries: int = 0
    retry_delay_seconds: float | Sequence[float] | Callable[[int], Any] = 0.0
    """One delay, a list (the last repeats), or a function of ``retries`` giving either."""
    retry_jitter_factor: float = 0.0
    retry_condition_fn: Callable[[Any, Any, Any], bool] | None = None
    """(task, task run, state) -> retry?"""
    infra_retries: int = 2
    timeout_seconds: float | None = None
    resources: Resources = Resources()
    isolation: Isolation = Isolation.CHILD
    on_error: OnError = "raise"
    min_success_ratio: float | None = None
    log_prints: bool | None = None
    persist_result: bool = True
    schema: Any = None
    setup: Callable[[], Any] | None = None
    concurrency: int = 100
    """Items of one batch that an async task runs at a time."""
    fuse: bool = True
    backups: bool = False
    """An item that takes much longer than others may run twice; the first commit wins."""
    task_run_name: str | Callable[..., str] | None = None
    cache_policy: CachePolicy = NO_CACHE
    cache_expiration: timedelta | None = None
    refresh_cache: bool = False
    version: str | None = None
    on_running: tuple[Callable[..., Any], ...] = ()
    on_completion: tuple[Callable[..., Any], ...] = ()
    on_failure: tuple[Callable[..., Any], ...] = ()
    on_crashed: tuple[Callable[..., Any], ...] = ()
    on_cancellation: tuple[Callable[..., Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What hooks and retry conditions are told of an item."""

    id: str
    """``run/node key/position``."""
    name: str
    task_name: str
    flow_run_id: str
    position: int
    run_count: int
    """Attempts so far."""
    tags: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One task call in a flow run: it becomes one node.

    A single call has ``mapped`` empty and all its arguments in ``static``; a mapped one has at
    least one mapped parameter. Arguments are by parameter name, defaults applied; ``*args`` and
    ``**kwargs`` stand under their parameter's own name (a tuple, a dict). Values may hold futures,
    at any depth; `quote` keeps its content from being looked at.
    """

    task: Any
    """The `Task`, for hooks and conditions."""
    fn: Callable[..., Any]
    options: TaskOptions
    static: Mapping[str, Any]
    mapped: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parameter -> iterable, map future, or future of something iterable."""
    single: bool = True
    name: str | None = None
    wait_for: tuple[Any, ...] = ()
    allow_failure: frozenset[str] = frozenset()
    """Mapped parameters given as ``allow_failure(...)``."""
    caller: bool = False
    """Run in the calling thread: the task was called directly."""
    key_fn: Callable[[Any], Any] | None = None
    """``map(key=...)``: the item's own identity, from its input."""
    window: int | None = None
    """``map(max_in_flight=...)``: items handed out and not finished, at most."""
    expected: int | None = None
    """Number of items, if an input's length tells it before all were pulled."""


class EngineAPI(Protocol):
    """The engine of one flow run, as the API sees it. All methods from any thread."""

    @property
    def run_id(self) -> str: ...

    @property
    def caller_runs(self) -> bool:
        """Batches of the run's executor run in the thread that waits in `block`."""
        ...

    def add(self, call: Call) -> NodeHandle:
        """Add a node; returns at once. Raises `MappingError`, `ResourceError`, `Cancelled`."""
        ...

    def block(self, done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until ``done()`` is true (checked after each event); False at the timeout.

        Where batches run in the waiting thread (inline), it runs them. Raises the run's own end
        (`Cancelled`, `FlowTimeout`) when that comes first and ``done()`` stays false.
        """
        ...

    def watch(self, node: NodeHandle, position: int | None, done: Callable[[], None]) -> None:
        """Call back once, from the engine's thread, when an item (None: the node) has ended."""
        ...

    def state(self, node: NodeHandle, position: int | None) -> State[Any]:
        """State of an item, or (None) of the node as a whole; final ones carry their data lazily."""
        ...

    def value(self, node: NodeHandle, position: int) -> Any:
        """The item's value; raises its own exception if it did not complete. The item has ended."""
        ...

    def values(self, node: NodeHandle) -> list[Any]:
        """All values of an ended node in item order; raises `MapFailed` as ``on_error`` says."""
        ...

    def manifest(self, node: NodeHandle) -> Manifest: ...

    def dataset(self, node: NodeHandle, *, keep: bool = True) -> Any:
        """`storage.datasets.Dataset` of an ended node.

        Without ``keep`` its partitions may be dropped with its values.
        """
        ...

    def quarantined(self, node: NodeHandle) -> Any:
        """`storage.datasets.Dataset` of the rows that were set aside; the node has ended."""
        ...

    def failures(self, node: NodeHandle | None = None) -> Any:
        """Failed items (of a node, or of the run) as a ``pyarrow.Table``.

        Columns: node, item, name, kind, exception, message, traceback, attempt, worker, input.
        """
        ...

    def explain(self, node: NodeHandle, position: int) -> Explanation:
        """Why the item was taken from the cache, or not. The item has ended."""
        ...

    def cancel(
        self,
        node: NodeHandle | None = None,
        position: int | None = None,
        *,
        grace: float | None = None,
        reason: str = "",
    ) -> None:
        """Hand out no more of it, drop what is queued, end what runs. None: the whole run.

        ``grace`` are the seconds in which what runs may end by itself; None: as the settings say.
        A run may be asked again, with less.
        """
        ...

    def log(self, level: int, logger: str, message: str, *, time: float | None = None) -> None:
        """A log line of the flow itself."""
        ...

    def view(self) -> RunView: ...

    def node_view(self, node: NodeHandle) -> NodeView: ...

    def graph(self) -> Graph: ...
