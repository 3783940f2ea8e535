"""What was made of a file: forward through the partitions of all runs, as history knows them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from uuid import UUID

from .errors import RunNotFoundError
from .interfaces import History, PartitionRecord, RunRecord


def made_from(history: History, url: str) -> list[PartitionRecord]:
    """Partitions that were made of a file or partition, at once or by way of others."""
    homes: dict[UUID, str] = {}

    found: dict[tuple[UUID, str], PartitionRecord] = {}
    names = {url if "://" in url else os.path.abspath(url)}
    seen = set[str]()
    while names:
        seen |= names
        fresh = history.made_from(names)
        found.update(((each.run, each.path), each) for each in fresh)
        new = {each.run for each in fresh} - homes.keys()
        for run in recorded(history, new):
            homes[run.id] = f"{run.storage.rstrip('/')}/{run.id}"
        urls = {f"{homes[each.run]}/{each.path}" for each in fresh if each.run in homes}
        folders = {each.rpartition("/")[0] + "/" for each in urls}  # of whole nodes
        names = (urls | folders) - seen
    return [each for each in found.values() if each.node >= 0]


def recorded(history: History, runs: Iterable[UUID]) -> Iterator[RunRecord]:
    """The records of these runs; of one that was deleted just now there is none."""
    for run in runs:
        with suppress(RunNotFoundError):
            yield history.run(run)
