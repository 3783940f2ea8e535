"""Flow runs: what an engine is told of one, and the handle that a user holds."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast, overload
from uuid import UUID
from weakref import WeakValueDictionary

from . import forks
from .calls import EngineAPI
from .errors import FlowTimeout, RunError, RunNotFoundError
from .process_marks import gone
from .resumable import Recompute, Resumable
from .showing import Show
from .shown import Shown, show_live
from .states import Pending, State
from .waiting import in_thread

if TYPE_CHECKING:
    from .explaining import Explanation
    from .flows import Flow
    from .forecasts import NodeForecast
    from .given import Given
    from .graph import Graph
    from .interfaces import (
        BatchRecord,
        Display,
        Executor,
        History,
        LogRecord,
        NodeRecord,
        PartitionRecord,
        RunRecord,
        RunView,
        Store,
    )
    from .log_lists import Logs
    from .recorded import RecordedRun
    from .recorded_items import RecordedItem
    from .sampling import Sample
    from .settings import Settings
    from .tasks import Task

R = TypeVar("R")

_handles: WeakValueDictionary[UUID, FlowRun[Any]] = forks.own(WeakValueDictionary())
"""Runs that this process drives or has driven, as long as somebody holds them."""


@dataclass(frozen=True, slots=True, eq=False)
class RunInfo:
    """All that an engine is told of its run."""

    id: UUID
    name: str
    flow: Flow[..., Any] | None
    """None: a task was called where no flow runs, and this run exists for its sake."""
    flow_name: str
    version: str
    entrypoint: str | None
    """``module:name`` under which the flow can be imported; None in a notebook or ``__main__``."""
    tags: frozenset[str]
    executor: Executor
    store: Store
    history: History
    settings: Settings
    parameters: Mapping[str, Any]
    """The flow's arguments by name, validated and live."""
    stored_parameters: str
    """The same as JSON, with secrets masked and long values shortened."""
    short_parameters: tuple[tuple[str, str], ...]
    """The same as short reprs, for the run context on workers."""
    parent: UUID | None = None
    tag_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many items with a tag may run at a time."""
    log_level: int = 20
    intermediates: str = "keep"
    """What becomes of values that others have used; see `Settings.intermediates`."""
    resumes: bool = False
    """An earlier driver has begun it."""
    recompute: Recompute = "missing"
    """Of what earlier drivers have committed: what runs again."""
    replaced: Mapping[str, Task[..., Any]] = field(default_factory=dict[str, Any])
    """Tasks that take the place of those of the same names."""
    verify: bool = False
    """What earlier drivers have committed is read and checked first."""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    sample: Sample | None = None
    """The inputs of its maps are cut to a few items."""
    display: Display | None = None
    """Made where the flow was called: a notebook shows it below that cell."""


class RunEngine(EngineAPI, Protocol):
    """An engine as the run loop sees it: begun once, finished once, readable ever after."""

    def begin(self) -> None:
        """Write the header and the first records, and start."""
        ...

    def begin_attempt(self, attempt: int) -> None:
        """The flow's function runs again: node keys count anew."""
        ...

    def finish(self, state: State[Any]) -> State[Any]:
        """Wait for all nodes, write the run's last state, and free what the run used."""
        ...

    def given(self, key: str, position: int) -> Given | None:
        """What an item was given, read again; None: the run has no such node. Raises `RunError`."""
        ...

    def functions(self) -> Mapping[int, Callable[..., Any]]:
        """The functions of the nodes, as they are."""
        ...

    def forecast(self) -> Sequence[NodeForecast]:
        """What its nodes would take with all of their inputs. The run has ended."""
        ...


