"""Prepare a training corpus out of source code: the whole job, as a user would write it.

    headrace example corpus --executor dask --target /tmp/corpus

Files are listed lazily and packed by size; each pack is read, decoded, normalised, measured and
judged (`clean`); of equal texts one is chosen, over the whole corpus (`choose`); then every output
file is written by a task of its own (`publish`), and a manifest and a report end it (`conclude`)::

    target/train/part-00000.parquet ...        also validation/, test/
    target/quarantine/part-00000.parquet ...   what did not decode: path, reason and bytes
    target/manifest.json                       the files that count, written last
    target/report.json, report.md              counts at each step, sizes, samples

The output is a function of the source and the parameters alone. Paths are relative to the source;
rows are in the order of their paths; of duplicates the smallest path survives; the split is drawn
from the content's hash; and a file ends where its rows' text reaches ``file_bytes``. Neither the
executor, nor the packs, nor what finished first can be seen in it.
"""

# pyarrow has no types that a checker could read:
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ByteSize, Secret

import headrace
from headrace import flow, task, unmapped

from .corpus_report import make_report, markdown
from .python_text import KEPT, QUARANTINED, Rules, examine

FEATURES = pa.schema(
    {
        "path": pa.string(),
        "text": pa.string(),
        "hash": pa.string(),
        "text_bytes": pa.int64(),
        "lines": pa.int64(),
        "mean_line": pa.float64(),
        "max_line": pa.int64(),
        "alnum": pa.float64(),
        "comments": pa.float64(),
        "docstrings": pa.float64(),
        "repeats": pa.float64(),
        "definitions": pa.int64(),
        "tests": pa.int64(),
        "licence": pa.bool_(),
        "parses": pa.bool_(),
    }
)
"""Columns of the published splits."""
QUARANTINE = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "reason": pa.string(),
        "detail": pa.string(),
        "raw": pa.binary(),
    }
)
"""Columns of the quarantine."""
CLEANED = pa.schema(
    [
        *FEATURES,
        *list(QUARANTINE)[1:],
        pa.field("outcome", pa.string()),
        pa.field("draw", pa.float64()),
        pa.field("pack", pa.int64()),
    ]
)
"""Columns of what `clean` says of every file; ``draw``, between 0 and 1, decides on its split."""
SPLITS = ("train", "validation", "test")
THE_FILES_FAULT = (FileNotFoundError, PermissionError)


@dataclass(frozen=True)
class Place:
    """A folder anywhere that fsspec reaches; opened anew in each process."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def open(self) -> tuple[Any, str]:
        """Its file system, and its path there."""
        return fsspec.url_to_fs(self.url, use_listings_cache=False, **self.options)


class File(NamedTuple):
    """A file to read."""

    location: str
    """Where its file system finds it."""
    name: str
    """Its path in the corpus."""
    size: int


class Pack(NamedTuple):
    """Consecutive files that are read together."""

    number: int
    files: tuple[File, ...]


@dataclass(frozen=True)
class Shard:
    """An output file to be: the rows of some packs."""

    split: str
    part: int
    packs: tuple[int, ...]


# ----------------------------------------------------------------------------------- the flow


@flow
def corpus(
    source: str | None = None,
    target: str = "corpus",
    *,
    suffix: str = ".py",
    limit: int | None = None,
    pack_bytes: ByteSize = ByteSize(4_000_000),
    file_bytes: ByteSize = ByteSize(64_000_000),
    validation: float = 0.05,
    test: float = 0.05,
    rules: Rules = Rules(),
    storage_options: Secret[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Prepare a training corpus out of the source files below a folder; gives the report.

    Parameters
    ----------
    source
        A folder: a path, or any URL that fsspec knows. Default: the standard library and the
        installed packages of the interpreter that runs this.
    target
        The folder to write to; of what it holds, files of these names are replaced.
    limit
        Take the first files only, in the order of their paths.
    pack_bytes
        How much to read in one go.
    file_bytes
        How much text an output file holds.
    validation, test
        Their shares of the files.
    storage_options
        For source and target, as in pandas and Dask.
    """
    options = storage_options.get_secret_value() if storage_options else {}
    origin = Place(source or "/", options if source else {})
    goal = Place(target, options)
    listed = islice(list_files(origin, suffix) if source else list_own_files(suffix), limit)

    cleaned = clean.map(pack(listed, pack_bytes), unmapped(origin), unmapped(rules))
    files = cleaned.dataset()  # all rows of all packs, still unread
    chosen = choose.submit(files, file_bytes, validation, test)
    shards = outline.submit(chosen).result()
    packs = [[cleaned[number] for number in shard.packs] for shard in shards]
    written = publish.map(shards, packs, unmapped(chosen), unmapped(goal))
    return conclude.submit(files, chosen, written, goal, asdict(rules)).result()


