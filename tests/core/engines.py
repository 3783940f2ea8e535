"""An engine without the flow layer: nodes are added as records, and looked at when they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.core.calls import Call, TaskOptions
from headrace.core.engine import Engine
from headrace.core.futures import Future, MapFuture
from headrace.core.nodes import Node
from headrace.core.registry import open_history, open_store, resolve_executor
from headrace.core.runs import RunInfo
from headrace.core.settings import get_settings
from headrace.core.states import Completed, State


@dataclass
class Run:
    """One engine, begun."""

    engine: Engine

    def map(self, fn: Callable[..., Any], source: Any, /, name: str = "x", **rest: Any) -> Any:
        """Map over one parameter; ``rest`` are task options, or ``static``, ``window`` and the like."""
        call = {
            k: rest.pop(k)
            for k in ("static", "window", "wait_for", "allow_failure", "key_fn")
            if k in rest
        }
        static = call.pop("static", {})
        options = TaskOptions(name=fn.__name__, **rest)
        node = self.engine.add(
            Call(None, fn, options, static, {name: source}, single=False, **call)
        )
        return MapFuture[Any](self.engine, node)

    def submit(
        self, fn: Callable[..., Any], /, *, options: Mapping[str, Any] = {}, **static: Any
    ) -> Any:
        node = self.engine.add(Call(None, fn, TaskOptions(name=fn.__name__, **options), static))
        return Future[Any](self.engine, node, 0)

    def end(self, future: Any) -> Node:
        """Wait for the node of a future; it must end."""
        assert self.engine.block(lambda: future.node.ended, 60), future.node
        return future.node

    @property
    def history(self) -> Any:
        return self.engine.info.history

    @property
    def id(self) -> Any:
        return self.engine.info.id


@contextmanager
def running(
    folder: Path, executor: Any = "threads", *, state: State[Any] | None = None, **info: Any
) -> Iterator[Run]:
    """A run that is finished at the block's end, as completed if nothing else is said."""
    store = open_store(str(folder / "store"))
    history = open_history(f"sqlite:///{folder}/history.db")
    chosen = resolve_executor(executor)
    run = RunInfo(
        uuid4(), "run", None, "flow", "1", None, frozenset(), chosen, store, history,
        get_settings(), {}, "{}", (), **info,
    )  # fmt: skip
    engine = Engine.open(run)
    engine.begin()
    try:
        yield Run(engine)
    finally:
        if any(not node.ended for node in engine.nodes.values()):
            engine.cancel(reason="the test is over")
        engine.finish(state or Completed())
        assert not engine.thread.is_alive()
        assert not engine.scribe.is_alive()