class FlowRun(Resumable, Shown, Generic[R]):
    """A handle on one run of a flow.

    ``flow.start(...)`` gives one at once, while the run goes on in a thread of its own; hooks get
    one as their second argument. Any thread may use it. As the last line of a notebook's cell it
    shows the run as it goes on, or what became of it.
    """

    shown_as = "run"

    def __init__(self, info: RunInfo, timeout_seconds: float | None = None) -> None:
        self.info = info
        self.attempt = 1
        self.engine: RunEngine | None = None
        self.started: float | None = None
        """Start of the run, seconds since the epoch."""
        self.ended: float | None = None
        self.timeout_seconds = timeout_seconds
        self.timed_out = False
        self.children: list[FlowRun[Any]] = []
        """Runs of the flows that this one called."""
        self.calls: dict[str, itertools.count[int]] = {}
        """How often a flow was called with the same parameters; counted in one step, for any thread."""
        self._state: State[Any] = Pending()
        self._finished = threading.Event()
        self.cancel_reason: str | None = None
        self._value: Any = None
        self._returned = False
        self._timer: threading.Timer | None = None
        self.show = Show(lambda: self.status)
        """Where it is shown while it goes on."""
        if info.display is not None:
            self.show.add(info.display)
        _handles[info.id] = self

    # ------------------------------------------------------------------------------ what it is

    @property
    def id(self) -> UUID:
        """Id of the run."""
        return self.info.id

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.info.name

    @property
    def flow_name(self) -> str:
        """Name of the flow."""
        return self.info.flow_name

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The flow's arguments by name, validated."""
        return self.info.parameters

    @property
    def tags(self) -> frozenset[str]:
        """Tags of the run."""
        return self.info.tags

    @property
    def parent_id(self) -> UUID | None:
        """Id of the run whose flow called this one's."""
        return self.info.parent

    @property
    def state(self) -> State[R]:
        """Its state now."""
        return cast("State[R]", self._state)

    @property
    def status(self) -> RunView:
        """A snapshot: nodes with their counts by state, rates, slots; none before it has begun."""
        if self.engine is not None:
            return self.engine.view()
        from .views import view_before

        return view_before(self.info, self._state)

    @property
    def graph(self) -> Graph:
        """Its graph, with counts by state; shown as SVG in a notebook."""
        return self._live().graph()

    def nodes(self) -> list[NodeRecord]:
        """Its nodes as history knows them."""
        return self.info.history.nodes(self.id)

    def batches(self, limit: int = 1000) -> list[BatchRecord]:
        """The first batches that have ended, as history knows them: where and when each ran."""
        return self.info.history.batches(self.id, limit=limit)

    def partitions(
        self, node: str | None = None, *, made_from: str | None = None
    ) -> list[PartitionRecord]:
        """What it has written, by which code and of what. See `RecordedRun.partitions`."""
        from .recorded import RecordedRun

        told = RecordedRun(self.info.history, self.id)
        return told.partitions(node, made_from=made_from)

    def record(self) -> RunRecord:
        """The run as history knows it."""
        return self.info.history.run(self.id)

    def item(self, node: str, position: int = 0) -> RecordedItem:
        """One item of a node as history and storage know it. See `RecordedRun.item`."""
        from .recorded import RecordedRun

        found = RecordedRun(self.info.history, self.id, self.info.store, self.engine)
        return found.item(node, position)

    def quarantined(self, node: str) -> Any:
        """Rows of a node that were set aside, as a `Dataset`; see `MapFuture.quarantined`."""
        from .recorded import RecordedRun

        return RecordedRun(self.info.history, self.id, self.info.store).quarantined(node)

    def dataset(self, node: str) -> Any:
        """All values of a map that completed, as a `Dataset`. See `RecordedRun.dataset`."""
        from .recorded import RecordedRun

        return RecordedRun(self.info.history, self.id, self.info.store).dataset(node)

    def explain(self, node: str, position: int = 0) -> Explanation:
        """Why an item was taken from the cache, or not. See `RecordedRun.explain`."""
        from .recorded import RecordedRun

        return RecordedRun(self.info.history, self.id, self.info.store).explain(node, position)

    def failures(self) -> Any:
        """Failed items of all nodes as a ``pyarrow.Table``."""
        return self._live().failures(None)

    @overload
    def logs(self, level: int = 0, *, follow: Literal[False] = False) -> Logs: ...
    @overload
    def logs(self, level: int = 0, *, follow: Literal[True]) -> Iterator[LogRecord]: ...
    def logs(self, level: int = 0, *, follow: bool = False) -> Logs | Iterator[LogRecord]:
        """Log lines of the flow and its tasks so far, oldest first, as a list that reads like a log.

        Parameters
        ----------
        level
            Only lines of this level and above, as in `logging`.
        follow
            True: an iterator that goes on with the lines as they come, until the run has ended.

        Examples
        --------
        >>> for line in run.logs(follow=True):  # doctest: +SKIP
        ...     print(line.message)
        """
        from .recorded import RecordedRun, followed_logs

        if follow:
            return followed_logs(self.info.history, self.id, level, self.done)
        return RecordedRun(self.info.history, self.id).logs(level)

    def _live(self) -> RunEngine:
        if self.engine is None:
            raise RunError(f"run {self.name} has not begun yet")
        return self.engine

    # ---------------------------------------------------------------------------- waiting for it

    def done(self) -> bool:
        """It has ended."""
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most ``timeout`` seconds; raises nothing."""
        if timeout is not None:
            self._finished.wait(timeout)
            return
        while not self._finished.wait(_HEED_SECONDS):
            pass

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """Wait for what the flow returned.

        A flow that returned several states (or futures) gives them, whatever became of them; one
        that returned a single state gives its result, as in Prefect.

        Parameters
        ----------
        timeout
            Seconds to wait at most.
        raise_on_failure
            False: return the exception of a flow that did not complete.

        Raises
        ------
        TimeoutError
            Not done in ``timeout`` seconds; the run goes on.
        """
        __tracebackhide__ = True
        self.wait(timeout)
        if not self._finished.is_set():
            raise TimeoutError(
                f"run {self.name} was not done after {timeout:g} seconds; it goes on"
            )
        if self._returned and not isinstance(self._value, State):
            return cast("R", self._value)
        return cast("R", self._state.result(raise_on_failure=raise_on_failure))

    def __await__(self) -> Generator[Any, None, R]:
        return self._awaited().__await__()

    async def _awaited(self) -> R:
        await in_thread(self.wait)
        return self.result()

    def cancel(self, grace: float | None = None, reason: str = "") -> None:
        """Ask for its end, with that of the flows it called; returns at once.

        No more items are handed out, what is queued is dropped, what runs is ended after ``grace``
        seconds (in threads it must end by itself).
        """
        self.cancel_reason = reason or "on request"
        for child in self.children:
            child.cancel(grace, reason)
        if self.engine is not None and not self.done():
            self.engine.cancel(None, grace=grace, reason=self.cancel_reason)

    def delete(self, *, force: bool = False) -> int:
        """Delete it for good, once it has ended: see `RecordedRun.delete`."""
        from .removal import delete_run

        return delete_run(self.info.history, self.id, self.info.store, force=force)

    # ----------------------------------------------------------------------- told by the run loop

    def begun(self, engine: RunEngine) -> None:
        """The run's engine works; a time limit counts from now."""
        self.engine = engine
        self.started = time.time()
        self.show.start()
        if self.timeout_seconds is not None:
            self._timer = threading.Timer(self.timeout_seconds, self._expire)
            self._timer.daemon = True
            self._timer.start()
        if self.cancel_reason is not None:
            engine.cancel(None, reason=self.cancel_reason)

    def _expire(self) -> None:
        self.timed_out = True
        self.cancel(reason=str(self.timeout_error()))

    def timeout_error(self) -> FlowTimeout:
        """The error of a run that took too long."""
        return FlowTimeout(
            f"flow run {self.name} of {self.flow_name!r} exceeded its timeout of "
            f"{self.timeout_seconds:g} seconds"
        )

    def overdue(self) -> bool:
        """It has passed its time limit, whether or not the timer has fired yet."""
        return self.timed_out or (
            self.timeout_seconds is not None
            and self.started is not None
            and time.time() - self.started > self.timeout_seconds
        )

    def disarm(self) -> None:
        """The flow's function is over: its time limit does not matter any more."""
        if self._timer is not None:
            self._timer.cancel()

    def entered(self, state: State[Any]) -> None:
        """The run is in another state."""
        self._state = state

    def returned(self, value: Any) -> None:
        """The flow's function has returned; futures in the value are states by now."""
        self._value, self._returned = value, True

    def raised(self) -> None:
        """The flow's function has raised: what an earlier attempt returned does not count."""
        self._value, self._returned = None, False

    def finished(self, state: State[Any]) -> None:
        """The run is over, and everything is written."""
        self._state = state
        self.ended = time.time()
        self.show.close()
        self._finished.set()

    def _ipython_display_(self) -> None:
        show_live(self)

    def __repr__(self) -> str:
        return f"<FlowRun {self.name} of {self.flow_name!r}: {self._state.name}>"


