"""From a flight of the machine to a batch that can travel: arguments are pickled here."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

import cloudpickle

from .calls import Call
from .interfaces import (
    Batch,
    Failure,
    FailureKind,
    MapRef,
    Positions,
    Raised,
    Ref,
    RefColumn,
    Report,
    Stage,
    Upstream,
)
from .items import GOOD
from .machine import Chunk, Flight, Node, UpstreamFailure
from .outcomes import exception_of
from .packing import Dependency, Packed, pack, pack_values, unpicklable
from .tracebacks import failure_of

if TYPE_CHECKING:
    from .engine import Engine

Parked = tuple[list[tuple[int, int | None]], dict[int, str]]
"""What a batch's arguments wait for, and the items whose arguments ended badly."""


@dataclasses.dataclass(slots=True)
class _Prepared:
    """What the dispatcher keeps of a node: its spec, and the futures its arguments stand on."""

    call: Call
    spec: str
    static: Packed
    payload: Packed | None = None
    error: Exception | None = None


class Dispatcher:
    """Makes batches. Used by the engine's thread, but for `prepare`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.prepared: dict[Node, _Prepared] = {}
        self.inline_left = engine.settings.inline_run_bytes
        self.threads = max(1, (os.cpu_count() or 1) // max(1, _slots(engine)))

    def prepare(self, node: Node, call: Call, spec: str, static: Packed) -> Chunk | None:
        """Take a call's arguments: a single call's are pickled at once, so later changes to them
        do not matter. Gives the chunk of a single call."""
        prepared = self.prepared[node] = _Prepared(call, spec, static)
        if not call.single:
            return None
        columns: list[list[Any]] = [[value] for value in call.static.values()]
        try:
            prepared.payload = self._pack(columns, tuple(call.static))
        except Exception as error:  # noqa: BLE001 - told as the item's failure
            prepared.error = error
        else:
            for dependency in prepared.payload.dependencies:
                node.waits[dependency.node.id, dependency.position] = dependency.allow_failure
        return Chunk(Positions.span(0, 1), list(columns))

    def _pack(self, columns: list[Any], names: tuple[str, ...]) -> Packed:
        try:
            return pack(columns)
        except Exception:  # whatever a user's class raises: find out which argument it was
            live = self.engine.specs.live
            objects: list[Any] = []
            kept: list[Any] = []
            for name, column in zip(names, columns, strict=True):
                values, aside = pack_values(
                    column, live=live, label=lambda _i, n=name: f"argument {n!r}", first=len(objects)
                )
                kept.append(values)
                objects.extend(aside)
            packed = pack(kept)
            return dataclasses.replace(packed, live=tuple(objects))

    # ---------------------------------------------------------------------------- batches

    def batch(self, flight: Flight) -> Batch | list[Failure] | Parked:
        """The batch of a flight; or failures of items that cannot travel; or what it waits for."""
        node = flight.nodes[0]
        prepared = self.prepared[node]
        if prepared.error is not None:
            return [self._failure(flight, 0, prepared.error)]
        payload = prepared.payload
        if payload is None:
            try:
                columns = [self._plain(column) for column in flight.chunk.columns]
                payload = self._pack(columns, tuple(prepared.call.mapped))
            except Exception:  # noqa: BLE001 - one item or more cannot travel: which?
                return self._culprits(flight, prepared)
        parked = self._parked(flight, payload)
        if parked is not None:
            return parked
        settings = self.engine.settings
        pool = self.engine.pools[node.options.pool]
        return Batch(
            run_id=self.engine.run_id,
            id=flight.id,
            store=self.engine.store,
            stages=tuple(map(self._stage, flight.nodes, flight.attempts)),
            positions=flight.chunk.positions,
            payload=payload.data,
            upstream=tuple(map(self._upstream, payload.dependencies)),
            live=payload.live or prepared.static.live,
            resources=node.options.resources,
            isolation=node.options.isolation,
            claim=pool.capabilities.may_rerun,
            inline_bytes=settings.inline_part_bytes if self.inline_left > 0 else 0,
            flush_seconds=settings.flush_seconds,
            flush_bytes=settings.flush_bytes,
            grace_seconds=settings.grace_seconds,
            threads=self.threads,
        )

    def _plain(self, column: Any) -> Any:
        """A column with the exceptions of failed upstream items in their places."""
        if isinstance(column, RefColumn) or UpstreamFailure not in set(map(type, column)):
            return column
        return [
            exception_of(value.node, value.position) if type(value) is UpstreamFailure else value
            for value in column
        ]

    def _stage(self, node: Node, attempt: int) -> Stage:
        prepared = self.prepared[node]
        return Stage(
            node=node.id,
            key=node.key,
            spec=prepared.spec,
            attempt=attempt,
            timeout_seconds=prepared.call.options.timeout_seconds,
            upstream=tuple(map(self._upstream, prepared.static.dependencies)),
        )

    def _upstream(self, dependency: Dependency) -> Upstream:
        node: Node = dependency.node
        if dependency.position is None and not node.single:
            return MapRef(self.engine.manifest(node))
        position = dependency.position or 0
        if node.items.state(position) not in GOOD:
            return Raised(cloudpickle.dumps(exception_of(node, position)))
        column = node.items.column(Positions.span(position, position + 1))
        return Ref(
            column.parts[0], column.index[0], column.first_row[0], column.rows[0], column.inline[0]
        )

    def _parked(self, flight: Flight, payload: Packed) -> Parked | None:
        """Futures inside mapped inputs: wait for those that run, skip the items of bad ones."""
        waits: list[tuple[int, int | None]] = []
        bad = False
        for dependency in payload.dependencies:
            node: Node = dependency.node
            position = dependency.position
            if not (node.ended if position is None else node.item_done(position)):
                waits.append((node.id, position))
            elif not dependency.allow_failure and not _good(node, position):
                bad = True
        if not waits and not bad:
            return None
        return waits, self._bad_items(flight) if bad else {}

    def _bad_items(self, flight: Flight) -> dict[int, str]:
        found: dict[int, str] = {}
        for index, position in enumerate(flight.chunk.positions):
            packed = pack([column[index : index + 1] for column in flight.chunk.columns])
            for dependency in packed.dependencies:
                node, item = dependency.node, dependency.position
                done = node.ended if item is None else node.item_done(item)
                if done and not dependency.allow_failure and not _good(node, item):
                    found[position] = f"{node.key} did not complete"
        return found

    def _culprits(self, flight: Flight, prepared: _Prepared) -> list[Failure]:
        """Which items cannot be pickled, and why."""
        failures: list[Failure] = []
        names = tuple(prepared.call.mapped)
        for index, _position in enumerate(flight.chunk.positions):
            for name, column in zip(names, flight.chunk.columns, strict=True):
                value = column[index : index + 1]
                try:
                    pack(value)
                except Exception as error:  # noqa: BLE001 - as above
                    what = f"argument {name!r} of task {prepared.call.options.name!r}"
                    told = unpicklable(what, value[0], error)
                    failures.append(self._failure(flight, index, told))
                    break
        return failures

    def _failure(self, flight: Flight, index: int, error: Exception) -> Failure:
        position = list(flight.chunk.positions)[index]
        stage = self._stage(flight.nodes[0], flight.attempts[0])
        return failure_of(stage, position, error, time.time_ns(), FailureKind.ARGUMENT)

    # ---------------------------------------------------------------------------- values

    def budgeted(self, report: Report) -> Report:
        """Keep values that rode along only while the run's budget lasts."""
        for receipt in report.receipts:
            self.inline_left -= len(receipt.inline or b"")
        if self.inline_left > 0 or not any(r.inline for r in report.receipts):
            return report
        bare = tuple(dataclasses.replace(r, inline=None) for r in report.receipts)
        return dataclasses.replace(report, receipts=bare)


def _good(node: Node, position: int | None) -> bool:
    if position is None:
        return node.state in ("Completed", "Cached")
    return position < node.items.size and node.items.state(position) in GOOD


def _slots(engine: Engine) -> int:
    from .interfaces import Resources

    return engine.pools["main"].slots(Resources())
