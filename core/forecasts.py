"""What a sample run says of the whole: time, memory and output of each node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from .durations import brief_text, duration_text
from .items import GOOD, ItemState
from .shown import Shown
from .sizes import size_text

if TYPE_CHECKING:
    from .engine import Engine
    from .nodes import Node
    from .runs import FlowRun
    from .sampling import Sample

_MOST_BATCHES = 100_000
_LEAST_LEFT = 0.5
"""A worker's first items count as its start as long as such a share of all items is left."""


@dataclass(frozen=True, slots=True)
class NodeForecast:
    """One node of a sample run, and what it would be in the whole."""

    node: str
    mapped: bool
    sampled: int
    """Items that the sample had."""
    total: int | None
    """Items of the whole; None: nobody knows, as its input does not tell how long it is."""
    estimated: bool
    """Its input was made from sampled values: it is taken to grow with them."""
    failed: int
    seconds: tuple[float, float, float] | None
    """What an item took: those within which 5 %, half and 95 % of the items ended."""
    work_seconds: float | None
    """What all items of the whole take, one after another; None: nobody knows, or none of them ran."""
    slots: int
    """Batches at a time: those of the executor, or as many as fit into its memory."""
    overlap: int
    """Items of one batch that run at a time (async tasks)."""
    batch: int
    """Items of a batch, as they would be handed out; 0: they ride with the map that feeds them."""
    memory: int
    """Bytes that a slot takes at most; 0: not measured."""
    bytes: int | None
    """Of the output."""
    chain_seconds: float = 0.0
    """Until its end, from the start of the nodes that it takes values of, and so on back."""

    @property
    def share_seconds(self) -> float | None:
        """What it takes of the wall time of a run that uses all slots."""
        if self.work_seconds is None:
            return None
        return self.work_seconds / (self.slots * self.overlap)

    @property
    def wall_seconds(self) -> float | None:
        """What it takes alone, with all the slots that its items can use."""
        if self.work_seconds is None:
            return None
        return self.work_seconds / min(self.slots * self.overlap, self.total or 1)


