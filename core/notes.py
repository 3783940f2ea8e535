"""What the engine tells history: its records, made from the machine's objects."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .calls import Call
from .commands import ItemEvent
from .hostname import hostname
from .interfaces import (
    BatchRecord,
    End,
    HistoryEvent,
    ItemRecord,
    LogLine,
    LogRecord,
    NodeRecord,
    PartitionRecord,
    Positions,
    Receipt,
    RefColumn,
    RunRecord,
    StateRecord,
)
from .items import STATE_NAMES
from .nodes import Flight, Node
from .outcomes import node_message
from .process_marks import own_mark
from .states import State, StateType, type_of_name

if TYPE_CHECKING:
    from .runs import RunInfo

_NODE_SECONDS = 0.5
_INPUT_WIDTH = 200
_TEXTS = 10_000


class Notes:
    """Makes the records of one run."""

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.edges: dict[Node, tuple[tuple[int, str], ...]] = {}
        self.started: dict[Node, datetime] = {}
        self.told: dict[Node, tuple[float, str]] = {}
        self.begun_at = info.created
        self.items: dict[tuple[int, int], ItemRecord] = {}
        """The records of the failures that nodes keep in memory: for the table of failures."""
        self.texts: dict[str, str] = {}
        """Texts of failures, so that equal ones are one object while they wait to be written."""

    def header(self) -> dict[str, Any]:
        """The run's header: what it is, for people and for a driver that has nothing but storage."""
        info = self.info
        return {
            "format": 1,
            "run": str(info.id),
            "name": info.name,
            "flow": info.flow_name,
            "version": info.version,
            "executor": repr(info.executor),
            "parameters": json.loads(info.stored_parameters),
            "tags": sorted(info.tags),
            "parent": str(info.parent) if info.parent else None,
            "created": self.begun_at.isoformat(),
            "python": platform.python_version(),
            "host": hostname(),
            "argv0": os.path.basename(sys.argv[0]) if sys.argv else "",
            "entrypoint": info.entrypoint,
        }

    def _run(self, state: str, kind: str, message: str, ended: datetime | None) -> RunRecord:
        info = self.info
        return RunRecord(
            id=info.id,
            flow=info.flow_name,
            name=info.name,
            state=state,
            state_type=kind,
            message=message,
            executor=info.executor.name,
            storage=info.store.url,
            parameters=info.stored_parameters,
            tags=tuple(sorted(info.tags)),
            parent=info.parent,
            version=info.version,
            created=self.begun_at,
            started=self.begun_at,
            ended=ended,
            heartbeat=datetime.now(UTC),
            host=hostname(),
            pid=os.getpid(),
            process=own_mark(),
        )

    def scheduled(self) -> list[HistoryEvent]:
        """The run waits for its driver: nobody's heart beats for it yet."""
        name, kind, told = "Pending", StateType.PENDING.value, "waits for its driver"
        return [
            replace(self._run(name, kind, told, None), heartbeat=None),
            StateRecord(self.info.id, None, name, kind, told, datetime.now(UTC)),
        ]

    def begun(self) -> list[HistoryEvent]:
        """The run has started."""
        told = "resumed" if self.info.resumes else ""
        return self._entered("Running", StateType.RUNNING.value, told, None)

    def ended(self, state: State[Any]) -> list[HistoryEvent]:
        """The run has ended in a state."""
        return self._entered(state.name, state.type.value, state.message, datetime.now(UTC))

    def _entered(
        self, name: str, kind: str, message: str, ended: datetime | None
    ) -> list[HistoryEvent]:
        moment = datetime.now(UTC)
        return [
            self._run(name, kind, message, ended),
            StateRecord(self.info.id, None, name, kind, message, moment),
        ]

    def changed(self, nodes: set[Node], tell: Callable[[HistoryEvent], None]) -> None:
        """Nodes have changed: tell of each when its state does, else a few times a second."""
        now = time.monotonic()
        for node in nodes:
            last, state = self.told.get(node, (0.0, ""))
            if node.state == state and (node.ended or now - last < _NODE_SECONDS):
                continue
            if node.state != "Pending":
                self.started.setdefault(node, datetime.now(UTC))
            self.told[node] = (now, node.state)
            tell(self.node(node))
            if node.state != state:
                tell(self._state(node))

    def _state(self, node: Node) -> StateRecord:
        kind = type_of_name(node.state).value
        moment = datetime.now(UTC)
        return StateRecord(self.info.id, node.id, node.state, kind, node_message(node), moment)

    def node(self, node: Node) -> NodeRecord:
        """A node as it stands."""
        return NodeRecord(
            run=self.info.id,
            node=node.id,
            key=node.key,
            task=node.task_name,
            mapped=not node.single,
            state=node.state,
            total=node.whole,
            counts=node.items.named_counts(),
            upstream=self.edges.get(node, ()),
            bytes=node.bytes,
            busy_seconds=node.busy_seconds,
            started=self.started.get(node),
            ended=datetime.now(UTC) if node.ended else None,
            states=zlib.compress(node.items.packed(), 1) if node.ended else None,
        )

    def partition(self, receipt: Receipt) -> PartitionRecord:
        """What a partition was made of, and by which code."""
        path = receipt.part.path
        return PartitionRecord(self.info.id, receipt.node, path, receipt.code, receipt.inputs)

    def inputs(self, path: str) -> PartitionRecord:
        """A list of inputs that is in storage."""
        listed = json.loads(self.info.store.run(str(self.info.id)).read(path))
        return PartitionRecord(self.info.id, -1, path, "", tuple((u, stamp) for u, stamp in listed))

    def batch(self, flight: Flight, end: End, peak: int) -> BatchRecord:
        """A batch that has ended."""
        worker, positions = flight.worker, flight.chunk.positions
        return BatchRecord(
            run=self.info.id,
            batch=flight.id,
            node=flight.nodes[0].id,
            attempt=flight.attempts[0],
            items=len(positions),
            first=positions.runs[0][0] if positions.runs else 0,
            last=positions.runs[-1][1] - 1 if positions.runs else 0,
            worker=worker.id if worker else "",
            host=worker.host if worker else "",
            pid=worker.pid if worker else 0,
            started=_utc(flight.began),
            ended=datetime.now(UTC),
            outcome=end.outcome.value,
            cause=end.cause or _twice(flight),
            peak_memory=peak,
        )

    def item(self, event: ItemEvent, call: Call) -> ItemRecord:
        """An attempt of an item that did not complete."""
        failure, worker = event.failure, event.worker
        record = ItemRecord(
            run=self.info.id,
            node=event.node.id,
            position=event.position,
            attempt=failure.attempt,
            state=STATE_NAMES[event.state],
            kind=failure.kind.value,
            type_name=failure.type_name,
            message=self._one(failure.message),
            traceback=self._one(failure.traceback),
            worker=worker.id if worker else "",
            host=worker.host if worker else "",
            started=datetime.fromtimestamp(failure.started, UTC),
            ended=datetime.fromtimestamp(failure.ended, UTC),
            input=input_of(event, call),
        )
        if event.position in event.node.failures:
            self.items[event.node.id, event.position] = record
        return record

    def _one(self, text: str) -> str:
        if len(self.texts) >= _TEXTS:
            self.texts.clear()
        return self.texts.setdefault(text, text)

    def line(self, line: LogLine) -> LogRecord:
        """A log line from a worker."""
        moment = datetime.fromtimestamp(line.time, UTC)
        return LogRecord(
            self.info.id, line.node, line.position, moment, line.level, line.logger, line.message
        )


