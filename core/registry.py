"""Executors, stores and histories by name, from entry points.

Three groups: ``headrace.executors`` (name -> executor class), ``headrace.stores`` (``arrow``, the
general one, or a URL scheme -> ``(url, options, trust=) -> Store``) and ``headrace.histories`` (``sql``, the
general one, or a URL scheme -> ``(url) -> History``). What headrace brings itself stands in the same
form in ``BUILTIN``, so that it is found without scanning the installed distributions, and in a
checkout that was never installed.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from . import forks
from .errors import ConfigurationError, MissingExtraError
from .interfaces import Display, Executor, History, RunRecord, Store
from .nearmiss import near

EXECUTORS = "headrace.executors"
STORES = "headrace.stores"
HISTORIES = "headrace.histories"
DISPLAYS = "headrace.displays"

_HERE = __name__.rpartition(".core.")[0]

BUILTIN: Mapping[str, Mapping[str, str]] = {
    EXECUTORS: {
        "inline": f"{_HERE}.executors.inline:InlineExecutor",
        "threads": f"{_HERE}.executors.threads:ThreadsExecutor",
        "processes": f"{_HERE}.executors.processes:ProcessesExecutor",
        "dask": f"{_HERE}.executors.dask:DaskExecutor",
        "ray": f"{_HERE}.executors.ray:RayExecutor",
    },
    STORES: {"arrow": f"{_HERE}.storage.store:ArrowStore"},
    HISTORIES: {"sql": f"{_HERE}.history.sql:SqlHistory"},
    DISPLAYS: {"*": f"{_HERE}.display.choose:choose"},
}


@cache
def _third_party(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def forget() -> None:
    """Look at the installed distributions anew."""
    _third_party.cache_clear()


def names(group: str) -> list[str]:
    """All registered names of a group."""
    return sorted({*BUILTIN[group], *_third_party(group)})


def _find(group: str, name: str) -> EntryPoint | None:
    if (value := BUILTIN[group].get(name)) is not None:
        return EntryPoint(name, value, group)
    return _third_party(group).get(name)


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except MissingExtraError:
        raise
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{point.group}: {point.name!r} is registered as {point.value!r}, which does not load: "
            f"{type(error).__name__}: {error}"
        ) from error


def resolve_executor(executor: str | Executor | type[Any] | None = None) -> Executor:
    """An executor by name, class or object; None means the one that the settings name.

    Raises
    ------
    ConfigurationError
        No such name (the known ones are listed), or not an executor.
    """
    if executor is None:
        from .settings import get_settings

        return resolve_executor(get_settings().executor)
    if isinstance(executor, str):
        point = _find(EXECUTORS, executor)
        if point is None:
            known = names(EXECUTORS)
            raise ConfigurationError(
                f"unknown executor {executor!r} (known: {', '.join(known)}){near(executor, known)}"
            )
        return _made(_load(point), f"executor {executor!r}")
    return _made(executor, "executor=")


def _made(found: Any, what: str) -> Executor:
    if inspect.isclass(found) or (inspect.isroutine(found)):
        try:
            found = found()
        except TypeError as error:
            raise ConfigurationError(f"{what}: {found!r} needs arguments ({error})") from error
    if not isinstance(found, Executor):
        raise ConfigurationError(
            f"{what}: expected a name, an executor or an executor class, "
            f"got {type(found).__name__} {found!r}"
        )
    return found


def scheme_of(url: str) -> str:
    """Scheme of a URL; ``file`` for a path."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else "file"


def _opener(group: str, url: str, general: str) -> Callable[..., Any]:
    """What opens a URL: a third party's for its scheme, else the general one."""
    point = _third_party(group).get(scheme_of(url)) or _find(group, general)
    assert point is not None, "the general one is built in"
    return _load(point)


def open_store(url: str | Store, options: Mapping[str, Any] | None = None) -> Store:
    """The store at a URL or path; a store passes through.

    Raises
    ------
    ConfigurationError
        Unknown scheme.
    """
    if isinstance(url, (str, os.PathLike)):
        from .settings import get_settings

        opened = _opener(STORES, str(url), "arrow")
        return opened(str(url), options or {}, trust=get_settings().trust_storage)
    if not callable(getattr(url, "run", None)):
        raise ConfigurationError(f"a storage must be a URL, a path or a store, got {url!r}")
    return url


def recorded_store(record: RunRecord) -> Store:
    """Where history says that a run's values are, opened with the storage options of the settings."""
    from .settings import get_settings

    return open_store(record.storage, get_settings().plain_storage_options())


def open_display(setting: str) -> Display | None:
    """The display that a setting names, for one run; None where nothing is to be shown.

    Raises
    ------
    ConfigurationError
        No such display.
    """
    point = _third_party(DISPLAYS).get(setting) or _find(DISPLAYS, "*")
    assert point is not None, "the general display is built in"
    chosen: Callable[[str], Display | None] = _load(point)
    return chosen(setting)


def open_pages() -> Callable[[str, Any], str]:
    """What makes HTML of a thing, given what it is: see `core.shown`."""
    return _load(EntryPoint("pages", f"{_HERE}.display.pages:page_of", DISPLAYS))


def open_live() -> Callable[[Any], None]:
    """What shows a run that is the last line of a notebook's cell: see `core.shown`."""
    return _load(EntryPoint("live", f"{_HERE}.display.notebook:show_run", DISPLAYS))


_histories: dict[str, History] = forks.own({})
_histories_lock = forks.own_lock(threading.Lock())


def open_history(url: str) -> History:
    """The history at a database URL; one per URL and process, shared by its runs.

    Raises
    ------
    ConfigurationError
        Unknown kind of database.
    HistoryError
        It cannot be opened.
    """
    with _histories_lock:
        if (history := _histories.get(url)) is not None:
            return history
        _histories[url] = _opener(HISTORIES, url, "sql")(url)
        return _histories[url]


def close_histories() -> None:
    """Close all histories that this process has open."""
    with _histories_lock:
        for history in _histories.values():
            history.close()
        _histories.clear()
