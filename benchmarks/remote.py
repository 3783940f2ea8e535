"""Object stores over HTTP: many small objects listed and packed; fsspec's implementations; reads ahead.

    python benchmarks/remote.py --objects 100000 --rounds 0
    python benchmarks/remote.py --objects 0 --rounds 5
    python benchmarks/remote.py --objects 0 --rounds 5 --google

The server is Ceph's radosgw, as the tests start it (Debian packages; as root), or the emulator of
Google's store. obstore takes part where it is installed.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
FOLDERS = 100
SMALL = 300
LARGE = 64 << 20
THREADS = 16
LAG_SECONDS = 0.02


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="small ones; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="of the implementations; 0: none")
    parser.add_argument("--google", action="store_true", help="gcsfs on an emulator, not S3")
    arguments = parser.parse_args()
    running: Any = import_module("servers.process").running
    s3_object_store: Any = import_module("servers.s3").s3_object_store

    report.own_home()
    if arguments.google:
        report.machine("gcsfs")
        with running("gcs_server") as facts:
            beside("gs://bench", {"gcsfs": google(facts["endpoint"])}, arguments.rounds)
        return
    report.machine("s3fs", *(["obstore"] if find_spec("obstore") else []))
    with running("radosgw_server") as facts:
        server = s3_object_store(facts["endpoint"], facts["key"], facts["secret"])
        if arguments.objects:
            many(server.new_bucket(), server.storage_options, facts, arguments.objects)
        if arguments.rounds:
            beside(server.new_bucket(), dict(implementations(facts)), arguments.rounds)
            system = implementations(facts)[0][1]
            gate: Any = import_module("servers.gate").Gate(facts["endpoint"])
            gate.lag_seconds = LAG_SECONDS
            options = {**server.storage_options, "endpoint_url": gate.endpoint}
            ahead(server.new_bucket(), system, options, arguments.rounds)
            gate.close()


def many(url: str, options: Any, facts: Any, objects: int) -> None:
    """How long a dataset of many small files takes to be there, and to be read."""
    import pyarrow as pa

    import headrace

    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    row = b'{"n": 1, "text": "%s"}\n'
    line = row % (b"x" * (SMALL - len(row)))
    names = [f"in/{number % FOLDERS:03d}/{number:06d}.jsonl" for number in range(objects)]
    put = implementations(facts)[-1][1].pipe_file
    bucket = url.removeprefix("s3://")
    with ThreadPoolExecutor(2 * THREADS) as pool:
        filled = report.timed(lambda: list(pool.map(lambda n: put(f"{bucket}/{n}", line), names)))
    report.figure("small objects", "put, before", filled, "s", objects=objects)
    system = implementations(facts)[0][1]
    plain = report.timed(lambda: system.find(f"{bucket}/in", detail=True))
    report.figure("small objects", "s3fs' own find", plain, "s", objects=objects)
    for known in (None, schema):
        told = {"objects": objects, "schema": "stated" if known else "asked for"}
        at = perf_counter()
        raw = headrace.open_dataset(f"{url}/in", storage_options=options, schema=known)
        listed = perf_counter()
        parts = raw.partitions(bytes="1MB")
        packed = perf_counter()
        report.figure("small objects", "listed", listed - at, "s", **told)
        report.figure("small objects", "packed", packed - listed, "s", **told)
        took = report.timed(parts[0].to_table)
        report.figure(
            "small objects", "read", took, "s", **told | {"objects": len(parts[0].pieces)}
        )


def implementations(facts: Any) -> list[tuple[str, Any]]:
    """File systems of fsspec's kind on one server."""
    import s3fs
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "WHEN_REQUIRED"  # radosgw 16 knows no other
    endpoint, key, secret = facts["endpoint"], facts["key"], facts["secret"]
    arrow: Any = fs.S3FileSystem
    found: list[tuple[str, Any]] = [
        (
            "s3fs",
            s3fs.S3FileSystem(
                key=key, secret=secret, endpoint_url=endpoint, use_listings_cache=False
            ),
        ),
        (
            "pyarrow",
            ArrowFSWrapper(
                arrow(
                    access_key=key,
                    secret_key=secret,
                    endpoint_override=endpoint,
                    region="us-east-1",
                    allow_delayed_open=True,
                )
            ),
        ),
    ]
    if find_spec("obstore"):
        told: Any = {
            "access_key_id": key,
            "secret_access_key": secret,
            "endpoint": endpoint,
            "region": "us-east-1",
        }
        store: Any = import_module("obstore.fsspec").FsspecStore(
            "s3", client_options={"allow_http": True}, **told
        )
        found.append(("obstore", store))
    return found


