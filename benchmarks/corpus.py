"""The corpus job on each executor, beside the same job written by hand.

    python benchmarks/corpus.py --files 5000 --rounds 3

Pools are warm, rounds are interleaved, and figures are medians. The hand-written rival runs once
per chunk size; each executor is compared with the chunk size that was best. All outputs are
compared byte by byte with the rival's.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import report


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--source", help="a folder; default: this interpreter's own files")
    parser.add_argument("--files", type=int, help="take so many files only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--executor", nargs="*", default=["threads", "processes", "dask", "ray"])
    parser.add_argument("--chunksize", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    home = report.own_home()
    scratch = Path(tempfile.mkdtemp(prefix="headrace-corpus-"))
    report.machine("dask", "ray")
    try:
        measure(arguments, scratch)
    finally:
        shutil.rmtree(scratch)
        shutil.rmtree(home, ignore_errors=True)


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    import corpus_by_hand

    from headrace.examples.corpus import corpus

    size: dict[str, Any] = {"source": arguments.source, "limit": arguments.files}
    with corpus_by_hand.open_pool(arguments.workers) as pool:
        cases: dict[str, Any] = {}
        for chunk in arguments.chunksize:
            name = f"by hand, chunks of {chunk}"
            cases[name] = partial(
                corpus_by_hand.run, pool, target=str(scratch / name), chunksize=chunk, **size
            )
        by_hand = list(cases)
        for name in arguments.executor:
            flow = corpus.with_options(executor=name)
            flow(size["source"], str(scratch / "warm"), limit=50)
            cases[name] = partial(flow, size["source"], str(scratch / name), limit=size["limit"])
        taken = report.interleaved(cases, arguments.rounds)
    expected = contents(scratch / by_hand[0])
    best = min(by_hand, key=lambda name: report.median(taken[name].wall))
    files = corpus_size(scratch / best)
    for name, its in taken.items():
        facts = {"case": name, "same_output": contents(scratch / name) == expected, **files}
        for what, ours, theirs in (
            ("wall", its.wall, taken[best].wall),
            ("core_time", its.cores, taken[best].cores),
        ):
            report.figure(
                "corpus",
                what,
                report.median(ours),
                "s",
                ratio_to_hand=round(report.ratio(ours, theirs), 3),
                rounds=[round(each, 3) for each in ours],
                **facts,
            )


def contents(folder: Path) -> dict[str, str]:
    """Files of an output by the hash of their bytes."""
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def corpus_size(folder: Path) -> dict[str, int]:
    import json

    steps = json.loads((folder / "report.json").read_text())["steps"]
    return {"files": steps["listed"], "bytes": steps["listed_bytes"]}


if __name__ == "__main__":
    main()
