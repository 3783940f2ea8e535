"""Reading input files: Parquet, Arrow, CSV and JSON lines by pyarrow, text and raw files by us."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from itertools import chain
from operator import and_
from typing import Any, cast

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.csv import ParseOptions, ReadOptions
from pyarrow.fs import PyFileSystem
from pyarrow.json import ReadOptions as JsonReadOptions

from ..core.errors import ConfigurationError, HeadraceError, StorageError
from ..core.interfaces import Origin
from .cutting import Span, SpanFile, csv_spans, line_spans
from .decoding import decoded, is_large, windows
from .jsonlines import rows_of
from .nodedata import PartPiece
from .pieces import Piece, Scan, scan_table
from .retrying import as_storage_error, no_ranges, retrying
from .scanhandler import NOT_PYARROWS, HeldHandler, LinesHandler
from .sources import COMPRESSED, Source, decompressed, ending_of
from .unifying import check_fits

TEXT_SCHEMA = pa.schema([("text", pa.string())])
FILES_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("etag", pa.string()),
        ("content", pa.large_binary()),
    ]
)
FIXED_SCHEMAS = {"text": TEXT_SCHEMA, "files": FILES_SCHEMA}
_BLOCKS = (1 << 20, 32 << 20, 1 << 30)
"""Bytes of lines that are read at a time: each must be as long as the longest line."""
SMALL_BYTES = 8 << 20
"""What is no larger is fetched by one request, Parquet files up to `_LOOKED_AT`, and read ahead to its end."""
_LOOKED_AT = 1 << 20
"""Row groups of smaller Parquet files are not looked at before they are read."""


class LongLineError(ConfigurationError):
    """A line is longer than what is read at a time."""


@lru_cache(maxsize=16)
def arrow_format(name: str, block: int = _BLOCKS[0]) -> Any:
    """Pyarrow's file format of a headrace format name."""
    makers: dict[str, Callable[[], Any]] = {
        "parquet": ds.ParquetFileFormat,
        "arrow": ds.IpcFileFormat,
        "csv": lambda: ds.CsvFileFormat(
            ParseOptions(newlines_in_values=True), read_options=ReadOptions(block_size=block)
        ),
        "jsonl": lambda: ds.JsonFileFormat(read_options=JsonReadOptions(block_size=block)),
    }
    return makers[name]()


