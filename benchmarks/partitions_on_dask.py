"""The map step on Dask alone: a `client.submit` loop, and `dask.dataframe`'s `map_partitions`."""

from __future__ import annotations

import pickle
from typing import Any

import partition_work as work
import rivals


def clean_frame(frame: Any, target: str) -> Any:
    """A partition of the frame is one pack: its row becomes the path of the file written."""
    return frame.assign(path=[work.clean_pickled(each, target) for each in frame["pack"]])[["path"]]


def main() -> None:
    import dask.config
    import dask.dataframe as dd
    import pandas as pd
    from distributed import Client

    given = work.arguments(__doc__)
    packs = work.packs(given.partitions, given.megabytes)
    # Bytes stay bytes: by default dask.dataframe makes Arrow strings of all objects.
    dask.config.set({"dataframe.convert-string": False})

    def submit(packs: list[Any] = packs) -> None:
        folder = work.fresh(given.target, "dask by hand")
        futures = [client.submit(work.clean_and_write, p, folder, pure=False) for p in packs]
        client.gather(futures)

    def frames(packs: list[Any] = packs) -> None:
        folder = work.fresh(given.target, "dask.dataframe")
        rows = pd.DataFrame({"pack": [pickle.dumps(each) for each in packs]})
        frame = dd.from_pandas(rows, npartitions=len(packs), sort=False)
        frame.map_partitions(clean_frame, folder, meta={"path": "object"}).compute()

    with Client(n_workers=given.workers, threads_per_worker=1, dashboard_address=None) as client:
        small = work.small_packs(8 * given.workers)
        submit(small)
        frames(small)
        rivals.serve({"submit": submit, "dataframe": frames})


if __name__ == "__main__":
    main()