# -------------------------------------------------------------------------------- what it reads


def list_files(
    origin: Place, suffix: str, under: str = "", skip: Sequence[str] = ()
) -> Iterator[File]:
    """Files below a folder, in the order of their paths; one listing for each entry of the folder."""
    fs, root = origin.open()
    for entry in sorted(fs.ls(root, detail=True), key=_path_order):
        if entry["name"].rsplit("/", 1)[-1] in skip:
            continue
        found = {entry["name"]: entry}
        if entry["type"] == "directory":
            found = fs.find(entry["name"], detail=True)
        for location in sorted(found):
            if location.endswith(suffix):
                name = f"{under}{location[len(root) :].lstrip('/')}"
                # What of a file's name is not text shows as \x escapes.
                name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                yield File(location, name, found[location]["size"] or 0)


def _path_order(entry: Mapping[str, Any]) -> str:
    return entry["name"] + "/" if entry["type"] == "directory" else entry["name"]


def list_own_files(suffix: str) -> Iterator[File]:
    """The running interpreter's own: ``site-packages/...``, then ``stdlib/...``."""
    folders = sysconfig.get_paths()
    yield from list_files(Place(folders["purelib"]), suffix, "site-packages/")
    skip = ("site-packages", "dist-packages")
    yield from list_files(Place(folders["stdlib"]), suffix, "stdlib/", skip)


def pack(files: Iterable[File], size: int) -> Iterator[Pack]:
    """Consecutive files up to a size in bytes together, or a thousand of them."""
    held: list[File] = []
    number = total = 0
    for file in files:
        if held and (total + file.size > size or len(held) == 1_000):
            yield Pack(number, tuple(held))
            held, total, number = [], 0, number + 1
        held.append(file)
        total += file.size
    if held:
        yield Pack(number, tuple(held))


# ----------------------------------------------------------------------------------- the tasks


@task(retries=2, retry_delay_seconds=[1, 10], schema=CLEANED)
def clean(pack: Pack, origin: Place, rules: Rules) -> pa.Table:
    """Read a pack's files, and say of each all there is to say: a row of `CLEANED`."""
    fs, _ = origin.open()
    wanted = [file.location for file in pack.files if file.size <= rules.max_bytes]
    contents = dict(zip(wanted, fs.cat_ranges(wanted, None, None, on_error="return"), strict=True))
    rows: list[dict[str, Any]] = []
    for location, name, size in pack.files:
        raw = contents.get(location)
        if isinstance(raw, Exception) and not isinstance(raw, THE_FILES_FAULT):
            raise raw  # the store's fault: try again
        rows.append({"path": name, "size": size, "pack": pack.number, **examine(raw, rules)})
    return pa.Table.from_pylist(rows, schema=CLEANED)