@dataclass(frozen=True)
class FilePiece:
    """A file, some row groups of a Parquet file, or some lines of a file of lines."""

    source: Source
    path: str
    format: str
    size: int
    stamp: str
    """ETag, or times of modification and change: changes when the file does."""
    modified: float = 0.0
    groups: tuple[int, ...] | None = None
    rows: int | None = None
    group_bytes: int = 0
    span: Span | None = None
    constants: tuple[tuple[str, Any], ...] = ()
    """Columns that the file's folder tells (``year=2026/``), as (name, `pyarrow.Scalar`)."""

    @property
    def name(self) -> str:
        return self.source.show(self.path)

    @property
    def origin(self) -> Origin:
        return self.name, self.stamp

    @property
    def bytes(self) -> int:
        return (
            self.group_bytes or self.size if self.span is None else self.span.stop - self.span.first
        )

    @property
    def fingerprint(self) -> str:
        groups = "" if self.groups is None else ",".join(map(str, self.groups))
        lines = "" if self.span is None else f":{self.span.first}-{self.span.stop}"
        return f"{self.name}:{self.size}:{self.stamp}:{self.format}:{groups}{lines}"

    def fragment(self, block: int = _BLOCKS[0], *, held: bool = False) -> Any:
        """Pyarrow's fragment; opens nothing. With ``held`` it holds a small remote file's bytes, once read."""
        options: dict[str, Any] = {}
        if self.groups is not None:
            options["row_groups"] = list(self.groups)
        tests = [
            ds.field(name) == value if value.is_valid else ds.field(name).is_null()
            for name, value in self.constants
        ]
        if tests:
            options["partition_expression"] = reduce(and_, tests)
        held_handler: Any = HeldHandler  # abstract, say the stubs
        lines_handler: Any = LinesHandler
        compressed = ending_of(self.path) in NOT_PYARROWS
        by_us = self.span is not None or not self.source.local or compressed
        if held and self._is_small_and_remote and not compressed:
            filesystem = PyFileSystem(held_handler(self.source))
        elif self.format in ("csv", "jsonl") and by_us:
            filesystem = PyFileSystem(lines_handler(self.source, self.span))
        else:
            filesystem = self.source.arrow(mapped=self.format == "arrow")
        return arrow_format(self.format, block).make_fragment(self.path, filesystem, **options)

    @property
    def _is_small_and_remote(self) -> bool:
        most = _LOOKED_AT if self.format == "parquet" else SMALL_BYTES
        known = 0 < self.size <= most  # 0: a server of https:// may not have told
        return self.span is None and not self.source.local and known

    def schema(self) -> Any:
        if self.format in FIXED_SCHEMAS:
            return FIXED_SCHEMAS[self.format]
        file = replace(self, span=None)  # CSV and JSON lines: types are guessed at their begin
        return self._with_blocks(lambda block: self._schema_of(file.fragment(block, held=True)))

    def _schema_of(self, fragment: Any) -> Any:
        own = fragment.physical_schema.remove_metadata()
        names = own.names  # fails here, where the file is known, if one is no UTF-8
        for name, value in self.constants:
            if name not in names:  # else it is written in the file, too, with its type
                own = own.append(pa.field(name, value.type))
        return own

    def count(self) -> int:
        if self.rows is not None:
            return self.rows
        if self.format == "text":
            return sum(table.num_rows for table in self._texts())
        return int(self._with_blocks(lambda block: self.fragment(block).count_rows()))

    def units(self, scan: Scan | None = None) -> list[Piece]:
        """As `Piece.units`; without row groups whose statistics rule out the scan's filter."""
        if self.format == "files":
            return [cast(Piece, replace(self, rows=1))]
        if self.format != "parquet" or self.groups is not None:
            return [cast(Piece, self)]
        return self._guard(lambda: self._row_groups(scan))

    def _row_groups(self, scan: Scan | None) -> list[Piece]:
        fragment = self.fragment()
        if not fragment.num_row_groups:
            return [cast(Piece, replace(self, groups=(), rows=0))]
        groups = fragment.row_groups
        if scan is not None and scan.filter is not None:
            parts = fragment.split_by_row_group(scan.filter, schema=scan.schema)
            groups = [part.row_groups[0] for part in parts]
        return [
            cast(
                Piece,
                replace(self, groups=(g.id,), rows=g.num_rows, group_bytes=g.total_byte_size),
            )
            for g in groups
        ]

    def footer(self) -> Any:
        """A Parquet file's metadata; of other formats None."""
        return self._guard(self._footer) if self.format == "parquet" else None

    def _footer(self) -> Any:
        with self.source.arrow().open_input_file(self.path) as file:
            return pq.read_metadata(file)

    def may_hold(self, scan: Scan) -> bool:
        """Whether rows can fit the scan's filter, as far as the file's folder tells; reads nothing."""
        if scan.filter is None or not self.constants:
            return True
        fragment = self.fragment()
        alone = ds.FileSystemDataset([fragment], scan.schema, fragment.format, fragment.filesystem)
        return any(True for _ in alone.get_fragments(scan.filter))

    def spans(self, step: int) -> list[Piece]:
        """Itself as ranges of whole lines of about ``step`` bytes, where its format has lines.

        Reads around the borders, of CSV all. What is compressed stays whole.
        """
        lines = self.format in ("csv", "jsonl", "text") and self.span is None
        if not lines or self.size <= step or ending_of(self.path) in COMPRESSED:
            return [cast(Piece, self)]

        def found() -> list[Span]:
            with self.source.open_lines(self.path) as file:
                return (csv_spans if self.format == "csv" else line_spans)(file, self.size, step)

        return [cast(Piece, replace(self, span=span)) for span in self._guard(found)]

    def cut(self, first: int, rows: int) -> Piece | None:
        return None

    def join(self, other: Piece) -> Piece | None:
        """Both as one, where the other has later row groups of the same file."""
        if not isinstance(other, FilePiece) or not self.groups or not other.groups:
            return None
        if other.groups[0] <= self.groups[-1]:  # a file that was named twice has its rows twice
            return None
        if (other.path, other.source) != (self.path, self.source):
            return None
        rows = None if self.rows is None or other.rows is None else self.rows + other.rows
        size = self.group_bytes + other.group_bytes
        both = replace(self, groups=self.groups + other.groups, rows=rows, group_bytes=size)
        return cast(Piece, both)

    # --------------------------------------------------------------------------------- rows

    def batches(self, scan: Scan) -> Iterator[Any]:
        if self.groups is not None or self.span is not None:
            self._check_unchanged()
        if self.format == "files":
            yield from scan_table(self._file_row(scan), scan)
            return
        if self.format == "text":
            for table in self._texts():
                yield from scan_table(table, scan)
            return
        if self.groups == ():
            return
        done = 0
        for block in _BLOCKS:
            try:
                for batch in self._behind(done, scan, block):
                    done += batch.num_rows
                    yield batch.cast(scan.result) if batch.schema != scan.result else batch
            except LongLineError:
                if block == _BLOCKS[-1]:
                    raise
            else:
                return

    def _check_unchanged(self) -> None:
        """Raises `StorageError` where the rows of a part need not be where they were any more."""
        files = self.source.filesystem
        info = retrying(lambda: files.info(self.path), operation="read", url=self.name)
        size, stamp, _ = self.source.state_of(self.path, info)
        on_the_web = self.source.location.scheme in (
            "http",
            "https",
        )  # whose mirrors' tags may differ
        if size != self.size or (stamp != self.stamp and not on_the_web):
            raise StorageError(
                f"{self.name} has changed since it was listed, so a part of it cannot be told any more: "
                "open the dataset again (a resumed run does)"
            )

    def _behind(self, done: int, scan: Scan, block: int) -> Iterator[Any]:
        """The rows behind some that were read already, with shorter blocks."""
        iterator = self._guard(lambda: self._scanned(scan, block))
        while (batch := self._guard(lambda: next(iterator, None))) is not None:
            left = batch.slice(done)
            done -= batch.num_rows - left.num_rows
            if left.num_rows:
                yield left

    def _scanned(self, scan: Scan, block: int) -> Iterator[Any]:
        fragment = self.fragment(block, held=True)
        if scan.asked:
            own = self.schema() if self.span is not None else self._schema_of(fragment)
            check_fits(self.name, own, scan.schema, scan.asked)
        fragments: Iterable[Any] = (fragment,)
        if self.format == "parquet" and self.bytes > _LOOKED_AT and scan.columns != ():
            kept = (
                fragment
                if scan.filter is None
                else fragment.subset(scan.filter, schema=scan.schema)
            )
            if is_large(kept.row_groups):
                file = self.source.arrow().open_input_file(self.path)
                return decoded(file, kept.row_groups, scan, self.constants)
            fragments = (kept.subset(row_group_ids=ids) for ids in windows(kept.row_groups))
        if self.format == "jsonl":
            told = self.constants and fragment.physical_schema.names
            constants = [each for each in self.constants if each[0] not in told]
            packed = None if ending_of(self.path) in NOT_PYARROWS else "detect"
            opened = partial(fragment.filesystem.open_input_stream, self.path, packed)
            return rows_of(self.name, opened, block, scan, constants)
        columns = None if scan.columns is None else list(scan.columns)
        return chain.from_iterable(
            each.scanner(schema=scan.schema, columns=columns, filter=scan.filter).to_batches()
            for each in fragments
        )

    def _file_row(self, scan: Scan) -> Any:
        """A raw file as one row; its bytes are read only where they are wanted."""
        content: bytes | None = None
        if scan.columns is None or "content" in scan.columns or scan.filter is not None:
            content = self._fetched()
        row = {
            "path": self.name,
            "size": self.size,
            "modified": int(self.modified * 1e6),
            "etag": self.stamp,
            "content": content,
        }
        columns = [pa.array([row[f.name]], f.type) for f in FILES_SCHEMA]
        return pa.table(columns, schema=FILES_SCHEMA)

    def _fetched(self) -> bytes:
        if self._is_small_and_remote:
            return self.source.fetch(self.path)
        system = self.source.filesystem
        whole = partial(system.cat_file, self.path)
        return cast(bytes, retrying(whole, operation="read", url=self.name))

    def _texts(self) -> Iterator[Any]:
        """Lines without their ends, as UTF-8; what is not UTF-8 is replaced."""
        with self._guard(self._open_text) as raw:
            reader = io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline=None)
            while lines := self._guard(lambda: reader.readlines(_BLOCKS[0])):
                texts = pa.array([line.removesuffix("\n") for line in lines], pa.string())
                yield pa.table([texts], schema=TEXT_SCHEMA)

    def _open_text(self) -> Any:
        held = self._is_small_and_remote
        file = io.BytesIO(self._fetched()) if held else self.source.open_lines(self.path)
        if self.span is None:
            return decompressed(file, self.path)
        return io.BufferedReader(SpanFile(file, self.span), 1 << 20)

    def _with_blocks(self, call: Callable[[int], Any]) -> Any:
        """What is told where lines are read so many bytes at a time, of which the longest line is one."""
        for block in _BLOCKS[:-1]:
            with suppress(LongLineError):
                return self._guard(lambda block=block: call(block))
        return self._guard(lambda: call(_BLOCKS[-1]))

    def _guard(self, call: Callable[[], Any]) -> Any:
        """Errors of readers and file systems, named by the file."""
        try:
            return call()
        except (HeadraceError, MemoryError):
            raise
        except (ValueError, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            told = str(error).splitlines()[0]
            if no_ranges(error):
                raise as_storage_error(error, "read", self.name) from error
            if "straddl" in told:  # what pyarrow says of no other fault
                raise LongLineError(
                    f"{self.name} cannot be read as {self.format}: a line has more than {_BLOCKS[-1]} bytes"
                ) from error
            if "conver" in told or "Column(/" in told:  # pyarrow has no classes of errors
                told += "; types are guessed at the begin of each file, where schema= does not state them"
            elif "JSON parse error" in told:
                told += "; JSON lines have an object in each line"
            raise ConfigurationError(
                f"{self.name} cannot be read as {self.format}: {told}"
            ) from error
        except Exception as error:  # what is below fsspec has no common class: aiohttp's, say
            raise as_storage_error(error, "read", self.name) from error


@dataclass(frozen=True)
class TablePiece:
    """A table in memory, or a range of one."""

    table: Any

    @property
    def name(self) -> str:
        return "a table in memory"

    @property
    def origin(self) -> None:
        return None

    @property
    def rows(self) -> int:
        return int(self.table.num_rows)

    @property
    def bytes(self) -> int:
        return int(self.table.nbytes)

    @property
    def fingerprint(self) -> str:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        import hashlib

        return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()

    def schema(self) -> Any:
        return self.table.schema

    def count(self) -> int:
        return self.rows

    def units(self) -> list[Piece]:
        return [cast(Piece, self)]

    def cut(self, first: int, rows: int) -> Piece | None:
        return cast(Piece, TablePiece(self.table.slice(first, rows)))

    def batches(self, scan: Scan) -> Iterator[Any]:
        yield from scan_table(self.table, scan)


# --------------------------------------------------------------------------- as pyarrow dataset


def arrow_dataset(pieces: Sequence[Piece], scan: Scan, to_table: Callable[[], Any]) -> Any:
    """The pieces as a `pyarrow.dataset.Dataset` in the same order."""
    scannable = scan.columns is None and scan.filter is None
    fragments: list[Any] = [_fragment(piece, scan) for piece in pieces] if scannable else []
    if not fragments or any(fragment is None for fragment in fragments):
        return ds.dataset(to_table())
    formats = {type(fragment.format) for fragment in fragments}
    if len(formats) > 1:
        return ds.dataset(to_table())
    first = fragments[0]
    return ds.FileSystemDataset(fragments, scan.schema, first.format, first.filesystem)


def _fragment(piece: Piece, scan: Scan) -> Any:
    if isinstance(piece, FilePiece) and piece.format not in FIXED_SCHEMAS:
        # Of JSON lines pyarrow passes over the fields that a schema has not, a guessed one, too.
        return None if piece.format == "jsonl" and not scan.stated else piece.fragment()
    if isinstance(piece, PartPiece) and piece.uncut:
        source = Source(piece.run.store.location, piece.run.store.storage_options)
        path = piece.run.objects.path_of(piece.part.path)
        return arrow_format(piece.part.format).make_fragment(path, source.arrow())
    return None
