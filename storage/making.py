"""Datasets that tasks of the current flow run make: what goes into an operation, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ..core.annotations import unmapped
from ..core.context import FLOW_RUN, TASK_RUN, open_flow_run
from ..core.errors import ConfigurationError, NestedSubmitError
from ..core.flows import flow
from ..core.futures import MapFuture
from ..core.tasks import Task
from .datasets import Dataset
from .hashing import row_hashes
from .pieces import Piece, Scan
from .shares import Share, plain_schema, shares_of

_MOST_BUCKETS = 1 << 14


class Made:
    """What a future of the run gives as pieces of a dataset, when they are asked for."""

    def __init__(
        self,
        future: MapFuture[Any],
        pick: Callable[[Sequence[Any]], Sequence[Piece]] = lambda pieces: pieces,
        *,
        before: Sequence[Any] = (),
        shared: bool = False,
    ) -> None:
        self.future = future
        self.pick = pick
        self.before = before
        """Futures of the steps before: where one failed, its error tells more."""
        self.shared = shared
        """Other datasets have rows in the same objects, so they are not dropped with this one's use."""

    def dataset(self, *, keep: bool) -> Dataset:
        """Wait for it. With ``keep`` its partitions stay where intermediates are dropped."""
        self.future.wait()
        engine = self.future.engine
        if not self.future.state.is_completed():
            for step in self.before:
                if not step.state.is_completed():
                    engine.dataset(step.node)  # raises its error
        found = engine.dataset(self.future.node, keep=keep or self.shared)
        return Dataset(self.pick(found.pieces), find_schema=lambda: found.full_schema)

    def future_here(self) -> MapFuture[Any] | None:
        """The future, where its values go with it: in its own run."""
        flow_run = FLOW_RUN.get()
        here = flow_run is not None and flow_run.engine is self.future.engine and not self.shared
        return self.future if here else None


class Input:
    """A dataset as the input of an operation: its pieces, and the future that they come from."""

    def __init__(self, operation: str, dataset: Dataset, *, keep: bool = False) -> None:
        self.operation = operation
        self.pieces, future = dataset.handed_on(keep=keep)
        self.after = unmapped(future)
        """Argument of the tasks that read it: it is dropped when they are through, if it may be."""
        self.scan = dataset.scan()
        check_written(operation, self.pieces, self.scan)
        self.schema = plain_schema(self.scan.result)
        self.bytes = sum(piece.bytes for piece in self.pieces)

    def shares(self, size: int) -> list[Share]:
        return shares_of(self.pieces, self.scan, size)

    def buckets(self, size: int) -> int:
        return min(max(1, -(-self.bytes // size)), _MOST_BUCKETS)

    def task(self, step: Task[..., Any]) -> Task[..., Any]:
        """A step under the operation's name."""
        return step.with_options(name=f"{self.operation}-{step.name}")

    def last(self, step: Task[..., Any]) -> Task[..., Any]:
        """A step whose result has the source's schema, also without rows."""
        return self.task(step).with_options(schema=self.schema)

    def dataset(self, future: MapFuture[Any], *before: Any) -> Dataset:
        return Dataset((), schema=self.schema, made=Made(future, before=before))


def in_a_flow(name: str, build: Callable[[], Any]) -> Any:
    """Build nodes in the current run, or in one of its own whose datasets are there when it ends.

    Raises
    ------
    NestedSubmitError
        In a running task: it has one slot, and these need more.
    """
    if TASK_RUN.get() is not None:
        raise NestedSubmitError(
            f"dataset.{name} was called in a running task; call it in the flow, and map over its result"
        )
    if open_flow_run() is not None:
        return build()

    def operation() -> Any:
        built = build()
        for dataset in built.values() if isinstance(built, dict) else _listed(built):
            dataset.files  # noqa: B018 - waits for it, and keeps it
        return built

    return flow(operation, name=f"dataset-{name.replace('_', '-')}")()


def _listed(built: Any) -> list[Any]:
    return cast("list[Any]", built) if isinstance(built, list) else [built]


def check_written(what: str, pieces: Sequence[Piece], scan: Scan) -> None:
    """Files of these columns can be read again: without columns they would not tell how many rows they have.

    Raises
    ------
    ConfigurationError
        There are rows, and no columns, or two columns of a name.
    """
    names = scan.result.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"{what}() of several columns {twice!r} would make files that nobody can read: select each once"
        )
    if not scan.result.names and any(piece.count() for piece in pieces):
        raise ConfigurationError(
            f"{what}() of rows without columns would lose them: select at least one column"
        )


def checked_columns(what: str, names: Sequence[str], schema: Any) -> tuple[str, ...]:
    """Columns by whose content rows can be told apart.

    Raises
    ------
    ConfigurationError
        One is missing, or its type has no hash.
    """
    for name in names:
        if name not in schema.names:
            raise ConfigurationError(
                f"{what}(): no column {name!r}: there is {', '.join(schema.names) or 'none'}"
            )
    row_hashes(schema.empty_table().select(list(names)))  # raises where a type has no hash
    return tuple(names)
