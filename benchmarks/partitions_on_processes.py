"""The map step written by hand on a `ProcessPoolExecutor`: the same files, and no more."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import partition_work as work
import rivals


def main() -> None:
    given = work.arguments(__doc__)
    packs = work.packs(given.partitions, given.megabytes)

    def run(pool: ProcessPoolExecutor, chunksize: int) -> None:
        folder = work.fresh(given.target, f"processes by hand, chunks of {chunksize}")
        list(pool.map(partial(work.clean_and_write, target=folder), packs, chunksize=chunksize))

    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        folder = work.fresh(given.target, "warm")
        small = work.small_packs(8 * given.workers)
        list(pool.map(partial(work.clean_and_write, target=folder), small))
        rivals.serve({str(chunksize): partial(run, pool, chunksize) for chunksize in (1, 2, 4)})


if __name__ == "__main__":
    main()
