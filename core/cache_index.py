"""Which committed values have which cache keys: an index in the store, beside the runs.

Objects ``cache/<task>/<base>/<time>-<nonce>.jsonl`` below the store's shared prefix: *segments*, each
put once by the driver that has seen the commits. The first line tells the base: the parts of the
key that all calls have in common (code, flow parameters, run). Each other line is a partition with
the keys of its items. All entries of a base are read at once, into columns.

The partitions hold the values, the index only says where. An entry counts as long as its partition
is listed, whole; a segment that is lost costs hits, never a wrong one. Where there are many
segments the driver that reads them puts one in their place.
"""

from __future__ import annotations

import json
import logging
import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import ConfigurationError, NotFoundError, StorageError
from .identity import SIZE
from .interfaces import Part, Positions, Receipt, RunStore, Store
from .items import runs_of
from .records import part_fields

T = TypeVar("T")
R = TypeVar("R")
Numbers = npt.NDArray[np.int64]

_log = logging.getLogger("headrace")
_FOLDER = "cache"
_FORMAT = 1
_DAMAGED = "damaged/"
"""Where readers mark a run's partitions."""
_READERS = 16
_MANY = 32
"""Segments of a base that are put together when they are read."""
_RECENT = 65_536
"""Keys added since the last sorting, at most, before they are sorted in with the others."""


@dataclass(frozen=True, slots=True)
class Line:
    """A partition with cached items."""

    part: Part
    """With its run."""
    rows: int | tuple[int, ...]
    items: int
    """Of the whole partition."""
    started: float
    ended: float
    expires: float | None
    """Seconds since the epoch."""
    places: Sequence[int]
    """Index in the partition of each cached item."""
    keys: bytes
    """`SIZE` bytes for each."""
    arguments: Mapping[str, Sequence[Any]]
    """Argument -> digests (hex) and short texts, one for all items or one for each: to explain."""

    def to_json(self) -> str:
        """As a line of a segment."""
        rows = self.rows if isinstance(self.rows, int) else list(self.rows)
        record: dict[str, Any] = {
            "part": part_fields(self.part),
            "rows": rows,
            "items": self.items,
            "started": self.started,
            "ended": self.ended,
            "expires": self.expires,
            "places": list(self.places),
            "keys": b64encode(self.keys).decode(),
            "arguments": self.arguments,
        }
        return json.dumps(record, separators=(",", ":"))

    @staticmethod
    def of(record: Mapping[str, Any]) -> Line:
        """Of a line's JSON."""
        rows, expires = record["rows"], record["expires"]
        places = np.asarray(record["places"], np.int64)
        line = Line(
            Part(*record["part"]),
            rows if isinstance(rows, int) else tuple(rows),
            record["items"],
            float(record["started"]),
            float(record["ended"]),
            None if expires is None else float(expires),
            places.tolist(),
            b64decode(record["keys"]),
            record["arguments"],
        )
        fits = isinstance(line.rows, int) or len(line.rows) == line.items
        if not len(places) or len(line.keys) != SIZE * len(places) or not fits or not line.part.run:
            raise ValueError("its keys are not those of its places")
        if not 0 <= places.min() <= places.max() < line.items:
            raise ValueError("its places are not in its partition")
        return line


def base_folder(task: str, base: str) -> str:
    """Where the segments of a base lie. Both are plain names."""
    return f"{_FOLDER}/{task}/{base}/"


def bases(shared: RunStore, task: str) -> list[str]:
    """The folders of a task's bases."""
    listed = shared.list(f"{_FOLDER}/{task}/")
    return sorted({info.path.rpartition("/")[0] + "/" for info in listed})


def read_base(
    shared: RunStore, folder: str, known: Collection[str] = ()
) -> tuple[Mapping[str, Any], list[Line], list[str]]:
    """A base's first line, its lines by their age, and the paths of its segments.

    Those segments that are ``known`` are left out.

    Raises
    ------
    StorageError
        The folder cannot be listed.
    """
    paths, texts = _texts(shared, folder, known)
    if None in texts:  # another driver has put segments together meanwhile
        paths, texts = _texts(shared, folder, known)
    head: Mapping[str, Any] = {}
    lines: list[Line] = []
    for path, text in zip(paths, texts, strict=True):
        records = _records(f"{shared.url}/{path}", text or "")
        if records and isinstance(records[0], dict) and records[0].get("format") == _FORMAT:
            head = records[0]
            for record in records[1:]:
                try:
                    lines.append(Line.of(record))
                except (KeyError, TypeError, ValueError) as error:
                    _log.warning("%s/%s: a damaged line: %r", shared.url, path, error)
    lines.sort(key=lambda line: line.ended)
    return head, lines, paths