@task
def choose(files: headrace.Dataset, file_bytes: int, validation: float, test: float) -> pa.Table:
    """Which file goes where: ``pack, path, split, part``, in the order of splits and paths.

    It reads names, hashes and sizes, never texts: some hundred bytes per file, in one task. A corpus
    of more than some hundred million files would do this per first byte of the hash.
    """
    columns = ["pack", "path", "outcome", "hash", "draw", "text_bytes", "size"]
    table = files.to_table(columns=columns).sort_by("path")
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    kept = table.filter(pc.field("outcome") == KEPT)
    first = kept.group_by("hash", use_threads=False).aggregate([("row", "min")])["row_min"]
    kept = table.take(first.take(pc.array_sort_indices(first)))
    draw = kept["draw"].to_numpy()
    split = np.select([draw < test, draw < test + validation], ["test", "validation"], "train")
    groups = [(name, kept.filter(pa.array(split == name)), "text_bytes") for name in SPLITS]
    groups.append(("quarantine", table.filter(pc.field("outcome") == QUARANTINED), "size"))
    return pa.concat_tables(
        _cut(rows, name, rows[weight], file_bytes) for name, rows, weight in groups
    )


def _cut(rows: pa.Table, split: str, weights: Any, file_bytes: int) -> pa.Table:
    """The rows of a split with the number of the file that each goes to."""
    before = weights.to_numpy().cumsum() - weights.to_numpy()
    _, part = np.unique(before // file_bytes, return_inverse=True)
    columns: dict[str, Any] = {
        "pack": rows["pack"],
        "path": rows["path"],
        "split": pa.array([split] * rows.num_rows, pa.string()),
        "part": pa.array(part, pa.int64()),
    }
    return pa.table(columns)


@task
def outline(chosen: pa.Table) -> list[Shard]:
    """The files to write."""
    groups = chosen.group_by(["split", "part"], use_threads=False).aggregate([("pack", "distinct")])
    return [
        Shard(row["split"], row["part"], tuple(sorted(row["pack_distinct"])))
        for row in groups.to_pylist()
    ]


@task(retries=2, retry_delay_seconds=[1, 10])
def publish(shard: Shard, packs: list[pa.Table], chosen: pa.Table, target: Place) -> dict[str, Any]:
    """Write one output file; gives its line of the manifest, with a sample."""
    mine = chosen.filter((pc.field("split") == shard.split) & (pc.field("part") == shard.part))
    quarantined = shard.split == "quarantine"
    columns = (QUARANTINE if quarantined else FEATURES).names
    found = [p.select(columns).filter(pc.is_in(p["path"], mine["path"])) for p in packs]
    rows = pa.concat_tables(found).sort_by("path")
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    name = f"{shard.split}/part-{shard.part:05d}.parquet"
    put(target, name, data)
    first = {name: rows[name][0].as_py() for name in ("path", "reason" if quarantined else "text")}
    return {
        "path": name,
        "split": shard.split,
        "rows": rows.num_rows,
        "bytes": len(data),
        "blake2b": hashlib.blake2b(data, digest_size=16).hexdigest(),
        "text_bytes": pc.sum(rows["size" if quarantined else "text_bytes"]).as_py(),
        "sample": {"path": first.pop("path"), "head": first.popitem()[1][:200]},
    }


@task(retries=2, retry_delay_seconds=[1, 10])
def conclude(
    files: headrace.Dataset,
    chosen: pa.Table,
    written: list[dict[str, Any]],
    target: Place,
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the reports and then the manifest, which makes the files count; gives the report."""
    report = make_report(files.to_table(columns=["outcome", "reason", "size"]), chosen, written)
    lines = [{key: line[key] for key in line if key != "sample"} for line in written]
    manifest = {"rules": dict(rules), "files": lines}
    put(target, "report.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    put(target, "report.md", markdown(report).encode())
    remove_others(target, {line["path"] for line in written})
    put(target, "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return report


def put(target: Place, name: str, data: bytes) -> None:
    """Write a file of the target whole."""
    fs, root = target.open()
    path = f"{root}/{name}"
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(path, data)


def remove_others(target: Place, names: set[str]) -> None:
    """Remove the parts of an earlier run that this one did not write again."""
    fs, root = target.open()
    for split in (*SPLITS, "quarantine"):
        for path in fs.glob(f"{root}/{split}/part-*.parquet"):
            if f"{split}/{path.rsplit('/', 1)[-1]}" not in names:
                fs.rm_file(path)
