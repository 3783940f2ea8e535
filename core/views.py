"""Snapshots of a run for displays, its graph, and its failures as a table."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .failure_tables import failures_table
from .interfaces import (
    BUSY_POINTS,
    ItemRecord,
    NodeRecord,
    NodeView,
    Resources,
    RunRecord,
    RunView,
)
from .items import FINAL, STATE_NAMES, ItemState
from .nodes import Node

if TYPE_CHECKING:
    from .engine import Engine
    from .graph import Graph
    from .runs import RunInfo
    from .states import State

_RATE_SECONDS = 5.0
_SIGNATURES = 20
_FAILED = frozenset(
    STATE_NAMES[s] for s in (ItemState.FAILED, ItemState.TIMED_OUT, ItemState.CRASHED)
)


class Views:
    """Makes snapshots; remembers the last few seconds for the rates."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.begun = time.monotonic()
        self.rates = Rates()
        self.lasted: dict[Node, float] = {}
        self.kinds: dict[Node, Signatures] = {}
        self.busy_past: list[tuple[float, int]] = []
        self.over: float | None = None
        """When the run was seen to have ended, in seconds since it began."""

    def view(self) -> RunView:
        """The run as it stands."""
        engine = self.engine
        info = engine.info
        bad = engine.cancel_reason
        busy = sum(1 for f in list(engine.machine.flights.values()) if f.began is not None)
        if self.over is None:
            elapsed = time.monotonic() - self.begun
            self.busy_past.append((elapsed, busy))
            if len(self.busy_past) > BUSY_POINTS:
                self.busy_past = self.busy_past[::2]
            if engine.state_name != "Running":
                self.over = elapsed
        else:
            elapsed = self.over
        return RunView(
            id=engine.run_id,
            name=info.name,
            flow=info.flow_name,
            executor=info.executor.name,
            state="Cancelling" if bad and self.over is None else engine.state_name,
            message=bad,
            elapsed_seconds=elapsed,
            slots=engine.pools["main"].slots(Resources()),
            busy=busy,
            nodes=tuple(map(self.node, list(engine.nodes.values()))),
            busy_past=tuple(self.busy_past),
        )

    def node(self, node: Node) -> NodeView:
        """One node as it stands."""
        total = node.whole
        rate, eta = self.rates.of(node.id, node.items.ended, None if node.ended else total)
        kinds = self.kinds.get(node)
        if kinds is None or kinds.taken > len(node.failures):
            kinds = self.kinds[node] = Signatures()
        failed = list(node.failures.values())[kinds.taken :]
        kinds.take(f"{f.type_name}: {f.message}"[:200] for f in failed)
        return NodeView(
            node=node.id,
            name=node.key,
            state=node.state,
            mapped=not node.single,
            total=total,
            counts=node.items.named_counts(),
            rate=rate,
            eta_seconds=eta,
            bytes=node.bytes,
            upstream=tuple(number for number, _ in self.engine.notes.edges.get(node, ())),
            failures=kinds.commonest(_SIGNATURES),
            elapsed_seconds=self._elapsed(node),
        )

    def _elapsed(self, node: Node) -> float:
        started = self.engine.notes.started.get(node)
        if started is None:
            return 0.0
        if node in self.lasted:
            return self.lasted[node]
        seconds = _lasted(started, None)
        if node.ended:
            self.lasted[node] = seconds
        return seconds


class Rates:
    """How fast nodes go on, over the last few seconds in which they were asked about."""

    def __init__(self) -> None:
        self._past: dict[int, deque[tuple[float, int]]] = {}

    def of(self, node: int, done: int, total: int | None) -> tuple[float, float | None]:
        """Items finished per second, and the seconds that are left if there are ``total`` in all."""
        now = time.monotonic()
        past = self._past.setdefault(node, deque())
        past.append((now, done))
        while len(past) > 2 and now - past[0][0] > _RATE_SECONDS:
            past.popleft()
        seconds = now - past[0][0]
        rate = (done - past[0][1]) / seconds if seconds > 0 else 0.0
        return rate, (total - done) / rate if total is not None and rate > 0 else None


_VARIES = re.compile(r"""'[^']*'|"[^"]*"|0x[0-9a-fA-F]+|\d+""")


