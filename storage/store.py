"""The built-in store: runs as Arrow partitions below any fsspec location."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ..core import forks
from ..core.errors import ConfigurationError, StorageError
from ..core.interfaces import (
    Batch,
    Inputs,
    Manifest,
    ObjectInfo,
    Part,
    Receipt,
    RefColumn,
    StageSpec,
    data_prefix,
)
from .filesystems import check_scheme
from .journal import SegmentJournal
from .locations import LOCAL, MEMORY, Location, check_path, check_run_id, parse_location
from .objects import Objects, open_objects
from .retrying import Backoff

if TYPE_CHECKING:
    from .datasets import Dataset
    from .encoding import ArrowEncoder
    from .loading import OpenPart, PartCache

FORMATS = ("auto", "arrow", "parquet")
CHECK_BACKOFF = Backoff(first=0.2, cap=1.0, total=8.0, tries=5)

_opened: dict[Any, Objects] = forks.own({})


@dataclass(frozen=True, init=False)
class ArrowStore:
    """A location for runs: a path, ``memory://``, ``s3://``, ``gs://`` or any URL of fsspec's.

    Parameters
    ----------
    url
        A path (also relative, or ``~``) or a URL.
    storage_options
        What fsspec's file system takes, as in pandas and Dask; values may be pydantic secrets. On a
        local disk ``fsync=True`` makes each commit outlive a loss of power, at some milliseconds each.
        They travel with the store to workers, and appear in no repr, URL or header.
    format
        ``"auto"`` (Arrow IPC on local disk, Parquet elsewhere), ``"arrow"`` or ``"parquet"``.
        What Parquet cannot hold is Arrow IPC anyway.
    trust
        Whether pickled values may be loaded. A pickle runs code: False for other people's stores.
    patience
        Seconds for which a call is tried again that throttling, an outage or the like has failed.

    Raises
    ------
    ConfigurationError
        Not a location, no such scheme, or no such format. A scheme whose package is missing
        (`MissingExtraError`) is told by the first use, and by `check`.
    """

    location: Location = field(repr=False)
    storage_options: Mapping[str, Any] = field(repr=False)
    format: str
    trust: bool
    patience: float

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        format: str = "auto",
        trust: bool = True,
        patience: float = 90.0,
    ) -> None:
        if format not in FORMATS:
            raise ConfigurationError(f"unknown format {format!r}: use one of {', '.join(FORMATS)}")
        options: Any = storage_options or {}
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise ConfigurationError(
                f"storage_options must be a mapping of texts to values, got a {type(options).__name__}"
            )
        location = parse_location(url)
        check_scheme(location)
        object.__setattr__(self, "location", location)
        object.__setattr__(self, "storage_options", dict(options))
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "trust", trust)
        object.__setattr__(self, "patience", patience)

    def __hash__(self) -> int:
        return hash((self.location, self.format, self.trust))

    def __repr__(self) -> str:
        more = f", storage_options=<{', '.join(sorted(self.storage_options))}>"
        return f"ArrowStore({self.url!r}{more if self.storage_options else ''})"

    @property
    def __headrace_secret__(self) -> bool:
        """Options may be credentials: with any it is not written to a run's records."""
        return bool(self.storage_options)

    @property
    def url(self) -> str:
        """The location without secrets."""
        return self.location.url

    def run(self, run_id: str) -> ArrowRunStore:
        """The run's prefix; nothing is created until something is written."""
        return ArrowRunStore(self, check_run_id(run_id))

    def check(self) -> None:
        """Write, read and remove a small object.

        Raises
        ------
        StorageError
            One of the three fails; says which, and why.
        ConfigurationError, MissingExtraError
            The scheme is unknown, or its package is not installed.
        """
        objects = open_objects(self.location, self.storage_options, CHECK_BACKOFF)
        path = f".headrace-check-{os.urandom(6).hex()}"
        data = os.urandom(16)
        objects.write(path, data)
        try:
            if objects.read(path) != data:
                raise StorageError(f"{self.url} returned other bytes than were written to it")
        finally:
            objects.delete([path])

    def runs(self) -> list[str]:
        """Ids of the runs that have a prefix here."""
        return [name for name in self.objects().folders() if _is_run_id(name)]

    def shared(self) -> ArrowRunStore:
        """A prefix beside those of the runs; its name is no run's."""
        return ArrowRunStore(self, ".shared")

    def remove(self, run_id: str) -> int:
        """Delete a run's whole prefix, the header first; returns the bytes freed."""
        objects = self.run(run_id).objects
        infos = objects.list("")
        objects.delete(["header.json"])
        objects.delete([info.path for info in infos if info.path != "header.json"])
        if self.location.scheme == LOCAL:
            from .localfiles import LocalObjects

            assert isinstance(objects, LocalObjects)
            objects.remove_tree()
        return sum(info.bytes for info in infos)

    def objects(self, folder: str = "") -> Objects:
        """The objects below the store or one of its folders; one connection per process."""
        key = (
            self.location,
            repr(sorted(self.storage_options)),
            self.patience,
            folder,
        )
        found = _opened.get(key)
        if found is None or getattr(found, "options", None) != self.storage_options:
            location = below(self.location, folder) if folder else self.location
            backoff = Backoff(total=self.patience)
            found = open_objects(location, self.storage_options, backoff)
            found.options = dict(self.storage_options)  # type: ignore[attr-defined]
            found.other = self.objects
            if len(_opened) > 256:
                _opened.clear()
            _opened[key] = found
        return found


