"""How an item's or a node's end looks to the user: its exception, and its state."""

from __future__ import annotations

from .errors import (
    Cancelled,
    RunError,
    StorageError,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    UpstreamFailed,
)
from .interfaces import Failure, FailureKind, ItemRecord
from .items import BAD, STATE_NAMES, ItemState
from .nodes import Node
from .tracebacks import unpickled

_FAILED = frozenset(STATE_NAMES[s] for s in ItemState if s in BAD and s < ItemState.CANCELLED)


def name_of(node: Node, position: int) -> str:
    """What to call an item in a message: ``'clean'``, or ``'clean' item 17``."""
    return repr(node.key) if node.single else f"{node.key!r} item {position}"


def state_name(node: Node, position: int) -> str:
    """Name of an item's state, also of one that never came to be because its node ended."""
    if position < node.items.size:
        return STATE_NAMES[node.items.state(position)]
    if node.cut and node.state == "Failed" and node.error is None and not node.stopped:
        return STATE_NAMES[ItemState.SKIPPED]
    return node.state if node.ended else "Pending"


def first_bad(node: Node) -> int:
    """The first item that ended badly, or that never came to be because its node ended."""
    return next(iter(node.items.where(*BAD)), node.items.size)


def exception_of(node: Node, position: int, given: str = "") -> BaseException:
    """The exception of an item that ended without a value; the user's own where it travelled.

    ``given`` tells what the item's task was given.
    """
    name = name_of(node, position)
    failure = node.failures.get(position)
    if failure is not None:
        return from_failure(failure, name, given)
    if position >= node.items.size and node.error is not None:
        return node.error
    state = state_name(node, position)
    if state == STATE_NAMES[ItemState.SKIPPED]:
        skipped = UpstreamFailed(f"{name} did not run: {skip_cause(node, position)}")
        skipped.__cause__ = _upstream_error(node, position)
        return skipped
    if state in _FAILED:
        return TaskFailed(f"{name} is {state}; its error is in the run's history")
    if state == STATE_NAMES[ItemState.CANCELLED]:
        if node.error is not None:
            return node.error
        return Cancelled(f"{name} was cancelled: {node.cause or 'on request'}")
    if node.error is not None:
        return node.error
    return RunError(f"{name} is {state}: it has no result")


def _upstream_error(node: Node, position: int) -> BaseException | None:
    """The exception for whose sake an item was skipped."""
    if node.blame is not None:
        other, item = node.blame
    elif node.link is not None:
        other, item = node.link, position
    else:
        return None
    if item is None:
        if other.error is not None:
            return other.error
        item = first_bad(other)
    return exception_of(other, item)


def skip_cause(node: Node, position: int) -> str:
    """Why an item was skipped: the item of the map before it that ended badly, and how."""
    link = node.link
    if link is not None and position < link.items.size and link.items.state(position) in BAD:
        told = item_message(link, position)
        state = STATE_NAMES[link.items.state(position)]
        return f"{name_of(link, position)} is {state}" + (f" ({told})" if told else "")
    return node.cause


def from_record(record: ItemRecord, name: str) -> BaseException:
    """The exception of an item as history tells it."""
    if record.state == STATE_NAMES[ItemState.TIMED_OUT]:
        return TaskTimeout(f"{name} timed out: {record.message}")
    if record.state == STATE_NAMES[ItemState.CRASHED]:
        return TaskCrashed(f"{name} crashed on attempt {record.attempt}: {record.message}")
    error = TaskFailed(f"{record.type_name}: {record.message}")
    if record.traceback:
        error.add_note(_raised_by(name, record.attempt, record.input, record.traceback))
    return error


def _raised_by(name: str, attempt: int, given: str, traceback: str) -> str:
    return f"raised by {name}, attempt {attempt}{given and f', given {given}'}:\n{traceback}"


def from_failure(failure: Failure, name: str, given: str = "") -> BaseException:
    """The exception of a failed attempt, with what the worker told as a note."""
    error = unpickled(failure)
    if failure.kind is FailureKind.TIMEOUT:
        return TaskTimeout(f"{name} timed out: {failure.message}")
    if failure.kind is FailureKind.CRASH:
        return TaskCrashed(f"{name} crashed on attempt {failure.attempt}: {failure.message}")
    if failure.kind is FailureKind.STORAGE:
        return StorageError(f"the value of {name} could not be stored: {failure.message}")
    if error is None:
        error = TaskFailed(f"{failure.type_name}: {failure.message}")
    if failure.traceback:
        error.add_note(_raised_by(name, failure.attempt, given, failure.traceback))
    return error


def item_message(node: Node, position: int) -> str:
    """One sentence on how an item stands."""
    failure = node.failures.get(position)
    if failure is not None:
        return f"{failure.type_name}: {failure.message}"
    state = state_name(node, position)
    if state == STATE_NAMES[ItemState.SKIPPED]:
        return skip_cause(node, position)
    return node.cause if state == STATE_NAMES[ItemState.CANCELLED] else ""


def node_message(node: Node) -> str:
    """One sentence on how a node stands."""
    if node.error is not None:
        return str(node.error)
    counts = node.items.counts
    bad = sum(counts[ItemState.FAILED : ItemState.CRASHED + 1])
    if bad and not node.single:
        skipped = counts[ItemState.SKIPPED]
        told = f" and {skipped} {'was' if skipped == 1 else 'were'} skipped" if skipped else ""
        return f"{bad} of {node.items.size} items failed{told}"
    if node.cut or node.state in ("Skipped", "Cancelled"):
        return node.cause
    return item_message(node, 0) if node.single else ""
