"""What the machine answers: commands, for `core.engine` to carry out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .columns import Chunk
from .interfaces import Control, End, Failure, Positions, Receipt, WorkerInfo
from .items import ItemState
from .nodes import Flight, Node


@dataclass(frozen=True, slots=True)
class Feed:
    """Pull up to ``items`` inputs, or ``bytes`` of them, and answer with `Machine.fed`."""

    node: Node
    items: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """The input may be slow: if it is, answer with what is pulled by now; the pull goes on."""

    node: Node


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand this batch to the pool."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask something of a batch."""

    flight: Flight
    request: Control
    grace: float | None = None
    """Seconds that a kill leaves it; None: the batch's own."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A receipt was taken in: it belongs into the journal."""

    node: Node
    receipt: Receipt
    fresh: Positions


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """An attempt of one item did not complete: it belongs into history."""

    node: Node
    position: int
    state: ItemState
    failure: Failure
    worker: WorkerInfo | None
    nodes: tuple[Node, ...]
    """The stages of its batch up to this one."""
    chunk: Chunk
    """What the batch was given."""


@dataclass(frozen=True, slots=True)
class WithoutValue:
    """Items of a cached node are final and have no value: others may compute it."""

    node: Node
    positions: Positions


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """A batch has ended: it belongs into history."""

    flight: Flight
    end: End
    peak_memory: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nothing needs the values of this partition any more: it is to be removed."""

    node: Node
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class NodeEnded:
    """Every item of the node is final."""

    node: Node


Command: TypeAlias = (
    Feed
    | HandOver
    | Submit
    | Ask
    | Committed
    | ItemEvent
    | WithoutValue
    | BatchEnded
    | Dropped
    | NodeEnded
)
