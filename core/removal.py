"""Runs that are deleted: their values in the store, and what history knows of them.

The order is made for a deletion that dies half way. The store goes first, and in it the header
(`Store.remove`): without one no resume takes half a run for a whole one, and a sweep knows what is
left for nobody's. History goes last: until everything is gone the run is listed, and deleting it
again ends what was begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from .errors import RunError, RunNotFoundError
from .headers import HEADER
from .registry import recorded_store
from .resumption import living_driver

if TYPE_CHECKING:
    from .interfaces import History, Store


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
        Also where its driver seems to be alive. That one stops at its next write to the journal,
        which stays until a sweep.
    keep_values
        Leave the store as it is.

    Raises
    ------
    RunNotFoundError
        History does not know it.
    RunError
        Its driver seems to be alive.
    StorageError
        Its values cannot be removed; history still knows it then.
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
        freed = _cut_off(place, str(run)) if alive else place.remove(str(run))
    history.delete(run)
    return freed


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
