"""What a dataset is made of: pieces that can be read on their own, on any worker."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from ..core.interfaces import Origin
from .unifying import align


@dataclass(frozen=True, slots=True)
class Scan:
    """How to read: the dataset's whole schema, the wanted columns in order, and a filter."""

    schema: Any
    columns: tuple[str, ...] | None = None
    filter: Any = None
    asked: int = 0
    """Of how many files the schema is, where not all were asked: others are held against it when they
    are read. 0: it is that of all, or it was stated."""
    stated: bool = False
    """Whether the schema was stated: then what it has not is left out."""

    @property
    def result(self) -> Any:
        """Schema of what is read."""
        if self.columns is None:
            return self.schema
        return pa.schema([self.schema.field(name) for name in self.columns])


class Piece(Protocol):
    """Part of a dataset. Frozen and picklable; it opens what it needs where it is read."""

    @property
    def origin(self) -> Origin | None:
        """The file or partition that it is of; None: it is in memory."""
        ...

    @property
    def name(self) -> str:
        """Its path or URL, for messages; without secrets."""
        ...

    @property
    def rows(self) -> int | None:
        """Rows, where they are known without reading."""
        ...

    @property
    def bytes(self) -> int:
        """Size, as the split by bytes counts it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the data may have; made of metadata alone."""
        ...

    def schema(self) -> Any:
        """Its own schema; may read a footer."""
        ...

    def count(self) -> int:
        """Rows; may read a footer or, of formats without one, the data."""
        ...

    def units(self) -> list[Piece]:
        """Itself in the smallest parts that can be read on their own."""
        ...

    def cut(self, first: int, rows: int) -> Piece | None:
        """A range of its rows as a piece, or None where it cannot be cut by rows."""
        ...

    def batches(self, scan: Scan) -> Iterator[Any]:
        """Its rows as record batches of ``scan.result``."""
        ...


def origins_of(pieces: Iterable[Piece]) -> list[Origin]:
    """The files and partitions that pieces are of, each once."""
    return list(dict.fromkeys(origin for each in pieces if (origin := each.origin) is not None))


def filter_fingerprint(filter: Any) -> str:
    """Of its content: the text of an expression leaves out most values of a long list."""
    if filter is None:
        return "None"
    return hashlib.blake2b(pickle.dumps(filter, 5), digest_size=16).hexdigest()


def with_constants(table: Any, constants: Sequence[tuple[str, Any]]) -> Any:
    """A file's rows with the columns that its folder tells and that it has not itself."""
    for name, value in constants:
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def scan_table(table: Any, scan: Scan) -> Iterator[Any]:
    """A table's rows as a scan wants them."""
    aligned = align(table, scan.schema)
    if scan.filter is not None:
        aligned = aligned.filter(scan.filter)
    if scan.columns is not None:
        aligned = aligned.select(list(scan.columns))
    yield from aligned.to_batches()
