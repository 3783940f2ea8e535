"""A run's header and launch record: what a driver needs to take it up from storage alone.

``header.json`` says what the run is and can be read by people. ``launch.pickle`` holds the flow and
its arguments. Secrets are in neither: a secret argument must be given again, storage options come
from the settings or from whoever resumes.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cloudpickle

from .errors import ConfigurationError, NotFoundError, RunError, StorageError
from .packing import SecretError, refuse_secret
from .pickled import loads, read_pickle
from .tasks import Task

if TYPE_CHECKING:
    from .flows import Flow
    from .interfaces import Executor, RunStore
    from .notes import Notes
    from .runs import RunInfo

HEADER = "header.json"
LAUNCH = "launch.pickle"
_TOLD = frozenset({"name", "flow", "created", "parent", "parameters", "entrypoint", "lacking"})
"""What every header has."""
_EXECUTOR = "its executor"
_TASK_OPTIONS = "all options of its tasks"
_log = logging.getLogger("headrace")
_SECRET_OPTIONS = ("storage", "result_storage", "storage_options")
"""Options of a flow that do not travel: they may hold credentials."""


def write_header(store: RunStore, info: RunInfo, notes: Notes) -> dict[str, str]:
    """Write both, before anything runs; gives what could not be written down, and why, by name.

    Raises
    ------
    StorageError
        The store cannot be written.
    """
    launch, lacking = _launch(info)
    store.write(LAUNCH, launch)
    bare = lacking.pop(_TASK_OPTIONS, "")
    facts = notes.header() | {"lacking": lacking, "bare": bare}
    store.write(HEADER, json.dumps(facts, indent=1).encode())
    return lacking


def _launch(info: RunInfo) -> tuple[bytes, dict[str, str]]:
    """The launch record, and what could not be put into it: why, by name."""
    lacking: dict[str, str] = {}

    def pickled(name: str, value: Any, kind: type[cloudpickle.Pickler]) -> bytes | None:
        file = io.BytesIO()
        try:
            kind(file).dump(value)
        except SecretError:
            lacking[name] = "holds a secret"
        except Exception as error:  # noqa: BLE001 - what a user's class or closure raises
            lacking[name] = f"cannot be pickled ({type(error).__name__}: {error})"
        else:
            return file.getvalue()
        return None

    flow = _portable(info.flow)
    parameters = info.parameters.items()
    parts = {
        "flow": pickled(_TASK_OPTIONS, flow, _WholePickler) or pickled("the flow", flow, _Pickler),
        "executor": pickled(_EXECUTOR, info.executor, _Pickler),
        "parameters": {name: pickled(name, value, _Pickler) for name, value in parameters},
    }
    return pickle.dumps(parts), lacking


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        refuse_secret(obj)
        return super().reducer_override(obj)


class _WholePickler(_Pickler):
    """Takes tasks along with what workers do not need: hooks, policies, conditions, `setup`."""

    def reducer_override(self, obj: Any) -> Any:
        return obj.for_drivers() if isinstance(obj, Task) else super().reducer_override(obj)


def _portable(flow: Flow[..., Any] | None) -> Any:
    """A flow by reference where it can be imported, else its function and what may travel of it."""
    if flow is None or flow.entrypoint is not None:
        return flow
    plain = {name: value for name, value in flow.given.items() if name not in _SECRET_OPTIONS}
    return flow.undecorated(), plain


@dataclass(frozen=True)
class Launch:
    """What a header and its launch record tell."""

    header: Mapping[str, Any]
    flow: Flow[..., Any]
    parameters: Mapping[str, Any]
    executor: Executor | None
    """None: it could not be pickled, and the flow's own is taken."""


def read_header(store: RunStore) -> Mapping[str, Any]:
    """The header of a run.

    Raises
    ------
    RunError
        There is no such run in this store.
    StorageError
        Its header is damaged.
    """
    try:
        header = json.loads(store.read(HEADER))
    except NotFoundError as error:
        raise RunError(f"there is no run at {store.url}: {error}") from None
    except ValueError as error:
        raise StorageError(f"{store.url}/{HEADER} is damaged: {error}") from error
    if not isinstance(header, dict) or not _TOLD.issubset(cast("dict[str, Any]", header)):
        raise StorageError(f"{store.url}/{HEADER} is damaged: it is no header of a run")
    return cast("dict[str, Any]", header)


def read_launch(store: RunStore, given: Mapping[str, Any], *, trusted: bool) -> Launch:
    """What is needed to run the flow again, as it was started or, where it is imported, as it is now.

    Parameters
    ----------
    given
        Parameters in place of the recorded ones: secrets, and what could not be pickled.

    Raises
    ------
    RunError
        There is no such run, or something of it was not recorded; names it.
    ConfigurationError
        The store is not trusted: a launch record is code.
    """
    from .flows import Flow

    header = read_header(store)
    if not trusted:
        raise ConfigurationError(
            f"{store.url} is not trusted (HEADRACE_TRUST_STORAGE), and a run's launch record is code: "
            "call the flow with resume= instead"
        )
    parts = read_pickle(store, LAUNCH)
    known = {*given, _EXECUTOR}
    lacking = [f"{name} {why}" for name, why in header["lacking"].items() if name not in known]
    where = f"{store.url}/{LAUNCH}"
    found: Any = None if parts["flow"] is None else _loaded(header, parts["flow"], where)
    if found is None or lacking:
        what = "; ".join(lacking) or "it was no flow's run but a single task's"
        raise RunError(
            f"run {header['name']} cannot be resumed from {store.url} alone: {what}. Pass it in "
            "parameters=, or call the flow itself with resume="
        )
    if why := header.get("bare"):
        _log.warning(
            "run %s goes on without hooks, setup, retry conditions and cache policies of its tasks, with "
            "which its flow %s: call the flow itself with resume= to have them",
            header["name"],
            why,
        )
    flow = found if isinstance(found, Flow) else Flow(*found)
    recorded = {n: loads(data, where) for n, data in parts["parameters"].items() if n not in given}
    executor = None if parts["executor"] is None else loads(parts["executor"], where)
    return Launch(header, flow, {**recorded, **given}, executor)


def read_parameters(
    store: RunStore, live: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a run of this process as they were when it began, as far as recorded.

    Raises
    ------
    RunError
        There is no such run; or one of the others can be read only once, and has been.
    """
    try:
        recorded = read_pickle(store, LAUNCH)["parameters"]
    except NotFoundError as error:
        raise RunError(f"there is no run at {store.url}: {error}") from None
    for name, value in live.items():
        if isinstance(value, Iterator) and recorded.get(name) is None and name not in given:
            raise RunError(
                f"parameter {name} was a {type(value).__name__}, which can be read only once: pass a "
                "new one in parameters="
            )
    where = f"{store.url}/{LAUNCH}"
    return {n: loads(data, where) for n, data in recorded.items() if data is not None}


def _loaded(header: Mapping[str, Any], data: bytes, where: str) -> Any:
    try:
        return loads(data, where)
    except ImportError as error:
        raise RunError(
            f"the flow of run {header['name']} is {header['entrypoint']}, which cannot be imported "
            f"here: {error}. Resume it from the folder of the project, or with that on PYTHONPATH"
        ) from error