@dataclass(frozen=True, repr=False)
class Forecast(Shown):
    """What a flow would take with all of its inputs, from a run on a few items of each.

    Seconds of items are measured within the task; of items under a millisecond headrace's own work
    is the larger part, and is not in here. What the flow's function does itself is not, either.
    """

    shown_as = "forecast"

    run: FlowRun[Any]
    """The sample run; ``forecast.run.resume()`` goes on to the whole."""
    took_seconds: float
    """Of the sample run."""
    nodes: tuple[NodeForecast, ...]

    @property
    def seconds(self) -> float | None:
        """Wall time of the whole; None where an input's length is not known, or a node did not run."""
        shares = [node.share_seconds for node in self.nodes]
        known = [share for share in shares if share is not None]
        longest = max((n.seconds[2] for n in self.nodes if n.seconds is not None), default=0.0)
        chain = max((node.chain_seconds for node in self.nodes), default=0.0)
        return None if len(known) < len(shares) else max(sum(known), longest, chain)

    @property
    def memory(self) -> int:
        """Bytes that all slots take together, at most; 0: not measured."""
        return max((node.memory * node.slots for node in self.nodes), default=0)

    @property
    def bytes(self) -> int | None:
        """Of all nodes' output; None where an input's length is not known."""
        sizes = [node.bytes for node in self.nodes]
        known = [size for size in sizes if size is not None]
        return None if len(known) < len(sizes) else sum(known)

    def facts(self) -> list[str]:
        """What it comes to, in short texts."""
        seconds, size = self.seconds, self.bytes
        if not self.nodes:
            return ["no task ran"]
        slots = max(node.slots for node in self.nodes)
        where = f"{slots} {'slot' if slots == 1 else 'slots'} of {self.run.info.executor.name}"
        unknown = any(node.total is None for node in self.nodes)
        idle = [repr(node.node) for node in self.nodes if node.seconds is None]
        if seconds is not None:
            told = [f"about {brief_text(seconds)} on {where}"]
        elif unknown:
            told = ["the length of an input is not known"]
        else:
            told = [f"no item of {', '.join(idle)} ran"]
        if self.memory:
            told.append(f"{size_text(self.memory)} of memory")
        if size is not None:
            told.append(f"{size_text(size)} of output")
        return told

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The texts of `TITLES`, for each node."""
        for node in self.nodes:
            total = "?" if node.total is None else f"{node.total:,}"
            low, median, high = map(brief_text, node.seconds or (0.0, 0.0, 0.0))
            wall = node.wall_seconds
            yield (
                node.node,
                f"{node.sampled:,} of {'~' if node.estimated else ''}{total}",
                "" if node.seconds is None else median,
                "" if node.seconds is None else f"{low} to {high}",
                "" if wall is None else brief_text(wall),
                f"{node.batch:,}" if node.batch else "",
                size_text(node.memory) if node.memory else "",
                "" if node.bytes is None else size_text(node.bytes),
                f"{node.failed:,}" if node.failed else "",
            )

    def __repr__(self) -> str:
        head = f"forecast of {self.run.flow_name!r}: {', '.join(self.facts())}"
        state = self.run.state
        lines = [
            f"{head} (sample run {self.run.name}: {state.name} in {duration_text(self.took_seconds)})"
        ]
        if not state.is_completed() and state.message:
            lines.append(state.message)
        table = [TITLES, *self.rows()] if self.nodes else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = [row[0].ljust(widths[0])]
            cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join(lines)


TITLES = (
    "node",
    "items",
    "each",
    "5 % to 95 %",
    "time",
    "batch",
    "memory/slot",
    "output",
    "failed",
)


def forecast_of(run: FlowRun[Any]) -> Forecast:
    """The forecast of a sample run that has ended, with the flows that it called."""
    runs = [run]
    for each in runs:
        runs.extend(each.children)
    nodes: list[NodeForecast] = []
    for each in runs:
        name = "" if each is run else f"{each.flow_name}/"
        found = each.engine.forecast() if each.engine is not None else ()
        nodes += [replace(node, node=name + node.node) for node in found]
    took = 0.0 if run.started is None or run.ended is None else run.ended - run.started
    return Forecast(run, took, tuple(nodes))


def nodes_of(engine: Engine) -> list[NodeForecast]:
    """What the nodes of a sample run would take with all of their inputs."""
    sample = engine.info.sample
    assert sample is not None, "a sample run"
    batches = engine.info.history.batches(engine.info.id, limit=_MOST_BATCHES)
    workers = {batch.batch: batch.worker for batch in batches}
    growths = _Growths(engine, sample)
    chains: dict[int, float] = {}
    nodes: list[NodeForecast] = []
    for node in list(engine.nodes.values()):
        if node.items.size:
            found = _forecast(engine, node, growths, workers)
            before = [chains.get(each, 0.0) for each in growths.above(node)]
            chain = max(before, default=0.0) + (found.wall_seconds or 0.0)
            chains[node.id] = chain
            nodes.append(replace(found, chain_seconds=chain))
    return nodes


class _Growths:
    """How many times more items a node has in the whole than in the sample; None: nobody knows.

    Each node is worked out once, those that others build on first: a flow may have looked at
    hundreds of them when it calls the next.
    """

    def __init__(self, engine: Engine, sample: Sample) -> None:
        self.engine, self.sample = engine, sample
        self._known: dict[int, tuple[float | None, bool]] = {}
        self._lengths: dict[int, set[int | None]] = {}
        """Of the inputs of all that a node's values may be made from, and of its own."""
        for node in list(engine.nodes.values()):
            self._known[node.id] = self._growth(node)

    def of(self, node: Node) -> tuple[float | None, bool]:
        """The growth, and whether it is that of the values that its input was made from."""
        return self._known[node.id]

    def above(self, node: Node) -> set[int]:
        """Nodes whose values it takes, or could: the flow had looked at them."""
        linked = set[int]() if node.link is None else {node.link.id}
        return {*self.sample.looked_at.get(node.id, ()), *linked} & self._known.keys()

    def _growth(self, node: Node) -> tuple[float | None, bool]:
        length = self.sample.lengths.get(node.id)
        above = self.above(node)
        lengths = set[int | None]().union(*(self._lengths[each] for each in above))
        self._lengths[node.id] = {*lengths, length}
        if node.link is not None:
            return self._known[node.link.id]
        if not node.single:  # what every item is given makes them no more
            above -= self.sample.given_whole.get(node.id, frozenset())
        if length is not None and length in lengths:
            above.clear()  # the very list that was mapped over before, or one beside it
        own = self._own(node)
        growths = [self._known[each][0] for each in above]
        if own is None or None in growths:
            return None, False
        more = max((each for each in growths if each is not None), default=1.0)
        return own * more, more > 1

    def _own(self, node: Node) -> float | None:
        """By how much its own input was cut."""
        if node.single:
            return 1.0
        length = self.sample.lengths.get(node.id)
        if length is None:
            return 1.0 if node.items.size < self.sample.items else None
        return length / node.items.size