def google(endpoint: str) -> Any:
    """Google's store as headrace opens it, with an empty bucket."""
    from headrace.storage.filesystems import open_filesystem
    from headrace.storage.locations import parse_location

    options = {"token": "anon", "project": "test", "endpoint_url": endpoint}
    system = open_filesystem(parse_location("gs://bench"), options)
    system.mkdir("bench")
    return system


def beside(url: str, systems: dict[str, Any], rounds: int) -> None:
    """What headrace asks of a store, of each implementation in turn."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq
    from pyarrow import fs

    from headrace.storage.locations import parse_location
    from headrace.storage.scanhandler import UncachedHandler
    from headrace.storage.sources import Source

    @dataclass(frozen=True, eq=False)
    class Given(Source):
        """Files by an implementation of the benchmark's, not by headrace's choice."""

        system: Any = None

        @property
        def filesystem(self) -> Any:
            return self.system

    def source(system: Any) -> Source:
        return Given(parse_location(url), system=system)

    bucket = url.partition("://")[2]
    first = next(iter(systems.values()))
    draw = np.random.default_rng(1)
    large = draw.bytes(LARGE)
    sink = io.BytesIO()
    columns: Any = {f"c{k}": draw.random(250_000) for k in range(8)}
    pq.write_table(pa.table(columns), sink, row_group_size=50_000)
    for number in range(8):
        first.pipe_file(f"{bucket}/scan/{number}.parquet", sink.getvalue())
    for number in range(1000):
        first.pipe_file(f"{bucket}/small/{number}", large[:2000])
    first.pipe_file(f"{bucket}/large", large)
    small = [f"{bucket}/small/{number}" for number in range(1000)]

    def scan(system: Any, columns: list[str] | None) -> None:
        handler: Any = UncachedHandler
        files = [f"{bucket}/scan/{number}.parquet" for number in range(8)]
        ds.dataset(
            files, filesystem=fs.PyFileSystem(handler(source(system))), format="parquet"
        ).to_table(columns=columns)

    with ThreadPoolExecutor(THREADS) as pool:
        work: dict[str, Callable[[Any], object]] = {
            "list 1,000": lambda system: system.find(f"{bucket}/small", detail=True),
            "put 200 small, one by one": lambda system: [
                system.pipe_file(f"{bucket}/out/{number}", large[:2000]) for number in range(200)
            ],
            "get 1,000 small, 16 at a time": lambda system: list(
                pool.map(source(system).fetch, small)
            ),
            "put 64 MiB": lambda system: system.pipe_file(f"{bucket}/out/large", large),
            "get 64 MiB": lambda system: system.cat_file(f"{bucket}/large"),
            "scan 128 MB of Parquet": lambda system: scan(system, None),
            "scan one column of eight": lambda system: scan(system, ["c3"]),
        }
        for name, do in work.items():
            cases: dict[str, Callable[[], object]] = {
                which: (lambda do=do, system=system: do(system))
                for which, system in systems.items()
            }
            taken = report.interleaved(cases, rounds)
            best = {which: sorted(each.wall)[len(each.wall) // 2] for which, each in taken.items()}
            for which, seconds in best.items():
                cores = sorted(taken[which].cores)[rounds // 2]
                report.figure(name, "wall", seconds, "s", of=which, cores=round(cores, 3))


def ahead(url: str, system: Any, options: Any, rounds: int) -> None:
    """A partition read, worked on, and both: how much of the one passes while the other goes on.

    Each request takes `LAG_SECONDS` more than on this machine, as to a store that is far away.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import headrace

    draw = np.random.default_rng(1)
    for files, rows in ((96, 125_000), (4, 3_000_000)):
        folder = f"{url}/{files}"
        for number in range(files):
            sink = io.BytesIO()
            columns: Any = {"x": draw.random(rows)}
            table = pa.table(columns)
            pq.write_table(table, sink, row_group_size=500_000, use_dictionary=False)
            system.pipe_file(f"{folder}/{number:03d}.parquet", sink.getvalue())
        (part,) = headrace.open_dataset(folder, storage_options=options).partitions(bytes="1GB")
        held = list(part.iter_batches())
        cases: dict[str, Callable[[], object]] = {
            "read": lambda part=part: sum(batch.num_rows for batch in part.iter_batches()),
            "work": lambda held=held: hashes_of(held),
            "both": lambda part=part: hashes_of(part.iter_batches()),
        }
        for which, taken in report.interleaved(cases, rounds).items():
            seconds = report.median(taken.wall)
            report.figure("reads ahead", which, seconds, "s", files=files, megabytes=rows * 8e-6)


def hashes_of(batches: Iterable[Any]) -> list[bytes]:
    """Work that lets other threads run, as pyarrow's kernels do."""
    return [hashlib.sha3_512(batch.column(0).to_numpy()).digest() for batch in batches]


if __name__ == "__main__":
    main()
