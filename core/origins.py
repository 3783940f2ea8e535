"""What a batch's items are made of: the files and partitions among their arguments.

Told once per batch, in references: of values that other tasks have made the partitions that hold
them, of a whole map its node's folder. Only items that are given handles (partitions of datasets)
are told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .interfaces import Batch, Inputs, MapRef, Origin, Part, Ref, RefColumn, RunStore, data_prefix


def inputs_of(batch: Batch, columns: Sequence[Any], common: Iterable[Origin]) -> Inputs:
    """Of the items of a batch, from its columns before they are loaded."""
    every = dict.fromkeys([*common, *origins_of(batch.upstream, (), batch.store)])
    items: dict[int, tuple[Origin, ...]] = {}
    for column in columns:
        if isinstance(column, RefColumn):
            every.update(dict.fromkeys(_place(part, batch.store) for part in column.parts))
        elif any(hasattr(kind, "__headrace_origins__") for kind in set(map(type, column))):
            for position, value in zip(batch.positions, column, strict=True):
                if hasattr(value, "__headrace_origins__"):
                    items[position] = (*items.get(position, ()), *value.__headrace_origins__())
    named = {url for own in items.values() for url, _ in own}
    return Inputs(
        tuple(each for each in every if not _is_covered(each[0], named)),
        items,
    )


def origins_of(upstream: Iterable[Any], values: Iterable[Any], store: RunStore) -> list[Origin]:
    """Of upstream values, and of handles among others."""
    found: list[Origin] = []
    for each in upstream:
        if isinstance(each, Ref):
            found.append(_place(each.part, each.run or store))
        elif isinstance(each, MapRef):
            found.append((f"{(each.run or store).url}/{data_prefix(each.manifest.node)}", ""))
    for value in values:
        if hasattr(value, "__headrace_origins__"):
            found.extend(value.__headrace_origins__())
    return found


def _place(part: Part, store: RunStore) -> Origin:
    home = f"{store.url.rpartition('/')[0]}/{part.run}" if part.run else store.url
    return f"{home}/{part.path}", ""


def _is_covered(url: str, named: set[str]) -> bool:
    """Whether a folder is told more exactly."""
    return url.endswith("/") and any(name.startswith(url) for name in named)
