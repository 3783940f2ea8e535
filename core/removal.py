"""Runs that are deleted: their values in the store, and what history knows of them.

The order is made for a deletion that dies half way. The store goes first, and in it the header
(`Store.remove`): without one no resume takes half a run for a whole one, and a sweep knows what is
left for nobody's. History goes last: until everything is gone the run is listed, and deleting it
again ends what was begun.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID

from .errors import RunError, RunNotFoundError
from .headers import HEADER
from .registry import recorded_store
from .resumption import living_driver

if TYPE_CHECKING:
    from .interfaces import History, RunRecord, Store

USERS = "users/"
"""Where a run keeps which others have values of it: objects with the user's id, and how many items."""
_NAMED = 3
_log = logging.getLogger("headrace")


def delete_run(
    history: History,
    run: UUID,
    store: Store | None = None,
    *,
    force: bool = False,
    keep_values: bool = False,
) -> int:
    """Delete a run for good; gives the bytes that were freed.

    Parameters
    ----------
    store
        Where its values are, if not where history and the settings say.
    force
        Also where its driver seems to be alive, which stops at its next write to the journal (that
        stays until a sweep); and where other runs have values of it from the cache, which they lose.
    keep_values
        Leave the store as it is.

    Raises
    ------
    RunNotFoundError
        History does not know it.
    RunError
        Its driver seems to be alive, or other runs have values of it.
    StorageError
        Its values cannot be removed; history still knows it then.

    Notes
    -----
    Where ``store`` holds a copy of the run, and the place that history tells of holds another one,
    history goes on telling of that.
    """
    record = history.run(run)
    alive = living_driver(record)
    if alive and not force:
        raise RunError(
            f"run {record.name} is {record.state}, and its driver seems to be alive ({alive}): cancel "
            "it first, or delete it with force=True (--force)"
        )
    freed = 0
    if not keep_values:
        place = store or recorded_store(record)
        _look_for_users(place, record, force=force)
        freed = _cut_off(place, str(run)) if alive else place.remove(str(run))
        if place.url != record.storage and recorded_store(record).run(str(run)).list(HEADER):
            return freed
    history.delete(run)
    return freed


def _look_for_users(store: Store, record: RunRecord, *, force: bool) -> None:
    """Other runs may have values of a run from the cache; a run with users leaves only by force."""
    run = store.run(str(record.id))
    users = {info.path.removeprefix(USERS): info.path for info in run.list(USERS)}
    held = {user: int(run.read(path)) for user, path in users.items() if _is_there(store, user)}
    if not held:
        return
    told = (
        f"{sum(held.values())} items of {len(held)} other runs have their values from run "
        f"{record.name}, by the cache ({', '.join(sorted(held)[:_NAMED])})"
    )
    if not force:
        raise RunError(
            f"{told}: delete those runs first, or let them lose the values with force=True (--force)"
        )
    _log.warning("%s, and lose them", told)


def _is_there(store: Store, run_id: str) -> bool:
    return bool(store.run(run_id).list(HEADER))


def _cut_off(store: Store, run_id: str) -> int:
    """Take a run away from its driver: all but the journal goes, which tells the driver to stop."""
    run = store.run(run_id)
    run.journal().take()
    infos = [info for info in run.list("") if not info.path.startswith("journal/")]
    run.delete([HEADER])
    run.delete([info.path for info in infos])
    return sum(info.bytes for info in infos)


def is_live(history: History, run_id: str) -> bool | None:
    """Whether a run's driver seems to be alive, or that of the run that called it and uses its values.

    None: history does not know the run.
    """
    try:
        record = history.run(UUID(run_id))
    except (ValueError, RunNotFoundError):
        return None
    if living_driver(record):
        return True
    return record.parent is not None and bool(is_live(history, str(record.parent)))
