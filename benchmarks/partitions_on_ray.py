"""The map step on Ray alone: a `ray.remote` loop, and `ray.data`'s `map_batches`."""

from __future__ import annotations

import pickle
from typing import Any

import partition_work as work
import rivals


def clean_batch(batch: Any, *, target: str = "") -> Any:
    """A batch is one pack: its row becomes the path of the file written."""
    paths = [work.clean_pickled(each, target) for each in batch["pack"].to_pylist()]
    return {"path": paths}


def main() -> None:
    import ray

    given = work.arguments(__doc__)
    packs = work.packs(given.partitions, given.megabytes)
    ray.init(num_cpus=given.workers, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    clean = ray.remote(num_cpus=1, max_retries=0)(work.clean_and_write)

    def remote(packs: list[Any] = packs) -> None:
        folder = work.fresh(given.target, "ray by hand")
        ray.get([clean.remote(each, folder) for each in packs])

    def data(packs: list[Any] = packs) -> None:
        folder = work.fresh(given.target, "ray.data")
        rows = [{"pack": pickle.dumps(each)} for each in packs]
        read = ray.data.from_items(rows, override_num_blocks=len(rows))
        read.map_batches(
            clean_batch, batch_size=1, batch_format="pyarrow", fn_kwargs={"target": folder}
        ).take_all()

    small = work.small_packs(8 * given.workers)
    remote(small)
    data(small)
    rivals.serve({"remote": remote, "data": data})
    ray.shutdown()


if __name__ == "__main__":
    main()
