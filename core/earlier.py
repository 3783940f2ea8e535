"""What earlier drivers of a run have committed, and which of it an item of this driver can take.

The journal tells of most partitions, the listing of the rest; what is listed and not in the journal
is asked for its own description. Items are known again by their ids (`core.identity`), those at the
place where they were first of all; so a driver that maps over the same inputs finds everything where
it was, and one whose inputs have moved finds what is left of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .identity import SIZE
from .interfaces import GENERATION, Journal, Positions, Receipt, RunStore
from .items import indices, runs_of
from .records import dropped_record, receipt_of

_log = logging.getLogger("headrace")


class Earlier:
    """Partitions of earlier drivers, by the key of their node. `known` from any one thread at a time."""

    def __init__(self, store: RunStore, journal: Journal, *, verify: bool = False) -> None:
        """Take the run over: from here on an earlier driver that still lives is refused.

        What is gone or damaged is dropped for good. Sizes and what readers complained of are looked
        at; with ``verify`` every partition is read.

        Raises
        ------
        TakenOverError
            Another driver took the run at the same moment.
        StorageError
            The journal or the listing cannot be read.
        """
        self.store = store
        records = journal.take()
        self.generation = 1 + max(
            (r["generation"] for r in records if r["type"] == "driver"), default=0
        )
        journal.append([{"type": "driver", "generation": self.generation}])
        self.numbers: dict[str, int] = {}
        self.codes: dict[tuple[str, int], str] = {}
        """By node key and driver: whose code made what that driver committed (`core.lineage`)."""
        self.journaled: set[str] = set()
        self.unlisted: list[Receipt] = []
        """Those that the journal lacked, as the partitions tell them."""
        self._receipts: dict[str, list[Receipt]] = {}
        self._tables: dict[str, _Table | None] = {}
        unusable = self._read(records, verify)
        if unusable:
            journal.append([dropped_record(number, paths) for number, paths in unusable.items()])

    @property
    def first_batch(self) -> int:
        """Number of this driver's first batch."""
        return self.generation * GENERATION

    def __contains__(self, key: str) -> bool:
        return key in self._receipts

    def _read(self, records: Sequence[Mapping[str, Any]], verify: bool) -> dict[int, list[str]]:
        """Take in what is committed; gives the paths of what cannot be used any more, by node."""
        keys: dict[int, str] = {}
        told: dict[str, Receipt] = {}
        moved: set[str] = set()
        dropped: set[str] = set()
        driver = 0
        for record in records:
            if record["type"] == "driver":
                driver = record["generation"]
            elif record["type"] == "opened":
                self.codes[record["key"], driver] = record.get("code", "")
                keys[record["node"]] = record["key"]
                self.numbers[record["key"]] = record["node"]
            elif record["type"] == "receipt":
                _note(receipt_of(record), told, moved)
            elif record["type"] == "dropped":
                for path in record["parts"]:
                    told.pop(path, None)
                    dropped.add(path)
        found = self.store.receipts(None, known=told.keys() | dropped)
        bad = self._damage([*told.values(), *found], verify)
        unusable: dict[int, list[str]] = {}
        for receipt in (*told.values(), *found):
            path, key = receipt.part.path, receipt.key or keys.get(receipt.node, "")
            if path in bad:
                _log.warning("%s/%s is %s: its items run again", self.store.url, path, bad[path])
                unusable.setdefault(receipt.node, []).append(path)
                continue
            if path in told and path not in moved:
                self.journaled.add(path)
            if path not in told:
                self.unlisted.append(receipt)
            if key:
                self._receipts.setdefault(key, []).append(receipt)
                self.numbers.setdefault(key, receipt.node)
        return unusable

    def _damage(self, receipts: Sequence[Receipt], verify: bool) -> dict[str, str]:
        """What is wrong with partitions, by path."""
        listed = {info.path: info.bytes for info in self.store.list("data/")}
        parts = [receipt.part for receipt in receipts]
        bad = {
            part.path: "damaged" if part.path in listed else "gone"
            for part in parts
            if listed.get(part.path) != part.bytes
        }
        whole = [part for part in parts if part.path not in bad]
        return bad | dict.fromkeys(self.store.damaged(whole, thorough=verify), "damaged")

    def free_number(self) -> int:
        """A node number above all that were used."""
        return 1 + max(self.numbers.values(), default=-1)

    def made_by_others(self, key: str, code: str) -> list[str]:
        """Partitions of a node that were made by other code than this, or nobody knows by which."""
        return [
            receipt.part.path
            for receipt in self._receipts.get(key, ())
            if self.codes.get((key, receipt.batch // GENERATION)) != code
        ]

    def had_other_code(self, key: str, code: str) -> bool:
        """Whether an earlier driver ran the node with other code."""
        return any(own == key and was != code for (own, _), was in self.codes.items())

    def disown(self, key: str, paths: Sequence[str]) -> None:
        """Of these partitions nothing is taken: before `load`."""
        left = [r for r in self._receipts.pop(key, ()) if r.part.path not in paths]
        if left:
            self._receipts[key] = left

    def load(self, key: str) -> None:
        """Read what `known` needs of a node: partitions' ids may have to be fetched."""
        if key in self._receipts and key not in self._tables:
            receipts = self._receipts[key]
            lacking = [i for i, receipt in enumerate(receipts) if not receipt.ids]
            ids = [receipt.ids for receipt in receipts]
            found = self.store.ids([receipts[i].part for i in lacking])
            for i, each in zip(lacking, found, strict=True):
                ids[i] = each
            self._tables[key] = _Table.of(receipts, ids)

    def known(self, key: str, node: int, ids: bytes, first: int) -> list[Receipt]:
        """Receipts of committed items among those with these ids, which stand from ``first`` on.

        Each committed item is given once. The receipts are for the node of this number.
        """
        table = self._tables.get(key)
        return [] if table is None else table.take(node, ids, first)

    def is_new(self, receipt: Receipt) -> bool:
        """It belongs into this driver's journal."""
        return receipt.places is not None or receipt.part.path not in self.journaled


def _note(receipt: Receipt, told: dict[str, Receipt], moved: set[str]) -> None:
    """Take in a receipt of the journal."""
    if receipt.part.run:
        return  # the cache is asked anew
    if receipt.places is None:
        told[receipt.part.path] = receipt
        moved.discard(receipt.part.path)
    else:  # where some of its items stood for one driver: the partition itself tells of all
        moved.add(receipt.part.path)


def _as_pairs(ids: bytes) -> Any:
    return np.frombuffer(ids, "<u8").reshape(-1, 2)


@dataclass
class _Table:
    """One node's committed items, flat: which receipt, which place in it, at which position, which id."""

    receipts: Sequence[Receipt]
    receipt: Any
    place: Any
    ids: Any
    at: Any
    """Position -> row of this table, or -1."""
    used: Any
    by_id: dict[bytes, list[int]] | None = field(default=None)

    @staticmethod
    def of(receipts: Sequence[Receipt], ids: Sequence[bytes]) -> _Table | None:
        kept: list[tuple[int, Any, Any, Any]] = []
        for number, (receipt, packed) in enumerate(zip(receipts, ids, strict=True)):
            positions = indices(receipt.positions)
            places = (
                np.arange(len(positions))
                if receipt.places is None
                else np.asarray(receipt.places, np.int64)
            )
            pairs = _as_pairs(packed)
            if len(positions) and len(pairs) > places.max():
                kept.append((number, positions, places, pairs[places]))
        if not kept:
            return None
        positions = np.concatenate([each[1] for each in kept])
        at = np.full(int(positions.max()) + 1, -1, np.int64)
        at[positions[::-1]] = np.arange(len(positions))[::-1]  # of two commits the first one
        return _Table(
            receipts,
            np.concatenate([np.full(len(each[1]), each[0]) for each in kept]),
            np.concatenate([each[2] for each in kept]),
            np.concatenate([each[3] for each in kept]),
            at,
            np.zeros(len(positions), bool),
        )

    def take(self, node: int, packed: bytes, first: int) -> list[Receipt]:
        wanted = _as_pairs(packed)
        somebody = wanted.any(axis=1)
        here = np.arange(first, first + len(wanted))
        rows = np.full(len(wanted), -1, np.int64)
        inside = here < len(self.at)
        rows[inside] = self.at[here[inside]]
        fits = (rows >= 0) & somebody
        fits[fits] = (self.ids[rows[fits]] == wanted[fits]).all(axis=1) & ~self.used[rows[fits]]
        self.used[rows[fits]] = True
        rows[~fits] = -1
        if not bool(self.used.all()):
            for i in np.flatnonzero(~fits & somebody).tolist():
                rows[i] = self._elsewhere(packed[i * SIZE : (i + 1) * SIZE])
        return list(self._receipts(node, rows, first))

    def _elsewhere(self, wanted: bytes) -> int:
        """The row of an item that stood at another position, or -1."""
        if self.by_id is None:
            self.by_id = {}
            raw = self.ids.tobytes()
            for row in np.flatnonzero(~self.used).tolist()[::-1]:
                self.by_id.setdefault(raw[row * SIZE : (row + 1) * SIZE], []).append(row)
        rows = self.by_id.get(wanted, [])
        while rows:
            row = rows.pop()
            if not self.used[row]:
                self.used[row] = True
                return row
        return -1

    def _receipts(self, node: int, rows: Any, first: int) -> Iterable[Receipt]:
        taken = np.flatnonzero(rows >= 0)
        numbers = self.receipt[rows[taken]]
        for number in np.unique(numbers).tolist():
            mine = taken[numbers == number]
            receipt = self.receipts[number]
            positions = Positions(tuple(runs_of(mine + first)))
            places: Any = self.place[rows[mine]].tolist()
            if positions == receipt.positions and places == list(range(len(places))):
                yield replace(receipt, node=node, places=None, ids=b"")
                continue
            share = len(places) / max(1, len(receipt.positions))
            yield replace(
                receipt,
                node=node,
                positions=positions,
                places=tuple(places),
                busy_seconds=receipt.busy_seconds * share,
                ids=b"",
            )
