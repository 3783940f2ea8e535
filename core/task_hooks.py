"""Hooks of tasks: called on the driver, one after another, off the engine's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .hooks import HOOKS, call_hooks, hooks_for
from .retries import task_run

if TYPE_CHECKING:
    from .engine import Engine
    from .nodes import Node


class TaskHooks:
    """Calls the hooks of one run's tasks, in order, in a thread that starts with the first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.told: dict[Node, set[int]] = {}
        self.hooked: dict[Node, bool] = {}

    def running(self, nodes: Iterable[Node], positions: Iterable[int]) -> None:
        """Items were handed out."""
        for node in nodes:
            if self.engine.calls[node].options.on_running:
                for position in positions:
                    self._tell(node, position)

    def item(self, node: Node, position: int) -> None:
        """An item has ended without a value."""
        if self._any(node) and position not in self.told.setdefault(node, set()):
            self.told[node].add(position)
            self._tell(node, position)

    def node(self, node: Node) -> None:
        """All items have ended: tell of those that nobody was told of yet."""
        if self._any(node):
            for position in range(node.items.size):
                self.item(node, position)
        self.told.pop(node, None)

    def _any(self, node: Node) -> bool:
        if node not in self.hooked:
            options = self.engine.calls[node].options
            self.hooked[node] = any(getattr(options, n) for n in HOOKS if n != "on_running")
        return self.hooked[node]

    def _tell(self, node: Node, position: int) -> None:
        engine = self.engine
        call = engine.calls[node]
        state: Any = engine.state(node, position)
        hooks = hooks_for(call.options, state)
        if not hooks:
            return
        failure = node.failures.get(position)
        run = task_run(engine, node, position, failure.attempt if failure else 1)
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="headrace-hooks", daemon=True)
            self.thread.start()
        self.inbox.put(lambda: call_hooks(hooks, call.task, run, state))

    def _work(self) -> None:
        while (call := self.inbox.get()) is not None:
            call()

    def close(self) -> None:
        """Wait for the hooks that are due."""
        if self.thread is not None:
            self.inbox.put(None)
            self.thread.join()
