"""The corpus job written by hand: the same functions on a ProcessPoolExecutor, the same files out.

It does what a careful person would do without a flow engine, and no more: texts go between the two
passes through Arrow files in a scratch folder and not through pipes, the children are spawned and
use one thread each, as headrace's do, and the pool is started and warm before the clock is. There
are no states, retries, logs, history or resume.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from headrace.examples import corpus as job
from headrace.examples.python_text import Rules

RULES = Rules()
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")


def open_pool(workers: int) -> ProcessPoolExecutor:
    """A pool whose children have started and imported all they need."""
    for name in THREADS:
        os.environ[name] = "1"
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=pa.set_cpu_count, initargs=(1,)
    )
    barrier = [pool.submit(_warm, 0.5) for _ in range(workers * 2)]
    for future in barrier:
        future.result()
    return pool


def _warm(seconds: float) -> None:
    import time

    time.sleep(seconds)


def run(
    pool: ProcessPoolExecutor,
    source: str | None,
    target: str,
    *,
    chunksize: int,
    limit: int | None = None,
    pack_bytes: int = 4_000_000,
    file_bytes: int = 64_000_000,
    validation: float = 0.05,
    test: float = 0.05,
) -> dict[str, Any]:
    """The whole job; gives the report."""
    origin, goal = job.Place(source or "/"), job.Place(target)
    listed = job.list_files(origin, ".py") if source else job.list_own_files(".py")
    scratch = tempfile.mkdtemp(prefix="by-hand-")
    try:
        packs = job.pack(islice(listed, limit), pack_bytes)
        cleaned = list(pool.map(partial(clean, origin, scratch), packs, chunksize=chunksize))
        files: Any = Cleaned(cleaned)
        chosen = job.choose.fn(files, file_bytes, validation, test)
        shards = job.outline.fn(chosen)
        where = _save(chosen, Path(scratch) / "chosen.arrow")
        written = list(pool.map(partial(publish, cleaned, where, goal), shards))
        return job.conclude.fn(files, chosen, written, goal, asdict(RULES))
    finally:
        shutil.rmtree(scratch)


def clean(origin: job.Place, scratch: str, pack: job.Pack) -> str:
    """Clean a pack into a file of its own; gives its path."""
    return _save(job.clean.fn(pack, origin, RULES), Path(scratch) / f"{pack.number:06d}.arrow")


def publish(cleaned: list[str], chosen: str, goal: job.Place, shard: job.Shard) -> dict[str, Any]:
    """Write an output file out of the packs that it needs."""
    packs = [_load(cleaned[number]) for number in shard.packs]
    return job.publish.fn(shard, packs, _load(chosen), goal)


class Cleaned:
    """The cleaned packs, as much of a dataset as the job asks for."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def to_table(self, columns: list[str]) -> Any:
        return ds.dataset(self.paths, schema=job.CLEANED, format="ipc").to_table(columns=columns)


def _save(table: Any, path: Path) -> str:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return str(path)


def _load(path: str) -> Any:
    return pa.ipc.open_file(pa.memory_map(path)).read_all()