def open_engine(info: RunInfo) -> RunEngine:
    """The engine of a run."""
    from .engine import Engine

    return cast("RunEngine", Engine.open(info))


_HEED_SECONDS = 1.0
"""A signal may come just before the main thread sleeps, and not wake it: it looks so often."""
_LAPSE_BEATS = 15
"""A run whose driver has missed so many heartbeats is taken for dead."""


def settled_history() -> History:
    """The history that the settings name; runs whose driver died without a word are ``Crashed``."""
    from .registry import open_history
    from .settings import get_settings

    history = open_history(get_settings().history_url)
    history.lapse(datetime.now(UTC), _patience(), _gone)
    return history


def forget(run: UUID) -> None:
    """Another process is to drive the run: `attach` gives its record here."""
    _handles.pop(run, None)


def lapsed(history: History, record: RunRecord) -> bool:
    """Whether a run's driver has died without a word; history knows it as ``Crashed`` then."""
    if record.ended is not None or record.heartbeat is None:
        return False
    now = datetime.now(UTC)
    if (now - record.heartbeat).total_seconds() <= _patience() and not _gone(record):
        return False
    return record.id in history.lapse(now, _patience(), _gone)


def _gone(record: RunRecord) -> bool:
    """Whether a driver is known to have ended; its heart has beaten shortly before, perhaps."""
    return gone(record.host, record.pid, record.process)


