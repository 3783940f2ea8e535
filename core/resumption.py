"""Runs that go on where an earlier driver left them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args
from uuid import UUID

from .context import live_run
from .errors import ConfigurationError, RunError, RunNotFoundError
from .headers import read_header, read_launch, read_parameters
from .hostname import hostname
from .process_marks import ended, own_mark, same_place
from .resumable import Recompute
from .states import State, StateType

if TYPE_CHECKING:
    from .flows import Flow
    from .interfaces import RunRecord, Store
    from .recorded import RecordedRun
    from .runs import FlowRun, RunInfo
    from .tasks import Task


@dataclass(frozen=True)
class Again:
    """A run that is to go on: who it is, and where its values are."""

    id: UUID
    name: str | None
    """None: nobody has begun it, but it is known who it will be (a flow that a flow calls)."""
    created: datetime
    parent: UUID | None
    store: Store
    replaced: Mapping[str, Task[..., Any]]
    """Tasks that take the place of those of the same names."""
    recompute: Recompute = "missing"
    verify: bool = False
    """Every partition is to be read and checked first."""


def resume(
    run: UUID | str | FlowRun[Any] | RecordedRun,
    *,
    executor: Any = None,
    storage: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    force: bool = False,
    recompute: Recompute = "missing",
    verify: bool = False,
    tasks: Mapping[str, Task[..., Any]] | None = None,
) -> FlowRun[Any]:
    """Go on with a run that did not complete: run what has no committed result, and nothing else.

    It begins beside you, as `Flow.start` does, and keeps its id and name. The flow is the one that
    the run was started with; one that can be imported is imported as it is now. Tasks of importable
    modules run as they are now; what is finished stays.

    Parameters
    ----------
    run
        A handle, an id, an unambiguous beginning of one, or a name.
    executor
        In place of the one that it had.
    storage, storage_options
        Where its values are, if history does not know (any more); credentials, if the settings do
        not have them.
    parameters
        Values of parameters that were not recorded: secrets, and what cannot be pickled.
    force
        Take it over from a driver that seems to be alive. That one notices at its next write to the
        journal, and stops.
    recompute
        ``"changed"``: run again, too, what was made by other code than the tasks have now, and all
        that stands on it; also of a run that did complete. Code is what a task's function does and
        refers to among the user's own (`core.fingerprint`): a comment changes nothing.
    verify
        Read every partition first, and make again what does not fit its checksum. Without it, that
        is done of partitions that a reader has found damaged, and of the newest ones on a local disk.
    tasks
        Tasks to use in place of the flow's tasks of these names.

    Raises
    ------
    RunNotFoundError
        Neither history nor the storage knows it.
    ConfigurationError
        There is no such ``recompute``.
    RunError
        Its driver seems to be alive; or something that it needs was not recorded: says what.
    """
    from .flow_engine import start_flow
    from .settings import get_settings

    if recompute not in get_args(Recompute):
        raise ConfigurationError(f"recompute={recompute!r}: use one of {get_args(Recompute)}")
    again = replace(
        find(run, storage, storage_options, force=force, tasks=tasks),
        recompute=recompute,
        verify=verify,
    )
    own: RunInfo | None = getattr(run, "info", None)
    store = again.store.run(str(again.id))
    given, trusted = dict(parameters or {}), get_settings().trust_storage
    if own is not None and own.flow is not None:  # of this process: what was not recorded is here
        flow, was = own.flow, own.executor
        arguments = {**own.parameters, **read_parameters(store, own.parameters, given), **given}
    else:
        launch = read_launch(store, given, trusted=trusted)
        flow, was, arguments = launch.flow, launch.executor, dict(launch.parameters)
    if executor or was:
        flow = flow.with_options(executor=executor or was)
    made, arguments = flow.prepared(arguments, again)
    positional, named = flow.shape.spread(arguments)
    start_flow(made, flow.options, flow.fn, positional, named)
    return made


def again_of(flow: Flow[..., Any], run: Any, arguments: Mapping[str, Any]) -> Again:
    """The run with which a call of its own flow is to go on.

    Raises
    ------
    RunError
        It is another flow's, was started with other parameters, or its driver seems to be alive.
    """
    from .parameters import stored

    options = flow.options
    again = find(run, options.storage, options.storage_options)
    header = read_header(again.store.run(str(again.id)))
    if header["flow"] != flow.name:
        raise RunError(f"run {again.name} is one of flow {header['flow']!r}, not of {flow.name!r}")
    now, then = json.loads(stored(arguments)), header["parameters"]
    changed = [
        f"{name} was {then.get(name)!r}, and is {now.get(name)!r}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
    if changed:
        raise RunError(
            f"run {again.name} was started with other parameters ({'; '.join(changed)}): start a new "
            "run, with cache_policy=INPUTS on its tasks if they are to use what is there"
        )
    return again


def find(
    run: UUID | str | FlowRun[Any] | RecordedRun,
    storage: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    tasks: Mapping[str, Task[..., Any]] | None = None,
) -> Again:
    """The run to go on with, by history or by its header; see `resume`."""
    from .registry import open_store
    from .runs import settled_history
    from .settings import get_settings

    asked: Any = getattr(run, "id", run)
    settings = get_settings()
    options = storage_options or settings.plain_storage_options()
    record: RunRecord | None = None
    try:
        record = settled_history().run(asked)
    except RunNotFoundError:
        if not _is_id(asked):
            raise
    if record is None:
        store = open_store(storage or settings.storage_url, options)
        header = read_header(store.run(str(asked)))
        made = datetime.fromisoformat(header["created"])
        parent = UUID(header["parent"]) if header["parent"] else None
        return Again(UUID(str(asked)), header["name"], made, parent, store, tasks or {})
    if not force and (alive := living_driver(record)):
        raise RunError(
            f"run {record.name} is {record.state}, and its driver seems to be alive ({alive}); cancel "
            "it first, or take it over with force=True (headrace resume --force)"
        )
    live = getattr(getattr(run, "info", None), "store", None)
    store = live or open_store(storage or record.storage, options)
    return Again(record.id, record.name, record.created, record.parent, store, tasks or {})


def _is_id(asked: Any) -> bool:
    try:
        UUID(str(asked))
    except ValueError:
        return False
    return True


def living_driver(record: RunRecord) -> str:
    """Where a run's driver seems to be alive; empty if the run has ended or its driver is gone."""
    if State(StateType(record.state_type)).is_final():
        return ""
    if ended(record.host, record.pid, record.process):
        return ""
    if record.host == hostname() and same_place(record.process, own_mark()):
        if record.pid == os.getpid():
            return f"process {record.pid}, this one" if live_run(str(record.id)) else ""
        return f"process {record.pid}"
    age = (datetime.now(UTC) - (record.heartbeat or record.created)).total_seconds()
    return f"process {record.pid} on {record.host}, last heard of {age:.0f} s ago"
