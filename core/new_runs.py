"""A run before it begins: its executor, store, history, name and parameters, put together."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4, uuid5

from . import logs
from .context import FLOW_RUN, TAGS, FlowRunContext
from .errors import Cancelled, RunError
from .headers import read_header
from .options import FlowOptions
from .resumption import Again
from .runnames import run_name
from .runs import FlowRun, RunInfo
from .sampling import TAG, Sample

if TYPE_CHECKING:
    from .flows import Flow
    from .tasks import Task


def make_run(
    options: FlowOptions,
    flow: Flow[..., Any] | None,
    parameters: Mapping[str, Any],
    *,
    entrypoint: str | None = None,
    again: Again | None = None,
    sample: Sample | None = None,
    shown: bool = True,
) -> FlowRun[Any]:
    """A run that has not begun: its executor, store and history are found, nothing is opened yet.

    ``again`` is one that an earlier driver has begun; one that is not ``shown`` has no display.

    Raises
    ------
    ConfigurationError
        An executor, a storage or a history that cannot be.
    """
    from . import parameters as parameter_rules
    from .registry import open_display, open_history, open_store, resolve_executor
    from .settings import get_settings

    settings = get_settings()
    logs.setup(settings.log_level)
    parent = FLOW_RUN.get()
    if sample is None and parent is not None and parent.info.sample is not None:
        sample = parent.info.sample.another()
    executor = options.executor
    if executor is None and parent is not None:
        executor = parent.info.executor
    store = again.store if again is not None else _store(options, parent, settings, open_store)
    stored = parameter_rules.stored(parameters)
    if again is None and parent is not None:
        again = _begun_before(options.name, parent, store, stored)
    name = again.name if again is not None else None
    info = RunInfo(
        id=again.id if again is not None else uuid4(),
        name=name or run_name(f"flow {options.name!r}", options.flow_run_name, parameters),
        flow=flow,
        flow_name=options.name,
        version=options.version or "",
        entrypoint=entrypoint,
        tags=options.tags | TAGS.get() | ({TAG} if sample else set()),
        executor=resolve_executor(executor),
        store=store,
        history=parent.info.history if parent is not None else open_history(settings.history_url),
        settings=settings,
        parameters=parameters,
        stored_parameters=stored,
        short_parameters=parameter_rules.short(parameters),
        parent=parent.info.id if parent is not None else again.parent if again else None,
        tag_limits=options.tag_limits,
        intermediates=options.intermediates or settings.intermediates,
        log_level=logging.getLevelNamesMapping()[settings.log_level],
        resumes=name is not None,
        recompute=again.recompute if again is not None else "missing",
        replaced=again.replaced if again is not None else {},
        verify=again is not None and again.verify,
        created=again.created if again is not None else datetime.now(UTC),
        sample=sample,
        display=open_display(settings.display) if shown and flow and parent is None else None,
    )
    run = FlowRun[Any](info, options.timeout_seconds)
    if parent is not None:
        parent.run.children.append(run)
        if (reason := parent.run.cancel_reason) is not None:
            raise Cancelled(f"the run was cancelled: {reason}")
    return run


def _begun_before(name: str, parent: FlowRunContext, store: Any, parameters: str) -> Again:
    """Who the run of a flow that a flow calls is: the same when the calling run is resumed.

    It is known by the flow, its parameters, and how often they were called so.
    """
    call = f"{parent.run.attempt}/{name}/{parameters}"
    ordinal = next(parent.run.calls.setdefault(call, itertools.count()))
    own = uuid5(parent.info.id, f"{call}/{ordinal}")
    info = parent.info
    new = Again(
        own, None, datetime.now(UTC), info.id, store, info.replaced, info.recompute, info.verify
    )
    if not parent.info.resumes:
        return new
    try:
        header = read_header(store.run(str(own)))
    except RunError:
        return new
    return replace(new, name=header["name"], created=datetime.fromisoformat(header["created"]))


def _store(
    options: FlowOptions, parent: FlowRunContext | None, settings: Any, open_store: Any
) -> Any:
    if options.storage is not None:
        return open_store(options.storage, options.storage_options)
    if parent is not None:
        return parent.info.store
    return open_store(
        settings.storage_url, options.storage_options or settings.plain_storage_options()
    )


def task_run(task: Task[..., Any], *, inline: bool) -> FlowRun[Any]:
    """A run for one task that is called outside of any flow; it is named after the task."""
    options = FlowOptions(name=task.name, executor="inline" if inline else None)
    return make_run(options, None, {})