def _patience() -> float:
    """Seconds without a heartbeat after which a driver is taken for dead."""
    from .settings import get_settings

    return _LAPSE_BEATS * get_settings().heartbeat_seconds


class Runs(Shown, list["RunRecord"]):
    """Records of runs; a table in a notebook."""

    shown_as = "runs"

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Runs(found) if isinstance(index, slice) else found

    def __repr__(self) -> str:
        rows = [
            (each.name, each.flow, each.state, each.executor, f"{each.created.astimezone():%F %T}")
            for each in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            for row in rows
        ]
        return "\n".join(lines) or "no runs"


def runs(
    *,
    flow: str | None = None,
    state: str | None = None,
    made_from: str | None = None,
    limit: int = 50,
) -> Runs:
    """Flow runs that history knows, newest first.

    Parameters
    ----------
    flow, state
        Only those of this flow, in the state of this name.
    made_from
        Only those that have made something of this file, at once or by way of what other runs have
        made of it: a path or URL, as `Dataset.files` has it. ``run.partitions(made_from=...)`` tells what.
    """
    history = settled_history()
    if made_from is None:
        return Runs(history.runs(flow=flow, state=state, limit=limit))
    from .derived import made_from as derived
    from .derived import recorded

    makers = recorded(history, {part.run for part in derived(history, made_from)})
    fitting = [run for run in makers if flow in (None, run.flow) and state in (None, run.state)]
    return Runs(sorted(fitting, key=lambda run: run.created, reverse=True)[:limit])


def attach(run: UUID | str) -> FlowRun[Any] | RecordedRun:
    """A handle on a run: live if this process drives it, else its record.

    Parameters
    ----------
    run
        Id, an unambiguous beginning of one, or the name of a run (the newest).

    Raises
    ------
    RunNotFoundError
        History knows no such run.
    """
    from .recorded import RecordedRun

    __tracebackhide__ = True
    history = settled_history()
    try:
        found = history.run(run).id
    except RunNotFoundError:  # of this process, and kept in another history
        named = [h for h in list(_handles.values()) if run in (h.id, str(h.id), h.name)]
        if not named:
            raise
        return named[-1]
    return _handles.get(found) or RecordedRun(history, found)