class Signatures:
    """Counts messages by kind. They are of a kind if they differ in numbers and quoted words only."""

    def __init__(self) -> None:
        self.taken = 0
        self.samples: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def take(self, messages: Iterable[str]) -> None:
        """Count more of them."""
        for message in messages:
            kind = _VARIES.sub("#", message)
            self.samples.setdefault(kind, message)
            self.counts[kind] += 1
            self.taken += 1

    def commonest(self, most: int) -> dict[str, int]:
        """How many there are of the commonest kinds, each under its first message."""
        return {self.samples[kind]: count for kind, count in self.counts.most_common(most)}


def view_before(info: RunInfo, state: State[Any]) -> RunView:
    """A run that has not begun, or could not."""
    return RunView(
        id=str(info.id),
        name=info.name,
        flow=info.flow_name,
        executor=info.executor.name,
        state=state.name,
        message=state.message,
        elapsed_seconds=0.0,
        slots=0,
        busy=0,
        nodes=(),
    )


def recorded_view(
    record: RunRecord,
    nodes: Sequence[NodeRecord],
    failed: Iterable[ItemRecord],
    rates: Rates | None = None,
) -> RunView:
    """A run as history tells it, with the items that ended badly; with ``rates`` while it goes on."""
    kinds: dict[int, Signatures] = {}
    for item in failed:
        kind = kinds.setdefault(item.node, Signatures())
        kind.take((f"{item.type_name}: {item.message}"[:200],))
    ended = [sum(n.counts.get(STATE_NAMES[ItemState(s)], 0) for s in FINAL) for n in nodes]
    speeds = [
        rates.of(n.node, done, n.total) if rates is not None and n.ended is None else (0.0, None)
        for n, done in zip(nodes, ended, strict=True)
    ]
    return RunView(
        id=str(record.id),
        name=record.name,
        flow=record.flow,
        executor=record.executor,
        state=record.state,
        message=record.message,
        elapsed_seconds=_lasted(record.started, record.ended),
        slots=0,
        busy=0,
        nodes=tuple(
            NodeView(
                node=n.node,
                name=n.key,
                state=n.state,
                mapped=n.mapped,
                total=n.total,
                counts=n.counts,
                rate=rate,
                eta_seconds=eta,
                bytes=n.bytes,
                upstream=tuple(source for source, _ in n.upstream),
                failures=kinds[n.node].commonest(_SIGNATURES) if n.node in kinds else {},
                elapsed_seconds=_lasted(n.started, n.ended),
            )
            for n, (rate, eta) in zip(nodes, speeds, strict=True)
        ),
    )


def _lasted(started: datetime | None, ended: datetime | None) -> float:
    return 0.0 if started is None else ((ended or datetime.now(UTC)) - started).total_seconds()


def graph_of(engine: Engine) -> Graph:
    """The run's graph with the nodes' states."""
    from .graph import Graph, GraphEdge, GraphNode

    nodes = [
        GraphNode(
            n.id,
            n.key,
            mapped=not n.single,
            state=n.state,
            total=n.whole,
            counts=n.items.named_counts(),
        )
        for n in list(engine.nodes.values())
    ]
    edges = [
        GraphEdge(source, node.id, "data" if kind == "data" else "wait_for")
        for node, upstream in list(engine.notes.edges.items())
        for source, kind in upstream
    ]
    return Graph(tuple(nodes), tuple(edges))


def failures_of(engine: Engine, nodes: Iterable[Node]) -> Any:
    """Failed items as a ``pyarrow.Table``: from memory, or where they are too many, from history."""
    records: list[ItemRecord] = []
    for node in nodes:
        failed = sum(node.items.counts[ItemState.FAILED : ItemState.CRASHED + 1])
        if failed > len(node.failures):
            records += _last_records(engine, node)
        else:
            known = engine.notes.items
            records += [known[node.id, p] for p in sorted(node.failures) if (node.id, p) in known]
    named = {node.id: (node.key, not node.single) for node in list(engine.nodes.values())}
    return failures_table(records, named.__getitem__)


def _last_records(engine: Engine, node: Node) -> list[ItemRecord]:
    """The last record of each failed item of a node, as history has them."""
    engine.scribe.sync()
    last: dict[int, ItemRecord] = {}
    for record in engine.info.history.items(engine.info.id, node.id):
        if record.state in _FAILED:
            last[record.position] = record
    return [last[position] for position in sorted(last)]
