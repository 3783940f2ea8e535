"""The machine's ground floor: its tables, and the lanes in which nodes wait to be handed out."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .columns import Chunk
from .commands import Command
from .interfaces import Receipt, Resources
from .nodes import Flight, Node, Parked


class Lanes:
    """State of the machine, and what enters and leaves a node's queue."""

    def __init__(
        self,
        slots: Callable[[str, Resources], int],
        *,
        prefetch: Callable[[str], int] = lambda _pool: 1,
        tag_limits: Mapping[str, int] | None = None,
        window_items: int = 1_000_000,
        window_bytes: int = 256 << 20,
        batch_bytes: int = 8 << 20,
        recalls: bool = True,
    ) -> None:
        self.slots = slots
        self.prefetch = prefetch
        self.tag_limits = dict(tag_limits or {})
        self.window_items = window_items
        self.window_bytes = window_bytes
        self.batch_bytes = batch_bytes
        self.recalls = recalls
        self.nodes: dict[int, Node] = {}
        self.flights: dict[int, Flight] = {}
        self.in_flight: dict[str, int] = {}
        self.tagged: dict[str, int] = {}
        self.dependents: dict[int, list[Node | Parked]] = {}
        """Node number -> what waits for it or for items of it."""
        self.lanes: dict[Any, list[tuple[int, int, Node]]] = {}
        """Nodes with something to hand out, deepest and oldest first, by what limits them."""
        self.feedable: dict[Node, None] = {}
        self.holding: set[Node] = set()
        self.delays: list[tuple[float, int, Node, Chunk]] = []
        self.waiting: list[tuple[float, int, Node, Chunk]] = []
        """When to look again for what others compute: pending items that are not queued."""
        self.out: list[Command] = []
        self.changed: set[Node] = set()
        """Nodes that events have touched; the engine empties it when it has told of them."""
        self.touched: set[Node] = set()
        """Nodes that the current event has touched."""
        self.cancelled = ""
        self.resumed = False
        """An earlier driver has begun the run."""
        self.unsealed: list[Node] = []
        """Nodes added since the flow last waited for something."""
        self.shared: dict[str, float] = {}
        """Per pool the part of its memory that batches under way take, of nodes where that counts."""
        self.lonely: dict[str, Node] = {}
        """Per pool the node that has a batch which must run, or runs, without any other."""
        self.stalled: set[Node] = set()
        """Nodes that are so far ahead of the maps they feed that these go first."""
        self.look_up: Callable[[Node, Chunk], Sequence[Receipt]] = lambda _node, _chunk: ()
        """Commits of earlier runs for items of a cached map that are ready to run."""
        self.numbers = itertools.count()
        self.ties = itertools.count()

    def touch(self, node: Node) -> None:
        """The event has changed a node."""
        self.changed.add(node)
        self.touched.add(node)

    def queue(self, node: Node, chunk: Chunk, *, first: bool = False) -> None:
        """Items are ready to be handed out."""
        if node.stopped:
            return
        (node.queue.appendleft if first else node.queue.append)(chunk)
        node.queued += len(chunk)
        self.touch(node)
        self.line_up(node)

    def empty(self, node: Node) -> None:
        """Drop what is queued."""
        node.queue.clear()
        node.queued = 0

    def release(self, nodes: list[Node]) -> None:
        """Mapped nodes have waited long enough for a consumer to fuse with."""
        for node in nodes:
            self.holding.discard(node)
            self.line_up(node)

    def line_up(self, node: Node) -> None:
        """Enter a node's lane if it has something that may be handed out."""
        if not node.queue or node.lined_up or node.waits or node in self.holding:
            return
        options = node.options
        limited = frozenset(options.tags & self.tag_limits.keys())
        own = node.id if node.window is not None else -1
        lane = self.lanes.setdefault((options.pool, options.resources, limited, own), [])
        heapq.heappush(lane, (-node.depth, node.id, node))
        node.lined_up = True
