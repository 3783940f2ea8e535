"""A run as history tells it: of another process, or of one that is gone."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, overload
from uuid import UUID

from .errors import RunError, RunNotFoundError
from .registry import recorded_store
from .resumable import Resumable
from .showing import Show
from .shown import Shown, show_live
from .states import State, StateType
from .watching import Watcher

if TYPE_CHECKING:
    from .explaining import Explanation
    from .graph import Graph
    from .interfaces import (
        BatchRecord,
        History,
        ItemRecord,
        LogRecord,
        NodeRecord,
        PartitionRecord,
        RunRecord,
        RunStore,
        RunView,
        Store,
    )
    from .log_lists import Logs
    from .recorded_items import RecordedItem, RecordedNode
    from .runs import RunEngine

_POLL_SECONDS = 0.25

_ENDED_BADLY = frozenset({"Failed", "TimedOut", "Crashed"})


def all_logs(history: History, run: UUID, level: int = 0) -> Iterator[LogRecord]:
    """All log lines of a run, oldest first, page by page."""
    after = 0
    while page := history.logs(run, level=level, after=after):
        for _, line in page:
            yield line
        after = page[-1][0]


def followed_logs(
    history: History, run: UUID, level: int, done: Callable[[], bool]
) -> Iterator[LogRecord]:
    """Log lines of a run as they come, from its first one on, until it has ended."""
    after = 0
    while True:
        last = done()  # before the look: what came before its end is told
        while page := history.logs(run, level=level, after=after):
            for _, line in page:
                yield line
            after = page[-1][0]
        if last:
            return
        time.sleep(_POLL_SECONDS)


class RecordedRun(Resumable, Shown):
    """A handle on a run that this process does not drive: it reads, and can ask for its end."""

    shown_as = "run"

    def __init__(
        self,
        history: History,
        run: UUID,
        store: Store | None = None,
        engine: RunEngine | None = None,
    ) -> None:
        self._history = history
        self._store = store
        self._engine = engine
        """Of a run of this process: it knows the tasks, and what their items were given."""
        self.id = run
        self._nodes: dict[str, RecordedNode] = {}
        """Those that had ended when they were asked for."""
        watcher = Watcher(self)
        self.show = Show(watcher.view, lambda: watcher.over)
        self.show.start()  # as soon as there is a display

    def record(self) -> RunRecord:
        """The run as history knows it now; Crashed, if nothing was heard of its driver for long."""
        from .runs import lapsed

        record = self._history.run(self.id)
        return self._history.run(self.id) if lapsed(self._history, record) else record

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.record().name

    @property
    def flow_name(self) -> str:
        """Name of the flow."""
        return self.record().flow

    @property
    def state(self) -> State[Any]:
        """Its state now; what the flow returned is not kept in history."""
        record = self.record()
        return State(StateType(record.state_type), record.state, record.message, run=str(record.id))

    @property
    def graph(self) -> Graph:
        """Its graph, with counts by state."""
        from .graph import Graph

        return Graph.of_records(self.nodes(), self.flow_name)

    @property
    def status(self) -> RunView:
        """A snapshot: nodes with their counts by state, and failures by kind."""
        from .views import recorded_view

        return recorded_view(self.record(), self.nodes(), self.last_failures())

    def nodes(self) -> list[NodeRecord]:
        """Its nodes."""
        return self._history.nodes(self.id)

    def batches(self, limit: int = 1000) -> list[BatchRecord]:
        """The first batches that have ended: where and when each ran."""
        return self._history.batches(self.id, limit=limit)

    def partitions(
        self, node: str | None = None, *, made_from: str | None = None
    ) -> list[PartitionRecord]:
        """What it has written: each partition, the code that made it, and of what.

        Those of dropped intermediates are among them. `Dataset.lineage` asks the partitions themselves.

        Parameters
        ----------
        node
            Only of this node.
        made_from
            Only what was made of this file or partition, at once or by way of others: a path or URL,
            as `Dataset.files` has it.

        Raises
        ------
        RunNotFoundError
            The run has no such node.
        """
        number = None if node is None else self._record(node).node
        if made_from is None:
            return [p for p in self._history.partitions(self.id, number) if p.node >= 0]
        from .derived import made_from as derived

        found = derived(self._history, made_from)
        return [p for p in found if p.run == self.id and number in (None, p.node)]

    def item(self, node: str, position: int = 0) -> RecordedItem:
        """One item of a node: its state and value, and when it ran.

        Parameters
        ----------
        node
            The node's key, e.g. ``"clean-0"``, or its ``name=``; the name of the task will do where
            the run has one node of it.

        Raises
        ------
        RunNotFoundError
            The run has no such node, or several of that task.
        IndexError
            The node has no such item.
        StorageError
            The run's storage cannot be read.
        """
        found = self._nodes.get(node) or self._node(node)
        if not 0 <= position < found.size:
            raise IndexError(f"{node!r} has {found.size} items so far: there is no item {position}")
        told = self._history.items(self.id, found.record.node, position=position)
        return found.item(position, told, self._skipped_for(found, position))

    def dataset(self, node: str) -> Any:
        """All values of a map that completed, as a `Dataset`.

        Raises
        ------
        RunNotFoundError
            The run has no such node.
        RunError
            It is no map, or not all of its values are there.
        StorageError
            The run's storage cannot be read.
        """
        from .records import manifest_in

        record, store = self._record(node), self._storage()
        manifest = manifest_in(store.journal().records(), record.node)
        if manifest is None:
            why = f"it is {record.state}" if record.mapped else "it is no map, see run.item"
            raise RunError(f"{node!r} of run {self.name} has no dataset: {why}")
        return store.dataset(manifest)

    def result(self) -> Any:
        """Not to be had: what a flow returned is with the process that ran it.

        Raises
        ------
        RunError
            Names what can be read.
        """
        known = ", ".join(repr(node.key) for node in self.nodes()) or "none"
        raise RunError(
            f"what the flow of run {self.name} returned is only with the process that ran it. The values "
            f"of its tasks are stored: run.dataset(node), run.item(node, position).output, of {known}"
        )

    def _skipped_for(self, found: RecordedNode, position: int) -> str:
        """Why an item was skipped: the item, or the node, that ended badly before it."""
        record = found.record
        if found.state_name(position) != "Skipped":
            return ""
        for state in reversed(self._history.states(self.id)):
            if state.node == record.node and state.name == "Skipped" and state.message:
                return state.message  # the node as a whole
        above = {number for number, kind in record.upstream if kind == "data"}
        for other in (node for node in self.nodes() if node.node in above and node.mapped):
            cause = self.item(other.key, position).state
            if not cause.is_completed():
                told = f" ({cause.message})" if cause.message else ""
                return f"{other.key!r} item {position} is {cause.name}{told}"
        return ""

    def explain(self, node: str, position: int = 0) -> Explanation:
        """Why an item was taken from the cache, or not: the first part of its key that differs.

        Raises
        ------
        RunNotFoundError
            The run has no such node.
        StorageError
            The run's storage cannot be read.
        """
        from .explaining import explain

        return explain(self._store_of_run(), str(self.id), self._record(node).node, node, position)

    def _record(self, key: str) -> NodeRecord:
        records = {record.key: record for record in self.nodes()}
        if key in records:
            return records[key]
        of_task = [record for record in records.values() if record.task == key]
        if len(of_task) == 1:
            return of_task[0]
        if of_task:
            keys = ", ".join(record.key for record in of_task)
            raise RunNotFoundError(
                f"run {self.name} has several nodes of task {key!r}: name one of {keys}"
            )
        known = ", ".join(records) or "none"
        raise RunNotFoundError(f"run {self.name} has no node {key!r}; it has {known}")

    def _node(self, key: str) -> RecordedNode:
        from .recorded_items import RecordedNode

        node = RecordedNode(self._record(key), self._storage(), self._history, self._engine)
        if node.record.ended is not None:
            self._nodes[key] = node
        return node

    def _storage(self) -> RunStore:
        return self._store_of_run().run(str(self.id))

    def _store_of_run(self) -> Store:
        if self._store is not None:
            return self._store
        return recorded_store(self.record())

    @overload
    def logs(self, level: int = 0, *, follow: Literal[False] = False) -> Logs: ...
    @overload
    def logs(self, level: int = 0, *, follow: Literal[True]) -> Iterator[LogRecord]: ...
    def logs(self, level: int = 0, *, follow: bool = False) -> Logs | Iterator[LogRecord]:
        """Log lines of the flow and its tasks so far, oldest first. See `FlowRun.logs`."""
        if follow:
            return followed_logs(self._history, self.id, level, self.done)
        from .log_lists import Logs

        keys = {node.node: node.key for node in self.nodes()}
        return Logs(all_logs(self._history, self.id, level), self.name, keys)

    def quarantined(self, node: str) -> Any:
        """Rows of a node that were set aside, as a `Dataset`; see `MapFuture.quarantined`."""
        from .records import receipts_of

        store = self._storage()
        return store.quarantined(receipts_of(store.journal().records(), self._record(node).node))

    def failures(self) -> Any:
        """Failed items of all nodes as a ``pyarrow.Table``; see `MapFuture.failures`."""
        from .failure_tables import failures_table

        named = {node.node: (node.key, node.mapped) for node in self.nodes()}
        return failures_table(self.last_failures(), lambda n: named.get(n, (str(n), True)))

    @staticmethod
    def failed_items(node: NodeRecord) -> int:
        """Items of one of its nodes that have ended badly."""
        return sum(node.counts.get(state, 0) for state in _ENDED_BADLY)

    def last_failures(self) -> Iterator[ItemRecord]:
        """The last word on each item that has ended badly, and was not mended by a resume."""
        from .items import GOOD

        nodes = self.nodes()
        states = {n.node: zlib.decompress(n.states) for n in nodes if n.states is not None}
        last = {(item.node, item.position): item for item in self._history.items(self.id)}
        for (node, position), item in last.items():
            ended = states.get(node)
            mended = ended is not None and (position >= len(ended) or ended[position] in GOOD)
            if item.state in _ENDED_BADLY and not mended:
                yield item

    def done(self) -> bool:
        """It has ended."""
        return self.state.is_final()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most ``timeout`` seconds; raises nothing."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _POLL_SECONDS))

    def cancel(self) -> None:
        """Leave its driver a request to end it; the driver looks every few seconds."""
        self._history.ask(self.id, "cancel")

    def delete(self, *, force: bool = False) -> int:
        """Delete it for good, with its values; gives the bytes that were freed.

        Parameters
        ----------
        force
            Also where its driver seems to be alive, which then stops, and where other runs have
            values of it from the cache, which they lose.

        Raises
        ------
        RunError
            Its driver seems to be alive, or other runs have values of it.
        StorageError
            Its values cannot be removed; history still knows it then.
        """
        from .removal import delete_run

        return delete_run(self._history, self.id, self._store, force=force)

    def _ipython_display_(self) -> None:
        show_live(self)

    def __repr__(self) -> str:
        record = self.record()
        return f"<RecordedRun {record.name} of {record.flow!r}: {record.state}>"
