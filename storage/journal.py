"""A run's journal: numbered segments of JSON lines, each made by put-if-absent.

The number is the lock. A driver that takes a run over appends a segment of its own; the earlier
driver's next append wants the same number, finds it taken, and stops. The first line of a segment
names its writer.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

from ..core.errors import (
    AlreadyExistsError,
    NotFoundError,
    StorageError,
    TakenOverError,
)
from ..core.hostname import hostname
from .objects import Objects

_logger = logging.getLogger("headrace.storage")
_CHECKSUM = re.compile(rb'\{"crc":"([0-9a-f]{8})",')
_SEGMENT = re.compile(r"journal/(\d{8,})\.jsonl")
_READERS = 16
_warned: set[str] = set()
"""Stores that were told to be good for one driver."""


def _line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of JSON that begins with a checksum of the rest."""
    text = json.dumps(record, separators=(",", ":")).encode()
    return b'{"crc":"%08x",%b' % (zlib.crc32(text), text[1:])


def _checked(line: bytes) -> bytes:
    """The record's own JSON. Raises `ValueError` where it is not what was written."""
    match = _CHECKSUM.match(line)
    if match is None:
        raise ValueError("it has no checksum")
    text = b"{" + line[match.end() :]
    if zlib.crc32(text) != int(match[1], 16):
        raise ValueError("its checksum does not fit")
    return text


def segment_path(number: int) -> str:
    """Path of a segment, counted from 1."""
    return f"journal/{number:08d}.jsonl"


class SegmentJournal:
    """`core.interfaces.Journal` over numbered objects. One writer; any number of readers."""

    def __init__(self, objects: Objects, *, clock: Callable[[], float] = time.time) -> None:
        self._objects = objects
        self._clock = clock
        self._writer = os.urandom(8).hex()
        self._next = 0
        """Number of the next segment; 0: not the writer yet."""

    def take(self) -> list[Mapping[str, Any]]:
        """Become the writer. See `core.interfaces.Journal.take`."""
        number, records = self._read_from(1)
        while True:
            try:
                self._put(number, [], takeover=True)
            except AlreadyExistsError:
                behind, more = self._read_from(number)
                if behind == number:
                    where = self._objects.url_of(segment_path(number))
                    raise StorageError(f"{where} is no segment of the journal: remove it") from None
                number = behind
                records.extend(more)
                continue
            self._next = number + 1
            return records

    def begin(self) -> None:
        """Become the first writer. See `core.interfaces.Journal.begin`."""
        self._next = 1

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append one segment. See `core.interfaces.Journal.append`."""
        if not self._next:
            raise StorageError(
                f"the journal of {self._objects.location.url} is not taken: begin() or take() first"
            )
        if not records:
            return
        try:
            self._put(self._next, records, takeover=False)
        except AlreadyExistsError:
            raise TakenOverError(self._who(self._next)) from None
        self._next += 1

    def records(self, *, strict: bool = False) -> list[Mapping[str, Any]]:
        """All records so far; a concurrent writer does no harm. See `core.interfaces.Journal`."""
        return self._read_from(1, strict=strict)[1]

    def _put(self, number: int, records: Sequence[Mapping[str, Any]], *, takeover: bool) -> None:
        head = {
            "segment": number,
            "writer": self._writer,
            "takeover": takeover,
            "host": hostname(),
            "pid": os.getpid(),
            "time": self._clock(),
        }
        lines = [_line(head), *map(_line, records)]
        data = b"\n".join(lines) + b"\n"
        self._warn_if_many_win()
        self._objects.write(segment_path(number), data, if_absent=True)

    def _warn_if_many_win(self) -> None:
        """Say once per store and process where the number is no lock."""
        url = self._objects.location.url.rpartition("/")[0]
        if url not in _warned and not self._objects.one_winner():
            _warned.add(url)
            _logger.warning(
                "%s has no working put-if-absent: it is good for one driver per run. Do not resume a "
                "run there whose driver may still be alive: it might not notice, and write on",
                url,
            )

    def _who(self, number: int) -> str:
        """The sentence for whoever lost the run."""
        try:
            head = json.loads(self._objects.read(segment_path(number)).split(b"\n", 1)[0])
            other = f"process {head['pid']} on {head['host']}"
        except (StorageError, ValueError, KeyError):
            other = "another driver"
        return (
            f"the run in {self._objects.location.url} was taken over by {other}; this driver stops"
        )

    def _read_from(
        self, first: int, *, strict: bool = False
    ) -> tuple[int, list[Mapping[str, Any]]]:
        """The number behind the last segment, and the records from ``first`` on."""
        last = first - 1
        for info in self._objects.list("journal/"):
            match = _SEGMENT.fullmatch(info.path)
            if match is not None:
                last = max(last, int(match[1]))
        numbers = range(first, last + 1)
        if len(numbers) > 8 and self._objects.local_path("") is None:
            with ThreadPoolExecutor(_READERS, "headrace-journal") as pool:
                segments = list(pool.map(self._segment, numbers, repeat(strict)))
        else:
            segments = [self._segment(number, strict) for number in numbers]
        return last + 1, [record for segment in segments for record in segment]

    def _segment(self, number: int, strict: bool) -> list[Mapping[str, Any]]:
        """Records of one segment; what cannot be read is passed over with a warning, or an error."""
        path = segment_path(number)
        try:
            lines = self._objects.read(path).split(b"\n")
        except NotFoundError:
            if strict:
                raise
            _logger.warning("%s is missing: its records are lost", self._objects.url_of(path))
            return []
        records: list[Mapping[str, Any]] = []
        for place, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                record = json.loads(_checked(line))
            except ValueError:
                if strict:
                    where = self._objects.url_of(path)
                    raise StorageError(f"{where}: line {place + 1} is damaged") from None
                _logger.warning("%s: line %d is damaged", self._objects.url_of(path), place + 1)
                continue
            if place:
                records.append(record)
        return records
