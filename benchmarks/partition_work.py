"""What the partitions benchmark does to each partition, and what its partitions are.

A partition is a pack of installed source files; the work is the map step of the corpus job, its own
`clean`. Every rival cleans a pack and writes what it gives as one Arrow file, as headrace does.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import report

from headrace.examples import corpus as job
from headrace.examples.python_text import Rules

# A rival's processes inherit them, so they have the limits of headrace's children.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS"):
    os.environ.setdefault(_name, "1")

ORIGIN = job.Place("/")


def arguments(doc: str | None) -> argparse.Namespace:
    """The command line of a rival."""
    parser = report.parser(doc)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--megabytes", type=float, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--target", required=True)
    return parser.parse_args()


def packs(count: int, megabytes: float) -> list[job.Pack]:
    """So many packs of about so much text: the installed files, again from the first if too few."""
    files = list(job.list_own_files(".py"))
    wanted = islice(job.pack(chain.from_iterable(repeat(files)), int(megabytes * 1e6)), count)
    return list(wanted)


def small_packs(count: int) -> list[job.Pack]:
    """To warm a pool with."""
    return packs(count, 0.02)


def clean_and_write(pack: job.Pack, target: str) -> str:
    """Clean a pack and write its file; gives the path."""
    table = job.clean.fn(pack, ORIGIN, Rules())
    path = f"{target}/{pack.number:05d}.arrow"
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def clean_pickled(packed: bytes, target: str) -> str:
    """The same for engines whose rows cannot hold a pack as it is."""
    return clean_and_write(pickle.loads(packed), target)


def fresh(target: str, case: str) -> str:
    """An empty folder for a case."""
    folder = Path(target) / case
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)


def written(target: str, case: str) -> Any:
    """All that a case wrote, in the order of the partitions."""
    paths = sorted((Path(target) / case).iterdir())
    return pa.concat_tables(pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths)
