"""Datasets: ordered rows in many files, read lazily, and handed to workers in partitions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..core.errors import ConfigurationError
from ..core.shown import Shown
from .operating import Operations
from .pieces import Piece, Scan, filter_fingerprint, origins_of

if TYPE_CHECKING:
    from .lineage import DatasetLineage
    from .making import Made
    from .statistics import ColumnStatistics

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BINARY_UNITS = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
DEFAULT_PARTITION_BYTES = 64 << 20


class Dataset(Operations, Shown):
    """Ordered rows in files or partitions. Nothing is read until it is asked for.

    Made by `open_dataset`, by a future's ``.dataset()``, and by `write`. Immutable and picklable;
    every tool that takes ``__arrow_c_stream__`` reads it as it is.

    Thread rule: all methods from any thread.
    """

    shown_as = "dataset"

    def __init__(
        self,
        pieces: Iterable[Piece],
        *,
        schema: Any = None,
        find_schema: Callable[[], Any] | None = None,
        columns: Sequence[str] | None = None,
        filter: Any = None,
        made: Made | None = None,
        asked: int = 0,
        stated: bool = False,
    ) -> None:
        self._held = tuple(pieces) if made is None else None
        self._made = made
        self._schema = schema
        self._find_schema = find_schema
        self._columns = None if columns is None else _named(columns)
        self._filter = as_expression(filter)
        self._asked = asked
        self._stated = stated

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The parts that can be read on their own, in order; waits for those that are being made."""
        if self._held is None:
            self._held = self._found(keep=True).pieces
        return self._held

    def _found(self, *, keep: bool) -> Dataset:
        assert self._made is not None
        found = self._made.dataset(keep=keep)
        if self._schema is None:
            self._schema = found.full_schema
        return found

    def handed_on(self, *, keep: bool = False) -> tuple[tuple[Piece, ...], Any]:
        """The pieces, and the map future of this run that they come from, where that is known.

        Who is called with that future can read them. Without ``keep`` they are no more kept for
        others than the future's values are.
        """
        future = None if self._made is None else self._made.future_here()
        if keep or future is None or self._held is not None:
            return self.pieces, None
        return self._found(keep=False).pieces, future

    def __repr__(self) -> str:
        if self._held is None:
            return f"<{type(self).__name__} that is being made>"
        names = [piece.name for piece in self._held[:1]]
        more = f" and {len(self._held) - 1} more" if len(self._held) > 1 else ""
        return f"<{type(self).__name__} of {', '.join(names) or 'nothing'}{more}>"

    def __reduce__(self) -> Any:
        return _rebuilt, (
            type(self),
            self.pieces,
            self.full_schema,
            self._columns,
            self._filter,
            self._asked,
            self._stated,
        )

    # ------------------------------------------------------------------------------- facts

    @property
    def full_schema(self) -> Any:
        """`pyarrow.Schema` of the files together, before columns are chosen.

        Of more than a thousand files that have to be opened for it a thousand are, evenly spread; the
        others are held against it when they are read.
        """
        if self._schema is None and self._held is None:
            self.pieces  # noqa: B018 - finds it
        if self._schema is None:
            if self._find_schema is not None:
                self._schema = self._find_schema()
            else:
                from .splitting import MOST_ASKED, schema_of

                schema, self._asked = schema_of(self.pieces, MOST_ASKED)
                self._schema = schema  # last: who finds it relies on what it is of
        return self._schema

    def scan(self, columns: Sequence[str] | None = None, filter: Any = None) -> Scan:
        """How it is read; of these columns, where some are named.

        Raises
        ------
        ConfigurationError
            There is no such column.
        """
        schema = self.full_schema
        wanted = self._columns if columns is None else _named(columns)
        missing = [name for name in wanted or () if name not in schema.names]
        if missing:
            raise ConfigurationError(
                f"no column {missing[0]!r} in {self!r}: it has {', '.join(schema.names) or 'none'}"
            )
        own, more = self._filter, as_expression(filter)
        both = more if own is None else own if more is None else own & more
        if both is not None and self._held != ():
            self._check_filter(both, schema)
        return Scan(schema, wanted, both, self._asked, self._stated)

    def _check_filter(self, filter: Any, schema: Any) -> None:
        try:
            schema.empty_table().filter(filter)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise ConfigurationError(
                f"the filter {filter} does not fit {self!r}: {str(error).splitlines()[0]}; "
                f"its columns are {columns or 'none'}"
            ) from error

    @property
    def schema(self) -> Any:
        """`pyarrow.Schema` of the rows as they are read."""
        return self.scan().result

    @property
    def num_rows(self) -> int:
        """Rows; counted by reading where a filter is set or the format does not tell."""
        if self._filter is not None:
            first = self.full_schema.names[:1]
            return sum(batch.num_rows for batch in self.iter_batches(columns=first))
        return sum(p.count() if p.rows is None else p.rows for p in self.pieces)

    @property
    def known_rows(self) -> int | None:
        """Rows, where that is known without reading; else None."""
        rows = [piece.rows for piece in self.pieces]
        return None if self._filter is not None or None in rows else sum(cast("list[int]", rows))

    @property
    def files(self) -> list[str]:
        """URLs or paths of the files, in order, each once; for tools that scan for themselves."""
        return list(dict.fromkeys(piece.name for piece in self.pieces))

    @property
    def bytes(self) -> int:
        """Stored size."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def fingerprint(self) -> str:
        """Of paths, tags or times, sizes, row ranges, columns and filter; no data is read."""
        digest = hashlib.blake2b(digest_size=16)
        for text in (
            *(p.fingerprint for p in self.pieces),
            repr(self._columns),
            filter_fingerprint(self._filter),
            *([str(self._schema)] if self._stated else []),
        ):
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()

    def __headrace_fingerprint__(self) -> str:
        return self.fingerprint

    def __headrace_origins__(self) -> list[tuple[str, str]]:
        """`core.interfaces.Origin` of what it reads."""
        return origins_of(self.pieces)

    def lineage(self) -> DatasetLineage:
        """What made its partitions, of which inputs, and what made those, back to the first files.

        Reads the footers of all that it meets, and no rows. Partitions that are gone (dropped
        intermediates, deleted runs) are told as such; what they were made of is lost with them.
        """
        from .lineage import lineage_of

        return lineage_of(self.pieces)

    # --------------------------------------------------------------------------------- read

    def iter_batches(
        self, columns: Sequence[str] | None = None, filter: Any = None
    ) -> Iterator[Any]:
        """Record batches in order; files are read one after the other, small remote ones ahead."""
        from .reading import batches_of

        yield from batches_of(self.pieces, self.scan(columns, filter))

    def to_reader(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """A `pyarrow.RecordBatchReader` that streams."""
        from .reading import batches_of

        scan = self.scan(columns, filter)
        return pa.RecordBatchReader.from_batches(scan.result, batches_of(self.pieces, scan))

    def to_table(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """All rows as a `pyarrow.Table`, in memory."""
        return self.to_reader(columns, filter).read_all()

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """All rows as a `pandas.DataFrame`."""
        return self.to_table(columns, filter).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """All rows as a `polars.DataFrame`."""
        import polars as pl

        return pl.DataFrame(self.to_table(columns, filter))

    def head(self, rows: int = 10) -> Any:
        """The first rows, as a table; reads no more files than it needs."""
        held: list[Any] = []
        left = max(0, rows)
        for batch in self.iter_batches():
            held.append(batch.slice(0, left))
            left -= held[-1].num_rows
            if left <= 0:
                break
        return pa.Table.from_batches(held, schema=self.schema)

    def to_arrow_dataset(self) -> Any:
        """The rows as a `pyarrow.dataset.Dataset`.

        It scans the files where they can be scanned as they are, else it holds the rows in memory:
        JSON lines, for one, without a stated ``schema``, and what is filtered. Who scans CSV and JSON
        lines so gets an error of pyarrow's at a line of more than 1 MB; `to_table` reads it.
        """
        from .scanning import arrow_dataset
        from .splitting import check_all

        check_all(self.pieces, self.scan())
        return arrow_dataset(self.pieces, self.scan(), self.to_table)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def select(self, columns: Sequence[str]) -> Dataset:
        """The same rows with these columns."""
        self.scan(columns)
        return Dataset(
            self._held or (),
            schema=self.full_schema,
            columns=columns,
            filter=self._filter,
            made=None if self._held is not None else self._made,
            asked=self._asked,
            stated=self._stated,
        )

    # --------------------------------------------------------------------------- partitions

    def partitions(
        self,
        *,
        rows: int | None = None,
        bytes: int | str | None = None,
        files: int | None = None,
        by: str | None = None,
    ) -> list[Partition]:
        """Handles of parts of the data, to map over: small, picklable, read where they are used.

        Large files are split where their format allows (Parquet at row groups; CSV, JSON lines and
        text at line ends, of CSV outside quotes), small ones are packed together; order is kept. Files
        and row groups whose folder or footer says that the filter leaves nothing of them are left out.

        Parameters
        ----------
        rows, bytes, files
            Aim at this many rows, bytes (a number, or ``"64MB"``), or files each; one of them, by
            default 64 MiB. A unit that cannot be split may exceed it.
        by
            A partition per value of this column, in the order in which the values first appear. A
            folder's name (``year=2026/``) must tell the value, or a footer that a row group has one.

        Raises
        ------
        ConfigurationError
            More than one aim, one that is not positive, or values that are not told.
        """
        aims = [aim for aim in (rows, bytes, files, by) if aim is not None]
        if len(aims) > 1:
            raise ConfigurationError("partitions() takes one of rows=, bytes=, files= and by=")
        size = parse_bytes(bytes) if bytes is not None else DEFAULT_PARTITION_BYTES
        for name, aim in (("rows", rows), ("bytes", size), ("files", files)):
            check_positive(name, aim)
        from .splitting import by_files, by_rows, by_value, may_hold, parts_of, settled

        scan = self.scan(None if by is None else [by])
        pieces = may_hold(self.pieces, scan)
        if by is not None:
            groups = by_value(pieces, by, scan)
        elif rows is not None:
            groups = by_rows(pieces, rows)
        elif files is not None:
            groups = by_files(pieces, files)
        else:
            groups = settled(parts_of(pieces, size, scan), size)
        schema = scan.schema
        return [
            Partition(
                group,
                schema=schema,
                columns=self._columns,
                filter=self._filter,
                asked=scan.asked,
                stated=scan.stated,
            )
            for group in groups
        ]

    def __headrace_load__(self, annotation: Any) -> Any:
        from .adapting import form

        return form(self, annotation)

    # -------------------------------------------------------------------------------- write

    def write(
        self,
        uri: Any,
        format: str = "parquet",
        partition_by: str | Sequence[str] | None = None,
        mode: str = "error",
        *,
        storage_options: Any = None,
        max_rows_per_file: int | None = None,
        max_bytes_per_file: int | str | None = None,
        removed: str = "drop",
    ) -> Dataset:
        """Write the rows as plain files that any tool reads, and a manifest; returns them opened.

        In a flow it runs on the flow's executor, outside of one as a flow run of its own on the
        default executor, and returns when all is there; in a running task it runs there, a batch of
        rows at a time. The files appear together, when all are written: a reader of the manifest
        (`open_dataset`) sees the old rows or the new ones, never a mix, and what fails or is killed
        before leaves the old ones. One may write to a folder at a time.

        Parameters
        ----------
        uri
            A folder: a path or a URL.
        format
            ``"parquet"`` (zstd) or ``"arrow"`` (IPC).
        partition_by
            Columns whose values become hive-style folders (``year=2026/``). The rows of a folder are
            brought together first, so that the number of files follows their size.
        mode
            ``"error"`` where the folder holds files already, ``"overwrite"``, ``"append"``,
            ``"ignore"`` (leave what is there), or ``"update"``: afterwards the folder has the rows
            that ``"overwrite"`` would leave, but of partitions and files that it was written of
            before nothing is read or written again.
        storage_options
            As in `open_dataset`.
        max_rows_per_file, max_bytes_per_file
            By default 128 MB each, as the rows are in memory.
        removed
            With ``mode="update"``: ``"drop"`` removes the rows of input files that the dataset is made of
            no more; ``"keep"`` leaves rows there that were made of such files only, as the lineage tells.

        Raises
        ------
        AlreadyExistsError
            With ``mode="error"``; with ``mode="update"``, where the folder was written otherwise.
        ConfigurationError
            With ``removed="keep"``, where the files of some rows are not known, or rows that are to stay
            were written together with rows that are not.
        StorageError
        """
        from .writing import write_dataset

        return write_dataset(
            self,
            uri,
            format=format,
            partition_by=[partition_by] if isinstance(partition_by, str) else partition_by or [],
            mode=mode,
            options=storage_options or {},
            max_rows=max_rows_per_file,
            max_bytes=128_000_000
            if max_bytes_per_file is None
            else parse_bytes(max_bytes_per_file),
            removed=removed,
        )


class Partition(Dataset):
    """A part of a dataset as a handle: an argument that is read where the task runs."""

    @property
    def rows(self) -> int:
        """Rows before a filter."""
        return sum(p.count() if p.rows is None else p.rows for p in self.pieces)

    @property
    def statistics(self) -> dict[str, ColumnStatistics]:
        """Least and greatest value and nulls by column, before a filter; reads Parquet footers.

        Columns of which a footer or folder tells nothing are left out.
        """
        from .scanning import FilePiece
        from .statistics import of_piece, together

        return together(
            of_piece(p, p.footer()) if isinstance(p, FilePiece) else {} for p in self.pieces
        )

    def __headrace_load__(self, annotation: Any) -> Any:
        """The rows in the form that the annotation asks for: a table where it asks for none."""
        from .adapting import form

        return form(self, annotation, "table")


def open_dataset(
    uri: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    format: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    columns: Sequence[str] | None = None,
    filter: Any = None,
    schema: Any = None,
) -> Dataset:
    """Open files as a dataset, in the order of their paths.

    Parameters
    ----------
    uri
        A file, a folder (with all below it, names that begin with ``.`` or ``_`` left out), a glob,
        or a list of these; a path or a URL (``s3://``, ``gs://``, ``memory://`` ...).
    format
        ``"parquet"``, ``"arrow"``, ``"csv"``, ``"jsonl"``, ``"text"`` (a column ``text``, a row per
        line) or ``"files"`` (a row per file: ``path, size, modified, etag, content``). By default
        what the names' endings say.
    storage_options
        For the file system, as in pandas and Dask.
    columns
        Read these columns only.
    filter
        Read the rows that fit: a `pyarrow.compute.Expression`, or a list of
        ``(column, operator, value)``.
    schema
        `pyarrow.Schema` of the rows: no file is asked for its own, columns that one lacks are null,
        and folders' values (``year=2026/``) get their type; else they are text. ``"all"``: of the
        files' own, all of which are asked, however many. By default a thousand are, where there are
        more, and what another one has that does not fit is an error when it is read.

    Raises
    ------
    NotFoundError
        There is no such file.
    ConfigurationError
        The format cannot be told, or the location is none.
    """
    from .opening import find_pieces
    from .splitting import schema_of

    asks_all = isinstance(schema, str) and schema == "all"
    stated = None if asks_all else schema
    if not isinstance(stated, pa.Schema | None):
        raise ConfigurationError(f'schema= is a pyarrow.Schema, or "all": {schema!r}')
    pieces = find_pieces(uri, format, storage_options or {}, stated)
    return Dataset(
        pieces,
        schema=stated,
        find_schema=(lambda: schema_of(pieces)[0]) if asks_all else None,
        columns=columns,
        filter=filter,
        stated=stated is not None,
    )


def _rebuilt(
    cls: type[Dataset],
    pieces: Any,
    schema: Any,
    columns: Any,
    filter: Any,
    asked: int,
    stated: bool,
) -> Dataset:
    return cls(pieces, schema=schema, columns=columns, filter=filter, asked=asked, stated=stated)


def _named(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def dataset_of_table(table: Any) -> Dataset:
    """A dataset over a table in memory."""
    from .scanning import TablePiece

    return Dataset([cast(Piece, TablePiece(table))], schema=table.schema)


def as_expression(filter: Any) -> Any:
    """A filter as an expression: as it is, or from lists of (column, operator, value) tuples."""
    if filter is None or isinstance(filter, pc.Expression):
        return filter
    try:
        return pq.filters_to_expression(filter)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"not a filter: {filter!r}: use a pyarrow expression, or a list of "
            "(column, operator, value)"
        ) from error


def check_positive(name: str, count: int | None) -> None:
    """Raise `ConfigurationError` for a number of things that is no positive whole one."""
    if count is not None and (not isinstance(count, Integral) or count < 1):
        raise ConfigurationError(f"{name}= takes a positive whole number, not {count!r}")


def parse_bytes(size: float | str) -> int:
    """A number of bytes, also written as ``"64MB"`` (10**6) or ``"64MiB"`` (2**20).

    Raises
    ------
    ConfigurationError
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(size))
    unit = (_UNITS | _BINARY_UNITS).get(match[2].lower()) if match else None
    try:
        if isinstance(size, Real):
            return int(size)
        if match is None or unit is None:
            raise ValueError
        return int(float(match[1]) * unit)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"not a size: {size!r}; write 64_000_000, '64MB' or '64MiB'"
        ) from None
