"""headrace: Python flows whose mapped tasks go at engine speed, with results as Arrow datasets.

This is the face: what is listed in ``__all__`` is the public interface. Names are imported when
they are first used, so that ``import headrace`` costs next to nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "headrace does not run on Windows; use WSL (https://learn.microsoft.com/windows/wsl)"
    )

if TYPE_CHECKING:
    from .core import cache_policies, errors, states
    from .core.annotations import allow_failure, quote, unmapped
    from .core.cache_policies import (
        DEFAULT,
        FLOW_PARAMETERS,
        INPUTS,
        NO_CACHE,
        RUN_ID,
        TASK_SOURCE,
        CachePolicy,
    )
    from .core.context import context, get_run_context, tags
    from .core.flows import Flow, flow
    from .core.futures import Future, MapFuture, as_completed, wait
    from .core.interfaces import Resources
    from .core.logs import get_run_logger
    from .core.resumption import resume
    from .core.runs import FlowRun, attach, runs
    from .core.states import State
    from .core.tasks import Task, exponential_backoff, task
    from .executors.dask import DaskExecutor
    from .executors.inline import InlineExecutor
    from .executors.processes import ProcessesExecutor
    from .executors.ray import RayExecutor
    from .executors.threads import ThreadsExecutor
    from .storage.datasets import Dataset, open_dataset

    __version__: str

_HOMES = {
    ".core": ("cache_policies", "errors", "states"),
    ".core.annotations": ("allow_failure", "quote", "unmapped"),
    ".core.cache_policies": (
        "DEFAULT",
        "FLOW_PARAMETERS",
        "INPUTS",
        "NO_CACHE",
        "RUN_ID",
        "TASK_SOURCE",
        "CachePolicy",
    ),
    ".core.context": ("context", "get_run_context", "tags"),
    ".core.flows": ("Flow", "flow"),
    ".core.futures": ("Future", "MapFuture", "as_completed", "wait"),
    ".core.interfaces": ("Resources",),
    ".core.logs": ("get_run_logger",),
    ".core.resumption": ("resume",),
    ".core.runs": ("FlowRun", "attach", "runs"),
    ".core.states": ("State",),
    ".core.tasks": ("Task", "exponential_backoff", "task"),
    ".executors.dask": ("DaskExecutor",),
    ".executors.inline": ("InlineExecutor",),
    ".executors.processes": ("ProcessesExecutor",),
    ".executors.ray": ("RayExecutor",),
    ".executors.threads": ("ThreadsExecutor",),
    ".storage.datasets": ("Dataset", "open_dataset"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CachePolicy",
    "DaskExecutor",
    "Dataset",
    "Flow",
    "FlowRun",
    "Future",
    "InlineExecutor",
    "MapFuture",
    "ProcessesExecutor",
    "RayExecutor",
    "Resources",
    "State",
    "Task",
    "ThreadsExecutor",
    "__version__",
    "allow_failure",
    "as_completed",
    "attach",
    "cache_policies",
    "context",
    "errors",
    "exponential_backoff",
    "flow",
    "get_run_context",
    "get_run_logger",
    "open_dataset",
    "quote",
    "resume",
    "runs",
    "states",
    "tags",
    "task",
    "unmapped",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("headrace")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if home == ".core":
        value: Any = import_module(f"{home}.{name}", __name__)
    else:
        value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
