"""What was made of a file: forward through the partitions of all runs, as history knows them."""

from __future__ import annotations

import os
from uuid import UUID

from .interfaces import History, PartitionRecord


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
        for run in history.runs(ids=new, limit=len(new)):
            homes[run.id] = f"{run.storage.rstrip('/')}/{run.id}"
        urls = {f"{homes[each.run]}/{each.path}" for each in fresh if each.run in homes}
        folders = {each.rpartition("/")[0] + "/" for each in urls}  # of whole nodes
        names = (urls | folders) - seen
    return [each for each in found.values() if each.node >= 0]
