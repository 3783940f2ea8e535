"""Engines by themselves, with no headrace around: what the wide map is compared with.

    python benchmarks/raw_engines.py --engine dask --kind int --n 2000

Run as a process of its own, so that no pool of headrace's holds the cores. Two ways each: one call
per item, as the engine's own documentation maps a function; and chunks cut by hand, the same
function in a loop, with failures as values, no state, storage or history. ``--sizes`` cuts the
chunks as given: headrace's own batches with no tracking at all. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import report
from workload import TASKS, items

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault(
    "DASK_LOGGING__DISTRIBUTED", "critical"
)  # a line per failure would cost it time

Mapped = Callable[[Callable[[Any], Any], Sequence[Any]], int]
"""Runs a function over values, each by itself; gives how many succeeded."""
Chunked = Callable[[Callable[[Any], Any], Iterator[Sequence[Any]]], int]
"""Runs a function over values in chunks; gives how many succeeded."""


def chunk(function: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    """A chunk's results; a failure is its exception."""
    out: list[Any] = []
    for value in values:
        try:
            out.append(function(value))
        except ValueError as error:
            out.append(error)
    return out


def packed_chunk(function: Callable[[Any], Any], data: bytes) -> bytes:
    """`chunk` of a pickle, as one: Dask looks into lists that it carries, at 50 microseconds an item."""
    return pickle.dumps(chunk(function, pickle.loads(data)))


def _good(results: Iterator[Any]) -> int:
    return sum(not isinstance(result, BaseException) for result in results)


def with_executor(pool: Any) -> tuple[Mapped, Chunked]:
    def one_by_one(function: Callable[[Any], Any], values: Sequence[Any]) -> int:
        done = 0
        for future in [pool.submit(function, value) for value in values]:
            done += future.exception() is None
        return done

    def chunked(function: Callable[[Any], Any], parts: Iterator[Sequence[Any]]) -> int:
        futures = [pool.submit(chunk, function, part) for part in parts]
        return _good(result for future in futures for result in future.result())

    return one_by_one, chunked


def with_dask(client: Any) -> tuple[Mapped, Chunked]:
    from distributed import wait

    def one_by_one(function: Callable[[Any], Any], values: Sequence[Any]) -> int:
        futures = client.map(function, values, pure=False)
        wait(futures)
        return len(client.gather(futures, errors="skip"))

    def chunked(function: Callable[[Any], Any], parts: Iterator[Sequence[Any]]) -> int:
        futures = [
            client.submit(packed_chunk, function, pickle.dumps(part), pure=False) for part in parts
        ]
        return _good(result for part in client.gather(futures) for result in pickle.loads(part))

    return one_by_one, chunked


def with_ray(ray: Any) -> tuple[Mapped, Chunked]:
    def one_by_one(function: Callable[[Any], Any], values: Sequence[Any]) -> int:
        remote = ray.remote(max_retries=0)(function)
        done = 0
        for reference in [remote.remote(value) for value in values]:
            try:
                ray.get(reference)
                done += 1
            except ray.exceptions.RayTaskError:
                pass
        return done

    def chunked(function: Callable[[Any], Any], parts: Iterator[Sequence[Any]]) -> int:
        remote = ray.remote(max_retries=0)(chunk)
        references = [remote.remote(function, part) for part in parts]
        return _good(result for part in ray.get(references) for result in part)

    return one_by_one, chunked


ENGINES = ("inline", "threads", "processes", "dask", "ray")
CHUNK = 5_000


def _cut(values: Sequence[Any], sizes: Sequence[int]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in sizes or [CHUNK] * -(-len(values) // CHUNK):
        yield values[start : start + size]
        start += size


class InTurn:
    """An executor without threads: what a plain loop takes."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass


def measure(given: argparse.Namespace, sizes: Sequence[int]) -> dict[str, float]:
    """Items a second, one by one over ``n`` and in chunks over ``chunked_n``; pools warm.

    ``chunked_core`` is the time on cores of the chunks, in microseconds per item.
    """
    import psutil

    engine, kind, workers, rounds = given.engine, given.kind, given.workers, given.rounds
    function = TASKS[kind]
    if engine == "inline":
        pool: Any = InTurn()
        ways, close = with_executor(pool), pool.shutdown
    elif engine == "threads":
        pool = ThreadPoolExecutor(workers)
        ways, close = with_executor(pool), pool.shutdown
    elif engine == "processes":
        pool = ProcessPoolExecutor(workers, get_context("spawn"))
        ways, close = with_executor(pool), pool.shutdown
    elif engine == "dask":
        from distributed import Client

        client = Client(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        ways, close = with_dask(client), client.close
    else:
        import ray

        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
        ways, close = with_ray(ray), ray.shutdown
    rates: dict[str, float] = {}
    me = psutil.Process()
    walls: list[float] = []
    cores: list[float] = []
    try:
        one_by_one, chunked = ways
        one_by_one(function, items(kind, 100 * workers))
        values = items(kind, given.n)
        start = time.perf_counter()
        _check(engine, one_by_one(function, values), given.n)
        rates["one_by_one"] = given.n / (time.perf_counter() - start)
        values = items(kind, given.chunked_n)
        for _ in range(rounds):
            before, start = report.core_seconds(me), time.perf_counter()
            done = chunked(function, _cut(values, sizes))
            walls.append(time.perf_counter() - start)
            cores.append(report.core_seconds(me) - before)
            _check(engine, done, given.chunked_n)
        rates["chunked"] = given.chunked_n / report.median(walls)
        rates["chunked_core"] = report.median(cores) / given.chunked_n * 1e6
    finally:
        close()
    return rates


def _check(engine: str, done: int, n: int) -> None:
    if done != n - n // 100:
        raise RuntimeError(f"{engine}: {done} of {n} succeeded")


if __name__ == "__main__":
    parser = report.parser(__doc__)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--kind", choices=list(TASKS), default="int")
    parser.add_argument("--n", type=int, default=2_000)
    parser.add_argument("--chunked-n", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--sizes", action="store_true", help="sizes of chunks, JSON, on standard input"
    )
    given = parser.parse_args()
    print(json.dumps(measure(given, json.load(sys.stdin) if given.sizes else ())))
