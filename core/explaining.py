"""Why was an item taken from the cache, or not? Told from storage alone: the journal, and the index.

An item that was computed is held against the earlier entries of its task; the one that shares the
most parts of the key is the nearest, and the first part in which it differs is the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .cache_index import Line, base_folder, bases, read_base, still_there
from .cache_keys import KeyPart
from .interfaces import Receipt, Store
from .items import ItemTable, indices
from .records import receipts_of

Arguments = Mapping[str, tuple[str, str]]
"""Argument -> digest and short text."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of an item's look-up."""

    item: str
    """``node key/position``."""
    hit: bool | None
    """None: its task has no cache policy."""
    reason: str
    """One sentence."""
    part: str = ""
    """Of an item that was computed: the first part of its key in which the nearest earlier entry
    differs."""
    before: str = ""
    """That part then, in short."""
    now: str = ""
    """That part now, in short."""
    run: str = ""
    """The run that holds the value, or the nearest entry."""

    def __str__(self) -> str:
        outcome = {True: "hit", False: "miss", None: "not cached"}[self.hit]
        return f"{self.item}: {outcome}: {self.reason}"


@dataclass(slots=True)
class _Entry:
    """One entry beside the item that is explained."""

    line: Line
    parts: dict[str, tuple[str, str]]
    """By name in key order: digest and text."""


def explain(
    store: Store,
    run: str,
    node: int,
    key: str,
    position: int,
    *,
    parts: Sequence[KeyPart] = (),
    arguments: Arguments | None = None,
) -> Explanation:
    """Explain an item.

    Parameters
    ----------
    parts, arguments
        The parts of its key, where it has not been committed and a driver still knows them.

    Raises
    ------
    StorageError
        The run's storage cannot be read.
    """
    item = f"{key}/{position}"
    records = store.run(run).journal().records()
    told = [r for r in records if r["type"] == "cache" and r["node"] == node]
    if not told:
        return Explanation(item, None, "its task has no cache policy")
    receipt = _receipt_of(receipts_of(records, node), position)
    if receipt is not None and receipt.part.run:
        return _hit(item, receipt)
    return _Search(store, run, item, told[-1]).miss(receipt, position, parts, arguments)


def _receipt_of(receipts: Sequence[Receipt], position: int) -> Receipt | None:
    items = ItemTable()
    items.grow(max([position + 1, *(r.positions.runs[-1][1] for r in receipts)]))
    for receipt in receipts:
        items.complete(receipt)
    return items.receipt_of(position)


def _hit(item: str, receipt: Receipt) -> Explanation:
    holder = receipt.part.run
    made = f"{_time(receipt.ended)} by run {holder}"
    return Explanation(item, True, f"an equal call was computed at {made}", run=holder)


class _Search:
    """Looks for the nearest entry."""

    def __init__(self, store: Store, run: str, item: str, told: Mapping[str, Any]) -> None:
        self.store, self.run, self.item, self.told = store, run, item, told
        self.shared = store.shared()

    def miss(
        self,
        receipt: Receipt | None,
        position: int,
        parts: Sequence[KeyPart],
        arguments: Arguments | None,
    ) -> Explanation:
        """Why an item was computed."""
        if self.told["refresh"]:
            return self._because("refresh_cache=True: nothing is taken from the cache")
        before = None if receipt is None else receipt.started
        if receipt is not None:
            own = self._own(receipt, position)
            mine = None if own is None else own.parts
        elif arguments is None:
            mine = None
        else:
            mine = {part.name: (part.digest, part.text) for part in parts} | _named(arguments)
        if mine is None:
            return self._because(
                "it has no key of its own (its cache_key_fn gave None), or its entry is gone"
                if receipt is not None
                else "it has not been computed, so there is nothing to compare"
            )
        nearest = self._nearest(mine, before, None if receipt is None else receipt.part.path)
        if nearest is None:
            return self._because("there was no earlier entry of this task")
        return self._difference(mine, nearest, before)

    def _because(self, reason: str, **more: str) -> Explanation:
        return Explanation(self.item, False, reason, **more)

    def _own(self, receipt: Receipt, position: int) -> _Entry | None:
        """The entry that the item itself has become."""
        folder = base_folder(self.told["task"], self.told["base"])
        head, lines, _ = read_base(self.shared, folder)
        at = int((indices(receipt.positions) == position).argmax())
        place = at if receipt.places is None else receipt.places[at]
        for line in lines:
            mine = line.part.run == self.run and line.part.path == receipt.part.path
            if mine and place in line.places:
                return _Entry(line, _parts(head, line, line.places.index(place)))
        return None

    def _nearest(
        self, mine: Mapping[str, tuple[str, str]], before: float | None, path: str | None
    ) -> _Entry | None:
        """The entry with most parts in common; of several one of another run, then the newest."""
        best: _Entry | None = None
        most = (-1, False, 0.0)
        for folder in bases(self.shared, self.told["task"]):
            head, lines, _ = read_base(self.shared, folder)
            for line in lines:
                own = line.part.run == self.run and line.part.path == path
                if own or (before is not None and line.ended > before):
                    continue
                for index, alike in _alike(head, line, mine):
                    rank = alike, line.part.run != self.run, line.ended
                    if rank > most:
                        best, most = _Entry(line, _parts(head, line, index)), rank
        return best

    def _difference(
        self, mine: Mapping[str, tuple[str, str]], nearest: _Entry, before: float | None
    ) -> Explanation:
        line, run = nearest.line, nearest.line.part.run
        nothing = ("", "(nothing)")
        for name in dict.fromkeys([*mine, *nearest.parts]):
            then, now = nearest.parts.get(name, nothing), mine.get(name, nothing)
            if then[0] != now[0]:
                told = (
                    f"{name} was {then[1]} in the nearest earlier call (run {run}), and is {now[1]}"
                )
                return self._because(told, part=name, before=then[1], now=now[1], run=run)
        lifetime, started = self.told.get("lifetime"), before or datetime.now(UTC).timestamp()
        limits = [line.expires, None if lifetime is None else line.ended + lifetime]
        expired = min((limit for limit in limits if limit is not None), default=None)
        if expired is not None and expired <= started:
            return self._because(f"the value of run {run} had expired at {_time(expired)}", run=run)
        if not still_there(self.store, [line]):
            return self._because(f"the value of run {run} is gone from the store", run=run)
        return self._because(
            f"run {run} committed an equal call while this one was on its way", run=run
        )


def _alike(
    head: Mapping[str, Any], line: Line, mine: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[int, int]]:
    """(index, number of parts that are equal) of a line's items."""
    base = sum(name in mine and mine[name][0] == digest for name, digest, _ in head["parts"])
    wanted = [(digests, mine.get(name, ("",))[0]) for name, (digests, _) in _columns(line).items()]
    for index in range(len(line.places)):
        yield (
            index,
            base
            + sum(
                digests[index if len(digests) > 1 else 0] == digest for digests, digest in wanted
            ),
        )


def _parts(head: Mapping[str, Any], line: Line, index: int) -> dict[str, tuple[str, str]]:
    found = {name: (digest, text) for name, digest, text in head["parts"]}
    for name, (digests, texts) in _columns(line).items():
        at = index if len(digests) > 1 else 0
        found[name] = digests[at], texts[at]
    return found


def _columns(line: Line) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
    return {_name(name): (columns[0], columns[1]) for name, columns in line.arguments.items()}


def _named(arguments: Arguments) -> dict[str, tuple[str, str]]:
    return {_name(name): pair for name, pair in arguments.items()}


def _name(argument: str) -> str:
    return "key" if argument == "(key)" else f"argument {argument!r}"


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"
