"""Cutting files of lines: byte ranges that end with a line, in CSV with one that is not in quotes."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

_LOOK = 64 << 10
_BLOCK = 8 << 20
_QUOTE, _LINE_END = ord('"'), ord("\n")
_BEFORE_FIELDS = np.frombuffer(b',\n\r"', np.uint8)


class Span(NamedTuple):
    """Whole lines of a file, from byte ``first`` to before ``stop``; its header has ``header`` bytes."""

    first: int
    stop: int
    header: int = 0


def line_spans(file: Any, size: int, step: int) -> list[Span]:
    """Ranges of about ``step`` bytes; reads around their borders only."""
    cuts = [0]
    at = step
    while at < size:
        cut = _line_start(file, at)
        if cut >= size:
            break
        cuts.append(cut)
        at = cut + step
    return [Span(a, b) for a, b in zip(cuts, [*cuts[1:], size], strict=True)]


def _line_start(file: Any, at: int) -> int:
    """Where the first line begins that does not begin before ``at``."""
    file.seek(at - 1)
    at -= 1
    while block := file.read(_LOOK):
        found = block.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(block)
    return at


def csv_spans(file: Any, size: int, step: int) -> list[Span]:
    """Ranges of about ``step`` bytes; reads the file once, as only its quotes tell which lines end.

    One range if a quote stands within an unquoted field: what it means, only a parser can tell.
    """
    whole = [Span(0, size)]
    cuts: list[int] = []
    header, wanted, at, quotes, last = 0, 0, 0, 0, _LINE_END
    file.seek(0)
    while data := file.read(_BLOCK):
        block = np.frombuffer(data, np.uint8)
        marks = np.flatnonzero(block == _QUOTE)
        before = np.concatenate(([last], block))[marks]
        if not np.isin(before[quotes % 2 :: 2], _BEFORE_FIELDS).all():
            return whole
        while wanted < at + len(block):
            ends = np.flatnonzero(block[max(0, wanted - at) :] == _LINE_END) + max(0, wanted - at)
            outside = ends[(np.searchsorted(marks, ends) + quotes) % 2 == 0]
            if not len(outside):
                break
            cut = at + int(outside[0]) + 1
            if header:
                cuts.append(cut)
            elif at or data[:cut].strip():
                header = cut
            wanted = cut + step if header else cut  # blank lines may stand before the header
        at += len(block)
        quotes += len(marks)
        last = int(block[-1])
    cuts = [0, *(cut for cut in cuts if cut < size)]
    return [Span(a, b, header if a else 0) for a, b in zip(cuts, [*cuts[1:], size], strict=True)]


class SpanFile(io.RawIOBase):
    """A file's header and a range of its lines, as if they were a file."""

    def __init__(self, file: Any, span: Span) -> None:
        self._file, self._span, self._at = file, span, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        first, stop, header = self._span
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: header + stop - first}
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        first, stop, header = self._span
        where, end = (self._at, header) if self._at < header else (first + self._at - header, stop)
        self._file.seek(where)
        data = self._file.read(max(0, min(len(buffer), end - where)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
