"""From a flight of the machine to a batch that can travel: arguments are pickled here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import cloudpickle

from .calls import Call
from .columns import Chunk, pruned
from .endings import UpstreamFailure, name_of
from .given import Given
from .identity import NOBODY, item_id, item_ids
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
from .nodes import Flight, Node
from .outcomes import exception_of
from .packing import Dependency, Packed, pack, pack_values, unpicklable, whole
from .returns import kept_column
from .tracebacks import failure_of

if TYPE_CHECKING:
    from .engine import Engine

Parked = tuple[dict[int, list[tuple[int, "int | None"]]], dict[int, str]]
"""By position: what the item's arguments wait for, or which of them ended badly."""


@dataclasses.dataclass(slots=True)
class _Prepared:
    """What the dispatcher keeps of a node: its spec, and the futures its arguments stand on."""

    call: Call
    spec: str
    static: Packed
    payload: Packed | None = None
    error: Exception | None = None
    ids: bytes | None = None
    """Of a single call whose arguments hold no future."""
    salt: bytes | None = None
    """What a map's static arguments add to its items' ids, once they are known."""
    bare: tuple[Upstream, ...] | None = None
    """What the static arguments' futures stand for, without bytes that ride along; once asked for."""


class Dispatcher:
    """Makes batches. Used by the engine's thread, but for `prepare`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.prepared: dict[Node, _Prepared] = {}
        self.inline_left = engine.settings.inline_run_bytes

    def prepare(self, node: Node, call: Call, spec: str, static: Packed) -> Chunk | None:
        """Take a call's arguments; gives the chunk of a single call.

        A single call's are pickled at once, so later changes to them do not matter.
        """
        prepared = self.prepared[node] = _Prepared(call, spec, static)
        if not static.dependencies:
            prepared.salt = _salt(call)
        if not call.single:
            return None
        columns: list[list[Any]] = [[value] for value in call.static.values()]
        try:
            packed = [[whole(value)] for [value] in columns]
            prepared.payload = self._pack(packed, tuple(call.static))
            if not prepared.payload.dependencies:
                prepared.ids = item_id(tuple(call.static.items()))
        except Exception as error:  # noqa: BLE001 - told as the item's failure
            prepared.error = error
        else:
            for dependency in prepared.payload.dependencies:
                node.waits[dependency.node.id, dependency.position] = dependency.allow_failure
        return Chunk(Positions.span(0, 1), list(columns))

    def dependencies(self, node: Node) -> Sequence[Dependency]:
        """The futures among a single call's arguments."""
        payload = self.prepared[node].payload
        return payload.dependencies if payload is not None else ()

    def _pack(self, columns: list[Any], names: tuple[str, ...]) -> Packed:
        try:
            return pack(columns)
        except Exception:  # noqa: BLE001 - whatever a user's class raises: find out which argument it was
            live = self.engine.specs.live
            objects: list[Any] = []
            kept: list[Any] = []
            for name, column in zip(names, columns, strict=True):
                values, aside = pack_values(
                    column,
                    live=live,
                    label=lambda _i, n=name: f"argument {n!r}",
                    first=len(objects),
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
            return [self.failure(flight, 0, prepared.error)]
        payload = prepared.payload
        if payload is None:
            try:
                columns = [self._plain(column) for column in self._columns(flight)]
                payload = self._pack(columns, tuple(prepared.call.mapped))
            except Exception as error:  # noqa: BLE001 - one item or more cannot travel: which?
                return self._culprits(flight, prepared, error)
        parked = self._parked(flight, payload)
        if parked is not None:
            return parked
        try:
            stages = tuple(map(self._stage, flight.nodes, flight.attempts, flight.committed))
            upstream = tuple(map(self._upstream, payload.dependencies))
        except Exception as error:  # noqa: BLE001 - a value that was not kept, or does not pickle
            return [self.failure(flight, p, error) for p in flight.chunk.positions]
        settings = self.engine.settings
        pool = self.engine.pools[node.options.pool]
        return Batch(
            run_id=self.engine.run_id,
            id=flight.id,
            store=self.engine.store,
            stages=stages,
            positions=flight.chunk.positions,
            payload=payload.data,
            upstream=upstream,
            ids=self._ids(flight, prepared, payload),
            live=payload.live or prepared.static.live,
            resources=node.options.resources,
            isolation=node.options.isolation,
            claim=pool.capabilities.may_rerun,
            inline_bytes=settings.inline_part_bytes if self.inline_left > 0 else 0,
            flush_seconds=settings.flush_seconds,
            flush_bytes=settings.flush_bytes,
            grace_seconds=settings.grace_seconds,
            threads=max(1, int(node.options.resources.cpus * pool.capabilities.threads_per_cpu)),
        )

    @staticmethod
    def _columns(flight: Flight) -> list[Any]:
        """The arguments' columns: behind them may stand one of ids."""
        return flight.chunk.columns[: len(flight.chunk.columns) - flight.nodes[0].keyed]

    def _ids(self, flight: Flight, prepared: _Prepared, payload: Packed) -> bytes | None:
        """The items' ids, where a worker could not make them."""
        node, columns = flight.nodes[0], self._columns(flight)
        if node.keyed:
            return b"".join(cast("list[bytes]", flight.chunk.columns[-1]))
        if node.single:
            return prepared.ids or item_id(tuple(prepared.call.static.items()))
        return self._ids_here(node, columns, flight.chunk.positions, payload)

    def _ids_here(
        self, node: Node, columns: Sequence[Any], positions: Positions, payload: Packed
    ) -> bytes | None:
        if node.link is not None and _are_hits(columns):
            return self.engine.ids_of(node.link, positions)
        return item_ids(columns) if payload.dependencies else None

    def salt(self, node: Node) -> bytes:
        """What a map's static arguments add to its items' ids; of futures the commits count."""
        prepared = self.prepared[node]
        if prepared.salt is None:
            salt = _salt(prepared.call)
            if not all(d.node.settled(d.position) for d in prepared.static.dependencies):
                return salt  # it fits nothing
            prepared.salt = salt
        return prepared.salt

    def _plain(self, column: Any) -> Any:
        """A column with the exceptions of failed upstream items in their places."""
        if isinstance(column, RefColumn):
            return pruned(column)
        if not column or type(column[0]) is not UpstreamFailure:  # all are, or none is
            return column
        return [exception_of(value.node, value.position) for value in column]

    def _stage(self, node: Node, attempt: int, committed: bool) -> Stage:
        prepared = self.prepared[node]
        return Stage(
            node=node.id,
            key=node.key,
            spec=prepared.spec,
            attempt=attempt,
            timeout_seconds=prepared.call.options.timeout_seconds,
            persist=committed,
            upstream=tuple(map(self._upstream, prepared.static.dependencies)),
            salt=self.salt(node),
            code=node.code,
        )

    def _upstream(self, dependency: Dependency) -> Upstream:
        node: Node = dependency.node
        if dependency.position is None and not node.single:
            return MapRef(self.engine.manifest(node))
        position = dependency.position or 0
        here = Positions.span(position, position + 1)
        if not node.went_well(position):
            return Raised(cloudpickle.dumps(exception_of(node, position)))
        column = kept_column(node, here)
        place, first, rows = map(int, (column.index[0], column.first_row[0], column.rows[0]))
        return Ref(column.parts[0], place, first, rows, column.inline[0])

    def _parked(self, flight: Flight, payload: Packed) -> Parked | None:
        """Futures inside mapped inputs: items wait for those that run, and are skipped for bad ones."""
        if all(_ready(dependency) for dependency in payload.dependencies):
            return None
        waits: dict[int, list[tuple[int, int | None]]] = {}
        bad: dict[int, str] = {}
        for index, position in enumerate(flight.chunk.positions):
            packed = pack([column[index : index + 1] for column in self._columns(flight)])
            for dependency in packed.dependencies:
                if _ready(dependency):
                    continue
                node, item = dependency.node, dependency.position
                if node.settled(item):
                    bad[position] = f"{name_of(node, item)} did not complete"
                else:
                    waits.setdefault(position, []).append((node.id, item))
        for position in bad:
            waits.pop(position, None)
        return waits, bad

    def _culprits(self, flight: Flight, prepared: _Prepared, error: Exception) -> list[Failure]:
        """Which items cannot be pickled, and why; all of them, if it is none alone."""
        failures: list[Failure] = []
        names = tuple(prepared.call.mapped)
        for index, position in enumerate(flight.chunk.positions):
            for name, column in zip(names, self._columns(flight), strict=True):
                value: Any = column[index : index + 1]
                try:
                    pack(value)
                except Exception as broken:  # noqa: BLE001 - as above
                    what = f"argument {name!r} of task {prepared.call.options.name!r}"
                    told = unpicklable(what, value[0], broken)
                    failures.append(self.failure(flight, position, told))
                    break
        return failures or [self.failure(flight, p, error) for p in flight.chunk.positions]

    def failure(self, flight: Flight, position: int, error: Exception) -> Failure:
        """An item that cannot travel."""
        node = flight.nodes[0]
        stage = Stage(node.id, node.key, self.prepared[node].spec, flight.attempts[0])
        return failure_of(stage, position, error, time.time_ns(), FailureKind.ARGUMENT)

    # ---------------------------------------------------------------------------- inputs

    def given(
        self,
        nodes: Sequence[Node],
        attempt: int,
        chunk: Chunk,
        positions: Positions,
        *,
        here: bool = False,
    ) -> Given:
        """What items of a chain's last node were given, so that it can be had again.

        From the value of the node above where it is kept, else from the chain's first node on.
        ``here``: it stays in this process, so secrets and live objects may be in it.

        Raises
        ------
        SecretError
            It holds a secret.
        Exception
            Whatever pickling raises; `RunError` where a value that it stands on was not kept.
        """
        if len(nodes) > 1 and nodes[-2].items.kept(positions) == positions:
            column = nodes[-2].items.column(positions, inline_limit=0)
            nodes, chunk = nodes[-1:], Chunk(positions, [column])
        first, prepared = nodes[0], self.prepared[nodes[0]]
        columns: list[Any] = chunk.only(positions).columns
        columns, ids = columns[: len(columns) - first.keyed], columns[-1] if first.keyed else None
        if first.single:
            plain: list[Any] = [[whole(value)] for [value] in columns]
        else:
            plain = [self._plain(column) for column in columns]
        names = tuple(prepared.call.static if first.single else prepared.call.mapped)
        packed = self._pack(plain, names) if here else pack(plain, secrets=False)
        if ids is not None:
            ids = b"".join(cast("list[bytes]", ids))
        elif first.single:
            ids = item_id(tuple(prepared.call.static.items()))
        else:
            ids = self._ids_here(first, columns, positions, packed)
        return Given(
            tuple(
                Stage(
                    node.id, node.key, self.prepared[node].spec, attempt,
                    upstream=self._bare(node), salt=self.salt(node),
                )
                for node in nodes
            ),
            positions,
            packed.data,
            tuple(_bared(self._upstream(each)) for each in packed.dependencies),
            packed.live or prepared.static.live if here else (),
            ids,
        )  # fmt: skip

    def _bare(self, node: Node) -> tuple[Upstream, ...]:
        """The same object each time, so that many failures of a node are written with it once."""
        prepared = self.prepared[node]
        if prepared.bare is None:
            dependencies = prepared.static.dependencies
            prepared.bare = tuple(_bared(self._upstream(each)) for each in dependencies)
        return prepared.bare

    # ---------------------------------------------------------------------------- values

    def kept(self, report: Report) -> Report:
        """What of the receipts stays in memory: values that rode along while the run's budget lasts."""
        for receipt in report.receipts:
            self.inline_left -= len(receipt.inline or b"")
        spent = self.inline_left <= 0
        if not report.receipts:
            return report
        bare = tuple(
            dataclasses.replace(r, inline=None if spent else r.inline, code="", inputs=())
            for r in report.receipts
        )
        return dataclasses.replace(report, receipts=bare)


def _are_hits(columns: Iterable[Any]) -> bool:
    """Did the cache give some of the values? Their partitions have the ids of other items."""
    found = (column.parts for column in columns if isinstance(column, RefColumn))
    return any(part.run for parts in found for part in parts)


def _bared(entry: Upstream) -> Upstream:
    """Without the partitions' own bytes, which can be read."""
    if isinstance(entry, Ref):
        return dataclasses.replace(entry, inline=None)
    if isinstance(entry, MapRef):
        receipts = tuple(dataclasses.replace(r, inline=None) for r in entry.manifest.receipts)
        manifest = dataclasses.replace(entry.manifest, receipts=receipts)
        return dataclasses.replace(entry, manifest=manifest)
    return entry


def _salt(call: Call) -> bytes:
    """A fingerprint of a map's static arguments; what has none counts by its type."""
    if call.single or not call.static:
        return b""
    ids = [
        (name, item_id(value).replace(NOBODY, type(value).__qualname__.encode()))
        for name, value in call.static.items()
    ]
    return item_id((tuple(call.mapped), ids))


def _ready(dependency: Dependency) -> bool:
    """Has what an argument stands on ended, and in a way that lets the item run?"""
    node, position = dependency.node, dependency.position
    if not node.settled(position):
        return False
    return dependency.allow_failure or node.went_well(position)
