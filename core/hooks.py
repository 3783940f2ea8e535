"""Hooks: users' functions that are told of a state. What they raise is logged, never passed on."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .errors import ConfigurationError

HOOKS = ("on_running", "on_completion", "on_failure", "on_crashed", "on_cancellation")


def hooks_for(options: Any, state: Any) -> tuple[Callable[..., Any], ...]:
    """The hooks of a flow or task that a state calls for."""
    if state.is_running():
        return options.on_running
    if state.is_completed():
        return options.on_completion
    if state.is_failed():
        return options.on_failure
    if state.is_crashed():
        return options.on_crashed
    if state.is_cancelled():
        return options.on_cancellation
    return ()


def call_hooks(hooks: Iterable[Callable[..., Any]], subject: Any, run: Any, state: Any) -> None:
    """Call each hook with (flow or task, run, state); an ``async`` one on a loop of its own."""
    for hook in hooks:
        try:
            outcome = hook(subject, run, state)
            if inspect.isawaitable(outcome):
                _finish(outcome)
        except Exception:  # a hook is user code, and must not change what it is told of
            name = getattr(hook, "__name__", repr(hook))
            logging.getLogger("headrace").exception(
                "hook %s of %s failed in state %s",
                name,
                getattr(subject, "name", subject),
                state.name,
            )


def _finish(awaitable: Any) -> None:
    import asyncio

    async def wait() -> None:
        await awaitable

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(wait())
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            failed.append(error)

    thread = threading.Thread(target=run, name="headrace-hook")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def checked_hooks(what: str, name: str, hooks: Any) -> tuple[Callable[..., Any], ...]:
    """Hooks as given by a user: one function, or several.

    Raises
    ------
    ConfigurationError
        Something else.
    """
    if hooks is None:
        return ()
    given = tuple(hooks) if isinstance(hooks, (list, tuple, set)) else (hooks,)
    for hook in given:
        if not callable(hook):
            raise ConfigurationError(
                f"{what}: {name} must be functions of (subject, run, state), got {hook!r}"
            )
    return given
