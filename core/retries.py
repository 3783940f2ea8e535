"""Is a failed attempt tried again, and when? The user's own rules, asked on the driver."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .calls import TaskOptions, TaskRun
from .interfaces import Failure, FailureKind
from .outcomes import from_failure, name_of
from .states import Failed, TimedOut

if TYPE_CHECKING:
    from .engine import Engine
    from .machine import Node


def delay_of(options: TaskOptions, rng: random.Random) -> Callable[[int], float]:
    """Seconds before the n-th retry (from 1): one number, a list whose last repeats, or a function
    of the number of retries that gives either; jitter adds up to its factor, as in Prefect."""
    given = options.retry_delay_seconds
    if callable(given):
        given = given(options.retries)
    delays: Sequence[float] = [given] if isinstance(given, (int, float)) else list(given)

    def delay(retry: int) -> float:
        if not delays:
            return 0.0
        base = float(delays[min(retry, len(delays)) - 1])
        factor = options.retry_jitter_factor
        return base * (1 + factor * rng.random()) if factor else base

    return delay


def may_retry(engine: Engine, node: Node, failure: Failure) -> bool:
    """Ask the task's ``retry_condition_fn``; what it raises counts as no."""
    call = engine.calls[node]
    condition = call.options.retry_condition_fn
    if condition is None:
        return True
    error = from_failure(failure, name_of(node, failure.position))
    made = TimedOut if failure.kind is FailureKind.TIMEOUT else Failed
    state = made(f"{failure.type_name}: {failure.message}", error)
    run = task_run(engine, node, failure.position, failure.attempt)
    try:
        return bool(condition(call.task, run, state))
    except Exception as raised:  # user code: a broken condition must not break the run
        engine.log(40, "headrace.task_runs", f"retry_condition_fn of {node.key!r} raised: {raised!r}")
        return False


def task_run(engine: Engine, node: Node, position: int, attempt: int) -> TaskRun:
    """What hooks and conditions are told of an item."""
    options: Any = engine.calls[node].options
    return TaskRun(
        id=f"{engine.run_id}/{node.key}/{position}",
        name=node.key if node.single else f"{node.key}[{position}]",
        task_name=options.name,
        flow_run_id=engine.run_id,
        position=position,
        run_count=attempt,
        tags=options.tags,
    )
