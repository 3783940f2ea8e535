"""What lies in a store, whose it is, and what of it nobody needs any more.

All is told by the store itself, through `core.interfaces.Store`. Whether a run is alive, history
knows better: whoever sweeps brings that along.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

from ..core.errors import NotFoundError, StorageError
from ..core.interfaces import ObjectInfo, RunStore, Store
from .objects import PROBE

_logger = logging.getLogger("headrace.storage")
_READERS = 16
_OWN = frozenset(
    {
        "header.json",
        "launch.pickle",
        "specs",
        "modules",
        "journal",
        "data",
        "given",
        "quarantine",
        "lineage",
        "claims",
        "checkpoints",
        "logs",
        "damaged",
        "users",
    }
)
"""Names right below a run's prefix."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run takes."""

    run: str
    name: str
    """From the header; empty: there is none."""
    flow: str
    objects: int
    bytes: int
    modified: float
    """When the newest of its objects was written, seconds since the epoch."""


class Reason(StrEnum):
    """Why something can go."""

    UNLISTED = "unlisted"
    """Partitions and claims of an ended run that its journal does not list, or lists as dropped."""
    UNFINISHED = "unfinished"
    """What writers that died have left half written."""
    UNKNOWN = "unknown"
    """A run's prefix without a header, and of a run that history does not know."""
    EXPIRED = "expired"
    """A run older than the retention."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a sweep may remove."""

    run: str
    reason: Reason
    objects: int
    bytes: int
    paths: tuple[str, ...] = ()
    """Below the run's prefix; empty: all of it."""


def usage(store: Store) -> list[Usage]:
    """What each run takes, the largest first. Lists the whole store, and reads each header.

    Raises
    ------
    StorageError
        The store cannot be read.
    """

    def of(run_id: str) -> Usage:
        run = store.run(run_id)
        infos = run.list("")
        header = _header(run) or {}
        return Usage(
            run_id,
            str(header.get("name", "")),
            str(header.get("flow", "")),
            len(infos),
            sum(info.bytes for info in infos),
            _newest(infos),
        )

    found = _each(of, [name for name in store.runs() if _is_uuid(name)])
    return sorted(found, key=lambda each: (-each.bytes, each.run))


def _each(of: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    """Side by side: a store behind a network takes its time for each answer."""
    with ThreadPoolExecutor(_READERS, "headrace-housekeeping") as pool:
        return list(pool.map(of, names))


def _header(run: RunStore) -> Mapping[str, Any] | None:
    """The header of a run; None: there is none. One that cannot be read is empty."""
    try:
        found = json.loads(run.read("header.json"))
    except NotFoundError:
        return None
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _newest(infos: Sequence[ObjectInfo]) -> float:
    return max((info.modified for info in infos), default=0.0)


def _is_uuid(name: str) -> bool:
    """Runs are named so; another folder of the same place is somebody else's."""
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def survey(
    store: Store,
    *,
    alive: Callable[[str], bool | None],
    now: float,
    grace: float,
    retention: float | None = None,
    runs: Sequence[str] | None = None,
) -> list[Finding]:
    """What a sweep may remove, run by run. Removes nothing.

    Parameters
    ----------
    alive
        Whether the driver of a run seems to be alive; None: nobody knows such a run.
    now
        Seconds since the epoch, by the store's clock.
    grace
        Seconds that everything stays at least after it was written.
    retention
        Seconds after its last sign of life that a run is kept; None: for ever.
    runs
        Only these; by default all. A large store takes a while, in which somebody may have resumed a
        run: look again at each before its findings are removed.

    Raises
    ------
    StorageError
        The store cannot be read.
    """

    def of(run_id: str) -> list[Finding]:
        known = alive(run_id)
        return [] if known else list(_findings(store.run(run_id), known, now, grace, retention))

    names = store.runs() if runs is None else runs
    found: list[list[Finding]] = _each(of, [name for name in names if _is_uuid(name)])
    return [each for findings in found for each in findings]


def _findings(
    run: RunStore, known: bool | None, now: float, grace: float, retention: float | None
) -> Iterator[Finding]:
    infos, halves = run.list(""), run.unfinished()
    every = infos + halves
    if not every:  # a folder that somebody has just made, perhaps
        return
    age = now - _newest(every)
    whole = all(_is_ours(info.path) for info in infos)
    known_here = known is not None or _header(run) is not None
    if not known_here:
        if age >= grace and whole:
            yield _finding(run, Reason.UNKNOWN, every, whole=True)
        return
    if retention is not None and age >= max(retention, grace):
        if whole:
            yield _finding(run, Reason.EXPIRED, every, whole=True)
        else:
            _logger.warning("%s is kept: it holds what is not headrace's", run.url)
        return
    limit = now - grace
    old = [info for info in halves if info.modified <= limit]
    if old:
        yield _finding(run, Reason.UNFINISHED, old)
    spare = [info for info in infos if info.modified <= limit and _may_be_spare(info.path)]
    if spare and age >= grace:
        try:
            records = run.journal().records(strict=True)
        except StorageError as error:
            _logger.warning("what the journal of %s does not list is kept: %s", run.url, error)
            return
        left = _unlisted(records, spare)
        if left:
            yield _finding(run, Reason.UNLISTED, left)


def _finding(
    run: RunStore, reason: Reason, infos: Sequence[ObjectInfo], *, whole: bool = False
) -> Finding:
    paths = () if whole else tuple(info.path for info in infos)
    return Finding(run.run_id, reason, len(infos), sum(info.bytes for info in infos), paths)


def _is_ours(path: str) -> bool:
    return path.split("/", maxsplit=1)[0] in _OWN or path.startswith(PROBE)


def _may_be_spare(path: str) -> bool:
    return path.startswith(("data/", "claims/"))


def _unlisted(
    records: Sequence[Mapping[str, Any]], spare: Sequence[ObjectInfo]
) -> list[ObjectInfo]:
    """What a journal does not list, or says is dropped.

    Of a run whose journal does not say that it has ended, only what is dropped: the rest is work that
    is done, and a resume takes it in.
    """
    listed: set[str] = set()
    dropped: set[str] = set()
    ended = False
    for record in records:
        if record["type"] == "dropped":
            dropped.update(record["parts"])
        elif record["type"] == "receipt":
            listed.add(record["part"][0])
        elif record["type"] in ("driver", "ended"):
            ended = record["type"] == "ended"
    return [info for info in spare if info.path in dropped or (ended and info.path not in listed)]


def remove(store: Store, finding: Finding) -> None:
    """Remove what was found.

    Raises
    ------
    StorageError
        It cannot be removed; what has gone by then is gone.
    """
    if finding.paths:
        store.run(finding.run).delete(finding.paths)
    else:
        store.remove(finding.run)