def _texts(
    shared: RunStore, folder: str, known: Collection[str]
) -> tuple[list[str], list[str | None]]:
    paths = [info.path for info in shared.list(folder) if info.path not in known]
    return paths, _each(paths, lambda path: _text_of(shared, path))


def _text_of(shared: RunStore, path: str) -> str | None:
    try:
        return shared.read(path).decode()
    except (NotFoundError, UnicodeDecodeError):
        return None


def _records(path: str, text: str) -> list[Any]:
    records: list[Any] = []
    for line in text.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            _log.warning("%s: a damaged line", path)
    return records


def write_segment(
    shared: RunStore, folder: str, head: Mapping[str, Any], lines: Iterable[str]
) -> None:
    """Put a segment.

    Raises
    ------
    StorageError
        It is not there.
    """
    text = "\n".join([json.dumps({"format": _FORMAT, **head}), *lines, ""])
    path = f"{folder}{time.time_ns():020d}-{os.urandom(4).hex()}.jsonl"
    shared.write(path, text.encode(), if_absent=True)


def still_there(store: Store, lines: Sequence[Line]) -> list[Line]:
    """Those whose partitions are listed, with all their bytes, and no reader has found damaged."""
    folders = sorted({(line.part.run, line.part.path.rpartition("/")[0]) for line in lines})
    listed = _each(folders, lambda folder: store.run(folder[0]).list(folder[1] + "/"))
    sizes = {
        (run, info.path): info.bytes
        for (run, _folder), infos in zip(folders, listed, strict=True)
        for info in infos
    }
    runs = sorted({run for run, _folder in folders})
    marks = _each(runs, lambda run: store.run(run).list(_DAMAGED))
    for run, infos in zip(runs, marks, strict=True):
        for info in infos:
            sizes.pop((run, info.path.removeprefix(_DAMAGED)), None)
    return [each for each in lines if sizes.get((each.part.run, each.part.path)) == each.part.bytes]


def _each(what: Sequence[T], do: Callable[[T], R]) -> list[R]:
    if len(what) <= 4:
        return list(map(do, what))
    with ThreadPoolExecutor(_READERS, "headrace-cache") as pool:
        return list(pool.map(do, what))


