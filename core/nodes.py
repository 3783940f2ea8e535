"""What the machine keeps of a task call and of a batch that is under way."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .columns import Chunk
from .footprint import Footprint
from .interfaces import Failure, Isolation, Positions, Resources, WorkerInfo
from .items import ItemState, ItemTable, Tally, indices, runs_of
from .sizing import Lengths, Sizer

KEPT_FAILURES = 10_000
"""Failures of a node that are kept whole in memory; history has all of them."""

FINAL_NODE = frozenset(
    {"Completed", "Cached", "Failed", "TimedOut", "Crashed", "Cancelled", "Skipped"}
)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the machine must know of a task."""

    retries: int = 0
    infra_retries: int = 2
    on_error: str = "raise"
    min_success_ratio: float | None = None
    resources: Resources = Resources()
    isolation: Isolation = Isolation.CHILD
    concurrency: int = 1
    is_async: bool = False
    apart: bool = False
    """What its values are is known when they are committed (generators are consumed then, tables cast to
    the stated schema), so nothing is fused on."""
    persist: bool = True
    drop: bool = False
    """Its values go when all that was called with it has used them."""
    fuse: bool = True
    backups: bool = False
    """Items that are late may run twice."""
    cached: bool = False
    """Its items may have been computed by an earlier run: each is looked up before it is handed out."""
    tags: frozenset[str] = frozenset()
    pool: str = "main"
    """``"caller"``: runs in the thread that called."""
    delay: Callable[[int], float] = lambda _retry: 0.0
    """Seconds before the n-th retry (from 1)."""


