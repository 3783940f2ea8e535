"""What is handed out when, how finely cut, and how far inputs are pulled ahead."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from .columns import Chunk
from .commands import Feed, Submit
from .endings import Endings
from .errors import HeadraceError, ResourceError
from .interfaces import Positions, Report
from .items import ItemState, indices, runs_of
from .nodes import Flight, Node

_NOTHING = 1e-6
"""Parts of the memory below it are rounding errors."""


class HandOut(Endings):
    """Fills the free slots: deeper nodes first, so that few intermediates lie about."""

    def hand_out(self, now: float) -> None:
        """Launch what there is room for, and ask for more input."""
        for node in [node for node in self.stalled if not self._ahead(node)]:
            self.stalled.discard(node)
            self.line_up(node)
        for key, lane in sorted(self.lanes.items(), key=lambda entry: entry[1][0][:2]):
            while lane:
                node = lane[0][2]
                if node.stopped or node.ended or node.waits or not node.queue:
                    heapq.heappop(lane)
                    node.lined_up = False
                elif self._ahead(node):
                    heapq.heappop(lane)
                    node.lined_up = False
                    self.stalled.add(node)
                elif not self._room(node):
                    break
                else:
                    self._launch(node, now)
            if not lane:
                del self.lanes[key]
        for node in list(self.feedable):
            if node.ended or node.exhausted:
                del self.feedable[node]
            else:
                self._feed(node, now)

    def _slots_of(self, node: Node) -> int:
        try:
            return self.slots(node.options.pool, node.options.resources)
        except HeadraceError as error:  # what it needs is gone for good
            self.abort(node, error)
            return 0

    def _room(self, node: Node) -> bool:
        pool = node.options.pool
        if not self._tags_allow(node):
            return False
        if node.window is not None and self._out_of(node) >= node.window:
            return False
        if self._must_wait(node) or not self._fits_memory(node):
            return False
        slots = self._slots_of(node)
        if node.sizer.growing and node.flights >= slots:  # behind others' batches it may queue
            return False
        return self.in_flight.get(pool, 0) < slots * (1 + self.prefetch(pool))

    def _tags_allow(self, node: Node) -> bool:
        for tag in node.options.tags:
            limit = self.tag_limits.get(tag)
            if limit is not None:
                width = node.options.concurrency if node.options.is_async else 1
                if self.tagged.get(tag, 0) + 1 > max(1, limit // max(1, min(width, limit))):
                    return False
        return True

    def _must_wait(self, node: Node) -> bool:
        """What died of memory is tried again alone: first all others end, then it, then all go on."""
        pool = node.options.pool
        holder = self.lonely.get(pool)
        if holder is not None and not self._is_lonely(holder):
            del self.lonely[pool]
            holder = None
        if node.queue[0].alone:
            holder = self.lonely.setdefault(pool, node)
        if holder is None:
            return False
        return holder is not node or self.in_flight.get(pool, 0) > 0

    def _is_lonely(self, node: Node) -> bool:
        """Has it still a batch that waits to run alone, or runs so?"""
        waits = bool(node.queue) and node.queue[0].alone and not node.stopped
        return waits or any(f.chunk.alone and f.nodes[0] is node for f in self.flights.values())

    def _fits_memory(self, node: Node) -> bool:
        """Is there memory for one more? One batch is let go in any case."""
        taken = self.shared.get(node.options.pool, 0.0)
        return not node.share or taken < _NOTHING or taken + node.share <= 1.0 + _NOTHING

    def learn(self, node: Node, report: Report) -> None:
        """A batch has ended, and tells what memory it took: see how many fit at a time."""
        node.footprint.measured(report.base_memory, report.peak_memory, node.sizer.item_bytes)
        need, options = node.footprint.need(node.sizer.item_bytes), node.options
        if not need or node.ended or node.stopped:
            return
        asked = replace(options.resources, memory=max(need, options.resources.memory))
        try:
            fit = self.slots(options.pool, asked)
        except ResourceError:  # not even one: it may go better than it looks, and runs by itself
            fit = 1
        node.share = 1.0 / fit if fit < self._slots_of(node) else 0.0

    def _ahead(self, node: Node) -> bool:
        """Has it filled the window of a linked map that could run, but does not keep up?"""
        for consumer in node.consumers:
            waits = consumer.waits or not consumer.opened or consumer in self.holding
            if waits or consumer.stopped or consumer.ended or node.stopped or node.ended:
                continue
            size = node.bytes / max(1, node.items.counts[ItemState.COMPLETED])
            behind = consumer.queued
            if behind > self.window_items or behind * size > self.window_bytes:
                return True
        return False

    @staticmethod
    def _out_of(node: Node) -> int:
        return node.items.counts[ItemState.RUNNING]

    def _launch(self, node: Node, now: float) -> None:
        ready = self._next_chunk(node)
        if ready is None:
            return
        chain = self._chain(node)
        chunk, attempts = self._alike(chain, ready)
        nodes = chain[: len(attempts)]
        flight = Flight(next(self.numbers), nodes, attempts, chunk, now)
        flight.committed = [
            each is nodes[-1] or (each.options.persist and not self.passes(each)) for each in nodes
        ]
        for each in nodes:
            if each.state == "Pending":
                each.state = "Running"
            each.items.move(chunk.positions, ItemState.RUNNING)
        self.take_off(flight)

    def take_off(self, flight: Flight) -> None:
        """A batch is under way."""
        node = flight.nodes[0]
        self.flights[flight.id] = flight
        flight.progress = flight.handed
        flight.share = node.share
        node.handed += len(flight.chunk)
        for each in flight.nodes:
            each.flights += 1
            self.changed.add(each)
        pool = node.options.pool
        self.shared[pool] = self.shared.get(pool, 0.0) + flight.share
        self.in_flight[pool] = self.in_flight.get(pool, 0) + 1
        for tag in node.options.tags & self.tag_limits.keys():
            self.tagged[tag] = self.tagged.get(tag, 0) + 1
        self.out.append(Submit(flight))

    def _next_chunk(self, node: Node) -> Chunk | None:
        """Items of a good batch's size from the head of the queue, those that are still pending."""
        chunk = node.queue.popleft()
        slots = max(1, self._slots_of(node))
        size = node.sizer.next(slots, self._remaining(node), node.queued)
        if node.window is not None:
            size = max(1, min(size, node.window - self._out_of(node)))
        if chunk.most:
            size = min(size, chunk.most)
        while len(chunk) > 2 * size:  # in halves, so that an item is not copied once per batch
            chunk, rest = chunk.take(len(chunk) // (2 * size) * size)
            if rest is not None:
                node.queue.appendleft(rest)
        parts, have = [chunk], len(chunk)
        while have < size and node.queue and chunk.fits(node.queue[0]):
            part, rest = node.queue.popleft().take(size - have)
            if rest is not None:
                node.queue.appendleft(rest)
            parts.append(part)
            have += len(part)
        head, tail = Chunk.join(parts).take(size)
        node.queued -= len(head)
        if tail is not None:
            node.queue.appendleft(tail)
        pending = node.items.select(head.positions, ItemState.PENDING)
        if node.doomed:
            pending = self.doom(node, pending)
        return head.only(pending) if pending.runs else None

    @staticmethod
    def _remaining(node: Node) -> int:
        """Items not handed out, as far as is known: also those that wait for the map that feeds it."""
        ahead = 0 if node.exhausted or node.whole is None else node.whole - node.items.size
        return node.items.counts[ItemState.PENDING] + max(0, ahead)

    def _alike(self, chain: list[Node], chunk: Chunk) -> tuple[Chunk, list[int]]:
        """Items that are on the same attempts in all stages, and these attempts; others go back.

        The chain ends before a stage that has nothing to do for these items any more.
        """
        later = chain[1:]
        plain = not any(node.tries for node in chain) and all(
            node.items.select(chunk.positions, ItemState.PENDING) == chunk.positions
            for node in later
        )
        if plain:
            return chunk, [1] * len(chain)
        where = indices(chunk.positions)
        table = np.zeros((len(where), len(chain)), dtype=np.int64)
        table[:, 0] = chain[0].tries.of(where).astype(np.int64) + 1
        for column, node in enumerate(later, start=1):
            pending = node.items.gather(where) == ItemState.PENDING
            attempts = node.tries.of(where).astype(np.int64) + 1
            table[:, column] = np.where(pending & (table[:, column - 1] > 0), attempts, 0)
        first = table[0]
        same = (table == first).all(axis=1)
        if not bool(same.all()):
            rest = Positions(tuple(runs_of(where[~same])))
            chain[0].queue.appendleft(chunk.only(rest))
            chain[0].queued += len(rest)
            chunk = chunk.only(Positions(tuple(runs_of(where[same]))))
        return chunk, [int(attempt) for attempt in first if attempt]

    def _chain(self, node: Node) -> list[Node]:
        """The node and the consumers that its values flow into on the same worker."""
        chain = [node]
        while len(chain[-1].consumers) == 1 and self._fuses(chain[-1], chain[-1].consumers[0]):
            chain.append(chain[-1].consumers[0])
        return chain

    def _fuses(self, first: Node, then: Node) -> bool:
        a, b = first.options, then.options
        limited = (a.tags | b.tags) & self.tag_limits.keys()
        return (
            a.fuse
            and b.fuse
            and not a.apart
            and not (a.backups or b.backups)  # a copy is of one item of one task
            and not b.cached  # it is looked up by what it is made from
            and a.resources == b.resources
            and a.isolation == b.isolation
            and a.is_async == b.is_async
            and a.pool == b.pool
            and (not limited or a.tags == b.tags)
            and (a.persist or first.id not in self.dependents)
            and not then.waits
            and then.opened
            and not then.stopped
            and not then.ended
            and then.window is None
        )

    def _feed(self, node: Node, now: float) -> None:
        """Ask for more input while the window has room."""
        if node.feeding:
            return
        slots = max(1, self._slots_of(node))
        want = 2 * slots * node.sizer.next(slots, 1 << 40, 1 << 40)  # as if there were no end
        if node.window is not None:
            want = min(want, node.window)
        waiting = node.queued + node.parked
        if waiting >= want or node.stopped:
            return
        held = node.handed + waiting
        want = min(want, self.window_items - node.handed)
        room = self.window_bytes - int(held * node.sizer.item_bytes)
        if (room <= 0 or want <= waiting) and held:
            return
        node.feeding = True
        node.asked = now
        self.out.append(Feed(node, max(1, want - waiting), max(room, 1)))