def input_of(event: ItemEvent, call: Call) -> str:
    """A short repr of an item's input: what a person needs to find it again."""
    names = tuple(call.static if call.single else call.mapped)
    index, columns = _index(event.chunk.positions, event.position), event.chunk.columns
    if len(event.nodes) > 1:
        above, here = event.nodes[-2], Positions.span(event.position, event.position + 1)
        if above.items.kept(here) != here:
            return f"{next(iter(names))}=<{above.key}[{event.position}], not kept>"
        index, columns = 0, [above.items.column(here)]
    parts: list[str] = []
    for name, column in zip(names, columns, strict=False):
        if isinstance(column, RefColumn):
            parts.append(f"{name}=<{column.parts[column.part[index]].path}[{column.index[index]}]>")
        else:
            parts.append(f"{name}={_short(column[index])}")
    return ", ".join(parts)[: 4 * _INPUT_WIDTH]


def _index(positions: Positions, wanted: int) -> int:
    before = 0
    for start, stop in positions.runs:
        if start <= wanted < stop:
            return before + wanted - start
        before += stop - start
    return 0


def _short(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        value = value[:_INPUT_WIDTH]
    elif isinstance(value, (list, tuple, dict, set)) and len(value) > 20:
        return f"<{type(value).__name__} of {len(value)}>"
    try:
        text = repr(value)
    except Exception as broken:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{type(value).__name__}, whose repr raised {type(broken).__name__}>"
    return text if len(text) <= _INPUT_WIDTH else text[:_INPUT_WIDTH] + "..."


def _twice(flight: Flight) -> str:
    return "" if flight.backup_of is None else f"a backup of batch {flight.backup_of}"


def _utc(moment: float | None) -> datetime | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC)