@dataclass(eq=False)
class Node:
    """One task call of the run, single or mapped."""

    id: int
    key: str
    task_name: str
    options: NodeOptions
    single: bool
    code: str = ""
    """Whose code makes its values, and those of the maps that feed it (`core.lineage`)."""
    mixed: str = ""
    """Set where it holds values that other code has made: stands for that in its consumers' code."""
    link: Node | None = None
    """The mapped node whose item i feeds item i of this one."""
    allow_failure: bool = False
    """A failed item of ``link`` is passed on as its exception."""
    waits: dict[tuple[int, int | None], bool] = field(default_factory=dict[Any, bool])
    """What must end before anything runs: (node, item or None) -> may it fail?"""
    reads: dict[int, bool] = field(default_factory=dict[int, bool])
    """Nodes whose values it takes otherwise than item by item through ``link``: are they all taken?"""
    readers: list[Node] = field(default_factory=list["Node"])
    """The nodes that take this one's values so, and how many of them may still do."""
    open_readers: int = 0
    read_whole: bool = False
    """Some task was called with all of it."""
    pinned: bool = False
    """Its values stay: the flow has a handle on them."""
    feeds: dict[int, int] = field(default_factory=dict[int, int])
    """Receipt number -> items that may still be needed, at most; of those that were looked at."""
    depth: int = 0
    lined_up: bool = False
    hold_until: float = 0.0
    window: int | None = None
    sealed: bool = False
    """The flow has waited since it was added: what it called so far is all that takes its values."""
    keyed: bool = False
    """Behind its columns of arguments stands one of ids (``map(key=...)``)."""
    items: ItemTable = field(default_factory=ItemTable)
    consumers: list[Node] = field(default_factory=list["Node"])
    queue: deque[Chunk] = field(default_factory=deque[Chunk])
    queued: int = 0
    parked: int = 0
    """Items whose arguments hold futures that have not ended."""
    total: int | None = None
    expected: int | None = None
    """Items that its input has, where that tells it before all of them were pulled."""
    exhausted: bool = False
    opened: bool = False
    feeding: bool = False
    asked: float = 0.0
    """When inputs were asked for, or looked at, last."""
    flights: int = 0
    handed: int = 0
    """Items in the batches under way that begin with this node."""
    stillborn: int = 0
    """Children in a row that died before an item of this node began."""
    sizer: Sizer = field(default_factory=Sizer)
    lengths: Lengths = field(default_factory=Lengths)
    footprint: Footprint = field(default_factory=Footprint)
    share: float = 0.0
    """Part of the pool's memory that one of its batches takes; 0: all slots together have enough."""
    tries: Tally = field(default_factory=Tally)
    """Attempts of each item that are over: its next one has this number plus one."""
    spent: Tally = field(default_factory=Tally)
    """Retries used."""
    infra_spent: Tally = field(default_factory=Tally)
    """Retries used for a child that died."""
    failures: dict[int, Failure] = field(default_factory=dict[int, Failure])
    """The last failure of failed items, of the first `KEPT_FAILURES`."""
    doomed: set[int] = field(default_factory=set[int])
    """Items that are to be cancelled."""
    fate: str = ""
    """Why nothing of it is handed out any more: ``cancelled``, ``fail_fast``, ``aborted``, ``skipped``."""
    error: BaseException | None = None
    """What failed the node as a whole: its iterable raised, its code was refused."""
    cut: bool = False
    """Its input, or that of the map that feeds it, did not come to its end: items are missing."""
    cause: str = ""
    """Why it was skipped or cancelled."""
    blame: tuple[Node, int | None] | None = None
    """Which item (None: the node) of another one it was skipped for."""
    state: str = "Pending"
    bytes: int = 0
    busy_seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Every item is in a final state and no more will come."""
        return self.state in FINAL_NODE

    @property
    def good(self) -> bool:
        """It has ended well."""
        return self.state in ("Completed", "Cached")

    @property
    def stopped(self) -> bool:
        """Nothing of it is handed out any more."""
        return bool(self.fate)

    @property
    def stopped_early(self) -> bool:
        """It ends without waiting for the map that feeds it; a skipped one still counts its items."""
        return bool(self.fate) and self.fate != "skipped"

    @property
    def whole(self) -> int | None:
        """Items that it has, or is to have when all of its input is pulled; None: nobody knows yet.

        Of one that was stopped before that, those that it would have had.
        """
        head = self
        while head.link is not None:
            head = head.link
        if head.expected is not None and (head.total is None or head.stopped or head.error):
            return max(head.items.size, head.expected)
        return self.total if head.total is None else head.total

    def item_done(self, position: int) -> bool:
        """The item has ended."""
        return self.ended or self.items.final(position)

    def counts(self) -> dict[str, int]:
        """Items by state name."""
        return self.items.named_counts()

    def settled(self, position: int | None) -> bool:
        """Has the item, or (None) the node, ended?"""
        return self.ended if position is None else self.item_done(position)

    def went_well(self, position: int | None) -> bool:
        """Has the item, or (None) the node, ended with a value?"""
        if position is None:
            return self.good
        return position < self.items.size and self.items.good(position)


@dataclass(eq=False, slots=True)
class Flight:
    """A batch that was handed out and has not ended."""

    id: int
    nodes: list[Node]
    attempts: list[int]
    chunk: Chunk
    handed: float
    began: float | None = None
    progress: float = 0.0
    """When it last told of an item that began or ended, or was handed out."""
    worker: WorkerInfo | None = None
    started: int = 0
    told: bool = False
    """It has told of an item, so its child had come to life."""
    values: int = 0
    """Committed by it, of all stages."""
    busy: float = 0.0
    """Seconds that these took."""
    recalled: bool = False
    returned: int = 0
    share: float = 0.0
    """Part of the pool's memory that was taken for it."""
    committed: list[bool] = field(default_factory=list[bool])
    """Per stage: are its values committed, and not only passed on?"""
    gone: set[int] = field(default_factory=set[int])
    """Positions that are to run again elsewhere: what they do next is no matter of this flight."""
    backed_up: bool = False
    """Its items were handed out a second time."""
    copies: set[int] = field(default_factory=set[int])
    """Those of them that still run here, too, beside a backup."""
    backup_of: int | None = None
    """The flight whose items it runs a second time."""

    def stage_of(self, number: int) -> int | None:
        """Index of the stage of a node, or None."""
        for index, node in enumerate(self.nodes):
            if node.id == number:
                return index
        return None

    def running(self, stage: int) -> Positions:
        """Items that this flight still holds at a stage."""
        positions = self.chunk.positions
        if self.gone:
            where = indices(positions)
            gone = np.fromiter(self.gone, dtype=np.int64, count=len(self.gone))
            positions = Positions(tuple(runs_of(where[~np.isin(where, gone)])))
        return self.nodes[stage].items.select(positions, ItemState.RUNNING)

    def holds(self, position: int) -> bool:
        """Is the item in this flight, and not gone elsewhere?"""
        runs = self.chunk.positions.runs
        run = bisect_right(runs, (position, 1 << 62)) - 1
        return run >= 0 and position < runs[run][1] and position not in self.gone

    def leave(self, positions: Positions) -> None:
        """Items leave this flight."""
        for start, stop in positions.runs:
            if stop - start == 1:
                self.gone.add(start)
            else:
                self.gone.update(range(start, stop))


@dataclass(eq=False, slots=True)
class Parked:
    """Items that wait for the futures inside their arguments."""

    node: Node
    chunk: Chunk
    waits: set[tuple[int, int | None]]