def below(location: Location, folder: str) -> Location:
    """The location of a folder."""
    return Location(
        location.scheme,
        f"{location.path.rstrip('/')}/{folder}",
        f"{location.url.rstrip('/')}/{folder}",
        f"{location.source.rstrip('/')}/{folder}",
    )


def _is_run_id(name: str) -> bool:
    try:
        check_run_id(name)
    except ConfigurationError:
        return False
    return True


@dataclass(frozen=True)
class ArrowRunStore:
    """`core.interfaces.RunStore`: one run's prefix. Picklable; it connects anew in each process."""

    store: ArrowStore
    run_id: str

    @property
    def objects(self) -> Objects:
        """The raw verbs below this prefix."""
        return self.store.objects(self.run_id)

    @property
    def url(self) -> str:
        return below(self.store.location, self.run_id).url

    @property
    def in_process(self) -> bool:
        return self.store.location.scheme == MEMORY

    # ------------------------------------------------------------------------------- objects

    def write(self, path: str, data: bytes, *, if_absent: bool = False) -> None:
        self.objects.write(check_path(path), data, if_absent=if_absent)

    def read(self, path: str) -> bytes:
        return self.objects.read(check_path(path))

    def list(self, prefix: str) -> list[ObjectInfo]:
        return self.objects.list(check_path(prefix, prefix=True))

    def unfinished(self) -> list[ObjectInfo]:
        return self.objects.unfinished()

    def delete(self, paths: Sequence[str]) -> None:
        self.objects.delete([check_path(path) for path in paths])

    def journal(self) -> SegmentJournal:
        return SegmentJournal(self.objects)

    # -------------------------------------------------------------------------------- values

    def encoder(
        self,
        spec: StageSpec,
        batch: Batch,
        stage: int,
        ids: bytes | None = None,
        inputs: Inputs = Inputs(),
    ) -> ArrowEncoder:
        """An encoder for one stage of one batch execution, with a nonce of its own."""
        from ..core.items import indices
        from .encoding import ArrowEncoder, new_nonce
        from .itemtables import Header, as_ids

        step = batch.stages[stage]
        header = Header(
            run=self.run_id,
            node=step.node,
            key=step.key,
            batch=batch.id,
            attempt=step.attempt,
            nonce=new_nonce(),
            kind="",
            items=0,
        )
        return ArrowEncoder(
            self.objects,
            header,
            format=self.store.format,
            remote=self.store.location.scheme not in (LOCAL, MEMORY),
            inline_bytes=batch.inline_bytes,
            schema=read_schema(spec.schema),
            ids=None if ids is None else (indices(batch.positions), as_ids(ids)),
            inputs=inputs,
            code=step.code,
        )

    def load(self, column: RefColumn) -> list[Any]:
        from .loading import load_column

        return load_column(self.objects, column, trust=self.store.trust, cache=_cache())

    def load_all(self, manifest: Manifest, annotation: Any = None) -> Any:
        from .adapting import load_manifest

        return load_manifest(self, manifest, annotation)

    def adapt(self, value: Any, annotation: Any) -> Any:
        from .adapting import adapt

        return adapt(value, annotation)

    def receipts(
        self, node: int | None, batch: int | None = None, *, known: Collection[str] = ()
    ) -> list[Receipt]:
        from .receipts import read_receipts

        return read_receipts(self.objects, self.run_id, data_prefix(node, batch), known)

    def ids(self, parts: Sequence[Part], inline: Sequence[bytes | None] = ()) -> list[bytes]:
        from .receipts import read_ids

        return read_ids(self.objects, parts, inline, _cache())

    def damaged(self, parts: Sequence[Part], *, thorough: bool = False) -> set[str]:
        from .damage import find_damaged

        return find_damaged(self.objects, parts, thorough=thorough)

    def item(self, receipt: Receipt, position: int) -> Mapping[str, Any]:
        from .receipts import item_facts

        return item_facts(self.open_part(receipt.part, receipt.inline), receipt, position)

    def open_part(self, part: Part, inline: bytes | None = None) -> OpenPart:
        """A committed partition, verified, from the process's cache or the store."""
        return _cache().open(self.objects, part, inline)

    def dataset(self, manifest: Manifest) -> Dataset:
        from .nodedata import node_dataset

        return node_dataset(self, manifest)

    def quarantined(self, receipts: Sequence[Receipt]) -> Dataset:
        from .quarantine import quarantined_rows

        return quarantined_rows(self, receipts)


def read_schema(serialised: bytes | None) -> Any:
    """A stated Arrow schema, or None."""
    if serialised is None:
        return None
    import pyarrow as pa

    return pa.ipc.read_schema(pa.py_buffer(serialised))


@cache
def _cache() -> PartCache:
    """The process's opened partitions."""
    from .loading import PartCache

    return PartCache()


forks.in_child(_cache.cache_clear)
