"""A chain of five maps over large items from a generator: what it holds in the store and in memory.

    python benchmarks/intermediates.py --executor processes --n 100000 --bytes 10000

Each case in a process of its own, since a process gives little memory back. `window` is the setting
max_in_flight_bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import report
from slots import EXECUTORS
from wide import Peak

MAPS = 5


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=["processes"], choices=list(EXECUTORS))
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=10_000)
    parser.add_argument("--keep-n", type=int, default=10_000, help="items where all are kept")
    parser.add_argument("--case", nargs=3, help="(one case, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        executor, intermediates, fuse = arguments.case
        measure(executor, intermediates, fuse == "True", arguments.n, arguments.bytes)
        return
    report.machine("dask", "ray")
    for executor in arguments.executor:
        for intermediates, n in (("keep", arguments.keep_n), ("drop", arguments.n)):
            for fuse in ("True", "False"):
                case = ["--case", executor, intermediates, fuse]
                sizes = ["--n", str(n), "--bytes", str(arguments.bytes)]
                subprocess.run([sys.executable, __file__, *case, *sizes], check=True)


def measure(executor: str, intermediates: str, fuse: bool, n: int, size: int) -> None:
    home = report.own_home()
    os.environ["HEADRACE_INTERMEDIATES"] = intermediates
    import psutil

    from headrace import flow, task
    from headrace.core.settings import get_settings

    @task(fuse=fuse)
    def turn(data: bytes) -> bytes:
        return data[::-1]

    @task(fuse=fuse)
    def weigh(data: bytes) -> int:
        return len(data)

    def source(count: int) -> Iterator[bytes]:
        for number in range(count):
            yield number.to_bytes(4, "big") * (size // 4)

    @flow(executor=executor)
    def chain(count: int) -> dict[str, int]:
        values = turn.map(source(count))
        for _ in range(MAPS - 2):
            values = turn.map(values)
        last = weigh.map(values)
        last.wait()
        return last.counts()

    chain(100)
    me = psutil.Process()
    idle = me.memory_info().rss
    with Peak(me) as memory, Held(Path(home)) as held:
        start = time.perf_counter()
        report.check(chain(n), n)
        wall = time.perf_counter() - start
    facts = {"executor": executor, "intermediates": intermediates, "fuse": fuse, "n": n}
    facts |= {"item_bytes": size, "all_intermediates_mb": n * size * (MAPS - 1) // 10**6}
    window = get_settings().max_in_flight_bytes // 10**6
    report.figure("intermediates", "wall", wall, "s", **facts)
    report.figure("intermediates", "most_stored", held.most / 1e6, "MB", **facts)
    above = (memory.bytes - idle) / 1e6
    report.figure(
        "intermediates", "driver_memory", above, "MB above idle", window_mb=window, **facts
    )


class Held:
    """The most bytes that a folder's partitions take while the block runs, looked at each 50 ms."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        before = self._now()
        while not self._end.wait(0.05):
            self.most = max(self.most, self._now() - before)

    def _now(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.folder):
            if f"{os.sep}data{os.sep}" in folder:
                for name in names:
                    try:
                        total += os.stat(os.path.join(folder, name)).st_size
                    except FileNotFoundError:  # it was dropped meanwhile
                        continue
        return total

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


if __name__ == "__main__":
    main()
