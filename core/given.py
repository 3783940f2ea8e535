"""What items that failed were given, kept beside the values so that they can be run again.

Nothing is kept of an item that goes well: its input can be had again from where it came. A failed
one's may live in the driver alone (a generator's, one drawn at random), so its packed arguments are
written within a second, in objects of many items, which the journal's ``given`` records name. Of
committed values only references are kept.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from .columns import Chunk
from .errors import RunError
from .futures import Future, MapFuture
from .identity import key_ids
from .interfaces import Positions, RunStore, Stage, Upstream
from .items import BAD
from .mapping import column
from .pickled import read_pickle
from .records import given_record

if TYPE_CHECKING:
    from .commands import ItemEvent
    from .engine import Engine

KEPT_BYTES = 256 << 20
"""Packed arguments of failed items that a driver keeps at most. (Of a node at most `KEPT_FAILURES`.)"""


@dataclass(frozen=True, slots=True)
class Given:
    """Some items of one node: the stages that they go through, and what the first was given."""

    stages: tuple[Stage, ...]
    positions: Positions
    payload: bytes
    """As in a `Batch`: columns of arguments, packed."""
    upstream: tuple[Upstream, ...] = ()
    live: tuple[Any, ...] = ()
    """Objects that pass as themselves within this process."""
    ids: bytes | None = None
    """Of the items, where the driver makes them."""


class Keeper:
    """Packs the inputs of failed items, in the engine's thread; writes them, in the scribe's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.left = KEPT_BYTES

    def keep(self, events: Sequence[ItemEvent]) -> None:
        """Keep what items were given that have just ended badly; others are to be tried again."""
        groups: dict[tuple[int, int, int], list[ItemEvent]] = {}
        for event in events:
            if event.state in BAD and event.position in event.node.failures:
                key = event.node.id, event.failure.attempt, id(event.chunk)
                groups.setdefault(key, []).append(event)
        for group in groups.values():
            if not self._kept(group) and len(group) > 1:
                for event in group:
                    self._kept([event])

    def _kept(self, group: Sequence[ItemEvent]) -> bool:
        if self.left <= 0:
            return True
        event = group[0]
        positions = Positions.of(sorted({each.position for each in group}))
        try:
            given = self.engine.dispatcher.given(
                event.nodes, event.failure.attempt, event.chunk, positions
            )
        except Exception:  # noqa: BLE001 - a user's class, a secret, a value that is gone: replay says so
            return False
        self.left -= len(given.payload)
        if self.left > 0:
            self.engine.scribe.keep(given)
        return True

    def write(self, kept: Sequence[Given]) -> list[Mapping[str, Any]]:
        """Write inputs as one object; gives the journal's records of them.

        Raises
        ------
        StorageError
        """
        path = f"given/{os.urandom(8).hex()}"
        self.engine.store.write(path, pickle.dumps([self._portable(each) for each in kept]))
        return [
            given_record(path, index, each.stages[-1].node, each.positions)
            for index, each in enumerate(kept)
        ]

    def _portable(self, given: Given) -> Given:
        """The same with specs that other processes can load."""
        engine = self.engine
        stages = [
            replace(s, spec=engine.specs.portable(engine.calls[engine.nodes[s.node]], s.spec))
            for s in given.stages
        ]
        return replace(given, stages=tuple(stages))


def read_given(store: RunStore, path: str, index: int) -> Given:
    """Kept inputs, by their journal record. They are pickles: only from a store that is trusted."""
    return read_pickle(store, path)[index]


def given_again(engine: Engine, key: str, position: int) -> Given:
    """What an item of a run of this process was given: its call's iterable is read again.

    Raises
    ------
    RunError
        It cannot be had again: says why.
    """
    node = engine.by_key[key]
    chain, call = [node], engine.calls[node]
    here = Positions.span(position, position + 1)
    while (link := chain[0].link) is not None and link.items.kept(here) != here:
        chain.insert(0, link)
        call = engine.calls[link]
    if link is not None:
        chunk = Chunk(here, [link.items.column(here)])
    elif call.single:
        chunk = Chunk(here, [[value] for value in call.static.values()])
    else:
        sample = engine.info.sample
        place = position if sample is None else sample.place(chain[0].id, position)
        row = [element(name, source, place) for name, source in call.mapped.items()]
        named = [] if call.key_fn is None else [[key_ids([call.key_fn(*row)])]]
        chunk = Chunk(here, [*([value] for value in row), *named])
    return engine.dispatcher.given(chain, 1, chunk, here, here=True)


def element(name: str, source: Any, position: int) -> Any:
    """The k-th element of a mapped argument.

    Raises
    ------
    RunError
        It can be read only once, or has no such element any more.
    """
    if isinstance(source, MapFuture):
        return cast("MapFuture[Any]", source)[position]
    if isinstance(source, Future):
        source = cast("Future[Any]", source).result()
    if isinstance(source, Iterator):
        raise RunError(
            f"{name!r} was mapped over a {type(cast('Any', source)).__name__}, which can be read only "
            "once, so the input of an item that went well cannot be had again"
        )
    for value in islice(column(source), position, position + 1):
        return value
    raise RunError(f"{name!r} has no element {position} any more")
