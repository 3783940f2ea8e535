"""How items and nodes end without a value, how nodes end at all, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterable

from .columns import Chunk, Column
from .commands import Ask, NodeEnded, WithoutValue
from .drops import Drops
from .interfaces import Control, Positions
from .items import GOOD, STATE_NAMES, ItemState, common, without
from .nodes import Node, Parked


class UpstreamFailure:
    """In a column: stands for the exception of an upstream's failed item (``allow_failure``)."""

    __slots__ = ("node", "position")

    def __init__(self, node: Node, position: int) -> None:
        self.node = node
        self.position = position


class Endings(Drops):
    """Ends, skips, cancels and aborts, and lets waiting nodes go."""

    def finish(self, node: Node, positions: Positions, state: ItemState, cause: str) -> None:
        """Items end without a value; what depends on them hears of it."""
        if not positions.runs:
            return
        node.items.move(positions, state)
        node.cause = node.cause or cause
        self.touch(node)
        if node.options.cached:
            self.out.append(WithoutValue(node, positions))
        for consumer in node.consumers:
            self.grow_linked(consumer)
            self.upstream_bad(consumer, node, positions)

    def grow_linked(self, consumer: Node) -> None:
        """A consumer has as many items as the map that feeds it."""
        link = consumer.link
        if link is None or consumer.ended or consumer.stopped_early:
            return
        size = consumer.items.size
        if size < link.items.size:
            consumer.items.grow(link.items.size - size)
            self.touch(consumer)
            for further in consumer.consumers:
                self.grow_linked(further)
            if consumer.stopped:
                new = Positions.span(size, consumer.items.size)
                self.finish(consumer, new, ItemState.SKIPPED, "")

    def upstream_bad(self, node: Node, link: Node, positions: Positions) -> None:
        """Items of the map that feeds a node ended badly: skip its own, or pass the exceptions on."""
        if node.stopped or node.ended:
            return
        waiting = node.items.select(positions, ItemState.PENDING)
        if not waiting.runs:
            return
        if not node.allow_failure:
            self.finish(node, waiting, ItemState.SKIPPED, f"{link.key!r} did not complete")
            return
        column: Column = [UpstreamFailure(link, position) for position in waiting]
        self.queue(node, Chunk(waiting, [column]))

    # ------------------------------------------------------------------------- nodes as wholes

    def cancel_node(self, node: Node, reason: str, fate: str = "cancelled") -> None:
        """Hand out no more of it, drop what is queued, end what runs."""
        if not node.ended and not node.stopped:
            self._stop(node, fate, ItemState.CANCELLED, reason)

    def abort(self, node: Node, error: BaseException) -> None:
        """The node as a whole cannot go on; what is committed stays."""
        if node.ended or node.stopped:
            return
        node.error = node.error or error
        self._stop(node, "aborted", ItemState.CANCELLED, str(error))

    def skip(self, node: Node, cause: str) -> None:
        """What it waits for did not complete: none of its items will run."""
        self._stop(node, "skipped", ItemState.SKIPPED, cause)

    def _stop(self, node: Node, fate: str, state: ItemState, cause: str) -> None:
        if fate != "skipped" and self._all_in(node) and node.items.ended == node.items.size:
            return  # nothing is left to be stopped
        node.fate = fate
        node.cause = node.cause or cause
        node.waits.clear()
        self.empty(node)
        self.holding.discard(node)
        self.feedable.pop(node, None)
        left = node.items.where(ItemState.PENDING, ItemState.AWAITING_RETRY)
        self.finish(node, left, state, cause)
        here = node.link is None or node.stopped_early
        node.cut = node.cut or (here and not node.exhausted)
        node.exhausted = node.exhausted or here
        self.touch(node)
        for flight in self.flights.values():
            if node in flight.nodes:
                self.out.append(Ask(flight, Control.KILL))

    @staticmethod
    def _all_in(node: Node) -> bool:
        return node.exhausted and not node.waits

    def cancel_item(self, node: Node, position: int, reason: str) -> None:
        """Cancel one item, also one that has not come yet."""
        if node.item_done(position) or (node.exhausted and position >= node.items.size):
            return
        node.doomed.add(position)
        if position >= node.items.size:
            return
        here = Positions.span(position, position + 1)
        if node.items.state(position) is not ItemState.RUNNING:
            self.finish(node, here, ItemState.CANCELLED, reason)
            return
        for flight in self.flights.values():
            if node in flight.nodes and flight.holds(position):
                self.out.append(Ask(flight, Control.KILL))

    def doom(self, node: Node, positions: Positions) -> Positions:
        """End those of the positions that were cancelled one by one; gives the others."""
        gone = common(positions, Positions.of(sorted(node.doomed)))
        if not gone.runs:
            return positions
        self.finish(node, gone, ItemState.CANCELLED, "its future was cancelled")
        return without(positions, gone)

    # ----------------------------------------------------------------------------------- ends

    def end_nodes(self) -> None:
        """End the nodes that the event has completed, and let go what waited for them."""
        while self.touched:
            node = self.touched.pop()
            if self._maybe_end(node):
                for consumer in node.consumers:
                    self.grow_linked(consumer)
                    self.exhaust_linked(consumer, node)
                self.has_read(node)
            self._let_go(node)

    def _let_go(self, node: Node) -> None:
        waiting = self.dependents.pop(node.id, None)
        if waiting is None:
            return
        left: list[Node | Parked] = []
        for each in waiting:
            if isinstance(each, Parked):
                self._settle_parked(each)
                still = any(number == node.id for number, _item in each.waits)
            else:
                self.settle_waits(each)
                still = any(number == node.id for number, _item in each.waits)
            if still:
                left.append(each)
        if left:
            self.dependents[node.id] = left

    def settle_waits(self, node: Node) -> None:
        """Drop waits that are over; skip the node if one ended badly; open it when none is left."""
        if node.ended or node.stopped:
            node.waits.clear()
            return
        for (number, item), may_fail in list(node.waits.items()):
            other = self.nodes[number]
            if not other.settled(item):
                continue
            del node.waits[number, item]
            if not may_fail and not other.went_well(item):
                node.blame = (other, item)
                self.skip(node, f"{name_of(other, item)} did not complete")
                return
        if node.waits or node.opened:
            return
        node.opened = True
        if not node.single and node.link is None:
            self.feedable[node] = None
        self.touch(node)
        self.line_up(node)

    def park(
        self,
        node: Node,
        positions: Positions,
        chunk: Chunk,
        waits: Iterable[tuple[int, int | None]],
    ) -> None:
        """Items wait for the futures inside their arguments."""
        parked = Parked(node, chunk.only(positions), set(waits))
        node.parked += len(positions)
        for number in {number for number, _item in parked.waits}:
            self.dependents.setdefault(number, []).append(parked)

    def _settle_parked(self, parked: Parked) -> None:
        done = {w for w in parked.waits if self.nodes[w[0]].settled(w[1])}
        if not done:
            return
        parked.waits -= done
        if not parked.waits:
            parked.node.parked -= len(parked.chunk)
            self.queue(parked.node, parked.chunk)
        elif parked.node.stopped:
            parked.waits.clear()
            parked.node.parked -= len(parked.chunk)

    def exhaust_linked(self, node: Node, link: Node) -> None:
        """The map that feeds it has ended, so no further item will come."""
        if link.cut and not node.allow_failure and not node.ended:
            node.cut = True
            node.cause = node.cause or f"{link.key!r} did not complete"
        node.exhausted = True
        self.touch(node)

    def _maybe_end(self, node: Node) -> bool:
        if node.ended or not node.exhausted or node.flights:
            return False
        if node.items.ended < node.items.size:
            return False
        if not node.stopped and (node.feeding or node.waits):
            return False
        if node.link is not None and not node.link.ended and not node.stopped_early:
            return False
        node.total = node.items.size
        node.state = final_state(node)
        self.empty(node)
        self.holding.discard(node)
        self.feedable.pop(node, None)
        node.waits.clear()
        node.doomed.clear()
        for tally in (node.tries, node.spent, node.infra_spent):
            tally.clear()
        self.changed.add(node)
        self.out.append(NodeEnded(node))
        return True


