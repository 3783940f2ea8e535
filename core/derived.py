"""What was made of a file: forward through the partitions of all runs, as history knows them."""

from __future__ import annotations

import os
from uuid import UUID

from .interfaces import History, PartitionRecord


def made_from(history: History, url: str) -> list[PartitionRecord]:
    """Partitions that were made of a file or partition, at once or by way of others."""
    homes: dict[UUID, str] = {}

    def url_of(record: PartitionRecord) -> str:
        if record.run not in homes:
            storage = history.run(record.run).storage
            homes[record.run] = f"{storage.rstrip('/')}/{record.run}"
        return f"{homes[record.run]}/{record.path}"

    found: dict[tuple[UUID, str], PartitionRecord] = {}
    names = {url if "://" in url else os.path.abspath(url)}
    seen = set[str]()
    while names:
        seen |= names
        fresh = history.made_from(names)
        found.update(((each.run, each.path), each) for each in fresh)
        urls = {url_of(each) for each in fresh}
        folders = {each.rpartition("/")[0] + "/" for each in urls}  # of whole nodes
        names = (urls | folders) - seen
    return [each for each in found.values() if each.node >= 0]
