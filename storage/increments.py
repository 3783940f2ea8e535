"""Writing again what has changed: which files of a folder stay, and what is to be written anew.

A folder that is written with ``mode="update"`` remembers in its manifest of which pieces of a dataset
each group of its files was written, by keys that say what the pieces hold: a file with its tag or
time, a partition of a run (the same one as long as the cache gives it). The next write keeps the groups
whose pieces are all there again, side by side and in order, and packs the others into new groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigurationError
from .lineage import lineage_of
from .nodedata import PartPiece
from .pieces import Piece, Scan, filter_fingerprint
from .shares import Share, with_places
from .splitting import by_bytes, by_rows, joined

REMOVED = ("drop", "keep")


@dataclass(frozen=True)
class Plan:
    """What a folder is to hold: groups in order, and the shares that are to be written for them."""

    groups: list[dict[str, Any]]
    """As the manifest has them; new ones without files."""
    left: list[dict[str, Any]]
    """Groups that were there, and of which not all pieces are there any more."""
    parts: list[Share]
    owners: list[int]
    """Of each share the number of its group."""

    def done(self, made: Sequence[Mapping[str, Any]], removed: str) -> list[dict[str, Any]]:
        """The groups with what was written for their shares.

        Raises
        ------
        ConfigurationError
            Rows that are to stay were written together with rows that are not.
        """
        groups = [{**group, "files": [*group["files"]]} for group in self.groups]
        for owner, each in zip(self.owners, made, strict=True):
            group = groups[owner]
            group["files"] += each["files"]
            group["sources"] = sorted({*group["sources"], *each["sources"]})
        if removed == "drop":
            return groups
        present = {name for group in groups for name in group["sources"]}
        stay: list[dict[str, Any]] = []
        for group in self.left:
            gone = [name for name in group["sources"] if name not in present]
            if 0 < len(gone) < len(group["sources"]):
                raise ConfigurationError(
                    f"removed='keep' cannot keep the rows of {gone[0]}: they were written together with "
                    "rows of files that are still there. Give each file a partition of its own, put the "
                    "file back, or use removed='drop'"
                )
            if gone:
                stay.append(group)
        return [*stay, *groups]


def planned(
    before: Sequence[dict[str, Any]],
    pieces: Sequence[Piece],
    scan: Scan,
    max_bytes: int,
    max_rows: int | None,
    removed: str,
) -> Plan:
    """What becomes of the groups that a folder has, and of the pieces that it is to hold.

    Where rows of removed files stay each piece is a group of its own: one that goes costs no others theirs.
    """
    pieces = joined(list(pieces))
    keys = [_key(piece, scan) for piece in pieces]
    at = {key: number for number, key in enumerate(keys)}
    kept: dict[int, dict[str, Any]] = {}
    left: list[dict[str, Any]] = []
    for group in before:
        own = group["pieces"]
        first = at.get(own[0], -1) if own else -1
        if first >= 0 and first not in kept and keys[first : first + len(own)] == own:
            kept[first] = group
        else:
            left.append(group)
    groups: list[dict[str, Any]] = []
    parts: list[list[Piece]] = []
    owners: list[int] = []
    for first, stop in _spans(pieces, kept, 0 if removed == "keep" else max_bytes):
        if first in kept:
            groups.append(kept[first])
            continue
        own = list(pieces[first:stop])
        shares = list(
            by_bytes(own, max_bytes)
            if max_rows is None or scan.filter is not None
            else by_rows(own, max_rows)
        )
        parts += shares
        owners += [len(groups)] * len(shares)
        groups.append({"pieces": keys[first:stop], "sources": [], "files": []})
    return Plan(groups, left, with_places(parts, scan), owners)


def _spans(
    pieces: Sequence[Piece], kept: Mapping[int, dict[str, Any]], size: int
) -> Iterator[tuple[int, int]]:
    """Groups as ranges of pieces: those that stay, and between them such of about ``size`` bytes."""
    first = held = number = 0
    while number < len(pieces):
        group = kept.get(number)
        if group is None and (number == first or held + pieces[number].bytes <= size):
            held += pieces[number].bytes
            number += 1
            continue
        if number > first:
            yield first, number
        if group is not None:
            yield number, number + len(group["pieces"])
            number += len(group["pieces"])
        first, held = number, 0
    if number > first:
        yield first, number


def _key(piece: Piece, scan: Scan) -> str:
    """Says what a piece holds, as it is read."""
    run = piece.run.run_id if isinstance(piece, PartPiece) else ""
    told = f"{run}\0{piece.fingerprint}\0{scan.columns}\0{filter_fingerprint(scan.filter)}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def sources_of(pieces: Sequence[Piece]) -> list[str]:
    """The files that pieces were made of in the end, in the order of their names.

    Raises
    ------
    ConfigurationError
        That is not known.
    """
    lineage = lineage_of(pieces)
    gone = [step.output for step in lineage.steps.values() if step.state == "gone"]
    if gone or not lineage.sources:
        why = f"{gone[0]} is gone" if gone else "they are from no files"
        raise ConfigurationError(
            f"removed='keep' wants to know of which files rows are made, and {why}: keep intermediates, "
            "or use removed='drop'"
        )
    return lineage.sources