class CacheTable:
    """The entries of one base, in columns; looked up in bulk. Not thread-safe."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._known: set[str] = set()
        """Segments that have been read."""
        self._all, self._recent = _Sorted(), _Sorted()
        self._added: list[tuple[Any, int, Any]] = []
        """(keys, line, places) that are not sorted in."""

    @staticmethod
    def load(store: Store, folder: str) -> CacheTable:
        """All entries that are still good; without the index, none."""
        table = CacheTable()
        shared = store.shared()
        try:
            head, lines, paths = read_base(shared, folder)
            good = still_there(store, lines)
            if len(paths) > _MANY:
                write_segment(shared, folder, head, [line.to_json() for line in good])
                shared.delete(paths)
        except (ConfigurationError, StorageError) as error:  # damaged lines may name odd paths
            _log.warning("the cache in %s is not used: %s", shared.url, error)
            return table
        table._known.update(paths)
        for line in good:
            table.add(line)
        return table

    def refresh(self, store: Store, folder: str) -> None:
        """Take in what others have added since.

        Raises
        ------
        StorageError
            The index cannot be read.
        """
        _, lines, paths = read_base(store.shared(), folder, self._known)
        for line in still_there(store, lines):
            self.add(line)
        self._known.update(paths)

    def add(self, line: Line) -> None:
        """Take a partition in; of equal keys the last one counts."""
        pairs = np.frombuffer(line.keys, "<u8").reshape(-1, 2)
        self._added.append((pairs, len(self.lines), np.asarray(line.places, np.int64)))
        self.lines.append(line)

    def find(self, keys: bytes, now: float, lifetime: float | None) -> tuple[Numbers, Numbers]:
        """For each key the line and the place in its partition, or -1.

        ``lifetime``: seconds for which a value may be taken, beside what its own entry says.
        """
        wanted = np.frombuffer(keys, "<u8").reshape(-1, 2)
        if self._added:
            self._recent.take(self._added)
            self._added = []
            if len(self._recent) > max(_RECENT, len(self._all) // 2):
                self._all.merge(self._recent)
                self._recent = _Sorted()
        line, place = self._all.find(wanted)
        newer, its = self._recent.find(wanted)
        line, place = np.where(newer >= 0, newer, line), np.where(newer >= 0, its, place)
        hits = np.flatnonzero(line >= 0)
        numbers, which = np.unique(line[hits], return_inverse=True)
        old = [_is_old(self.lines[number], now, lifetime) for number in numbers.tolist()]
        line[hits[np.asarray(old, bool)[which]]] = -1
        return line, place

    def receipts(self, node: int, positions: Any, line: Numbers, place: Numbers) -> list[Receipt]:
        """Receipts of what was found for the items at ascending positions."""
        hits = np.flatnonzero(line >= 0)
        order = hits[np.argsort(line[hits], kind="stable")]
        edges = np.flatnonzero(np.diff(line[order])) + 1
        return [
            _receipt(self.lines[int(line[mine[0]])], node, positions[mine], place[mine])
            for mine in np.split(order, edges)
            if len(mine)
        ]


def _is_old(line: Line, now: float, lifetime: float | None) -> bool:
    if line.expires is not None and line.expires <= now:
        return True
    return lifetime is not None and line.ended + lifetime <= now


def _receipt(line: Line, node: int, positions: Any, places: Any) -> Receipt:
    ordered = len(places) == line.items and bool((places == np.arange(line.items)).all())
    return Receipt(
        node=node,
        batch=-1,
        attempt=0,
        part=line.part,
        positions=Positions(tuple(runs_of(positions))),
        rows=line.rows,
        started=line.started,
        ended=line.ended,
        busy_seconds=0.0,
        places=None if ordered else tuple(places.tolist()),
    )


class _Sorted:
    """Keys in order, with what they stand for."""

    def __init__(self) -> None:
        self.first = np.zeros(0, "<u8")
        self.second = np.zeros(0, "<u8")
        self.line = np.zeros(0, np.int64)
        self.place = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.first)

    def take(self, added: Sequence[tuple[Any, int, Any]]) -> None:
        """Sort keys in, behind equal ones."""
        pairs = np.concatenate([each[0] for each in added])
        self._sort(
            np.concatenate([self.first, pairs[:, 0]]),
            np.concatenate([self.second, pairs[:, 1]]),
            np.concatenate([self.line, *(np.full(len(p), n) for p, n, _ in added)]),
            np.concatenate([self.place, *(each[2] for each in added)]),
        )

    def merge(self, other: _Sorted) -> None:
        """Sort another one in."""
        pairs = [(a, b) for a, b in zip(self._columns(), other._columns(), strict=True)]
        self._sort(*map(np.concatenate, pairs))

    def _columns(self) -> tuple[Any, ...]:
        return self.first, self.second, self.line, self.place

    def _sort(self, first: Any, second: Any, line: Any, place: Any) -> None:
        order = np.lexsort((np.arange(len(first)), second, first))
        self.first, self.second = first[order], second[order]
        self.line, self.place = line[order], place[order]

    def find(self, wanted: Any) -> tuple[Numbers, Numbers]:
        """Line and place of each key, or -1: the last one that was sorted in."""
        missing = np.full(len(wanted), -1, np.int64)
        if not len(self.first):
            return missing, missing.copy()
        at = np.searchsorted(self.first, wanted[:, 0], side="right") - 1
        # Keys that share their first half are one in 10^9 runs of a million: equal ones, in fact.
        hit = (at >= 0) & (self.first[at] == wanted[:, 0]) & (self.second[at] == wanted[:, 1])
        return np.where(hit, self.line[at], missing), np.where(hit, self.place[at], missing)


def with_run(part: Part, run: str) -> Part:
    """A partition as other runs know it."""
    return part if part.run else replace(part, run=run)