def name_of(node: Node, position: int | None) -> str:
    """What to call an item, or (None) a node, in a cause."""
    return repr(node.key) if position is None or node.single else f"{node.key!r} item {position}"


def final_state(node: Node) -> str:
    """The state in which a node ends, from those of its items.

    Items that were skipped because the map before them tolerated its failures are no failure.
    """
    if node.error is not None:
        return "Failed"
    if node.fate == "skipped":
        return "Skipped"
    if node.single:
        return STATE_NAMES[node.items.state(0)]
    if node.fate:
        return "Failed" if node.fate == "fail_fast" else "Cancelled"
    if node.cut:  # the map before it did not come to its end
        return "Skipped" if node.items.counts[ItemState.SKIPPED] == node.items.size else "Failed"
    return _state_of_items(node)


def _state_of_items(node: Node) -> str:
    """The state of a map that has all its items, each of them in its own."""
    counts, options, size = node.items.counts, node.options, node.items.size
    failed = sum(counts[ItemState.FAILED : ItemState.CRASHED + 1])
    good = sum(counts[state] for state in GOOD)
    if options.min_success_ratio is not None and size:
        return "Completed" if good / size >= options.min_success_ratio else "Failed"
    if options.on_error == "quarantine":
        return "Completed"
    if failed:
        return "Crashed" if counts[ItemState.CRASHED] == failed else "Failed"
    if counts[ItemState.CANCELLED]:
        return "Cancelled"
    skipped = counts[ItemState.SKIPPED]
    if node.link is not None and not size and not node.link.good and not node.allow_failure:
        return "Skipped"  # the map before it ended badly before it had items
    if node.link is not None and node.link.good:
        skipped -= sum(node.link.items.counts[ItemState.FAILED :])
    if skipped > 0:
        return "Skipped" if skipped == size else "Failed"
    return "Completed"
