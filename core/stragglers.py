"""Slow batches, once a slot is idle and nothing is queued: split them, or run their items twice.

A batch is *recalled* first: what it has not started goes elsewhere. Where the user allows it
(``backups=True``), items that run much longer than is usual for their node are then handed out a
second time, as a *backup*. An item is in one flight at a time, the newest; in the other it is a
*copy*, of which only a value counts (the first commit wins) until the newest flight gives the item
up. Then it is the copy's again, so only the failure of the last one ends the item; a flight is backed
up once. A flight whose
items have all ended elsewhere is killed, and nobody waits for its end.
"""

from __future__ import annotations

from .commands import Ask, BatchEnded
from .handout import HandOut
from .interfaces import Control, End, Outcome, Positions
from .items import common, without
from .nodes import Flight

RECALL_AFTER = 0.25
"""A batch that has run so long may be split when a slot is idle."""
BACKUP_AFTER = 2.0
"""Seconds without news of an item before it is run twice; a healthy worker tells each second."""
BACKUP_FACTOR = 3.0
"""An item that is run twice has run so many times longer than 95 % of its node's items."""


class Stragglers(HandOut):
    """Sees to it that the last batches hold nobody up."""

    def hurry(self, now: float) -> None:
        """Kill the losers among copies; with idle slots, split what is slow or run it twice."""
        for flight in [f for f in self.flights.values() if f.copies or f.backup_of is not None]:
            if self._lost(flight):
                self.out.append(Ask(flight, Control.KILL))
                self.close(flight)
                end = End(Outcome.KILLED, "another copy of its items was faster")
                self.out.append(BatchEnded(flight, end, 0))
        if self.lanes or not self.recalls:
            return
        by_pool: dict[str, list[Flight]] = {}
        for flight in self.flights.values():
            by_pool.setdefault(flight.nodes[0].options.pool, []).append(flight)
        for flights in by_pool.values():
            slots = self._slots_of(flights[0].nodes[0])
            if len(flights) < slots and not self._split(flights, slots, now):
                self._back_up(flights, now)

    def _split(self, flights: list[Flight], slots: int, now: float) -> bool:
        """Recall slow batches that hold a slot's share of what these have not started; False if none is slow."""
        slow = [
            flight
            for flight in flights
            if not flight.recalled
            and flight.began is not None
            and now - flight.began > RECALL_AFTER
            and len(flight.chunk) > max(flight.started, 1)
        ]
        share = sum(len(flight.chunk) - flight.started for flight in slow) / slots
        for flight in slow:
            if len(flight.chunk) - flight.started >= share:
                flight.recalled = True
                self.out.append(Ask(flight, Control.RECALL))
        return bool(slow)

    # -------------------------------------------------------------------------------- backups

    def _back_up(self, flights: list[Flight], now: float) -> None:
        """Hand out the items of the batch that was silent longest a second time."""
        silent = [flight for flight in flights if self._overdue(flight, now)]
        if not silent:
            return
        flight = min(silent, key=lambda f: f.progress)
        node, positions = flight.nodes[0], flight.running(0)
        chunk = flight.chunk.only(positions)
        backup = Flight(
            next(self.numbers), [node], flight.attempts, chunk, now, backup_of=flight.id
        )
        backup.committed = [True]
        flight.leave(positions)
        flight.copies.update(positions)
        flight.backed_up = True
        self.take_off(backup)

    def _overdue(self, flight: Flight, now: float) -> bool:
        node = flight.nodes[0]
        if not node.options.backups or flight.backup_of is not None or flight.backed_up:
            return False
        usual = node.lengths.most()
        if node.stopped or usual is None:
            return False
        lonely = self.lonely.get(node.options.pool)
        if flight.chunk.alone or (lonely is not None and self._is_lonely(lonely)):
            return False
        if not self._tags_allow(node) or not self._fits_memory(node):
            return False
        if now - flight.progress <= max(BACKUP_AFTER, BACKUP_FACTOR * usual):
            return False
        return bool(flight.running(0).runs)

    @staticmethod
    def _lost(flight: Flight) -> bool:
        """Have all its items ended, and not all by its own doing?"""
        items, mine = flight.nodes[0].items, True
        for position in flight.chunk.positions:
            if not items.final(position):
                return False
            receipt = items.receipt_of(position)
            mine = mine and receipt is not None and receipt.batch == flight.id
        return not mine

    def give_up(self, flight: Flight, positions: Positions) -> Positions:
        """Items of a flight did not end in it: those with a copy are its again; gives the others."""
        node = flight.nodes[0]
        if not node.options.backups or node.stopped:
            return positions
        for other in self.flights.values():
            if other is flight or other.nodes[0] is not node or not other.copies:
                continue
            theirs = common(positions, Positions.of(sorted(other.copies - node.doomed)))
            if theirs.runs:
                flight.leave(theirs)
                other.copies.difference_update(theirs)
                other.gone.difference_update(theirs)
                positions = without(positions, theirs)
        return positions

    def close(self, flight: Flight) -> None:
        """A batch is under way no more."""
        del self.flights[flight.id]
        node = flight.nodes[0]
        node.handed -= len(flight.chunk)
        self.in_flight[node.options.pool] -= 1
        self.shared[node.options.pool] -= flight.share
        for tag in node.options.tags & self.tag_limits.keys():
            self.tagged[tag] -= 1
        for each in flight.nodes:
            each.flights -= 1
            self.touch(each)
        self.give_up(flight, flight.running(0))
