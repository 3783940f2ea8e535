"""fsspec files for pyarrow's readers, each opened for itself and without read-ahead."""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from pyarrow import fs

from .cutting import Span, SpanFile
from .sources import Source, decompressed, ending_of

NOT_PYARROWS = (".zst", ".xz")
"""Endings of compressed files that pyarrow's readers take for plain ones."""


class OpenedHandler(fs.FSSpecHandler):
    """Opens files of a source for random access."""

    how: Mapping[str, Any] = MappingProxyType({})
    """What fsspec is told beside the path."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.filesystem)
        self._source = source

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(self._source.open(path, **self.how), mode="r")

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)


class UncachedHandler(OpenedHandler):
    """Opens files for random access without a cache of fsspec's.

    pyarrow coalesces its reads itself: reading ahead on top of that fetched twice as much, and gcsfs'
    background prefetcher outlives readers that stop early.
    """

    how = MappingProxyType({"cache_type": "none"})


class WholeHandler(OpenedHandler):
    """Opens files of ``memory://``, each time another one.

    fsspec hands the same file object to all who open it, so threads would move each other's place.
    """

    def open_input_file(self, path: str) -> Any:
        files: Any = self.fs
        if not files.isfile(path):
            raise FileNotFoundError(path)
        return pa.BufferReader(files.cat_file(path))


class HeldHandler(OpenedHandler):
    """Opens one file, as often as it is asked to, from its bytes: looked at and read, it is fetched once."""

    _held: bytes | None = None

    def open_input_file(self, path: str) -> Any:
        if self._held is None:
            self._held = self._source.fetch(path)
        return pa.BufferReader(self._held)


class LinesHandler(OpenedHandler):
    """Opens files of lines, which are read in order: CSV and JSON lines, or a range of such a file.

    pyarrow decompresses some of them itself, by their endings.
    """

    def __init__(self, source: Source, span: Span | None) -> None:
        super().__init__(source)
        self._span = span

    def open_input_file(self, path: str) -> Any:
        file = self._source.open_lines(path)
        if ending_of(path) in NOT_PYARROWS:
            file = decompressed(file, path)
        if self._span is not None:
            file = io.BufferedReader(SpanFile(file, self._span), 1 << 20)
        return pa.PythonFile(file, mode="r")
