"""One item again, in this process and thread: for a debugger, and to look at what it was given.

The item goes through the very steps of a worker (`core.stages`): its arguments are unpacked, values
that they refer to are read from the store and brought into the form that annotations ask for, and
the task's function is called with them. What it raises passes through as it is, with its own frames.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from . import logs
from .errors import HeadraceError, RunError
from .given import Given
from .identity import NOBODY, SIZE, salted
from .interfaces import Batch, LogLine, RunStore, Stage, StageSpec
from .pickled import read_pickle
from .stages import ArgumentError, LoadedStage, materialised
from .waiting import run_aside


class Replay:
    """An item whose input is at hand.

    Parameters
    ----------
    functions
        By node: functions in place of the recorded ones.
    """

    def __init__(
        self,
        store: RunStore,
        given: Given,
        position: int,
        functions: Mapping[int, Callable[..., Any]],
    ) -> None:
        self.position, self.given = position, given
        batch = Batch(
            run_id=store.run_id,
            id=0,
            store=store,
            stages=given.stages,
            positions=given.positions,
            payload=given.payload,
            upstream=given.upstream,
            live=given.live,
            ids=given.ids,
        )
        self.stages = [_loaded(batch, stage, functions.get(stage.node)) for stage in given.stages]
        columns, self.ids = self.stages[0].columns(batch)
        self.index = list(given.positions).index(position)
        self.arguments = tuple(column[self.index] for column in columns)

    @property
    def id(self) -> bytes:
        """The item's id, from its input."""
        ids = self.ids[self.index * SIZE : (self.index + 1) * SIZE] or NOBODY
        for stage in self.given.stages:
            ids = salted(ids, stage.salt)
        return ids

    def input(self) -> Mapping[str, Any]:
        """The arguments by parameter name; of a chain, after the stages before the last one."""
        *before, last = self.stages
        return last.named(self._through(before))

    def run(self) -> Any:
        """Call the task; gives what it returns, raises what it raises."""
        __tracebackhide__ = True
        (value,) = self._through(self.stages)
        return value

    def _through(self, stages: list[LoadedStage]) -> tuple[Any, ...]:
        __tracebackhide__ = True
        arguments = self.arguments
        for stage in stages:
            arguments = (self._call(stage, arguments),)
        return arguments

    def _call(self, stage: LoadedStage, arguments: tuple[Any, ...]) -> Any:
        __tracebackhide__ = True
        lines = _Echoed(f"{stage.stage.key}[{self.position}]")
        with stage.cursor(lines).at(self.position).entered():
            try:
                value = stage.form(*arguments)
            except ArgumentError as error:
                raise (error.__cause__ or error) from None
            if inspect.iscoroutine(value):
                value = run_aside(value)
            return materialised(value)


def _loaded(batch: Batch, stage: Stage, function: Callable[..., Any] | None) -> LoadedStage:
    spec: StageSpec = read_pickle(batch.store, stage.spec)
    try:
        function = function or pickle.loads(spec.function)
        assert function is not None
        state = pickle.loads(spec.setup)() if spec.setup is not None else None
        return LoadedStage(spec, stage, batch, function, state)
    except HeadraceError:
        raise
    except Exception as error:
        raise RunError(
            f"task {spec.task_name!r} cannot be loaded here ({type(error).__name__}: {error}): replay it "
            "from the folder of the project, or pass the task, as in item.replay(task)"
        ) from error


class _Echoed(list[LogLine]):
    """Takes a task's log lines and shows them."""

    def __init__(self, subject: str) -> None:
        super().__init__()
        self.subject = subject
        logs.setup()

    def append(self, line: LogLine, /) -> None:
        logs.echo(line.level, line.logger, line.message, self.subject, line.time)