def _forecast(
    engine: Engine, node: Node, growths: _Growths, workers: dict[int, str]
) -> NodeForecast:
    growth, estimated = growths.of(node)
    items = node.items
    total = None if growth is None else 1 if node.single else round(items.size * growth)
    slots = 1 if node.options.pool != "main" else engine.pools["main"].slots(node.options.resources)
    if node.share:
        slots = min(slots, max(1, round(1 / node.share)))
    head = node
    while head.link is not None and not head.sizer.items:  # it rides in the batches of that one
        head = head.link
    if head.window is not None:
        slots = min(slots, head.window)
    # As many as in the middle of a long run: batches do not have to grow any more.
    sizer = replace(head.sizer, largest=total or items.size)
    remaining = total or 1 << 40
    batch = sizer.next(slots, remaining, remaining)
    seconds, work = _seconds(engine, node, workers)
    return NodeForecast(
        node=node.key,
        mapped=not node.single,
        sampled=items.size,
        total=total,
        estimated=estimated,
        failed=sum(items.counts[ItemState.FAILED : ItemState.CRASHED + 1]),
        seconds=seconds,
        work_seconds=None if growth is None or seconds is None else growth * work,
        slots=slots,
        overlap=min(node.options.concurrency, batch) if node.options.is_async else 1,
        batch=batch if head is node else 0,
        memory=node.footprint.need(node.sizer.item_bytes),
        bytes=None if growth is None else _bytes(node, growth, batch),
    )


def _seconds(
    engine: Engine, node: Node, workers: dict[int, str]
) -> tuple[tuple[float, float, float] | None, float]:
    """Quantiles of what the items took, and all of it; what starts a worker up is left out."""
    ran: list[tuple[str, float, float]] = []
    for receipt, positions in node.items.winners():
        worker = workers.get(receipt.batch, "")
        for position in positions:
            told = engine.store.item(receipt, position)
            ran.append((worker, told["started"], told["ended"] - told["started"]))
    ran += [
        ("", failure.started, failure.ended - failure.started) for failure in node.failures.values()
    ]
    if not ran:
        return None, 0.0
    first = {worker: started for worker, started, _ in sorted(ran, reverse=True) if worker}
    warm = [seconds for worker, started, seconds in ran if first.get(worker) != started]
    taken = warm if len(warm) >= _LEAST_LEFT * len(ran) else [seconds for _, _, seconds in ran]
    low, median, high = np.quantile(taken, (0.05, 0.5, 0.95))
    return (float(low), float(median), float(high)), float(np.mean(taken)) * len(ran)


def _bytes(node: Node, growth: float, batch: int) -> int:
    """Output of the whole: its values, and what each partition takes beside them."""
    parts = [(len(positions), receipt.part.bytes) for receipt, positions in node.items.winners()]
    if not parts:
        return 0
    good = sum(node.items.counts[state] for state in GOOD)
    counts, sizes = np.array(parts, dtype=float).T
    each, beside = sizes.sum() / counts.sum(), 0.0
    if len(set(counts)) > 1:
        slope, intercept = np.polyfit(counts, sizes, 1)
        if slope > 0 and intercept > 0:
            each, beside = slope, intercept
    whole = good * growth
    return int(each * whole + beside * ceil(whole / max(batch, counts.max())))
